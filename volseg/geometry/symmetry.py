"""Symmetries of the voxel grid: what can be turned and mirrored without interpolation."""

from collections.abc import Sequence
from itertools import permutations, product
from typing import NamedTuple

__all__ = ["Symmetry", "check_planes", "grid_symmetries"]


class Symmetry(NamedTuple):
    """Take the axes in the order ``axes``, then mirror those that are ``flipped``. One entry per axis."""

    axes: tuple[int, ...]
    flipped: tuple[bool, ...]

    @property
    def is_rotation(self) -> bool:
        """Whether it keeps left and right apart, as mirror images do not."""
        swaps = sum(a > b for i, a in enumerate(self.axes) for b in self.axes[i + 1 :])
        return (swaps + sum(self.flipped)) % 2 == 0

    def describe(self) -> str:
        """``with its axes in the order y, x, z, then mirrored along x``; empty for the identity."""
        parts = []
        if self.axes != tuple(sorted(self.axes)):
            parts.append(f"with its axes in the order {', '.join('xyz'[axis] for axis in self.axes)}")
        if any(self.flipped):
            parts.append(
                f"mirrored along {' and '.join('xyz'[k] for k, flag in enumerate(self.flipped) if flag)}"
            )
        return ", then ".join(parts)


def grid_symmetries(spatial_dims: int, planes: Sequence[Sequence[int]]) -> tuple[Symmetry, ...]:
    """All maps of a grid onto itself, given the planes in which it may make a quarter turn.

    The identity comes first. An image has 8 with ``planes=[(0, 1)]``; a volume has 8 without planes, 16
    with one and 48 with two or three.
    """
    alike = list(range(spatial_dims))
    for first, second in check_planes(planes, spatial_dims):
        alike = [alike[first] if group == alike[second] else group for group in alike]
    return tuple(
        Symmetry(axes, flipped)
        for axes in permutations(range(spatial_dims))
        if all(alike[axis] == alike[place] for place, axis in enumerate(axes))
        for flipped in product((False, True), repeat=spatial_dims)
    )


def check_planes(planes: Sequence[Sequence[int]], dims: int) -> tuple[tuple[int, int], ...]:
    """Planes as pairs of axes in order.

    Raises:
        ValueError: if one of them is not two different axes.
    """
    for plane in planes:
        if len(plane) != 2 or len(set(plane)) != 2 or not all(axis in range(dims) for axis in plane):
            raise ValueError(
                f"planes holds {tuple(plane)}: a plane is two different axes out of 0 to {dims - 1}."
            )
    return tuple((min(plane), max(plane)) for plane in planes)
