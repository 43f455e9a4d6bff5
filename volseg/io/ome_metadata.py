"""What OME-Zarr (NGFF 0.4 and 0.5) says about an image: its axes, its voxel sizes, its levels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError, VolsegError
from volseg.io.spacing import is_size
from volseg.io.units import NGFF_UNITS, common_unit
from volseg.io.volume import Notes

__all__ = ["Multiscale", "multiscale_of", "new_multiscale"]

_VERSIONS = {2: "0.4", 3: "0.5"}


@dataclass(frozen=True)
class Multiscale:
    """An image and smaller copies of it.

    Args:
        axes: as the file describes them, in its order: a name, a type, perhaps a unit.
        levels: per level the name of its array, and per axis the voxel size and the position of the first
            voxel, in the file's units; the finest first.
    """

    axes: tuple[Mapping[str, Any], ...]
    levels: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]

    @property
    def letters(self) -> str:
        """One letter per axis, ``T`` for time: ``"TCZYX"``."""
        return "".join(str(axis["name"])[0].upper() for axis in self.axes)

    def place(self, dims: int, path: Path, notes: Notes) -> tuple[NDArray[np.float64], str]:
        """The affine of the finest level, x, y, z, and its unit."""
        _, scale, start = self.levels[0]
        found = [self.letters.index(letter) for letter in "XYZ"[:dims]]
        units = [common_unit(str(self.axes[i].get("unit") or ""), path, notes) for i in found]
        names = {name for _, name in units}
        if len(names) > 1 and "" in names:
            raise InputError(f"{path}: some axes have a unit and some have none. Give all of them one.")
        unit = "um" if "um" in names else units[0][1]
        affine = np.eye(dims + 1)
        for axis, (i, (factor, name)) in enumerate(zip(found, units, strict=True)):
            factor = factor * 1000 if name == "mm" and unit == "um" else factor
            affine[axis, axis], affine[axis, -1] = factor * scale[i], factor * start[i]
        return affine, unit

    def for_result(self, channels: int) -> "Multiscale":
        """The same grid, one level, with an axis of channels or without."""
        _, scale, start = self.levels[0]
        kept = [i for i, letter in enumerate(self.letters) if letter not in "TC"]
        axes = [self.axes[i] for i in kept]
        scale, start = tuple(scale[i] for i in kept), tuple(start[i] for i in kept)
        if channels > 1:
            axes.insert(0, {"name": "c", "type": "channel"})
            scale, start = (1.0, *scale), (0.0, *start)
        return Multiscale(tuple(axes), (("0", scale, start),))

    def description(self, version: int, name: str) -> dict[str, Any]:
        """The attributes of the group, for version 2 or 3 of Zarr."""
        datasets = []
        for level, scale, start in self.levels:
            steps: list[dict[str, Any]] = [{"type": "scale", "scale": list(scale)}]
            if any(start):
                steps.append({"type": "translation", "translation": list(start)})
            datasets.append({"path": level, "coordinateTransformations": steps})
        content = {"name": name, "axes": [dict(axis) for axis in self.axes], "datasets": datasets}
        number = _VERSIONS[version]
        if version == 3:
            return {"ome": {"version": number, "multiscales": [content]}}
        return {"multiscales": [{"version": number} | content]}


def new_multiscale(dims: int, affine: NDArray[np.float64], unit: str) -> Multiscale:
    """For an image that came from another format; what it says of orientation is lost."""
    more = {"unit": NGFF_UNITS[unit]} if unit in NGFF_UNITS else {}
    axes = tuple({"name": name, "type": "space"} | more for name in "xyz"[:dims][::-1])
    scale = np.linalg.norm(affine[:-1, :-1], axis=0)[::-1]
    plain = np.array_equal(affine[:-1, :-1], np.diag(scale[::-1]))
    start = affine[:-1, -1][::-1] if plain else np.zeros(dims)
    return Multiscale(axes, (("0", tuple(map(float, scale)), tuple(map(float, start))),))


def multiscale_of(attributes: Mapping[str, Any], path: Path) -> Multiscale | None:
    """The image that a group's attributes describe; ``None`` if they describe none."""
    inside = attributes.get("ome", attributes)
    found = inside.get("multiscales") if isinstance(inside, Mapping) else None
    if found is None:
        return None
    try:
        if len(found) != 1:
            raise InputError(f"{path} describes {len(found)} images. Name the folder of one.")
        return _parsed(found[0], path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, VolsegError):
            raise
        said = f"{type(error).__name__}: {error}"[:120]
        raise InputError(
            f"{path}: its 'multiscales' are not those of OME-Zarr 0.4 or 0.5 ({said}). Export it again."
        ) from error


def _parsed(content: Mapping[str, Any], path: Path) -> Multiscale:
    axes = tuple(content["axes"])
    if not all(isinstance(axis, Mapping) for axis in axes):
        raise InputError(
            f"{path} is OME-Zarr before 0.4, which gives no voxel sizes. Convert it to 0.4 or 0.5."
        )
    names = [str(axis["name"]).lower() for axis in axes]
    if not set(names) <= set("tczyx") or len(set(names)) < len(names) or not {"x", "y"} <= set(names):
        raise InputError(
            f"{path} has the axes {', '.join(names)}; known are t, c, z, y and x. Save it with these names."
        )
    whole = _steps(content.get("coordinateTransformations", ()), len(axes))
    levels = []
    for dataset in content["datasets"]:
        scale, start = _steps(dataset["coordinateTransformations"], len(axes))
        scale, start = scale * whole[0], start * whole[0] + whole[1]
        if not (all(map(is_size, scale)) and np.isfinite(start).all()):
            raise InputError(f"{path}: the voxel size {scale.tolist()} is not positive. Export it again.")
        levels.append((str(dataset["path"]), tuple(scale.tolist()), tuple(start.tolist())))
    if not levels:
        raise ValueError("no datasets")
    return Multiscale(axes, tuple(levels))


def _steps(steps: Sequence[Mapping[str, Any]], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and translation of transformations in a row."""
    scale, start = np.ones(count), np.zeros(count)
    for step in steps:
        kind = step["type"]
        if kind not in ("scale", "translation", "identity"):
            raise ValueError(f"transformation {kind!r}")
        if kind == "identity":
            continue
        try:
            numbers = np.array(step[kind], float)
        except OverflowError as error:
            raise ValueError(f"{kind} of more than 300 digits") from error
        if numbers.shape != (count,):
            raise ValueError(f"{kind} of {count} axes: {step[kind]}")
        if kind == "scale":
            scale, start = scale * numbers, start * numbers
        else:
            start = start + numbers
    return scale, start
