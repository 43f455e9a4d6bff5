"""What an NRRD header says beside its voxels: the grid they lie on, and the segments of 3D Slicer.

Segments of 3D Slicer's ``.seg.nrrd``: names, colours, layers, and a grid cropped to what is painted.

Such a file says in its header what each value means (``Segment0_Name``, ``Segment0_LabelValue``, ...).
Segments that were painted apart lie in layers of their own, and the grid may be a part of the image's. Here
the layers are put together, as far as no voxel belongs to two segments.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io.grid import check_affine, common_unit, filled_in, in_plane, plain_grid
from volseg.io.stored import numbers
from volseg.io.volume import Notes, Volume

__all__ = [
    "NrrdHeader",
    "Segment",
    "affine_of",
    "class_names",
    "grid_of",
    "header_lines",
    "merge_layers",
    "new_header",
    "parse",
    "parse_offset",
]

_KEY = re.compile(r"Segment([0-9]{1,6})_(\w+)")
_OURS = ("Name", "LabelValue", "Color", "Layer", "Extent")


@dataclass(frozen=True)
class Segment:
    """What one value of a label file stands for.

    Attributes:
        colour: red, green, blue, 0 to 1.
        layer: channel of the file that holds it.
        others: what else the file says of it (``ID``, ``Tags``, ...), kept as it is.
    """

    value: int
    name: str
    colour: tuple[float, float, float] | None = None
    layer: int = 0
    others: Mapping[str, str] = field(default_factory=dict)


def parse(pairs: Mapping[str, str], path: Path) -> tuple[Segment, ...]:
    """The segments that a header names, by their numbers."""
    found: dict[int, dict[str, str]] = {}
    for key, text in pairs.items():
        matched = _KEY.fullmatch(key)
        if matched:
            found.setdefault(int(matched[1]), {})[matched[2]] = text
    old = not any("LabelValue" in fields for fields in found.values())  # before Slicer 4.11: a layer for each
    segments = []
    for position, (_, fields) in enumerate(sorted(found.items())):
        value = _integer(fields.get("LabelValue", "1" if old else ""), "LabelValue", path)
        layer = _integer(fields.get("Layer", str(position if old else 0)), "Layer", path)
        colour = tuple(_fraction(word, path) for word in fields.get("Color", "").split())
        name = fields.get("Name", "").strip() or fields.get("ID", "").strip() or str(value)
        others = {key: text for key, text in fields.items() if key not in _OURS}
        segments.append(Segment(value, name, colour if len(colour) == 3 else None, layer, others))
    return tuple(segments)


def class_names(segments: Sequence[Segment]) -> dict[int, str]:
    """Names by value; of two segments with one name, the second is distinguished by its value."""
    names: dict[int, str] = {}
    for segment in segments:
        taken = segment.name in names.values()
        names.setdefault(segment.value, f"{segment.name} ({segment.value})" if taken else segment.name)
    return names


def header_lines(segments: Sequence[Segment], size: Sequence[int]) -> list[str]:
    """What a header says of segments on a grid of this size."""
    if not segments:
        return []
    extent = " ".join(f"0 {n - 1}" for n in (*size, 1, 1)[:3])
    lines = []
    for i, segment in enumerate(segments):
        fields = dict(segment.others) or {"ID": f"Segment_{i + 1}"}
        fields |= {"Name": segment.name, "LabelValue": str(segment.value), "Layer": str(segment.layer)}
        fields["Extent"] = extent
        if segment.colour is not None:
            fields["Color"] = " ".join(f"{part:.6g}" for part in segment.colour)
        lines += [f"Segment{i}_{key}:={_one_line(text)}" for key, text in sorted(fields.items())]
    return [
        *lines,
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]


def merge_layers(
    array: NDArray[Any], segments: Sequence[Segment], path: Path
) -> tuple[NDArray[Any], tuple[Segment, ...]]:
    """All layers ``(L, *spatial)`` as one ``(1, *spatial)``, and its segments, renumbered where values clash.

    Raises:
        InputError: if a voxel belongs to two segments: then a class per voxel does not exist.
    """
    if len(array) == 1 or not segments:
        return array, tuple(segments)
    values = [segment.value for segment in segments]
    if len(set(values)) < len(values):
        values = list(range(1, len(segments) + 1))
    merged = np.zeros(array.shape[1:], np.min_scalar_type(max(values)))
    owner: dict[int, str] = {0: ""}
    for segment, value in zip(segments, values, strict=True):
        if not 0 <= segment.layer < len(array):
            raise InputError(f"{path}: segment '{segment.name}' lies in a layer that the file does not have.")
        mask = array[segment.layer] == segment.value
        both = mask & (merged != 0)
        if both.any():
            first = tuple(int(i) for i in np.argwhere(both)[0])
            raise InputError(
                f"{path}: the segments '{owner[int(merged[first])]}' and '{segment.name}' share "
                f"{np.count_nonzero(both)} voxel(s), the first at {first}, but a voxel has one class. In "
                "3D Slicer, take one away from the other (Segment Editor, Logical operators, Subtract)."
            )
        merged[mask] = value
        owner[value] = segment.name
    renumbered = [replace(s, value=v, layer=0) for s, v in zip(segments, values, strict=True)]
    return merged[None], tuple(renumbered)


def parse_offset(pairs: Mapping[str, str]) -> tuple[int, ...] | None:
    """Where the file's grid begins, in voxels of the image that was painted on, if it says so."""
    text = pairs.get("Segmentation_ReferenceImageExtentOffset", "")
    return tuple(map(int, text.split())) if re.fullmatch(r"-?[0-9]{1,9}( -?[0-9]{1,9}){2}", text) else None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _integer(text: str, what: str, path: Path) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise InputError(f"{path}: {what} = '{text[:40]}' of a segment is not a number. It is damaged.")
    return int(text)


