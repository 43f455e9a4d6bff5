"""The voxel grid in the world: units of length, voxel sizes, and affines.

Inside volseg a length is in ``"um"`` or ``"mm"`` (``"m"`` where a NIfTI file says so), or has no unit,
``""``. Names of units are those of OME-XML, OME-Zarr (UDUNITS), NRRD, NIfTI, MetaImage, ImageJ and people:
symbols, both spellings, plurals. "pixel" is a word for no unit.

Many files name no voxel size, or a wrong one: a TIFF has no place for the distance of slices unless ImageJ or
OME wrote it. Whoever knows it says it: ``"0.004,0.004,0.05um"``, ``"4, 4, 50 nm"``, ``"0.5mm"`` for all axes.

An affine maps voxel indices to world positions in RAS: x to the right, y to the front, z up.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volseg.arguments import conversion, option
from volseg.errors import InputError
from volseg.geometry import AXES
from volseg.io.volume import Notes, Volume, noticing

__all__ = [
    "METRES",
    "NGFF_UNITS",
    "OME_UNITS",
    "Spacing",
    "as_spacing",
    "check_affine",
    "common_unit",
    "embed",
    "filled_in",
    "in_plane",
    "is_bare",
    "is_sheared",
    "is_size",
    "note_if_long",
    "plain_grid",
    "remedy_for",
    "with_spacing",
]

METRES = {"um": 1e-6, "mm": 1e-3, "m": 1.0}
OME_UNITS = {"um": "µm", "mm": "mm", "m": "m", "": "pixel"}
NGFF_UNITS = {"um": "micrometer", "mm": "millimeter", "m": "meter"}

_PREFIXES = {  # powers of ten
    ("Y", "yotta"): 24, ("Z", "zetta"): 21, ("E", "exa"): 18, ("P", "peta"): 15, ("T", "tera"): 12,
    ("G", "giga"): 9, ("M", "mega"): 6, ("k", "kilo"): 3, ("h", "hecto"): 2, ("da", "deca"): 1, ("", ""): 0,
    ("d", "deci"): -1, ("c", "centi"): -2, ("m", "milli"): -3, ("u", "micro"): -6, ("n", "nano"): -9,
    ("p", "pico"): -12, ("f", "femto"): -15, ("a", "atto"): -18, ("z", "zepto"): -21, ("y", "yocto"): -24,
}  # fmt: skip
_SYMBOLS = {f"{symbol}m": power for (symbol, _), power in _PREFIXES.items()}
_WORDS = {
    f"{prefix}{word}": power for (_, prefix), power in _PREFIXES.items() for word in ("meter", "metre")
} | {"micron": -6, "mic": -6, "mu": -6, "u": -6, "angstrom": -10, "å": -10, "ångstrom": -10, "ångström": -10}
_OTHERS = {  # metres
    "inch": 0.0254, "inches": 0.0254, "in": 0.0254, '"': 0.0254, "thou": 2.54e-5, "foot": 0.3048,
    "feet": 0.3048, "ft": 0.3048, "yard": 0.9144, "yd": 0.9144, "mile": 1609.344,
}  # fmt: skip
_NONE = {
    "", "pixel", "pix", "px", "voxel", "vox", "reference frame", "none", "null", "unknown", "unitless", "?",
    "pixel unit", "a.u.", "arbitrary", "arbitrary unit", "gray value",
}  # fmt: skip


def common_unit(name: str, source: object = None, notes: Notes | None = None) -> tuple[float, str]:
    """Factor to, and name of, the unit volseg uses instead: ``"nm"`` becomes ``(0.001, "um")``.

    ``(1.0, "")`` where the name stands for no unit, or is not known, which is noted.

    Args:
        source: the file that says so, for that note.
    """
    metres = _metres(name)
    if metres is None and notes is not None:
        notes.warning(
            "%s: %r is not a known unit of length; its sizes are taken as plain numbers without a unit.",
            source, name,
        )  # fmt: skip
    if not metres:
        return 1.0, ""
    unit = "um" if metres < 0.9e-3 else "mm"
    return float(f"{metres / METRES[unit]:.12g}"), unit


def _metres(name: str) -> float | None:
    """How long a unit is; 0 where the name stands for none, ``None`` where it is not known."""
    plain = re.sub(r"\\u00[bB]5", "u", name)  # as ImageJ writes it
    plain = unicodedata.normalize("NFKC", plain.replace("Âµ", "u").replace("Î¼", "u")).strip().strip("\0")
    plain = plain.replace("μ", "u")
    if plain in _SYMBOLS:  # "Mm" and "mm" differ
        return 10.0 ** _SYMBOLS[plain]
    lower = plain.lower()
    if lower in _SYMBOLS:
        return 10.0 ** _SYMBOLS[lower]
    for word in (lower, lower.rstrip("."), lower.removesuffix("s"), lower.removesuffix("es")):
        if word in _NONE:
            return 0.0
        if word in _WORDS:
            return 10.0 ** _WORDS[word]
        if word in _OTHERS:
            return _OTHERS[word]
    return None


_LONG = 20  # times as long as wide: rarely a voxel, often a mistake


@dataclass(frozen=True)
class Spacing:
    """Voxel size along x, y[, z]; one number stands for all axes; ``unit`` is ``""`` for that of the file."""

    sizes: tuple[float, ...]
    unit: str = ""


def as_spacing(given: "str | Sequence[float] | Spacing") -> Spacing:
    """A voxel size as people write it, or as numbers in the unit of the file.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(given, Spacing):
        return given
    text = given if isinstance(given, str) else ",".join(str(float(size)) for size in given)
    front = re.match(r"[0-9.,eE+\-\s]*", text)
    numbers = front[0].rstrip("eE ,") if front else ""
    name = text[len(numbers) :].strip()
    try:
        sizes = tuple(float(word) for word in re.split(r"\s*,\s*|\s+", numbers.strip()))
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= 3 or not all(map(is_size, sizes)):
        raise ValueError(
            f"{option('spacing', text)} is not a voxel size: give a positive number for x, y and z, and a "
            "unit, such as 0.004,0.004,0.05um, or one number for all axes."
        )
    factor, unit = common_unit(name)
    if name and not unit:
        raise ValueError(f"{option('spacing', text)}: {name!r} is not a unit of length. Use nm, um or mm.")
    return Spacing(tuple(factor * size for size in sizes), unit)


