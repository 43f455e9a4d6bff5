"""What napari opens and saves by volseg: every format that volseg reads, labels in every one that it writes.

A layer remembers the volume that it came from, header and all. So labels painted on an image are saved with
the image's place in the world.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from volseg.io import Volume, is_volume, read_volume, segments_of, suffix_of, write_volume
from volseg.napari.layers import placement, turned, volume_of
from volseg.phantom import XENOPUS_SPACING, membranes_phantom, xenopus_phantom
from volseg.session import ClassInfo
from volseg.session.folder import write_labels

__all__ = ["kidney", "membranes", "read", "reader", "write"]

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]

_LABELS = re.compile(r"(?<![a-z])(labels?|seg|segmentation|masks?|paint|painted|annotations?|truth)(?![a-z])")
CLASSES = "volseg classes"
"""Where a layer's metadata keep names and colours of its values."""


def reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """What reads a file, if it is one that volseg reads; a list of files is for other readers."""
    return read if isinstance(path, str | os.PathLike) and suffix_of(path) and is_volume(path) else None


def read(path: str) -> list[LayerData]:
    """Layers of a file: labels where its name or that of its folder says so, an image otherwise.

    A ``.seg.nrrd`` is labels, with the names and colours of its segments. An image has a layer per channel;
    a picture in colour has one.

    Raises:
        InputError: if it cannot be read; the message says why and what to do.
    """
    file = Path(path)
    name = file.name[: len(file.name) - len(suffix_of(file))]
    if (
        file.name.lower().endswith(".seg.nrrd")
        or _LABELS.search(name.lower())
        or (_LABELS.fullmatch(file.parent.name.lower()))
    ):
        return [_labels(read_volume(file, labels=True), name)]
    return [_image(read_volume(file), name)]


def _image(volume: Volume, name: str) -> LayerData:
    """An image, which napari takes apart into a layer per channel."""
    about = placement(volume) | {"name": name}
    array = turned(volume.array, volume.spatial_dims)
    if volume.spatial_dims == 2 and volume.channels == 3 and array.dtype == np.uint8:
        return np.moveaxis(array, 0, -1), about | {"rgb": True}, "image"
    if volume.channels == 1:
        return array[0], about, "image"
    return array, about | {"channel_axis": 0}, "image"


def _labels(volume: Volume, name: str) -> LayerData:
    about = placement(volume) | {"name": name}
    segments = segments_of(volume)
    if segments:
        coloured = {s.value: s.colour for s in segments if s.colour is not None}
        about["colormap"] = {None: "transparent", **coloured} if len(coloured) == len(segments) else None
        about["features"] = {"index": [s.value for s in segments], "class": [s.name for s in segments]}
    return turned(volume.array[0]), about, "labels"


def write(path: str, data: Any, about: dict[str, Any]) -> list[str]:
    """Save a Labels layer in the format of the name's suffix, where its image lies in the world.

    Of a layer that the widget made, a ``.seg.nrrd`` has the names and colours of the classes.

    Raises:
        InputError: if no format is known by the suffix, or it is one that is only read.
    """
    values, like = turned(np.asarray(data)), volume_of(data, about)
    classes: dict[int, ClassInfo] = (about.get("metadata") or {}).get(CLASSES) or {}
    if classes and values.dtype == np.uint8:
        return [str(write_labels(path, values, like, classes))]
    if values.size and values.min() >= 0:
        values = values.astype(np.min_scalar_type(values.max()))
    write_volume(path, values, like, overwrite=True)  # napari has asked
    return [path]


def kidney() -> list[LayerData]:
    """A synthetic kidney: three channels, ``(128, 128, 48)`` voxels."""
    image, _ = xenopus_phantom(0, size=(128, 128, 48))
    return [_image(Volume(image, np.diag([*XENOPUS_SPACING, 1.0]), "um"), "kidney")]


def membranes() -> list[LayerData]:
    """A synthetic section of neurites, ``(256, 256)`` pixels of 4 nm."""
    image, _ = membranes_phantom(0, (256, 256))
    return [_image(Volume(image, np.diag([0.004, 0.004, 1.0]), "um"), "membranes")]
