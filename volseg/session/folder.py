"""Where a session lives: an ordinary result folder of ``volseg densify``, with a journal in it.

``session.json`` names the image; ``paint.jsonl`` is the journal. What else lies there is what densify writes
and reads: so a session continues from its results, and they from a session.
"""

import glob
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.arguments import option
from volseg.data.auditing import paint_on
from volseg.densification.earlier import choices_in
from volseg.errors import InputError, ResourceError
from volseg.io import (
    Segment,
    Volume,
    as_volume,
    atomic_write,
    check_alignment,
    class_names,
    is_volume,
    output_suffix,
    read_json,
    read_volume,
    segments_of,
    suffix_of,
    with_segments,
    write_json,
    write_volume,
)
from volseg.io.blocks import can_write_blocks, create_blocks, finish_blocks, open_blocks, voxels_of
from volseg.labels import IGNORE_INDEX
from volseg.session.bricks import BrickLabels
from volseg.session.painting import BACKGROUND, ClassInfo

__all__ = ["Folder", "Image", "Start", "open_image", "read_start", "write_labels", "write_large"]

_WHOLE = 2**28  # voxels up to which an image is read into memory
_MOST = IGNORE_INDEX - 1
_SLAB = 64  # layers that are written at once
_SEGMENTS = ".seg.nrrd"
_READ = ("unlabelled", "painted_only", "finished", "names", "colours")
_TAG = "volseg.background:yes"  # of the segment that is background; what is no segment is unlabelled then
_BLANK = -1  # that, as it is read

_Path = str | os.PathLike[str]
Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Image:
    """The image of a session.

    Attributes:
        voxels: indexed by slices as an array ``(C, *spatial)``; it may lie in its file.
        like: where it lies in the world, and what is needed to write files like it.
        files: that it was read from.
    """

    voxels: Any
    like: Volume
    files: tuple[Path, ...] = ()

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(self.voxels.shape[1:])

    @property
    def channels(self) -> int:
        return int(self.voxels.shape[0])

    @property
    def name(self) -> str:
        return self.files[0].name if self.files else "image"


@dataclass(frozen=True, eq=False)
class Start:
    """Paint that a session starts from: values, 255 where unlabelled; names by value; finished slices."""

    labels: npt.NDArray[np.uint8]
    names: Mapping[int, str]
    colours: Mapping[int, Colour]
    finished: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Folder:
    """The files of a session."""

    path: Path

    @property
    def journal(self) -> Path:
        return self.path / "paint.jsonl"

    @property
    def about(self) -> Path:
        return self.path / "session.json"

    def make(self) -> None:
        """Make the folder if there is none.

        Raises:
            ResourceError: if that is not allowed.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"cannot write to {self.path}: {error.strerror}. Choose another folder ({option('output')})."
            ) from error

    def images(self) -> tuple[tuple[Path, ...], str | list[float] | None]:
        """The image of the session or the result that lies here, and the voxel size that was given for it.

        Raises:
            InputError: if there is neither, or the image is gone.
        """
        for path in (self.about, self.path / "settings.json"):
            if not path.is_file():
                continue
            content = read_json(path)
            entries = content.get("image") if isinstance(content, dict) else None
            files = [one["path"] for one in entries or [] if isinstance(one, dict) and "path" in one]
            if not files:
                raise InputError(
                    f"{self.path} was made from an image in memory, so it is not known which file to paint "
                    f"on. Name the image, and the folder with {option('output')}."
                )
            found = tuple(self._found(str(file)) for file in files)
            return found, content.get("spacing") or (content.get("choices") or {}).get("spacing")
        raise InputError(
            f"{self.path} holds neither a session nor a result of volseg densify. Name an image, or such a "
            "folder."
        )

    def _found(self, name: str) -> Path:
        path = Path(name)
        for place in (path, self.path / path, self.path.parent / path.name):
            if is_volume(place):
                return place
        raise InputError(
            f"{self.path} was painted on {name}, which is not there. Bring the image back, or name it and "
            f"give the folder with {option('output')}."
        )

    def spacing_of_result(self) -> str | list[float] | None:
        """The voxel size that was given for the image of a result of densify here."""
        settings = self.path / "settings.json"
        content = read_json(settings) if settings.is_file() else None
        choices = content.get("choices") if isinstance(content, dict) else None
        return choices.get("spacing") if isinstance(choices, dict) else None

    def labels_of_result(self) -> tuple[Path, Mapping[str, Any]] | None:
        """The paint that a result of densify here was learnt from, and how it was read."""
        settings = self.path / "settings.json"
        if not settings.is_file():
            return None
        content = read_json(settings)
        entries = content.get("labels") or [] if isinstance(content, dict) else []
        files = [one["path"] for one in entries if isinstance(one, dict) and "path" in one]
        choices = choices_in(content) if isinstance(content, dict) else {}
        read = {key: choices[key] for key in _READ if key in choices}
        return (self._found(files[0]), read) if files else None

    def result(self, name: str) -> tuple[Path, Path] | None:
        """Segmentation and confidence that densify has written here for an image of this name."""
        stem = glob.escape(name[: len(name) - len(suffix_of(name))])
        for kind in ("segmentation", "confidence"):
            if not sorted(self.path.glob(f"{stem}_{kind}.*")):
                return None
        first, second = (sorted(self.path.glob(f"{stem}_{k}.*"))[0] for k in ("segmentation", "confidence"))
        return first, second

    def scores(self) -> Mapping[str, Any]:
        """What densify reports of that; empty if it could not, or if it cannot be read."""
        with suppress(InputError, OSError, ValueError, KeyError, TypeError):
            return dict(read_json(self.path / "scores.json")["scores"]["volseg"])
        return {}

    def write_settings(self, image: Image, paint: Path, names: Mapping[int, str]) -> None:
        """What densify has to know of the paint to continue: how it is read, and its classes' names."""
        choices = {"unlabelled": IGNORE_INDEX, "names": {str(value): name for value, name in names.items()}}
        files = {"image": image.files, "labels": [paint]}
        entries = {what: [{"path": str(path.resolve())} for path in paths] for what, paths in files.items()}
        write_json(self.path / "settings.json", entries | {"choices": choices})