def is_size(size: float) -> bool:
    """Whether a voxel can be so long: positive, and such that every format holds it."""
    return 1e-30 < size < 1e30


def filled_in(sizes: Sequence[float | None], unit: str, path: Path, notes: Notes) -> tuple[float, ...]:
    """Sizes along x, y[, z] where some are missing (``None``): that of an axis that has one, which is noted.

    A missing distance between slices is not 1 of whatever unit x and y are in. Ones where all are missing; 1
    without a unit, as ImageJ writes it for want of a size, is not worth a word.
    """
    known = [size for size in sizes if size is not None]
    if not known:
        return (1.0,) * len(sizes)
    missing = [axis for axis, size in zip(AXES, sizes, strict=False) if size is None]
    if missing and (unit or known[0] != 1):
        what = "distance between slices" if missing == ["z"] else f"voxel size along {' and '.join(missing)}"
        notes.warning(
            "%s gives no %s: that along %s, %.6g %s, is taken (1 : 1). If it is another, say it: "
            "%s, with a unit.",
            path, what, AXES[sizes.index(known[0])], known[0], unit or "without a unit",
            option("spacing", "X,Y,Z"),
        )  # fmt: skip
    return tuple(known[0] if size is None else size for size in sizes)


def with_spacing(
    volume: Volume, given: "str | Sequence[float] | Spacing", notes: Notes | None = None
) -> Volume:
    """The same voxels with another size; their directions and the position of the first stay.

    What is written like it keeps the size that the file names: a result opens over its image.
    """
    spacing, dims = as_spacing(given), volume.spatial_dims
    sizes = spacing.sizes * dims if len(spacing.sizes) == 1 else spacing.sizes
    if len(sizes) != dims:
        raise ValueError(
            f"{option('spacing')} has {len(sizes)} numbers, but {volume.name} has {dims} axes: give one "
            "for each, or one for all."
        )
    unit = spacing.unit or volume.unit
    factor = METRES[volume.unit] / METRES[unit] if volume.unit and unit else 1.0
    affine = volume.affine.copy()
    affine[:-1, :-1] *= np.array(sizes) / np.array(volume.spacing)
    affine[:-1, -1] *= factor
    before = f"{_times(volume.spacing)} {_unit(volume)} without that"
    if is_bare(volume):
        before = "the file names no voxel size"
    with noticing(notes, volume.path) as noted:
        noted.info(
            "%s: voxels of %s %s, as given (%s).", volume.name, _times(sizes), unit or "(no unit)", before
        )
    return replace(volume, affine=affine, unit=unit, notes=(*volume.notes, *noted))


