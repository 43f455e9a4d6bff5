"""Surface Dice at a tolerance: how much of the border of each class lies where it should.

IoU and Dice of a thin or small structure are low however well it is found, as most of its voxels lie at its
border, and that is uncertain by a voxel even between people. Here the *surface* of a class is compared
instead: what lies within the tolerance of the other's surface is right (Nikolov et al. 2021, J Med Internet
Res 23(7):e26151, Methods, performance metrics: surface DSC).

A surface consists of *faces*: a face lies between two neighbouring labelled voxels, one of which is the
class; its place is its centre, and it counts as its area. What is not labelled has no surface, nor has it a
border to what is, and a class that leaves the image has none there. So one labelled slice of a volume is
scored in its plane.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from volseg.labels import IGNORE_INDEX

__all__ = ["TOLERANCE", "pooled_surface_dice", "surface_dice", "surface_faces"]

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
Floats: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int16]

TOLERANCE = 1.0
"""In voxels, along the finest axis: what a border may be off by, wherever this package reports the score."""

_UNLABELLED, _OUTSIDE = -1, -2
_ROUNDING = 1e-6  # of the tolerance


def surface_dice(
    prediction: Array,
    truth: Array,
    num_classes: int,
    *,
    tolerance: float = TOLERANCE,
    spacing: Sequence[float] | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Floats:
    """Share of the surface of each class, as predicted and as annotated, that lies near the other's.

    1 where no border is off by more than the tolerance, 0 where all of it is; the same if prediction and
    truth are exchanged. See :func:`surface_faces` for what is counted beside unlabelled voxels. MONAI's
    ``SurfaceDiceMetric`` counts voxels on the inner side of a border instead, also at the border of the
    image (of blobs it gives .01 to .02 more at one voxel); DeepMind's ``surface-distance`` cuts corners.

    Args:
        prediction: class indices, ``(*spatial)``; anything where nothing is labelled.
        truth: class indices, ``(*spatial)``, ``ignore_index`` where unlabelled.
        tolerance: Euclidean distance in voxels, along the finest axis where ``spacing`` differs between them.
        spacing: voxel size along each axis, in any unit; all alike if None.

    Returns:
        ``(num_classes,)``; ``nan`` for a class without a surface in either, as one that is absent from both.

    Raises:
        ValueError: where shapes, tolerance or spacing do not fit, or a labelled voxel holds no class.
    """
    faces = surface_faces(
        prediction, truth, num_classes, tolerance=tolerance, spacing=spacing, ignore_index=ignore_index
    )
    return pooled_surface_dice(faces.sum(0))


def pooled_surface_dice(faces: npt.ArrayLike) -> Floats:
    """Surface Dice of each class, ``(num_classes,)``, from areas ``(num_classes, 2)`` that were added up."""
    within, total = np.asarray(faces, np.float64).T
    return np.divide(within, total, out=np.full(total.shape, np.nan), where=total > 0)


def surface_faces(
    prediction: Array,
    truth: Array,
    num_classes: int,
    *,
    tolerance: float = TOLERANCE,
    spacing: Sequence[float] | None = None,
    ignore_index: int = IGNORE_INDEX,
    bins: npt.NDArray[np.integer[Any]] | None = None,
    num_bins: int = 1,
) -> Floats:
    """Area of both surfaces of each class: what lies within the tolerance of the other, and all of it.

    Areas of slices and volumes add up, and a mean of ratios does not. A face of which the counterpart may lie
    in unlabelled voxels is not counted: those that it would have to be moved across, along its normal, to be
    within the tolerance of there. Others may still be near it.

    Args:
        prediction, truth, tolerance, spacing, ignore_index: as in :func:`surface_dice`.
        bins: a number below ``num_bins`` for every voxel, ``(*spatial)``, to count faces apart; a face counts
            where the first of its two voxels does.

    Returns:
        ``(num_bins, num_classes, 2)``, in units of ``spacing`` to the power of one less than there are axes.
    """
    shape = tuple(truth.shape)
    for name, given in (("prediction", prediction), ("bins", bins)):
        if given is not None and tuple(given.shape) != shape:
            raise ValueError(
                f"{name} has the shape {tuple(given.shape)}, truth {shape}: they have to be the same voxels."
            )
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance = {tolerance} must be 0 or more, in voxels.")
    sizes = np.ones(len(shape)) if spacing is None else np.asarray(spacing, np.float64)
    if sizes.shape != (len(shape),) or not ((sizes > 0) & (sizes < math.inf)).all():
        raise ValueError(f"spacing = {spacing} must be a positive voxel size for each of {len(shape)} axes.")
    reach = tolerance * float(sizes.min(initial=math.inf)) * (1 + _ROUNDING)
    pads = [int(reach / size) + 2 for size in sizes]
    true, predicted = _numpy(truth), _numpy(prediction)
    labelled = true != ignore_index
    both = [
        _padded(values, labelled, name, num_classes, ignore_index, pads)
        for name, values in (("prediction", predicted), ("truth", true))
    ]
    found = np.zeros((2, num_bins, num_classes))
    in_bins = None if bins is None else np.pad(bins, [(p, p) for p in pads]).reshape(-1)
    for axis, size in enumerate(sizes):
        moves = _moves(axis, sizes, reach, both[0].shape)
        for own, other in (both, both[::-1]):
            where, classes = _faces(own, axis, int(reach / size))
            near = _near(where, classes, other.reshape(-1), moves)
            row = 0 if in_bins is None else in_bins[where].astype(np.intp) * num_classes
            groups = row + classes
            for counts, at in ((found[0], groups[near]), (found[1], groups)):
                counted = np.bincount(at, minlength=num_bins * num_classes).reshape(num_bins, -1)
                counts += counted * float(np.prod(sizes) / size)
    return np.stack(list(found), -1)


def _numpy(array: Array) -> npt.NDArray[Any]:
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def _padded(
    values: npt.NDArray[Any],
    labelled: npt.NDArray[np.bool_],
    name: str,
    num_classes: int,
    ignore_index: int,
    pads: Sequence[int],
) -> Labels:
    """Class indices with what is unlabelled and what is outside told apart; refuses what is no class."""
    known = values[labelled]
    with np.errstate(invalid="ignore"):
        wrong = ~((known >= 0) & (known < num_classes) & (known == np.floor(known)))
    if wrong.any():
        raise ValueError(
            f"{name} holds {known[wrong][0]} at an annotated voxel; class indices are 0 to "
            f"{num_classes - 1}, and {ignore_index} in the truth for unlabelled."
        )
    found = np.full([n + 2 * p for n, p in zip(values.shape, pads, strict=True)], _OUTSIDE, np.int16)
    inner = found[tuple(slice(p, p + n) for n, p in zip(values.shape, pads, strict=True))]
    inner[...] = _UNLABELLED
    inner[labelled] = known
    return found


def _stride(shape: Sequence[int], axis: int) -> int:
    """How far neighbours along an axis lie from one another, in C order."""
    return math.prod(shape[axis + 1 :])


def _moves(axis: int, sizes: Floats, reach: float, shape: Sequence[int]) -> list[tuple[int, int]]:
    """From a face across ``axis`` to all that lie within reach, the nearest first.

    Returns:
        How far away, in C order, the first voxel of the other face lies, and from there its second.
    """
    found = []
    spans = [int(reach / size) + 1 for size in sizes]
    for other in range(len(sizes)):
        for steps in product(*(range(-span, span + 1) for span in spans)):
            way = sizes * steps
            way[other] += sizes[other] / 2
            way[axis] -= sizes[axis] / 2
            distance = float(np.linalg.norm(way))
            if distance <= reach:
                offset = sum(step * _stride(shape, a) for a, step in enumerate(steps))
                found.append((distance, offset, _stride(shape, other)))
    return [(offset, stride) for _, offset, stride in sorted(found)]


def _faces(labels: Labels, axis: int, cells: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int16]]:
    """Where faces across an axis are, by their first voxel in C order, and of which class; each is of two.

    Args:
        cells: voxels on both sides, beyond its own, that may hold a counterpart and so must be labelled.
    """
    flat, stride = labels.reshape(-1), _stride(labels.shape, axis)
    first, second = flat[:-stride], flat[stride:]
    where = np.flatnonzero((first != second) & (first >= 0) & (second >= 0))
    for step in range(1, cells + 1):
        where = where[flat[where - step * stride] != _UNLABELLED]
        where = where[flat[where + (step + 1) * stride] != _UNLABELLED]
    return np.tile(where, 2), np.concatenate([flat[where], flat[where + stride]])


def _near(
    where: npt.NDArray[np.intp],
    classes: npt.NDArray[np.int16],
    other: Labels,
    moves: Sequence[tuple[int, int]],
) -> npt.NDArray[np.bool_]:
    """Which faces have one of the same class within reach."""
    found = np.zeros(len(where), bool)
    open_ = np.arange(len(where))
    for offset, stride in moves:
        if not len(open_):
            break
        at = where[open_] + offset
        first, second, wanted = other[at], other[at + stride], classes[open_]
        hit = ((first == wanted) != (second == wanted)) & (first >= 0) & (second >= 0)
        found[open_[hit]] = True
        open_ = open_[~hit]
    return found
