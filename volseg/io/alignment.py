"""Whether an image and its label lie on the same grid of the world."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io import nrrd, segments
from volseg.io.volume import Volume

__all__ = ["check_alignment"]

logger = logging.getLogger(__name__)

TOLERANCE = 0.01  # of the smallest voxel edge, at every corner
_FACTORS = {"um": 1e-3, "mm": 1.0, "m": 1e3}


def check_alignment(
    image: Volume, label: Volume, name: str = "", *, assume_aligned: bool = False, what: str = "label"
) -> Volume:
    """The label on the image's grid, or an `InputError` that says what differs and what to do.

    They agree if they have the same shape and every corner lies within 1 % of a voxel of its twin. A label
    that stores the same grid with its axes in another order or direction is turned, and that is logged.
    A file without any position (a TIFF that names no voxel size) agrees with a scaled grid of its shape.

    Args:
        name: the case, for messages.
        assume_aligned: compare the shapes only.
        what: what ``label`` is, for messages.
    """
    case = f"{name}: " if name else ""
    if image.spatial_dims != label.spatial_dims:
        raise InputError(
            f"{case}the image {image.name} has {image.spatial_dims} spatial axes, the {what} {label.name} "
            f"has {label.spatial_dims}. Pair each image with the {what} that belongs to it."
        )
    same_shape = image.spatial_shape == label.spatial_shape
    affine = _in_unit_of(image, label)
    if same_shape and (assume_aligned or _apart(image.affine, affine, image) <= TOLERANCE):
        return label
    bare = (_is_bare(label) and _is_plain(image)) or (_is_bare(image) and _is_plain(label))
    if same_shape and bare:
        logger.info(
            "%s%s or its image names no voxel size; their grids are taken to agree.", case, label.name
        )
        return label
    if nrrd.segments_of(label):
        placed = segments.onto_grid(image, replace(label, affine=affine))
        if placed is not None:
            logger.info("%s%s covers a part of the image; it was put in its place.", case, label.name)
            return placed
    turned = _turn(image, label, affine)
    if turned is not None and not assume_aligned:
        logger.warning(
            "%sthe %s %s stores the grid of %s in another orientation; it was turned to fit.",
            case, what, label.name, image.name,
        )  # fmt: skip
        return turned
    if not same_shape:
        raise InputError(
            f"{case}the image {image.name} has {_times(image)} voxels, the {what} {label.name} has "
            f"{_times(label)}. They cannot belong together; export the {what} again on the image's grid "
            "(in 3D Slicer: with the image as reference volume)."
        )
    raise InputError(
        f"{case}the {what} {label.name} has the image's size, but its corners lie up to "
        f"{_apart(image.affine, affine, image):.3g} voxels from those of {image.name}. "
        f"If it was drawn on this image, write the image's position into it ('volseg convert {label.name} "
        f"--like {image.name} -o NEW'); otherwise export it again on the image's grid."
    )


def _in_unit_of(image: Volume, label: Volume) -> NDArray[np.float64]:
    """The label's affine in the image's unit, as far as both name one."""
    if image.unit == label.unit or not (image.unit and label.unit):
        return label.affine
    scale = np.eye(len(label.affine))
    np.fill_diagonal(scale[:-1, :-1], _FACTORS[label.unit] / _FACTORS[image.unit])
    return scale @ label.affine


def _apart(first: NDArray[Any], second: NDArray[Any], image: Volume) -> float:
    """Largest distance between corresponding corners, in units of the smallest voxel edge."""
    dims = image.spatial_dims
    ends = np.array(image.spatial_shape)[:, None] - 1
    corners = np.indices((2,) * dims).reshape(dims, -1) * ends
    difference = first - second
    distance = np.linalg.norm(difference[:-1, :-1] @ corners + difference[:-1, -1:], axis=0).max()
    return float(distance / min(image.spacing))


def _is_bare(volume: Volume) -> bool:
    """Whether the file said nothing about position or size."""
    return not volume.unit and np.array_equal(volume.affine, np.eye(len(volume.affine)))


def _is_plain(volume: Volume) -> bool:
    """Whether the affine is a scaling only, as of every TIFF."""
    return np.array_equal(volume.affine, np.diag([*volume.spacing, 1.0]))


def _turn(image: Volume, label: Volume, affine: NDArray[np.float64]) -> Volume | None:
    """The label with its axes in the image's order and direction, if that puts it on the image's grid."""
    relative = np.linalg.solve(image.affine, affine)[:-1, :-1]  # label index steps, in image index steps
    signed = np.rint(relative)
    if not np.array_equal(np.abs(signed) @ np.abs(signed).T, np.eye(len(signed))):
        return None
    order = np.abs(signed).argmax(axis=1)  # which label axis runs along each image axis
    backward = [i for i, a in enumerate(order) if signed[i, a] < 0]
    array = np.flip(label.array.transpose(0, *(order + 1)), tuple(b + 1 for b in backward))
    if array.shape[1:] != image.spatial_shape:
        return None
    to_old = np.zeros_like(affine)  # from the turned index to the stored one
    to_old[-1, -1] = 1
    for new, old in enumerate(order):
        to_old[old, new] = -1 if new in backward else 1
        to_old[old, -1] = image.spatial_shape[new] - 1 if new in backward else 0
    if _apart(image.affine, affine @ to_old, image) > TOLERANCE:
        return None
    return replace(
        label, array=np.ascontiguousarray(array), affine=image.affine, unit=image.unit, header=image.header
    )


def _times(volume: Volume) -> str:
    return " x ".join(str(n) for n in volume.spatial_shape)
