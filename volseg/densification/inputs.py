"""What is asked for and what is given: the request, checked before any file is opened, and the files."""

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from volseg.annotation import Paint
from volseg.arguments import option
from volseg.data.auditing import audit_all, names_from, paint_on, understood
from volseg.densification.earlier import Earlier
from volseg.errors import InputError, ResourceError
from volseg.findings import Finding
from volseg.io import (
    Volume,
    as_colours,
    as_spacing,
    as_volume,
    class_names,
    digest,
    read_volume,
    segments_of,
)
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.learners import check_learner

__all__ = [
    "FORMER_METHODS",
    "METHODS",
    "Choices",
    "Images",
    "Inputs",
    "Method",
    "ImageLike",
    "names_of",
    "read_inputs",
]

logger = logging.getLogger(__name__)

Method = Literal["learner", "interpolate", "random-walker"]
METHODS: tuple[str, ...] = get_args(Method)
# What was called so before there was more than one learner.
FORMER_METHODS: Mapping[str, Method] = {"network": "learner"}

_MINUTES = {"cpu": 15.0, "gpu": 10.0}
_CONTINUED = 1 / 3  # of these, where there are weights to continue from


@dataclass(frozen=True)
class Choices:
    """Everything but the files; see :func:`volseg.densify` for what each means."""

    minutes: float | None = None
    unlabelled: int | None = None
    painted_only: bool = False
    finished: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    method: Method = "learner"
    learner: str = "auto"
    folds: int | None = None
    keep_painted: bool = True
    compare: bool = True
    suggest: bool | None = None
    device: str | None = None
    seed: int = 0
    force: bool = False
    spacing: str | Sequence[float] | None = None
    colours: str | Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.spacing is not None:
            as_spacing(self.spacing)
        if self.colours is not None:
            as_colours(self.colours)
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise ValueError(f"{option('minutes', self.minutes)}: it must be above 0.")
        if self.method not in METHODS:
            raise ValueError(f"{option('method', self.method)} is unknown. There are: {', '.join(METHODS)}.")
        check_learner(self.learner)
        if self.learner != "auto" and not self.learns:
            raise ValueError(
                f"{option('learner', self.learner)} and {option('method', self.method)}: this method learns "
                "nothing. Leave one of them out."
            )
        if self.folds is not None and (self.folds < 0 or self.folds == 1):
            raise ValueError(
                f"{option('folds', self.folds)}: slices are held out in two or more turns, or not at all "
                "(0), which leaves the result without a score."
            )
        if self.unlabelled is not None and self.painted_only:
            raise ValueError(
                f"{option('unlabelled', self.unlabelled)} and {option('painted_only', True)} both say what "
                "is unlabelled: leave one of them out."
            )
        self.torch_device  # noqa: B018 - refuses what this machine does not have

    @property
    def learns(self) -> bool:
        """Whether anything is learnt, or paint only carried on."""
        return self.method == "learner"

    @property
    def torch_device(self) -> torch.device:
        """Where to compute."""
        if self.device is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise ValueError(
                f"{option('device', self.device)} is unknown: use cpu, cuda or cuda:1."
            ) from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ResourceError(
                f"there is no device {self.device}: torch sees {torch.cuda.device_count()} GPU(s) here. "
                f"Leave {option('device')} out, or install the torch build that fits the GPU."
            )
        return device

    def seconds(self, *, continued: bool) -> float:
        """The time to spend, all in all."""
        if self.minutes is not None:
            return 60 * self.minutes
        minutes = _MINUTES["gpu" if self.torch_device.type == "cuda" else "cpu"]
        return 60 * minutes * (_CONTINUED if continued else 1)

    def as_json(self) -> dict[str, Any]:
        """Plain values; the learner stands beside them, as the one that was chosen in the end."""
        values = asdict(self) | {"names": {str(value): name for value, name in self.names.items()}}
        del values["learner"]
        return values


def names_of(given: Mapping[Any, str] | Sequence[str] | None) -> dict[int, str]:
    """Class names by value, from ``{1: "tubule"}`` or ``["1=tubule"]``."""
    if isinstance(given, Mapping):
        given = [f"{value}={name}" for value, name in given.items()]
    names = names_from(given or ())
    repeated = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if repeated:
        raise ValueError(f"{option('names')}: two classes have the name {repeated[0]!r}. Give each its own.")
    return names


_Path = str | os.PathLike[str]
ImageLike = _Path | Volume | npt.NDArray[Any]
Stamp = tuple[tuple[int, int, int], ...]
Images = ImageLike | Sequence[_Path]

