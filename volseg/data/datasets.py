"""The two datasets of a bundle: patches to train on, whole volumes to score or segment."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from torch.utils.data import Dataset

from volseg.annotation import annotation_counts, hold_out
from volseg.annotation.record import (
    Record,
    annotation_of,
    entry_of,
    held_out_again,
    spared_entry,
    voxels_hash,
)
from volseg.data.cases import Case, find_cases, find_images, join_channels
from volseg.data.loading import LoadedCase, Preprocessing, load_case, read_image
from volseg.data.phantoms import Kind
from volseg.data.verification import Expectations, default_cache, require_sound
from volseg.errors import InputError, VolsegError, cause, theirs
from volseg.io import Notes
from volseg.labels import LabelScheme
from volseg.transforms import annotated_voxels

__all__ = ["Cases", "TrainingPatches", "WholeVolumes"]

logger = logging.getLogger(__name__)

_PATCH_OUTPUTS = ("image", "label", "weight")
_PATCH_INPUTS = (*_PATCH_OUTPUTS, "instances", "spacing", "label_voxels")


class Cases(Sequence[Case]):
    """The annotated cases of a dataset folder, found when they are asked for, and how all of them are read.

    What a bundle says of its data stands here once; both datasets take it from here.

    Args:
        dataset_dir, phantom_dir, phantom, held_out_cases, spacing, colours: as in :func:`find_cases`.
        labels: what the numbers in the label files mean.
        in_channels: channels that every image must have.
        preprocessing: a MONAI transform applied to each case once.
        images: what is to be segmented, as in :func:`find_images`; ``None`` for those of ``dataset_dir``.
        held_out: fraction of the annotated slices kept for evaluation in cases that list none.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        *,
        labels: LabelScheme,
        in_channels: int,
        preprocessing: Preprocessing | None = None,
        images: str | Path | None = None,
        phantom_dir: str | Path | None = None,
        phantom: Kind = "kidney",
        held_out: float = 0.0,
        held_out_cases: float = 0.0,
        spacing: str | None = None,
        colours: str | None = None,
    ) -> None:
        self.labels, self.in_channels = labels, in_channels
        self.preprocessing, self.held_out = preprocessing, held_out
        given: dict[str, Any] = {"phantom_dir": phantom_dir, "phantom": phantom, "spacing": spacing}
        self._find = partial(find_cases, dataset_dir, held_out_cases=held_out_cases, colours=colours, **given)
        self._find_images = partial(find_images, dataset_dir if images is None else images, **given)

    @cached_property
    def found(self) -> list[Case]:
        """The cases themselves; the folder is read the first time."""
        return self._find()

    @property
    def images(self) -> "Cases":
        """What is to be segmented, annotated or not, read in the same way."""
        other = copy(self)
        other.__dict__.pop("found", None)
        other._find = self._find_images
        return other

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]


class _Reading(NamedTuple):
    """How cases are read: what is given, else what the cases say of themselves."""

    labels: LabelScheme
    in_channels: int
    preprocessing: Preprocessing | None
    held_out: float

    @classmethod
    def of(cls, data: Sequence[Case], *given: Any) -> "_Reading":
        known = [getattr(data, name, None) if one is None else one
                 for name, one in zip(cls._fields, given, strict=True)]  # fmt: skip
        labels, in_channels, preprocessing, held_out = known
        if labels is None or in_channels is None:
            raise ValueError("labels and in_channels are needed, or data that say them: volseg.Cases.")
        return cls(labels, in_channels, preprocessing, held_out or 0.0)


