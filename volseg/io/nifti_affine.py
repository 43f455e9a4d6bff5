"""Where a NIfTI image lies: from the header's two transforms to one affine."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io.affines import REMEDY, check_affine, is_sheared

__all__ = ["affine_of"]

logger = logging.getLogger(__name__)


def affine_of(fields: Any, spatial_dims: int, path: Path) -> NDArray[np.float64]:
    """Voxel index to RAS position ``(4, 4)``: the sform, else the qform, else the voxel sizes, as nibabel."""
    sform, qform = int(fields["sform_code"]), int(fields["qform_code"])
    try:
        affine = np.asarray(fields.get_best_affine(), np.float64)
    except Exception as error:
        raise InputError(f"{path}: the header's position cannot be worked out ({error}). {REMEDY}") from error
    check_affine(affine, spatial_dims, path)
    if sform <= 0 and qform <= 0:
        logger.warning(
            "%s stores no orientation (both form codes are 0): it is treated as a plain voxel grid.", path
        )
    if is_sheared(affine, spatial_dims):
        logger.warning("%s: the axes are not at right angles; volseg works on the voxel grid as it is.", path)
    if sform > 0 and qform > 0:
        _compare(affine, fields, path, spatial_dims)
    return affine


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