_HOPELESS = ("empty", "one_class")  # nothing can be learnt, whatever one insists on


@dataclass(frozen=True, eq=False)
class Inputs:
    """What there is to learn from.

    Attributes:
        label: the painted file on the image's grid, values as in the file.
        names: of the classes that were named, by value.
        findings: of the audit.
        image_files: what the image was read from, a file or one for each channel; none if it came as numbers.
        label_files: the same of the paint.
        stamps: of all these files, from before they were read.
        digests: of all these files.
        learnt_in: the result that is applied, where nothing is painted.
    """

    image: Volume
    label: Volume
    paint: Paint
    scheme: LabelScheme
    names: Mapping[int, str]
    findings: tuple[Finding, ...]
    image_files: tuple[Path, ...]
    label_files: tuple[Path, ...]
    stamps: Mapping[Path, Stamp]
    digests: Mapping[Path, str]
    learnt_in: Path | None = None

    @property
    def painted(self) -> npt.NDArray[np.bool_]:
        """Labelled voxels, also with a value that is not a class."""
        mask = self.paint.labels != IGNORE_INDEX
        for value in self.paint.unknown:
            mask |= self.label.array[0] == value
        return mask

    def check_unchanged(self) -> None:
        """Whether the files still hold what was read.

        Raises:
            InputError: if one was written to, or removed it.
        """
        for path, stamp in self.stamps.items():
            if _stamp(path) != stamp and not (path.exists() and digest(path) == self.digests[path]):
                raise _changed(path, "learnt from")


def read_inputs(
    image: Images, labels: ImageLike | None, choices: Choices, earlier: Earlier | None = None
) -> Inputs:
    """Both files, what the paint was understood to say, and what the auditor says of it.

    Args:
        labels: ``None`` for an image without paint, to which ``earlier`` is applied.
        earlier: what to continue: its classes keep their names, and paint means what it meant then.

    Raises:
        InputError: if the auditor found an error and it was not insisted on, or if there is nothing to learn.
    """
    if isinstance(labels, list | tuple):
        raise ValueError(f"labels = {labels} are several files: paint all classes into one.")
    if isinstance(image, np.ndarray) and isinstance(labels, np.ndarray) and image.ndim == labels.ndim:
        image = image[None]
    image_files = _files_of(image)
    label_files = () if labels is None else _files_of(labels)
    stamps = {path: _stamp(path) for path in (*image_files, *label_files)}
    picture = as_volume(image, choices.spacing)
    if picture.array.dtype.kind == "f" and not np.isfinite(picture.array).all():  # files were refused already
        raise InputError(
            "the image holds NaN or infinite voxels, and one is enough to spoil every average. Give them a "
            "number, such as the image's smallest: numpy.nan_to_num(image, nan=numpy.nanmin(image))."
        )
    if labels is None:
        assert earlier is not None
        earlier.check_alone(picture, force=choices.force)
        logger.info("Image: %s. No paint: what %s learnt is applied.", _in_words(picture), earlier.folder)
        return _alone(picture, earlier, image_files, stamps)
    label = _volume(labels, choices, labels=True, like=picture)
    logger.info("Image: %s.", _in_words(picture))
    logger.info("Paint: %s.", _in_words(label))
    names: Mapping[int, str] = dict(choices.names) or class_names(segments_of(label))
    if earlier is not None:
        choices, names = _as_before(earlier, choices, names)
    label, paint = paint_on(
        picture,
        label,
        names,
        unlabelled=choices.unlabelled,
        painted_only=choices.painted_only,
        finished=choices.finished,
    )
    first, *rest = understood(paint, names, picture.spacing)
    logger.info("Understood: %s. %s", first, " ".join(rest))
    findings = audit_all(picture, paint, names)
    stop = _why_to_stop(findings, choices.force)
    for finding in findings[bool(stop) :]:  # errors stand first, and the first of them is what stops it
        level = logging.INFO if finding.severity == "note" else logging.WARNING
        logger.log(level, "Audit, %s (%s): %s", finding.severity, finding.kind, finding.message)
    if not findings:
        logger.info("Audit: nothing wrong found.")
    if stop:
        raise InputError(stop)
    scheme = paint.scheme(names)
    if earlier is not None:
        earlier.check(scheme, list(paint.unknown), picture, force=choices.force)
    digests, found = _digests(stamps), tuple(findings)
    return Inputs(picture, label, paint, scheme, names, found, image_files, label_files, stamps, digests)


