"""Where a NIfTI image lies: from the header's two transforms to one affine, for volumes and for planes."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError

__all__ = ["affine_of", "embed", "in_plane", "is_sheared"]

logger = logging.getLogger(__name__)

_REMEDY = "Give the file a valid affine, for example that of the image it was made from, and save it again."


def affine_of(fields: Any, spatial_dims: int, path: Path) -> NDArray[np.float64]:
    """Voxel index to RAS position ``(4, 4)``: the sform, else the qform, else the voxel sizes, as nibabel."""
    sform, qform = int(fields["sform_code"]), int(fields["qform_code"])
    try:
        affine = np.asarray(fields.get_best_affine(), np.float64)
    except Exception as error:
        raise InputError(
            f"{path}: the header's position cannot be worked out ({error}). {_REMEDY}"
        ) from error
    columns = affine[:3, :spatial_dims]
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: the header's affine holds NaN or infinity. {_REMEDY}")
    sizes = np.linalg.norm(columns, axis=0)
    if not sizes.all():
        raise InputError(
            f"{path}: the voxel size along {'xyz'[int(np.argmin(sizes))]} is 0 in the header. {_REMEDY}"
        )
    if np.linalg.svd(columns / sizes, compute_uv=False)[-1] < 1e-5:
        raise InputError(f"{path}: the header's affine is singular: two axes point the same way. {_REMEDY}")
    if sform <= 0 and qform <= 0:
        logger.warning(
            "%s stores no orientation (both form codes are 0): it is treated as a plain voxel grid.", path
        )
    if sform > 0 and qform > 0:
        _compare(affine, fields, path, spatial_dims)
    return affine


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


def is_sheared(affine: NDArray[np.float64]) -> bool:
    """Whether the axes are not at right angles, which a qform cannot say."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(columns.T @ columns - np.eye(3)).max() > 1e-4)


def _compare(sform: NDArray[np.float64], fields: Any, path: Path, spatial_dims: int) -> None:
    """Say so if the two transforms put some corner more than a tenth of a voxel apart."""
    try:
        qform = fields.get_qform()
    except Exception:  # an unused, unreadable qform does no harm
        return
    size = np.asarray(fields["dim"][1:4], float)
    corners = np.indices((2, 2, 2)).reshape(3, -1) * np.maximum(size - 1, 0)[:, None]
    apart = np.linalg.norm((sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:], axis=0).max()
    if not apart <= 0.1 * np.linalg.norm(sform[:3, :spatial_dims], axis=0).min():
        logger.warning(
            "%s: sform and qform differ by up to %.3g world units; the sform is used.", path, apart
        )
