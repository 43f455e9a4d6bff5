"""Volumes as napari shows them, and back: order of axes, place in the world, colours of classes.

volseg has axes x, y(, z); napari has the reverse, (z, )y, x, and so do its scale, translation and units. All
of it is turned round here and nowhere else. A value in a layer is the value in a file; 255, unlabelled, is
transparent, and what napari's eraser leaves.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from volseg.io import Volume
from volseg.io.grid import common_unit
from volseg.labels import IGNORE_INDEX
from volseg.session import ClassInfo

__all__ = ["KEY", "across", "colours_of", "placement", "turned", "volume_of"]

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
