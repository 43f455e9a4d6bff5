"""Affines: whether one can be used, and what it is for an image that is a plane.

An affine maps voxel indices to world positions in RAS: x to the right, y to the front, z up.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volseg.arguments import command
from volseg.errors import InputError
from volseg.geometry import AXES
from volseg.io.spacing import is_size
from volseg.io.volume import Notes

__all__ = ["REMEDY", "check_affine", "embed", "in_plane", "is_sheared", "plain_grid"]

REMEDY = (
    f"Write it as a plain voxel grid ('{command('convert', 'FILE', ignore_affine=True, output='NEW')}'), or "
    "on the grid of the image it was made from "
    f"('{command('convert', 'FILE', ignore_affine=True, like='IMAGE', output='NEW')}')."
)


def check_affine(affine: NDArray[np.float64], spatial_dims: int, path: Path, remedy: str = REMEDY) -> None:
    """Refuse an affine that places voxels nowhere, or all on top of each other."""
    columns = affine[:-1, :spatial_dims]
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: the header's affine holds NaN or infinity. {remedy}")
    for axis, size in zip(AXES, np.abs(columns).max(0), strict=False):  # norms of the largest are infinite
        if not is_size(size):
            raise InputError(f"{path}: the voxel size along {axis} is {size:.3g} in the header. {remedy}")
    if np.linalg.svd(columns / np.linalg.norm(columns, axis=0), compute_uv=False)[-1] < 1e-5:
        raise InputError(f"{path}: the header's affine is singular: two axes point the same way. {remedy}")


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