class TrainingPatches(Dataset[dict[str, Any]]):
    """Random patches around annotated voxels; patch ``i`` is a function of the seed and ``i``.

    So a run that was interrupted continues with the very patches it would have seen, and neither the
    number of workers nor their order matters. All volumes are verified, as ``volseg verify`` does, read
    and kept in memory when the dataset is made: bad input stops a run before it trains, with a table of
    all that is wrong. What was verified before and has not changed is not verified again.

    Args:
        data: the cases, each with an annotation.
        labels, in_channels, preprocessing, held_out: as in :class:`Cases`, and from there if ``None``.
        transform: draws one patch from a case: a MONAI transform on the dictionary, with a
            ``set_random_state``, or a list of transforms.
        length: number of patches; ``None`` for as many as anyone asks for (2**31).
        weight_map: a MONAI transform such as :class:`volseg.transforms.BorderWeightMapd` that makes a
            ``weight`` for each case once. To weigh each deformed patch instead, have ``transform`` do it;
            a patch of the instances is there if it draws one (``weight_key="instances"``).

    Raises:
        InputError: where a file does not fit the bundle, or nothing at all is annotated.
    """

    def __init__(
        self,
        data: Sequence[Case],
        *,
        labels: LabelScheme | None = None,
        in_channels: int | None = None,
        transform: Any,
        length: int | None = None,
        preprocessing: Preprocessing | None = None,
        held_out: float | None = None,
        weight_map: Preprocessing | None = None,
        seed: int = 0,
    ) -> None:
        reading = _Reading.of(data, labels, in_channels, preprocessing, held_out)
        self.data = list(data)
        self.labels = reading.labels
        self.transform = Compose(transform) if isinstance(transform, list | tuple) else transform
        self.seed = seed
        self.length = 2**31 if length is None else length
        self.held_out = reading.held_out
        self.weight_map = weight_map
        self.cases: list[LoadedCase] = []
        self._spared: list[tuple[str, str]] = []  # cases held out as a whole: their hash and name
        self._before: Record = {}
        for case in self.data:
            if case.label is None:
                raise InputError(f"{case.image} has no annotation: it cannot be trained on.")
        if self.data:
            expected = Expectations(self.labels, reading.in_channels, _spatial_dims(self.transform))
            require_sound(self.data, expected, cache=default_cache())
        for case in self.data:
            with _about(case):
                if case.held_out == "all":
                    voxels = read_image(case, reading.in_channels, Notes()).array.astype(np.float32)
                    self._spared.append((voxels_hash(voxels), case.name))
                    continue
                item = load_case(case, notes=Notes(), **reading._asdict())  # notes: verified, so reported
                if not self._take(item):
                    logger.warning("%s has no annotated voxel to train on; it is left out.", case.label)
        self._require_cases()
        self._say()

    def _take(self, item: LoadedCase) -> bool:
        """Draw from a case, if anything is annotated there; its places and weights are found once."""
        item["label_voxels"] = annotated_voxels(item["label"], len(self.labels))
        if not any(len(voxels) for voxels in item["label_voxels"]):
            return False
        with theirs("weight_map", self.weight_map, "failed on a case"):
            if self.weight_map is not None:
                item = cast(LoadedCase, dict(self.weight_map(dict(item))))
        self.cases.append(item)
        return True

    def _require_cases(self) -> None:
        if not self.cases:
            raise InputError(
                f"None of the {len(self.data)} label file(s) has an annotated voxel to train on, those held "
                "out left aside. Paint some slices, and check that the value of unlabelled voxels is "
                f"{self.labels.unlabelled} in the files."
            )

    def go_on_from(self, record: Record) -> None:
        """Keep held out what an earlier training held out, and hold out nothing that it has learnt from.

        Args:
            record: what :meth:`trained_on` gave then.

        Raises:
            InputError: if nothing is left to train on.
        """
        self._before = record
        kept, self.cases, before = self.cases, [], self.counts()
        for item in kept:
            held_out = held_out_again(item, record, self.held_out)
            if held_out == "all":
                logger.info("%s was held out as a whole, and stays so.", item["name"])
                self._spared.append((item["hash"], item["name"]))
                continue
            if isinstance(held_out, Mapping) and held_out != item["held_out"]:
                train, held = hold_out(annotation_of(item), held_out)
                item["label"], item["held"] = torch.from_numpy(train)[None], torch.from_numpy(held)[None]
                item["held_out"] = held_out
                if not self._take(item):
                    logger.warning("%s: all of its annotation is held out.", item["name"])
            else:
                self.cases.append(item)
        self._require_cases()
        if (self.counts() != before).any():
            self._say()

    def _say(self) -> None:
        counts = self.counts()
        total = sum(int(np.prod(item["label"].shape)) for item in self.cases)
        parts = (f"{name} {n / counts.sum():.1%}" for name, n in zip(self.labels.names, counts, strict=True))
        logger.info(
            "%d case(s) to train on; %.2f %% of their voxels are annotated: %s.",
            len(self.cases),
            100 * counts.sum() / total,
            ", ".join(parts),
        )
        for name, n in zip(self.labels.names, counts, strict=True):
            if n == 0:
                logger.warning("No voxel of the class %r is annotated: it cannot be learnt.", name)

    def counts(self) -> NDArray[np.int64]:
        """Annotated voxels per class that are trained on, over all cases: shape ``(C,)``."""
        return sum(
            (annotation_counts(item["label"].cpu().numpy(), len(self.labels)) for item in self.cases),
            start=np.zeros(len(self.labels), np.int64),
        )

    def trained_on(self) -> Record:
        """What a checkpoint remembers: of each case what was learnt from, now or before, and held out."""
        entries = [entry_of(item, self._before) for item in self.cases]
        entries += [spared_entry(image, name, self._before) for image, name in self._spared]
        return {**self._before, **dict(entries)}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = self._random(index)
        item = self.cases[random.randint(len(self.cases))]
        self.transform.set_random_state(state=random)
        with _about(item["case"]), theirs("train#preprocessing", self.transform, "failed on a patch"):
            patch = self.transform({key: value for key, value in item.items() if key in _PATCH_INPUTS})
        return {key: patch[key] for key in _PATCH_OUTPUTS if key in patch}

    def source_of(self, index: int) -> Case:
        """The case that patch ``index`` is drawn from."""
        return self.cases[self._random(index).randint(len(self.cases))]["case"]

    def _random(self, index: int) -> np.random.RandomState:
        return np.random.RandomState(np.random.SeedSequence([self.seed, index]).generate_state(4))


