"""Volumes as napari shows, opens and saves them: axes, place in the world, classes, every format of volseg.

volseg has axes x, y(, z); napari has the reverse, (z, )y, x, and so do its scale, translation and units. All
of it is turned round here and nowhere else. A value in a layer is the value in a file; 255, unlabelled, is
transparent, and what napari's eraser leaves. A layer remembers the volume that it came from, header and all,
so labels painted on an image are saved with the image's place in the world.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from volseg.io import Volume, is_volume, read_volume, segments_of, suffix_of, write_volume
from volseg.io.grid import common_unit
from volseg.labels import IGNORE_INDEX
from volseg.phantom import XENOPUS_SPACING, membranes_phantom, xenopus_phantom
from volseg.session import ClassInfo
from volseg.session.folder import write_labels

__all__ = [
    "KEY",
    "across",
    "colours_of",
    "kidney",
    "membranes",
    "placement",
    "read",
    "reader",
    "turned",
    "volume_of",
    "write",
]


KEY = "volseg"
"""Where a layer's metadata keep the volume that it shows a part of."""

_CLEAR = (0.0, 0.0, 0.0, 0.0)
_UNITS = {"um": "micrometer", "mm": "millimeter", "m": "meter", "": "pixel"}


def turned(array: NDArray[Any], spatial: int | None = None) -> NDArray[Any]:
    """The same array with its last ``spatial`` axes in reverse order (all if None): a view.

    It turns volseg's order into napari's, and napari's into volseg's.
    """
    first = array.ndim - (array.ndim if spatial is None else spatial)
    return array.transpose(*range(first), *range(array.ndim - 1, first - 1, -1))


def across(axis: int, dims: int) -> int:
    """The axis across a slice: volseg's (0, 1, 2 for x, y, z; 2 in an image) for napari's, or the reverse."""
    return dims - 1 - axis if dims == 3 else 2


def placement(like: Volume) -> dict[str, Any]:
    """``scale``, ``translate``, ``units`` and ``metadata`` of a layer that shows a volume.

    Axes of the world are followed, mirrored ones too. napari cannot cut through a volume that lies obliquely
    in it; such a one is shown along its own axes, in its voxel size, from the origin.
    """
    linear, scale, origin = like.affine[:-1, :-1], np.array(like.spacing), like.affine[:-1, -1]
    along = np.diag(linear)
    if np.allclose(linear, np.diag(along), rtol=0, atol=1e-5 * scale.min()):
        scale = np.where(along < 0, -scale, scale)
    else:
        origin = np.zeros_like(origin)
    return {
        "scale": scale[::-1].tolist(),
        "translate": origin[::-1].tolist(),
        "units": [_UNITS[like.unit]] * len(scale),
        "metadata": {KEY: like},
    }


def volume_of(data: Any, about: Mapping[str, Any]) -> Volume:
    """The volume that a layer shows, or, of a layer that comes from elsewhere, one that lies where it lies.

    Args:
        data: of the layer, ``(z, )y, x``.
        about: its attributes as napari gives them to a writer.

    Raises:
        ValueError: if it has other than two or three axes.
    """
    known = (about.get("metadata") or {}).get(KEY)
    array = np.asarray(data)
    array = np.moveaxis(array, -1, 0) if about.get("rgb") else array[None]
    dims = array.ndim - 1
    if dims not in (2, 3):
        raise ValueError(
            f"the layer has {dims} axes: volseg works on images with two and volumes with three. Choose or "
            "cut out one time point."
        )
    if isinstance(known, Volume) and known.spatial_shape == array.shape[:0:-1]:
        return known
    given = {key: about[key] for key in ("scale", "translate", "rotate", "shear") if key in about}
    matrix = np.asarray(Affine(ndim=dims, **given).affine_matrix, np.float64)
    if "affine" in about:
        matrix = np.asarray(about["affine"], np.float64) @ matrix
    factor, unit = common_unit(str((about.get("units") or ("pixel",))[-1]))
    matrix[:-1] *= factor
    order = [*range(dims - 1, -1, -1), dims]
    return Volume(np.ascontiguousarray(turned(array, dims)), matrix[order][:, order], unit)


def colours_of(classes: Mapping[int, ClassInfo], hidden: tuple[int, ...] = ()) -> DirectLabelColormap:
    """Colours of classes for a Labels layer; unlabelled voxels are its background, which is transparent.

    Args:
        hidden: values that are transparent, too.
    """
    table: dict[int | None, Any] = {None: _CLEAR, IGNORE_INDEX: _CLEAR}
    for value, info in classes.items():
        table[value] = _CLEAR if value in hidden else (*(c / 255 for c in info.colour), 1.0)
    return DirectLabelColormap(color_dict=table, background_value=IGNORE_INDEX)


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