def open_image(image: Any, spacing: str | Sequence[float] | None = None) -> Image:
    """An image from a path, paths with a channel each, a Volume, an array ``(C, *spatial)``, or blocks.

    A very large one stays in its file, if it can be read block by block.

    Raises:
        InputError: if a file cannot be read, or an array has no axis of channels.
    """
    several = image if isinstance(image, list | tuple) else [image]
    if several and all(isinstance(one, str | os.PathLike) for one in several):
        paths = tuple(map(Path, several))
        if sum(map(voxels_of, paths)) <= _WHOLE:
            volume = as_volume(image, spacing)
            return Image(volume.array, volume, paths)
        given = spacing if spacing is None or isinstance(spacing, str) else ",".join(map(str, spacing))
        image = open_blocks(*paths, spacing=given)
        return Image(image, image.like, paths)
    array = image.array if isinstance(image, Volume) else image
    if not isinstance(array, np.ndarray):
        if not isinstance(getattr(image, "like", None), Volume):
            raise InputError(
                f"an image of the type {type(image).__name__} cannot be painted on. Give a file, several "
                "files with a channel each, an array (channels, *spatial) of numpy, or a volseg.Volume."
            )
        return Image(image, image.like, (image.path,))
    if array.dtype.kind not in "buif" or not array.size:
        raise InputError(
            f"an image of {' x '.join(map(str, array.shape))} values of the type {array.dtype} cannot be "
            "painted on. Give one with at least one voxel, of whole or real numbers."
        )
    volume = as_volume(image, spacing)
    return Image(volume.array, volume, () if volume.path is None else (volume.path,))


def read_start(
    path: _Path, image: Image, *, spacing: str | Sequence[float] | None = None, **read: Any
) -> Start:
    """Paint in a file, as a session holds it.

    Args:
        spacing: voxel size that was given for the image.
        read: how to read it: ``unlabelled``, ``painted_only``, ``finished``, ``names``, ``colours``.

    Raises:
        InputError: if it cannot be read, does not lie on the image's grid, or holds values that a session
            cannot hold.
        ValueError: if ``read`` says something that is not known.
    """
    if unknown := sorted({*read} - {*_READ}):
        raise ValueError(f"read = {{{unknown[0]!r}: ...}} is not known; there are {', '.join(_READ)}.")
    label = read_volume(Path(path), labels=True, colours=read.pop("colours", None), spacing=spacing)
    segments = segments_of(label)
    names = {int(value): str(name) for value, name in (read.pop("names", None) or {}).items()}
    names = names or dict(class_names(segments))
    known = {key: read[key] for key in ("unlabelled", "painted_only", "finished") if read.get(key)}
    if read.get("unlabelled") == 0:
        known["unlabelled"] = 0
    own = {s.value: BACKGROUND for s in segments if _TAG in _tags(s)}
    if own and not known.get("unlabelled"):
        label = check_alignment(image.like, label)  # 0 where it does not reach, as where it is blank
        fits = label.array.max(initial=0) <= np.iinfo(np.int16).max
        array = label.array.astype(np.int16 if fits else np.int64)
        blank = array == 0
        array[np.isin(array, list(own))] = BACKGROUND
        if not read.get("finished"):
            array[blank] = _BLANK
            known = {"unlabelled": _BLANK}
        names = {own.get(value, value): name for value, name in names.items()}
        segments = tuple(replace(s, value=own.get(s.value, s.value)) for s in segments)
        label = replace(label, array=array)
    _, paint = paint_on(image.like, label, names, **known)
    beyond = [value for value in paint.values if not 0 <= value <= _MOST]
    if beyond:
        blank = f" If it stands for unlabelled voxels, say so: {option('unlabelled', beyond[-1])}."
        raise InputError(
            f"{path} holds the value {beyond[-1]}; while painting, classes have values from 0 to {_MOST}."
            f"{blank if known.get('unlabelled') is None else ''} If it is a class, give the classes small "
            "numbers and save it again."
        )
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[: len(paint.values)] = paint.values
    finished: list[tuple[int, int]] = []
    if paint.rule == "slices" and image.like.spatial_dims == 3:
        finished = [(axis, int(i)) for axis, indices in enumerate(paint.slices) for i in indices]
    colours = {
        s.value: (round(255 * s.colour[0]), round(255 * s.colour[1]), round(255 * s.colour[2]))
        for s in segments
        if s.colour is not None
    }
    scheme = paint.scheme(names)
    is_empty = not names and (paint.labels == IGNORE_INDEX).all()  # then there is no class, either
    found = {} if is_empty else dict(zip(scheme.values, scheme.names, strict=True))
    return Start(table[paint.labels], found, colours, tuple(finished))


