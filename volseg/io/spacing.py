"""Voxel sizes: as people write them, laid over what a file says, and whether they can be true.

Many files name no voxel size, or a wrong one: a TIFF has no place for the distance of slices unless ImageJ or
OME wrote it. Whoever knows it says it: ``"0.004,0.004,0.05um"``, ``"4, 4, 50 nm"``, ``"0.5mm"`` for all axes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from volseg.arguments import option
from volseg.geometry import AXES
from volseg.io.units import METRES, common_unit
from volseg.io.volume import Notes, Volume, noticing

__all__ = ["Spacing", "as_spacing", "filled_in", "is_size", "note_if_long", "with_spacing"]

_LONG = 20  # times as long as wide: rarely a voxel, often a mistake


@dataclass(frozen=True)
class Spacing:
    """Voxel size along x, y[, z]; one number stands for all axes; ``unit`` is ``""`` for that of the file."""

    sizes: tuple[float, ...]
    unit: str = ""


def as_spacing(told: "str | Sequence[float] | Spacing") -> Spacing:
    """A voxel size as people write it, or as numbers in the unit of the file.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(told, Spacing):
        return told
    text = told if isinstance(told, str) else ",".join(str(float(size)) for size in told)
    front = re.match(r"[0-9.,eE+\-\s]*", text)
    numbers = front[0].rstrip("eE ,") if front else ""
    name = text[len(numbers) :].strip()
    try:
        sizes = tuple(float(word) for word in re.split(r"\s*,\s*|\s+", numbers.strip()))
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= 3 or not all(map(is_size, sizes)):
        raise ValueError(
            f"spacing {text!r} is no voxel size: give a positive number for x, y and z, and a unit, such as "
            "0.004,0.004,0.05um, or one number for all axes."
        )
    factor, unit = common_unit(name)
    if name and not unit:
        raise ValueError(f"spacing {text!r}: {name!r} is no unit of length. Use nm, um, mm or another one.")
    return Spacing(tuple(factor * size for size in sizes), unit)


def is_size(size: float) -> bool:
    """Whether a voxel can be so long: positive, and such that every format holds it."""
    return 1e-30 < size < 1e30


def filled_in(sizes: Sequence[float | None], unit: str, path: Path, notes: Notes) -> tuple[float, ...]:
    """Sizes along x, y[, z] where some are missing (``None``): that of an axis that has one, which is noted.

    A missing distance between slices is not 1 of whatever unit x and y are in. Ones where all are missing.
    """
    known = [size for size in sizes if size is not None]
    if not known:
        return (1.0,) * len(sizes)
    missing = [axis for axis, size in zip(AXES, sizes, strict=False) if size is None]
    if missing:
        what = "distance between slices" if missing == ["z"] else f"voxel size along {' and '.join(missing)}"
        notes.warning(
            "%s gives no %s: that along %s, %.6g %s, is taken (1 : 1). If it is another, say it: "
            "%s, with a unit.",
            path, what, AXES[sizes.index(known[0])], known[0], unit or "without a unit",
            option("spacing", "X,Y,Z"),
        )  # fmt: skip
    return tuple(known[0] if size is None else size for size in sizes)


def with_spacing(
    volume: Volume, told: "str | Sequence[float] | Spacing", notes: Notes | None = None
) -> Volume:
    """The same voxels with another size; their directions and the position of the first stay.

    What is written like it keeps the size that the file names: a result opens over its image.
    """
    spacing, dims = as_spacing(told), volume.spatial_dims
    sizes = spacing.sizes * dims if len(spacing.sizes) == 1 else spacing.sizes
    if len(sizes) != dims:
        raise ValueError(
            f"spacing has {len(sizes)} numbers, but {volume.name} has {dims} axes: give one for each, or one "
            "for all."
        )
    unit = spacing.unit or volume.unit
    factor = METRES[volume.unit] / METRES[unit] if volume.unit and unit else 1.0
    affine = volume.affine.copy()
    affine[:-1, :-1] *= np.array(sizes) / np.array(volume.spacing)
    affine[:-1, -1] *= factor
    with noticing(notes, volume.path) as noted:
        noted.info(
            "%s: voxels of %s %s, as told (the file says %s %s).", volume.name, _times(sizes),
            unit or "(no unit)", _times(volume.spacing), volume.unit or "(no unit)",
        )  # fmt: skip
    return replace(volume, affine=affine, unit=unit, notes=(*volume.notes, *noted))


def note_if_long(volume: Volume, notes: Notes) -> None:
    """Note voxels that are far longer than wide."""
    ratio = max(volume.spacing) / min(volume.spacing)
    if ratio > _LONG:
        notes.warning(
            "%s: voxels of %s %s are %.3g times as long as wide, which is rarely true. If the file is wrong, "
            "say the size: %s, with a unit.",
            volume.name, _times(volume.spacing), volume.unit or "(no unit)", ratio,
            option("spacing", "X,Y,Z"),
        )  # fmt: skip


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:.6g}" for size in sizes)