def _as_before(
    earlier: Earlier, choices: Choices, names: Mapping[int, str]
) -> tuple[Choices, Mapping[int, str]]:
    """What is not said of the paint is as it was when the earlier result was made."""
    carried = {}
    if choices.unlabelled is None and not (choices.painted_only or choices.finished):
        then = {name: earlier.choices.get(name) for name in ("unlabelled", "painted_only", "finished")}
        carried = {name: value for name, value in then.items() if value}
        if then["unlabelled"] == 0:
            carried["unlabelled"] = 0
    kept = [f"{name} = {value}" for name, value in carried.items()]
    if not names:
        kept += [f"{value} is {name!r}" for value, name in earlier.by_value.items()]
    if kept:
        logger.info("As in %s: %s.", earlier.folder, ", ".join(kept))
    return dataclasses.replace(choices, **carried), names or earlier.by_value


def _alone(image: Volume, earlier: Earlier, files: tuple[Path, ...], stamps: Mapping[Path, Stamp]) -> Inputs:
    """An image of which nothing is painted."""
    nothing = np.full(image.spatial_shape, IGNORE_INDEX, np.uint8)
    slices: tuple[tuple[int, ...], ...] = ((),) * image.spatial_dims if image.spatial_dims == 3 else ()
    paint = Paint(nothing, earlier.values, slices, "painted", {}, 0)
    label = Volume(np.zeros((1, *image.spatial_shape), np.uint8), image.affine, image.unit)
    scheme = LabelScheme(earlier.names, earlier.values)
    digests = _digests(stamps)
    return Inputs(
        image, label, paint, scheme, earlier.by_value, (), files, (), stamps, digests, earlier.folder
    )


def _digests(stamps: Mapping[Path, Stamp]) -> dict[Path, str]:
    """Of the files that were read, if they still are what they were before."""
    digests = {path: digest(path) for path in stamps}
    for path, stamp in stamps.items():
        if _stamp(path) != stamp:
            raise _changed(path, "read")
    return digests


def _changed(path: Path, used: str) -> InputError:
    return InputError(
        f"{path} was changed, replaced or removed while it was being {used}: a result would not belong to "
        "what stands there now, so none is written. When the file is not written to any more, repeat this, "
        f"with {option('overwrite', True)}."
    )


def _stamp(path: Path) -> Stamp:
    """Of every file below, what changes when it is written to."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = []
    for file in files:
        with contextlib.suppress(OSError):
            facts = file.stat()
            found.append((facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return tuple(found)


def _files_of(source: Any) -> tuple[Path, ...]:
    if isinstance(source, Volume | np.ndarray):
        return ()
    return tuple(map(Path, source)) if isinstance(source, list | tuple) else (Path(source),)


def _why_to_stop(findings: list[Finding], force: bool) -> str:
    """What to say where nothing is to be learnt; the error that it is about becomes the first finding."""
    errors = [finding for finding in findings if finding.severity == "error"]
    hopeless = [finding for finding in errors if finding.kind in _HOPELESS]
    if not errors or (force and not hopeless):
        return ""
    first = (hopeless or errors)[0]
    findings.insert(0, findings.pop(findings.index(first)))
    if hopeless:
        return first.message
    kinds = ", ".join(dict.fromkeys(finding.kind for finding in errors))
    return (
        f"The audit found {len(errors)} error(s) in the paint ({kinds}), so nothing was learnt. The "
        f"first: {first.message} If all is as it should be, go on with {option('force', True)}."
    )


def _volume(source: Any, choices: Choices, *, labels: bool, like: Volume | None = None) -> Volume:
    """A file, a volume, or an array: an image as ``(C, *spatial)``, or labels ``(*spatial)`` beside it."""
    if labels and isinstance(source, str | os.PathLike):
        return read_volume(source, labels=True, spacing=choices.spacing, colours=choices.colours)
    if like is None or isinstance(source, Volume):
        return as_volume(source, choices.spacing)
    if source.shape != like.spatial_shape:
        raise InputError(
            f"the labels have the shape {source.shape}, the image has {like.spatial_shape} voxels: give "
            "labels as (*spatial) and the image as (channels, *spatial)."
        )
    return Volume(source[None], like.affine, like.unit)


def _in_words(volume: Volume) -> str:
    size = " x ".join(map(str, volume.spatial_shape))
    spacing = " x ".join(f"{s:.4g}" for s in volume.spacing)
    channels = f"{volume.channels} channels of " if volume.channels > 1 else ""
    unit = f" {volume.unit}" if volume.unit else " (unit unknown)"
    return f"{volume.name}, {channels}{size} voxels of {spacing}{unit}, {volume.array.dtype}"