def write_large(
    path: _Path, labels: BrickLabels, like: Volume, classes: Mapping[int, ClassInfo], *, overwrite: bool
) -> Path:
    """Write paint that is too large for an array, slab by slab; see :func:`write_labels`.

    Raises:
        InputError: if the format does not take that.
    """
    path = Path(path)
    if not can_write_blocks(path) or path.name.lower().endswith(".gz"):
        raise InputError(
            f"{path} cannot be written: {' x '.join(map(str, labels.size))} voxels are written "
            "piece by piece, which .ome.zarr, .nii, .tif, .nrrd and .mha take. Choose a name that ends so."
        )
    table, like = np.arange(256, dtype=np.uint8), replace(like, blank=IGNORE_INDEX)
    if path.name.lower().endswith(_SEGMENTS):
        table, like = _as_segments(path, replace(like, blank=None), classes, is_paint=True)
    with atomic_write(path, overwrite=overwrite, folder=path.suffix.lower() == ".zarr") as made:
        blocks = create_blocks(made, (1, *labels.size), np.dtype(np.uint8), like)
        for first in range(0, labels.size[0], _SLAB):
            slab = (slice(first, min(first + _SLAB, labels.size[0])), *(slice(0, n) for n in labels.size[1:]))
            blocks[(slice(0, 1), *slab)] = table[labels.read(slab)][None]
        finish_blocks(made, path)
    return path


def write_labels(
    path: _Path,
    values: npt.NDArray[np.uint8],
    like: Volume,
    classes: Mapping[int, ClassInfo],
    *,
    is_paint: bool = False,
    overwrite: bool = True,
) -> Path:
    """Write labels in any format that volseg writes; a ``.seg.nrrd`` with names and colours.

    In a ``.seg.nrrd`` 0 is no segment. So where 255 stands for unlabelled voxels, they are 0 there, and
    background is a segment with a free value, which is marked: :func:`read_start` makes 0 of it again. Other
    formats but PNG say that 255 is unlabelled, and no one is asked when they are read.

    Args:
        is_paint: 255 stands for unlabelled voxels, if there are any or not.

    Raises:
        InputError: if the format is not known, or no value is free.
    """
    path = Path(path)
    if output_suffix(path) != suffix_of(path):
        raise InputError(
            f"{path} cannot be written: choose a name that ends in .nii.gz, .tif, .nrrd, .seg.nrrd, .mha or "
            ".zarr."
        )
    is_paint = is_paint or bool((values == IGNORE_INDEX).any())
    like = replace(like, blank=None)
    if path.name.lower().endswith(_SEGMENTS):
        table, like = _as_segments(path, like, classes, is_paint=is_paint)
        values = table[values]
    elif is_paint:
        like = replace(like, blank=IGNORE_INDEX)
    write_volume(path, values, like, overwrite=overwrite)
    return path


def _as_segments(
    path: Path, like: Volume, classes: Mapping[int, ClassInfo], *, is_paint: bool
) -> tuple[npt.NDArray[np.uint8], Volume]:
    """The values that a ``.seg.nrrd`` holds for those of a session, and what it is written like."""
    table = np.arange(256, dtype=np.uint8)
    segments = []
    if is_paint:
        free = sorted({*range(1, IGNORE_INDEX)} - {*classes})
        if not free:
            raise InputError(
                f"{path} cannot be written: there are {_MOST} classes, which leaves no value for background, "
                "as 0 is unlabelled in it. Choose a name that ends in .nii.gz or .nrrd."
            )
        above = [value for value in free if value > max(classes, default=0)]
        table[IGNORE_INDEX], table[BACKGROUND] = 0, (above or free)[0]
    for value, info in sorted(classes.items()):
        if is_paint or value != BACKGROUND:
            colour = (info.colour[0] / 255, info.colour[1] / 255, info.colour[2] / 255)
            marked = {} if value != BACKGROUND else {"ID": "Segment_background", "Tags": f"{_TAG}|"}
            segments.append(Segment(int(table[value]), info.name, colour, others=marked))
    return table, with_segments(like, segments)


def _tags(segment: Segment) -> list[str]:
    return segment.others.get("Tags", "").split("|")
