"""Where a voxel lies: how far from the nearest paint of each class, and where in the volume.

A painted slice must not be given its own answer. So a voxel on a slice is measured from all *other* slices,
as an unpainted one is: the distances that are learnt with are those that come later. That is so where slices
of two directions cross. Of slices in one direction, each is farther from the next than any voxel in between,
and what is learnt of distances would not hold there.

What does hold in a stack painted in one direction is that the same lies about where it lay on the last
painted slice. So its *position* is learnt from, blurred while learning by as much as an unpainted voxel is
away from paint: nothing can be learnt by heart that would not be true there.

Distances are in voxels along the finest axis.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from volseg.geometry import AXES

__all__ = ["PlacePrior", "measure_paint", "prior_at"]

_FEWEST, _DIRECTIONS = 2, 2  # slices in a direction, and directions
_LEAST_BLUR = 0.5  # voxels
_FAR = 1e3  # for a class that is nowhere else


class PlacePrior(NamedTuple):
    """Distances within each painted slice, for :func:`prior_at`."""

    planes: tuple[tuple[int, int, Tensor], ...]  # axis, index, (classes, *others)
    steps: tuple[float, ...]  # size of a voxel along each axis, the finest being 1
    classes: int
    blur: float = 1.0  # of positions, a standard deviation

    @property
    def features(self) -> int:
        """Columns of what :func:`prior_at` gives."""
        return self.distances + len(self.steps)

    @property
    def distances(self) -> int:
        """How many of them are distances; the others are the position."""
        return 1 + self.classes

    @property
    def telling(self) -> slice:
        """The columns that mean the same at painted voxels and elsewhere; none where too little is painted.

        These are distances where slices of two directions cross, and the position where slices of one
        direction follow each other.
        """
        per_axis = Counter(axis for axis, _, _ in self.planes)
        directions = sum(count >= _FEWEST for count in per_axis.values())
        if directions >= _DIRECTIONS:
            return slice(self.distances)
        return slice(self.distances, self.features if directions else self.distances)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        planes = [[axis, index, plane.cpu().half()] for axis, index, plane in self.planes]
        return {"planes": planes, "steps": list(self.steps), "classes": self.classes, "blur": self.blur}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "PlacePrior":
        """What :meth:`state` gave."""
        planes = tuple((axis, index, plane.float()) for axis, index, plane in state["planes"])
        return cls(planes, tuple(state["steps"]), state["classes"], state.get("blur", 1.0))


def measure_paint(
    labels: npt.NDArray[np.uint8],
    slices: Mapping[str, Sequence[int]],
    classes: int,
    spacing: Sequence[float],
    device: torch.device | str = "cpu",
) -> PlacePrior:
    """From each pixel of each painted slice to the nearest of every class on this slice.

    Args:
        slices: indices of the painted slices by the axis across them, ``{"z": [3, 9]}``.
    """
    steps = tuple(float(s) / min(spacing) for s in spacing)
    planes = []
    for name, indices in slices.items():
        axis = AXES.index(name)
        sampling = [s for a, s in enumerate(steps) if a != axis]
        for index in indices:
            plane = labels.take(index, axis)
            found = np.full((classes, *plane.shape), _FAR, np.float32)
            for c in range(classes):
                if (plane == c).any():
                    found[c] = ndimage.distance_transform_edt(plane != c, sampling=sampling)
            planes.append((axis, int(index), torch.from_numpy(found).to(device)))
    return PlacePrior(tuple(planes), steps, classes, _away(slices, labels.shape, steps))


def _away(slices: Mapping[str, Sequence[int]], size: Sequence[int], steps: Sequence[float]) -> float:
    """How far voxels are from the nearest slice, on average; where slices cross, along the fullest axis."""
    if not any(slices.values()):
        return 1.0
    axis, indices = max(((AXES.index(name), sorted(found)) for name, found in slices.items()), key=_count)
    gaps = np.abs(np.subtract.outer(np.arange(size[axis]), indices)).min(1)
    return max(float(gaps.mean()) * steps[axis], _LEAST_BLUR)


def _count(axis_and_indices: tuple[int, Sequence[int]]) -> int:
    return len(axis_and_indices[1])


def prior_at(paint: PlacePrior, voxels: Tensor) -> Tensor:
    """Of voxels ``(n, dims)``: the distance to any paint, by how much each class is farther than the nearest
    other one, and the position: ``(n, 1 + classes + dims)``.

    Distances are square roots, so that what is near counts most; positions are in units of ``blur``.
    """
    nearest = torch.full((paint.classes, len(voxels)), _FAR**2, device=voxels.device)
    for axis, index, plane in paint.planes:
        away = (voxels[:, axis] - index).float() * paint.steps[axis]
        others = [voxels[:, a] for a in range(voxels.shape[1]) if a != axis]
        squared = _columns(plane.to(voxels.device), others).square_().add_(away.square())
        squared[:, away == 0] = _FAR**2
        torch.minimum(nearest, squared, out=nearest)
    distance = nearest.sqrt_()
    closest = distance.topk(min(2, paint.classes), 0, largest=False).values
    first, second = closest[0], closest[-1]
    margin = distance - torch.where(distance == first, second, first)
    position = voxels.T * (torch.tensor(paint.steps, device=voxels.device) / paint.blur)[:, None]
    return torch.cat([first[None].sqrt(), margin.sign() * margin.abs().sqrt(), position]).T


def _columns(plane: Tensor, places: Sequence[Tensor]) -> Tensor:
    """``(classes, *size)`` at places given axis by axis: ``(classes, n)``."""
    flat = places[0]
    for index, n in zip(places[1:], plane.shape[2:], strict=True):
        flat = flat * n + index
    return plane.flatten(1).index_select(1, flat)