class WholeVolumes(Dataset[LoadedCase]):
    """Whole cases, read when asked for: what the evaluator scores and the predictor segments.

    Args:
        data: cases, with or without annotation; files ``a_0000``, ``a_0001``, as many as there are
            channels, are one case ``a``.
        labels, in_channels, preprocessing, held_out: as in :class:`Cases`, and from there if ``None``.
    """

    def __init__(
        self,
        data: Sequence[Case],
        *,
        labels: LabelScheme | None = None,
        in_channels: int | None = None,
        preprocessing: Preprocessing | None = None,
        held_out: float | None = None,
    ) -> None:
        reading = _Reading.of(data, labels, in_channels, preprocessing, held_out)
        self.data = join_channels(data, reading.in_channels)
        self.labels, self.in_channels, self.preprocessing, self.held_out = reading

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> LoadedCase:
        with _about(self.data[index]):
            return load_case(
                self.data[index],
                labels=self.labels,
                in_channels=self.in_channels,
                preprocessing=self.preprocessing,
                held_out=self.held_out,
            )


@contextmanager
def _about(case: Case) -> Iterator[None]:
    """Whatever goes wrong in the block is said with the image's name, which transforms do not know."""
    try:
        yield
    except Exception as error:  # raised again below, whatever a transform threw
        fixable = cause(error)
        if str(case.image) in str(fixable or error):
            raise
        if fixable is None:
            raise RuntimeError(f"{case.image}: {type(error).__name__}: {error}") from error
        kind = type(fixable) if isinstance(fixable, VolsegError) else VolsegError
        raise kind(f"{case.image}: {fixable}") from error


def _spatial_dims(transform: Any) -> int | None:
    """The number of axes of the patches, if a part of the transform says it."""
    parts = [transform, *getattr(transform, "transforms", ())]
    sizes = [part.patch_size for part in parts if hasattr(part, "patch_size")]
    return len(sizes[0]) if sizes else None
