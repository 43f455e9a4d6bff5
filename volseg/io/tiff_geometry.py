"""Voxel sizes in TIFF files: where ImageJ, OME and plain files keep them, and which of them to believe."""

import logging
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io.units import common_unit

__all__ = ["affine_of"]

logger = logging.getLogger(__name__)

_PRINT = (72, 75, 90, 96, 100, 150, 200, 240, 300, 400, 600, 1200)  # dots per inch of printers and screens


def affine_of(tif: Any, spatial_dims: int, path: Path, series: int) -> tuple[NDArray[np.float64], str]:
    """A plain scaling by the voxel size, and its unit; ones and ``""`` where the file names no size."""
    sizes, unit = _sizes(tif, series)
    known = [s for s in sizes[:spatial_dims] if s is not None]
    if any(not np.isfinite(s) or s <= 0 for s in known):
        raise InputError(
            f"{path}: the voxel size {tuple(sizes[:spatial_dims])} is not positive. "
            "Set it in Fiji under Image > Properties and save the file again."
        )
    if spatial_dims == 3 and sizes[2] is None and known:
        logger.warning("%s gives no distance between slices; 1 is assumed.", path)
    factor, unit = common_unit(unit)
    return np.diag([factor * (s or 1.0) if known else 1.0 for s in sizes[:spatial_dims]] + [1.0]), unit


def _sizes(tif: Any, series: int) -> tuple[tuple[float | None, float | None, float | None], str]:
    """x, y and z size and the unit's name, from the most talkative source."""
    if tif.is_ome and tif.ome_metadata:
        return _from_ome(tif.ome_metadata, series)
    page = tif.series[series].keyframe
    x, y = (_per_pixel(page, tag) for tag in ("XResolution", "YResolution"))
    own = tif.imagej_metadata if tif.is_imagej else (tif.shaped_metadata or [{}])[0] if tif.is_shaped else {}
    own = own or {}
    z = float(own["spacing"]) if isinstance(own.get("spacing"), (int, float)) else None
    unit = str(own.get("unit", ""))
    if unit or z is not None:
        return (x, y, abs(z) if z is not None else None), unit
    dots = page.tags.get("ResolutionUnit")
    per = {2: "inch", 3: "cm"}.get(int(dots.value)) if dots is not None else None
    if x is None or per is None or _is_print(x, per):
        return (None, None, None), ""
    return (x, y, None), per


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


def _from_ome(xml: str, series: int) -> tuple[tuple[float | None, float | None, float | None], str]:
    """Physical sizes of one image; OME's default unit is the micrometre."""
    if "<!DOCTYPE" in xml:  # entities can make a small file expand without end
        return (None, None, None), ""
    try:
        images = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", xml)).findall(".//{*}Pixels")
    except ElementTree.ParseError:
        return (None, None, None), ""
    if series >= len(images):
        return (None, None, None), ""
    pixels = images[series]
    sizes: list[float | None] = []
    for axis in "XYZ":
        text = pixels.get(f"PhysicalSize{axis}")
        factor, unit = common_unit(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if unit == "mm":
            factor *= 1000
        try:
            sizes.append(float(text) * factor if text else None)
        except ValueError:
            sizes.append(None)
    return (sizes[0], sizes[1], sizes[2]), "um" if any(sizes) else ""
