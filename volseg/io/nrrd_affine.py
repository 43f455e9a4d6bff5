"""Where an NRRD image lies: from the header's fields to one affine and one unit, and back."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io.affines import check_affine, in_plane, plain_grid
from volseg.io.segments import Segment
from volseg.io.spacing import filled_in
from volseg.io.text_header import numbers
from volseg.io.units import common_unit
from volseg.io.volume import Volume

__all__ = ["NrrdHeader", "affine_of", "grid_of", "new_header"]

logger = logging.getLogger(__name__)

# Factors from the file's world axes to right, anterior, superior.
_SPACES = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
    "scanner-xyz": (-1, -1, 1), "3d-right-handed": (-1, -1, 1), "3d-left-handed": (-1, -1, 1),
}  # fmt: skip
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')


@dataclass(frozen=True)
class NrrdHeader:
    """The geometry of a file in its own words: fields of the whole, and per axis; and its axes' letters."""

    whole: dict[str, str]
    per_axis: dict[str, list[str]]
    axes: str
    segments: tuple[Segment, ...] = ()  # of a .seg.nrrd
    begin: tuple[int, ...] | None = None  # of a .seg.nrrd: at which voxel of the painted image it begins


def affine_of(header: NrrdHeader, path: Path) -> tuple[NDArray[np.float64], str]:
    """Voxel index to RAS position, and the unit; a file without directions lies as ITK has it lie."""
    world = [i for i, letter in enumerate(header.axes) if letter != "C"]
    flat = "Z" not in header.axes
    dims = len(world)
    space = header.whole.get("space", "").lower()
    if "space" in header.whole and space not in _SPACES:
        raise InputError(
            f"{path}: space = '{header.whole['space']}' is not known. Use right-anterior-superior or "
            "left-posterior-superior."
        )
    directions = header.per_axis.get("space directions")
    factor, unit = _unit(header, world, path)
    if directions is None:
        spacings = header.per_axis.get("spacings", ["1"] * len(header.axes))
        sizes = numbers(path, "spacings", [spacings[i] for i in world], dims)
        known = [None if np.isnan(size) else factor * float(size) for size in sizes]
        matrix, factor = np.diag(filled_in(known, unit, path)), 1.0
        origin = np.zeros(dims)
        logger.warning("%s stores no orientation: it is taken as a plain voxel grid (axes L, P, S).", path)
    else:
        # ITK writes a series in time into a space of four dimensions, of which three are of length.
        vectors = [_vector(path, "space directions", directions[i]) for i in world]
        matrix = np.array(vectors).T if len({len(v) for v in vectors}) == 1 else np.empty((0, 0))
        text = header.whole.get("space origin")
        origin = np.zeros(len(matrix)) if text is None else _vector(path, "space origin", text)
        if len(origin) == len(matrix):  # else they do not fit
            matrix, origin = matrix[:3], origin[:3]
    if matrix.shape[0] not in (2, 3) or origin.shape != matrix.shape[:1] or matrix.shape[0] < dims:
        raise InputError(f"{path}: space directions and space origin do not fit. The header is damaged.")
    signs = np.array(_SPACES.get(space, (-1, -1, 1))[: len(matrix)], float)
    affine = np.eye(len(matrix) + 1)
    affine[:-1, :dims] = factor * signs[:, None] * matrix
    affine[:-1, -1] = factor * signs * origin
    if dims == 2 and len(matrix) == 3:
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    check_affine(affine, 2 if flat else 3, path)
    if flat and len(affine) == 4:
        affine = in_plane(affine)
    return affine + 0.0, unit


def grid_of(header: NrrdHeader, path: Path) -> tuple[NDArray[np.float64], str]:
    """The grid alone, of the voxel sizes that the header gives for themselves."""
    world = [i for i, letter in enumerate(header.axes) if letter in "XYZ"]
    factor, unit = _unit(header, world, path)
    spacings = header.per_axis.get("spacings", ["1"] * len(header.axes))
    sizes = numbers(path, "spacings", [spacings[i] for i in world], len(world))
    return plain_grid(factor * sizes, path), unit


def _unit(header: NrrdHeader, world: list[int], path: Path) -> tuple[float, str]:
    """One unit for all axes."""
    text = header.whole.get("space units")
    per_axis = header.per_axis.get("units")
    names = _QUOTED.findall(text) if text else [per_axis[i] for i in world] if per_axis else []
    found = {common_unit(name.strip('"'), path) for name in names}
    if len(found) > 1:
        raise InputError(f"{path}: the axes have different units ({' '.join(names)}). Use one for all.")
    return found.pop() if found else (1.0, "")


def new_header(like: Volume) -> NrrdHeader:
    """For a volume that came from another format: left-posterior-superior, as most programs write it."""
    dims = like.spatial_dims
    signs = np.array([-1.0, -1.0, 1.0][:dims])
    matrix, origin = signs[:, None] * like.affine[:-1, :-1] + 0.0, signs * like.affine[:-1, -1] + 0.0
    whole = {"space": "left-posterior-superior"} if dims == 3 else {"space dimension": "2"}
    whole["space origin"] = _text(origin)
    if like.unit:
        whole["space units"] = " ".join([f'"{like.unit}"'] * dims)
    per_axis = {"space directions": [_text(column) for column in matrix.T], "kinds": ["domain"] * dims}
    return NrrdHeader(whole, per_axis, "XYZ"[:dims])


def _vector(path: Path, name: str, text: str) -> NDArray[np.float64]:
    words = text[1:-1].split(",")
    if not (text.startswith("(") and text.endswith(")")):
        raise InputError(f"{path}: '{text[:40]}' in {name} is no vector. The header is damaged.")
    return numbers(path, name, words, len(words))


def _text(vector: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(v)) for v in vector)})"