def is_bare(volume: Volume) -> bool:
    """Whether the file said nothing about position or size."""
    return not volume.unit and np.array_equal(volume.affine, np.eye(len(volume.affine)))


def _unit(volume: Volume) -> str:
    return volume.unit or "(no unit)"


def note_if_long(volume: Volume, notes: Notes) -> None:
    """Note voxels that are far longer than wide."""
    ratio = max(volume.spacing) / min(volume.spacing)
    if ratio > _LONG:
        notes.warning(
            "%s: voxels of %s %s are %.3g times as long as wide, which is rarely true. If the file is wrong, "
            "say the size: %s, with a unit.",
            volume.name, _times(volume.spacing), _unit(volume), ratio,
            option("spacing", "X,Y,Z"),
        )  # fmt: skip


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:.6g}" for size in sizes)


def remedy_for(path: Path) -> str:
    """What to do about a position that cannot be used."""
    return (
        f"Write it as a plain voxel grid ('{conversion(path, ignore_affine=True)}'), or on the grid of the "
        f"image it was made from ('{conversion(path, ignore_affine=True, like='IMAGE')}')."
    )


def check_affine(affine: NDArray[np.float64], spatial_dims: int, path: Path, remedy: str = "") -> None:
    """Refuse an affine that places voxels nowhere, or all on top of each other."""
    columns, wrong = affine[:-1, :spatial_dims], ""
    if not np.isfinite(affine).all():
        wrong = "the header's affine holds NaN or infinity"
    elif unusable := [  # norms of the largest are infinite
        (axis, size) for axis, size in zip(AXES, np.abs(columns).max(0), strict=False) if not is_size(size)
    ]:
        axis, size = unusable[0]
        wrong = f"the voxel size along {axis} is {size:.3g} in the header"
    elif np.linalg.svd(columns / np.linalg.norm(columns, axis=0), compute_uv=False)[-1] < 1e-5:
        wrong = "the header's affine is singular: two axes point the same way"
    if wrong:
        raise InputError(f"{path}: {wrong}. {remedy or remedy_for(path)}")


def plain_grid(sizes: ArrayLike, path: Path, notes: Notes) -> NDArray[np.float64]:
    """The affine of a voxel grid without a position, of these voxel sizes where they can be sizes."""
    sizes = np.asarray(sizes, np.float64)
    usable = np.isfinite(sizes) & (sizes > 0)
    notes.warning("%s: its position is left aside, as asked; it is taken as a plain voxel grid.", path)
    if not usable.all():
        notes.warning("%s: the header's voxel sizes (%s) cannot be used; they are taken as 1.", path, sizes)
        sizes = np.ones_like(sizes)
    return np.diag([*sizes, 1.0])


def in_plane(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ``(3, 3)`` affine of a 2D image, measured within its plane.

    The plane gets axes of its own: the two world axes nearest to it, laid into it. They depend on the plane
    only, so an image and its label agree however each is stored, and voxel sizes stay true in oblique planes.
    """
    columns, origin = affine[:3, :2], affine[:3, 3]
    normal = np.cross(columns[:, 0], columns[:, 1])
    normal /= np.linalg.norm(normal)
    basis: list[NDArray[Any]] = []
    for world in np.delete(np.eye(3), int(np.argmax(np.abs(normal))), axis=0):
        axis = world - normal * (world @ normal)
        for earlier in basis:
            axis = axis - earlier * (axis @ earlier)
        basis.append(axis / np.linalg.norm(axis))
    plane = np.eye(3)
    plane[:2, :2] = np.stack(basis) @ columns
    plane[:2, 2] = np.stack(basis) @ origin
    return plane + 0.0  # no negative zeros


def embed(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """A ``(4, 4)`` affine with the same effect, the plane of a 2D image being z = 0."""
    if affine.shape == (4, 4):
        return affine
    out = np.eye(4)
    out[:2, :2], out[:2, 3] = affine[:2, :2], affine[:2, 2]
    return out


def is_sheared(affine: NDArray[np.float64], spatial_dims: int = 3) -> bool:
    """Whether the axes are not at right angles, which a qform cannot say."""
    columns = affine[:-1, :spatial_dims] / np.linalg.norm(affine[:-1, :spatial_dims], axis=0)
    return bool(np.abs(columns.T @ columns - np.eye(spatial_dims)).max() > 1e-4)
