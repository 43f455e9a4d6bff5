"""Whether an image and its label lie on the same grid of the world."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io import nrrd
from volseg.io.grid import is_bare
from volseg.io.unplaced import (
    TOLERANCE,
    has_position,
    lay,
    like_command,
    onto_image,
    refuse_lost,
    sizes_agree,
    sizes_in_words,
)
from volseg.io.volume import Notes, Volume, noticing

__all__ = ["check_alignment", "put_onto"]

_FACTORS = {"um": 1e-3, "mm": 1.0, "m": 1e3}


def check_alignment(
    image: Volume, label: Volume, name: str = "", *, assume_aligned: bool = False,
    what: str = "label", fill: int = 0, notes: Notes | None = None,
) -> Volume:  # fmt: skip
    """The label on the image's grid, or an `InputError` that says what differs and what to do.

    They agree if they have the same shape and every corner lies within 1 % of a voxel of its twin. A label
    that stores the same grid with its axes in another order or direction is turned, and that is logged.
    A label of 3D Slicer that covers a part of the image, or more than it, is put in its place. A file without
    a position (TIFF, PNG) agrees with a grid of its shape; see `volseg.io.unplaced`.

    Args:
        name: the case, for messages.
        assume_aligned: compare the shapes only.
        what: what ``label`` is, for messages.
        fill: what a label holds where it does not cover the image: 0, or its value for unlabelled.
        notes: collects what is noticed, which is logged else.
    """
    with noticing(notes, image.path, label.path) as noted:
        return _aligned(image, label, f"{name}: " if name else "", assume_aligned, what, fill, noted)


def _aligned(
    image: Volume, label: Volume, case: str, assume_aligned: bool, what: str, fill: int, notes: Notes
) -> Volume:
    if image.spatial_dims == 3:
        label = nrrd.as_stack(label)
    unplaced = what == "label" and not has_position(image)
    if image.spatial_dims != label.spatial_dims and not (unplaced and image.channels > 1):
        raise InputError(
            f"{case}the image {image.name} has {image.spatial_dims} spatial axes, the {what} {label.name} "
            f"has {label.spatial_dims}. Pair each image with the {what} that belongs to it."
        )
    same_shape = image.spatial_shape == label.spatial_shape
    affine = _in_unit_of(image, label)
    if same_shape and (assume_aligned or _apart(image.affine, affine, image) <= TOLERANCE):
        return label
    grid_only = label.path is not None and not has_position(label)  # then voxel sizes are all that can differ
    other_voxels = same_shape and grid_only and not (is_bare(image) or sizes_agree(image, label))
    if unplaced and not other_voxels:
        return onto_image(image, label, notes, case=case, fill=fill)
    if same_shape and what == "label" and grid_only and not other_voxels:
        notes.warning(
            "%s%s has no position, the image %s has one. They have the same size and are taken voxel by "
            "voxel: see that the label is not mirrored.", case, label.name, image.name,
        )  # fmt: skip
        return label
    if same_shape and ((is_bare(label) and _is_plain(image)) or (is_bare(image) and _is_plain(label))):
        silent, other = (label, image) if is_bare(label) else (image, label)
        notes.info(
            "%s%s names no voxel size, or one without a unit (%s); %s has %s. They have as many voxels and "
            "are taken to agree.",
            case, silent.name, sizes_in_words(silent), other.name, sizes_in_words(other),
        )  # fmt: skip
        return label
    if nrrd.segments_of(label):
        placed = _part(image, replace(label, affine=affine), case, notes)
        if placed is not None:
            return placed
    turned = _turn(image, label, affine)
    if turned is not None and not assume_aligned:
        notes.warning(
            "%sthe %s %s stores the grid of %s in another orientation; it was turned to fit.",
            case, what, label.name, image.name,
        )  # fmt: skip
        return turned
    if not same_shape:
        raise InputError(
            f"{case}the image {image.name} has {_times(image)} voxels, the {what} {label.name} has "
            f"{_times(label)}. They cannot belong together; export the {what} again on the image's grid "
            "(in 3D Slicer: with the image as reference volume). If it is a part of the image, "
            f"{like_command(image, label)} puts it in its place."
        )
    raise InputError(
        f"{case}the {what} {label.name} has the image's size, but its corners lie up to "
        f"{_apart(image.affine, affine, image):.3g} voxels from those of {image.name}. "
        f"If it was drawn on this image, write the image's position into it "
        f"({like_command(image, label)}); otherwise export it again on the image's grid."
    )


def put_onto(image: Volume, label: Volume, *, fill: int = 0, notes: Notes | None = None) -> Volume:
    """The label laid onto the image's grid where its position says, as was asked for.

    Of the image's size, it is taken voxel by voxel, whatever its position. Else it covers a part of the image
    or more than it, ``fill`` is what it holds elsewhere, and voxels lie on voxels.

    Raises:
        InputError: if they do not, or if paint lies beyond the image.
    """
    if label.spatial_shape == image.spatial_shape:
        return label
    if not has_position(image):
        with noticing(notes, image.path, label.path) as noted:
            return onto_image(image, label, noted, fill=fill, asked=True)
    to_image = np.asarray(np.linalg.solve(image.affine, _in_unit_of(image, label)), np.float64)
    laid = lay(label.array, to_image, image.spatial_shape, fill)
    if laid is None:
        raise InputError(
            f"{label.name} has {_times(label)} voxels, {image.name} has {_times(image)}, and voxels of one "
            "do not lie on voxels of the other. Export it again on the image's grid (in 3D Slicer: with the "
            "image as reference volume)."
        )
    refuse_lost(laid, image.name, label.name)
    return replace(label, array=laid.array, affine=image.affine, unit=image.unit, header=None)


def _part(image: Volume, label: Volume, case: str, notes: Notes) -> Volume | None:
    """A segmentation that covers a part of the image or more than it, on its grid; ``None`` if it is none."""
    if image.unit and label.unit and image.unit != label.unit:
        return None
    to_image = np.asarray(np.linalg.solve(image.affine, label.affine), np.float64)
    laid = lay(label.array, to_image, image.spatial_shape)
    if laid is None:
        return None
    refuse_lost(laid, image.name, f"{case}{label.name}")
    notes.info("%s%s does not cover just the image; it was put in its place.", case, label.name)
    return nrrd.on_grid(label, laid.array, image.affine, image.unit or label.unit)


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


def _is_plain(volume: Volume) -> bool:
    """Whether the affine is a scaling only, as of every TIFF."""
    return np.array_equal(volume.affine, np.diag([*volume.spacing, 1.0]))


def _turn(image: Volume, label: Volume, affine: NDArray[np.float64]) -> Volume | None:
    """The label with its axes in the image's order and direction, if that puts it on the image's grid."""
    to_image = np.asarray(np.linalg.solve(image.affine, affine), np.float64)
    laid = lay(label.array, to_image, image.spatial_shape)
    if (
        laid is None
        or not laid.covers_all
        or _apart(image.affine @ np.rint(to_image), affine, label) > TOLERANCE
    ):
        return None
    return replace(label, array=laid.array, affine=image.affine, unit=image.unit, header=image.header)


def _times(volume: Volume) -> str:
    return " x ".join(str(n) for n in volume.spatial_shape)
