"""Voxel sizes in TIFF files: where ImageJ, OME and plain files keep them, and which of them to believe."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io.ome_xml import images_of
from volseg.io.spacing import filled_in, is_size
from volseg.io.units import common_unit

__all__ = ["affine_of"]

_PRINT = (72, 75, 90, 96, 100, 150, 200, 240, 300, 400, 600, 1200)  # dots per inch of printers and screens
_Sizes = tuple[float | None, float | None, float | None]


def affine_of(
    tif: Any, spatial_dims: int, path: Path, series: int, sized: bool = False
) -> tuple[NDArray[np.float64], str]:
    """A plain scaling by the voxel size, and its unit; ones and ``""`` where the file names no size.

    An axis without a size gets that of an axis that has one, which is said.

    Args:
        sized: somebody else says the voxel size, so that the file's need be none.
    """
    sizes, unit = _sizes(tif, series, path)
    found = sizes[:spatial_dims]
    if any(size is not None and not is_size(size) for size in found):
        if sized:
            return np.eye(spatial_dims + 1), ""
        raise InputError(
            f"{path}: the voxel size {found} is not positive, or no number to calculate with. Say it: "
            "--spacing X,Y,Z with a unit, spacing='X,Y,Z' in Python; or set it in Fiji under Image > "
            "Properties and save the file again."
        )
    if not any(found):
        return np.eye(spatial_dims + 1), ""
    return np.diag([*filled_in(found, unit, path), 1.0]), unit


def _sizes(tif: Any, series: int, path: Path) -> tuple[_Sizes, str]:
    """x, y and z size, and volseg's unit of them, from the most talkative source."""
    if tif.is_ome and tif.ome_metadata:
        images = images_of(tif.ome_metadata)
        return images[series].sizes(path) if series < len(images) else ((None, None, None), "")
    page = tif.series[series].keyframe
    x, y = (_per_pixel(page, tag) for tag in ("XResolution", "YResolution"))
    own = tif.imagej_metadata if tif.is_imagej else (tif.shaped_metadata or [{}])[0] if tif.is_shaped else {}
    own = own or {}
    z = abs(float(own["spacing"])) if isinstance(own.get("spacing"), (int, float)) else None
    name = str(own.get("unit", ""))
    dots = page.tags.get("ResolutionUnit")
    per = {2: "inch", 3: "cm"}.get(int(dots.value), "") if dots is not None else ""
    if not name and x is not None and per and not _is_print(x, per):
        name = per
    if not name and z is None and not (tif.is_imagej and x is not None and not per):
        return (None, None, None), ""
    factor, unit = common_unit(name, path)
    if not unit:  # ImageJ's pixels: an image without a resolution has pixels of length 1
        x, y = x or 1.0, y or x or 1.0
    scaled = [None if s is None else factor * s for s in (x, y, z)]
    return (scaled[0], scaled[1], scaled[2]), unit


def _per_pixel(page: Any, tag: str) -> float | None:
    """Size of a pixel in resolution units."""
    found = page.tags.get(tag)
    if found is None:
        return None
    value = found.value
    pixels, units = value if isinstance(value, tuple) else (value, 1)
    return float(units / pixels) if pixels and units else None


def _is_print(size: float, per: str) -> bool:
    """Whether a resolution is that of a printer or a screen, which says nothing about the object."""
    dpi = (1.0 if per == "inch" else 2.54) / size
    return dpi < 10 or any(abs(dpi - p) < 0.01 * p for p in _PRINT)
