"""What was learnt before: from less paint of the same image (``continue_from``), or from another (``apply``).

Every model says which images it has learnt from: so that slices are not taken for held out that its start has
seen, and so that it can be known how far a new image is from those.
"""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volseg.arguments import option
from volseg.densification.folds import Fold
from volseg.errors import InputError
from volseg.io import Volume, read_json, suffix_of
from volseg.labels import LabelScheme
from volseg.learners import learner_in, trained_in
from volseg.learning import Learner, Task, Trained
from volseg.pixelwise import bank_of
from volseg.pixelwise.features import Bank, responses_at
from volseg.runs.checkpoint import load_checkpoint

__all__ = ["Earlier", "Seen", "choices_in", "distance", "load_earlier", "look_at", "pixels_of"]

logger = logging.getLogger(__name__)

_LOOKS = 20_000  # voxels that the looks of an image are computed from
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_FAR = 3.0  # times as far from an image as its halves are from each other
_FAR_AT_LEAST = 0.12
_SAME = 1e-3
_OTHER_SIZE, _TOO_OTHER = 1.25, 2.0  # times the voxel size


@dataclass(frozen=True, eq=False)
class Seen:
    """An image that a model has learnt from.

    Attributes:
        pixels: the hash of its numbers.
        looks: quantiles of its filter responses, ``(features, quantiles)``.
        apart: how far its two halves are from each other, as :func:`distance` says.
    """

    name: str
    pixels: str
    spacing: tuple[float, ...]
    unit: str
    looks: Tensor
    apart: float

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return vars(self) | {"spacing": list(self.spacing)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Seen":
        """What :meth:`state` gave."""
        return cls(**{**state, "spacing": tuple(state["spacing"])})


@dataclass(frozen=True, eq=False)
class Earlier:
    """The models of an earlier result, and what is known about it.

    Attributes:
        learner: that learnt all of them.
        is_applied: it learnt from other images: no slice of this one can have been seen.
        images: that its models have learnt from; none if it comes from a volseg that did not say.
        scores: what its ``scores.json`` holds, empty if there is none.
        choices: its settings, by ``settings.json``.
    """

    folder: Path
    learner: Learner
    model: Trained
    names: tuple[str, ...]
    values: tuple[int, ...]
    channels: int
    folds: tuple[Fold, ...] = ()
    of_folds: tuple[Trained, ...] = ()
    is_applied: bool = False
    images: tuple[Seen, ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_value(self) -> dict[int, str]:
        """Names of the classes by value, if they were named; 0 as background is left to the paint, unless
        another value, given or found, marks what is unlabelled: then it is a class as any other."""
        named = dict(zip(self.values, self.names, strict=True))
        marked = self.choices.get("unlabelled") or self.choices.get("found_unlabelled")
        if named.get(0, "").casefold() == "background" and not marked:
            del named[0]
        return {} if all(name == f"class {value}" for value, name in named.items()) else named

    def model_for(self, task: Task, pixels: str) -> Trained:
        """What segments an image: on the very one that was learnt from last, where paint lies counts, too.

        Args:
            pixels: of the image, by :func:`pixels_of`.
        """
        is_same = bool(self.images) and self.images[-1].pixels == pixels
        return self.model if is_same else self.model.without_prior(task)

    @property
    def temperature(self) -> float:
        """What its confidence was divided by."""
        return float(self.scores.get("scores", {}).get("volseg", {}).get("temperature", 1.0))

    def in_words(self) -> str:
        """What is known of its quality: ``mean IoU over … (…), on what was held out of kidney.tif``."""
        on = ", ".join(seen.name for seen in self.images) or "the image it was learnt from"
        main = self.scores.get("scores", {}).get("volseg", {}).get("headline")
        if main is None or main["IoU"]["value"] is None:
            return f"{self.folder} has no score of its own on {on}."
        low, high = main["IoU"]["low"], main["IoU"]["high"]
        interval = "" if low is None else f" ({low:.2f} – {high:.2f})"
        figure = f"{main['name']} {main['IoU']['value']:.3f}{interval}"
        return f"{self.folder} had {figure} on what was held out of {on}."

    def knows(self, image: Volume) -> bool:
        """Whether it was learnt from these very voxels."""
        return any(seen.pixels == pixels_of(image) for seen in self.images)

    def without_paint(self, image: Volume, looks: Tensor) -> str:
        """What is known of a segmentation of an image without paint of its own, and how to know more."""
        if self.knows(image):
            return (
                f"{self.folder} was learnt from this very image. {self.in_words()} To go on with more paint, "
                f"{option('continue_from', self.folder)} keeps apart the slices that were held out."
            )
        return (
            "No slice of this image is painted, so it cannot be known how good the result is. "
            f"{self.in_words()} {self.far(looks)} For a score, paint three slices or more and give them "
            f"along with {option('apply', self.folder)}."
        )

    def check(self, scheme: LabelScheme, unknown: Sequence[int], image: Volume, *, force: bool) -> None:
        """Whether it fits what there is now.

        Raises:
            InputError: if it was learnt for other classes or channels, from this very image although it is to
                be applied to another one, or from voxels of quite another size and it was not insisted on.
        """
        asked = option("apply" if self.is_applied else "continue_from")
        values = [*scheme.values, *unknown]
        for what, then, now, remedy in (
            ("values", list(self.values), values, "Paint the same classes"),
            ("channels", self.channels, image.channels, "Give an image with the same channels"),
        ):
            if then != now:
                raise InputError(
                    f"{self.folder} was learnt with other {what}: {then} then, {now} now. {remedy}, or "
                    f"leave {asked} out."
                )
        others = [f"{a!r} then, {b!r} now" for a, b in zip(self.names, scheme.names, strict=True) if a != b]
        if others and self.is_applied:
            raise InputError(
                f"{self.folder} was learnt with other names: {'; '.join(others)}. The classes have to mean "
                f"the same: give them the same {option('names')}, or leave {asked} out."
            )
        seen = [each.name for each in self.images if each.pixels == pixels_of(image)]
        if self.is_applied and seen and unknown is not _NO_PAINT:
            raise InputError(
                f"{self.folder} was learnt from this very image ({seen[0]}), so its model has seen slices "
                "that would be taken for held out. Go on with "
                f"{option('continue_from', self.folder)}: it keeps them apart."
            )
        if not self.is_applied and self.images and not seen:
            logger.warning(
                "%s was learnt from %s, which holds other numbers than %s. If that is another image, %s "
                "is meant for it; slices stay in the folds of their numbers all the same.",
                self.folder,
                ", ".join(each.name for each in self.images),
                image.name,
                option("apply"),
            )
        self._check_voxels(image, force=force)

    def check_alone(self, image: Volume, *, force: bool) -> None:
        """The same for an image without paint."""
        self.check(LabelScheme(self.names, self.values), _NO_PAINT, image, force=force)

    def _check_voxels(self, image: Volume, *, force: bool) -> None:
        for seen in self.images:
            if len(seen.spacing) != image.spatial_dims:
                raise InputError(
                    f"{self.folder} was learnt from {len(seen.spacing)}D, and {image.name} is "
                    f"{image.spatial_dims}D: learn from paint of its own, without {option('apply')}."
                )
            # Without units only the shape of voxels can be compared.
            same = bool(seen.unit) and seen.unit == image.unit
            then, now = (
                [float(s) if same else float(s) / min(spacing) for s in spacing]
                for spacing in (seen.spacing, image.spacing)
            )
            factor = max(max(a / b, b / a) for a, b in zip(then, now, strict=True))
            if factor <= _OTHER_SIZE:
                continue
            text = (
                f"Voxels are {_size(image.spacing, image.unit)} here and {_size(seen.spacing, seen.unit)} in "
                f"{seen.name}: what was learnt is in voxels, so structures have another size to it"
            )
            if factor > _TOO_OTHER and not force:
                raise InputError(
                    f"{text}. If one of these sizes is wrong or missing, say it with "
                    f"{option('spacing', 'X,Y,Z')}: here, or where {self.folder} was learnt. Otherwise "
                    f"resample one of the two, paint this one for itself, or insist with "
                    f"{option('force', True)}."
                )
            logger.warning("%s. Expect it to be worse.", text)

    def far(self, looks: Tensor) -> str:
        """How far an image is from those it learnt from, in a sentence that says whether that is far."""
        if not self.images:
            return (
                f"{self.folder} comes from a volseg that kept no record of how its image looks, so it cannot "
                "be known how far this one is from it."
            )
        nearest = min(self.images, key=lambda seen: distance(seen.looks, looks))
        away = distance(nearest.looks, looks)
        if math.isinf(away):
            return (
                f"{nearest.name}, which it was learnt from, has another size, for which the filters have "
                "other scales: it cannot be known how far this image is from it."
            )
        measured = (
            f"Grey values and filter responses are {away:.2f} from those of {nearest.name}, whose two halves "
            f"are {nearest.apart:.2f} from each other (0: alike, 1: no overlap)"
        )
        if away < _SAME:
            return (
                f"{measured}: as alike as an image saved again. If it is the same one, "
                f"{option('continue_from')} is what keeps held-out slices apart."
            )
        if away > max(_FAR * nearest.apart, _FAR_AT_LEAST):
            return (
                f"{measured}: far. This image looks different, and what was learnt may not hold for it; "
                "paint two or three slices of it."
            )
        return f"{measured}: near. That does not say that the result is right."


_NO_PAINT: Sequence[int] = []


def load_earlier(source: Path, *, is_applied: bool = False) -> Earlier:
    """What to continue.

    Args:
        source: the folder of a result, or its segmentation.

    Raises:
        InputError: if there is nothing.
    """
    suffix = suffix_of(source)
    folder = source.with_name(source.name[: -len(suffix)]) if suffix else source
    asked = option("apply" if is_applied else "continue_from")
    if not (folder / "model.pt").is_file():
        raise InputError(
            f"{source} holds no model.pt to continue. Name the folder of an earlier volseg densify, or "
            f"leave {asked} out."
        )
    content = load_checkpoint(folder / "model.pt")
    folds, models = ((), ()) if is_applied else _folds_of(folder)
    return Earlier(
        folder,
        learner_in(content, folder),
        trained_in(content, folder),
        tuple(content.get("names", [])),
        tuple(content.get("values", [])),
        content.get("channels", 0),
        folds,
        models,
        is_applied,
        tuple(map(Seen.from_state, content.get("images", []))),
        _json(folder / "scores.json"),
        choices_in(_json(folder / "settings.json")),
    )


def _folds_of(folder: Path) -> tuple[tuple[Fold, ...], tuple[Trained, ...]]:
    folds: list[Fold] = []
    models: list[Trained] = []
    for path in sorted((folder / "folds").glob("fold_*.pt"), key=lambda p: int(p.stem[5:])):
        part = load_checkpoint(path)
        if "fold" not in part:
            logger.warning(
                "%s comes from an earlier volseg, which kept no record of what its folds had learnt from. "
                "They are learnt again, so that the score is of slices that were never learnt from.",
                folder,
            )
            return (), ()
        folds.append(Fold.from_json(part["fold"]))
        models.append(trained_in(part, path))
    return tuple(folds), tuple(models)


def _json(path: Path) -> dict[str, Any]:
    """What a file of an earlier result says; nothing if it cannot be read: the model is what counts."""
    try:
        content = read_json(path, constant=float)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _size(spacing: Sequence[float], unit: str) -> str:
    """A voxel size for messages; without one, voxels are taken for cubes."""
    if not unit and all(size == 1 for size in spacing):
        return "of no known size, taken for cubes,"
    return " x ".join(f"{size:.4g}" for size in spacing) + f" {unit or '(no unit)'}"


def look_at(task: Task, image: Volume) -> Seen:
    """How an image looks: by its filter responses, whoever learns from it."""
    bank = bank_of(task, keep=False)
    places = np.random.default_rng(0).random((_LOOKS, len(bank.size)))
    longest = int(np.argmax(bank.size))
    places = places[np.argsort(places[:, longest])]
    voxels = torch.from_numpy((places * bank.size).astype(np.int64))
    halves = [_quantiles(bank, part) for part in (voxels[: _LOOKS // 2], voxels[_LOOKS // 2 :])]
    looks = _quantiles(bank, voxels)
    name = image.name if image.path is None else image.path.name
    return Seen(
        name, pixels_of(image), tuple(image.spacing), image.unit, looks, distance(halves[0], halves[1])
    )


def _quantiles(bank: Bank, voxels: Tensor) -> Tensor:
    seen = responses_at(bank, voxels.to(bank.maps[0].device)).float().cpu()
    return torch.quantile(seen, torch.tensor(_QUANTILES), dim=0).T.contiguous()


def distance(looks: Tensor, others: Tensor) -> float:
    """How far two images are from each other: the mean over responses of how far their distributions are
    (quantile by quantile), as a share of how far they reach together; 0 for alike, towards 1 for apart."""
    if looks.shape != others.shape:
        return math.inf
    low = torch.minimum(looks[:, 0], others[:, 0])
    high = torch.maximum(looks[:, -1], others[:, -1])
    apart = (looks - others).abs().mean(1) / (high - low).clamp(min=1e-6)
    return float(apart.mean())


def pixels_of(image: Volume) -> str:
    """The hash of the numbers of an image, whatever file they are in."""
    array = np.ascontiguousarray(image.array)
    whole = hashlib.sha256(f"{array.shape} {array.dtype.newbyteorder('=').str}".encode())
    whole.update(array.data)
    return whole.hexdigest()


def choices_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The choices in a ``settings.json``; what was not said of unlabelled voxels is as it was taken over."""
    choices = dict(settings.get("choices") or {})
    if choices.get("unlabelled") is None and not (choices.get("painted_only") or choices.get("finished")):
        choices["unlabelled"] = settings.get("unlabelled")
    return choices | {"found_unlabelled": settings.get("found_unlabelled")}