def _fraction(text: str, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"{path}: '{text[:40]}' in the colour of a segment is not between 0 and 1.")
    return value


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


def affine_of(header: NrrdHeader, path: Path, notes: Notes) -> tuple[NDArray[np.float64], str]:
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
    factor, unit = _unit(header, world, path, notes)
    if directions is None:
        spacings = header.per_axis.get("spacings", ["1"] * len(header.axes))
        sizes = numbers(path, "spacings", [spacings[i] for i in world], dims)
        known = [None if np.isnan(size) else factor * float(size) for size in sizes]
        matrix, factor = np.diag(filled_in(known, unit, path, notes)), 1.0
        origin = np.zeros(dims)
        notes.warning("%s stores no orientation: it is taken as a plain voxel grid (axes L, P, S).", path)
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


def grid_of(header: NrrdHeader, path: Path, notes: Notes) -> tuple[NDArray[np.float64], str]:
    """The grid alone, of the voxel sizes that the header gives for themselves."""
    world = [i for i, letter in enumerate(header.axes) if letter in "XYZ"]
    factor, unit = _unit(header, world, path, notes)
    spacings = header.per_axis.get("spacings", ["1"] * len(header.axes))
    sizes = numbers(path, "spacings", [spacings[i] for i in world], len(world))
    return plain_grid(factor * sizes, path, notes), unit


def _unit(header: NrrdHeader, world: list[int], path: Path, notes: Notes) -> tuple[float, str]:
    """One unit for all axes."""
    text = header.whole.get("space units")
    per_axis = header.per_axis.get("units")
    names = _QUOTED.findall(text) if text else [per_axis[i] for i in world] if per_axis else []
    found = {common_unit(name.strip('"'), path, notes) for name in names}
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
        raise InputError(f"{path}: '{text[:40]}' in {name} is not a vector. The header is damaged.")
    return numbers(path, name, words, len(words))


def _text(vector: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(v)) for v in vector)})"
