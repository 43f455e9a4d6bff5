"""How much each class and each voxel counts in the loss.

Two ideas of Ronneberger et al. 2015: rare classes count more (:func:`class_balance`), and so does the
narrow gap between two objects that touch (:func:`border_weight_map`), because a network that misses
it merges them. Both feed the losses of :mod:`volseg.losses`, as ``class_weight`` and as ``weight``.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from volseg.errors import InputError

__all__ = ["border_weight_map", "class_balance"]

Floats: TypeAlias = npt.NDArray[np.float32]

_NEGLIGIBLE = 2.0**-24  # below this a border term does not change a float32 weight of 1
_DENSE_IDS = 4  # ids up to this many times the number of voxels are used as they are


def class_balance(
    counts: Sequence[int] | npt.NDArray[Any] | torch.Tensor, *, power: float = 1.0
) -> torch.Tensor:
    """One weight per class, the rarer the class the larger: ``weight ∝ count ** -power``.

    Scaled so that the average annotated voxel has weight 1, hence balancing does not change the
    learning rate. ``power=1`` gives every class the same say, 0.5 is a compromise, 0 weighs all voxels
    alike. A class without annotated voxels gets weight 0: there is nothing to weigh.

    Args:
        counts: annotated voxels per class, ``(C,)``; see :func:`volseg.annotation.annotation_counts`.
        power: how far to go.

    Returns:
        float32 tensor, ``(C,)``.
    """
    numbers = np.asarray(counts, np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or (numbers < 0).any():
        raise ValueError(f"counts = {numbers.tolist()} is not a list of one number of voxels per class.")
    if not math.isfinite(power):
        raise ValueError(f"power = {power} is not a finite number.")
    total = numbers.sum()
    if total == 0:
        raise InputError(
            f"There is no annotated voxel in any of the {len(numbers)} classes: they cannot be balanced. "
            "Check that the label is the right file and that its label scheme names the values in it."
        )
    present = numbers > 0
    share = numbers[present] / total
    weights = np.zeros(len(numbers))
    weights[present] = share**-power / (share ** (1 - power)).sum()
    return torch.from_numpy(weights).float()


def border_weight_map(
    instances: npt.NDArray[Any],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weight: Sequence[float] | None = None,
    spacing: Sequence[float] | None = None,
    ignore: int | None = None,
) -> Floats:
    r"""Weight of each voxel, large in the gaps between objects (Ronneberger et al. 2015, Eq. 2).

    .. math:: w(x) = w_c(x) + w_0 \exp\left(-\frac{(d_1(x) + d_2(x))^2}{2\sigma^2}\right)

    with the distances d1, d2 to the nearest and second nearest object, measured between voxel
    centres; inside an object d1 is 0. With fewer than two objects the second term is 0.

    Terms below 2^-24 are left out, which a float32 weight around 1 does not show: distances are
    measured in the neighbourhood of each object only, so the cost grows with the objects' volume.

    Args:
        instances: ids of the objects, ``(*spatial)``; 0 is background.
        w0: weight where two objects touch.
        sigma: how quickly it falls off, in voxels, or in the units of ``spacing``.
        class_weight: weights of background and objects, ``(w_background, w_object)``; ``None`` for ones.
        spacing: voxel size per axis.
        ignore: id that means "nobody looked here", as negative ids do. Weight 0 there.

    Returns:
        float32 array, ``(*spatial)``.
    """
    background, inside = _checked_class_weight(class_weight)
    if not (math.isfinite(w0) and w0 >= 0):
        raise ValueError(f"w0 = {w0} is no weight: give a number, 0 or more.")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma = {sigma} is no distance: give a number above 0.")
    instances = np.asarray(instances)
    if instances.dtype.kind not in "iub":
        raise ValueError(f"instances are of type {instances.dtype}; ids of objects are integers.")
    voxel_size = _checked_spacing(spacing, instances.ndim)

    unlabelled = instances < 0
    if ignore is not None:
        unlabelled |= instances == ignore
    objects = _numbered(np.where(unlabelled, np.zeros((), instances.dtype), instances))
    weight = np.where(objects > 0, np.float32(inside), np.float32(background))
    if w0 > _NEGLIGIBLE and objects.any():
        reach = sigma * math.sqrt(2 * math.log(w0 / _NEGLIGIBLE))
        nearest, second = _two_nearest(objects, reach, voxel_size)
        weight += np.float32(w0) * np.exp(-((nearest + second) ** 2) / np.float32(2 * sigma**2))
    weight[unlabelled] = 0
    return weight


def _two_nearest(objects: npt.NDArray[Any], reach: float, spacing: Sequence[float]) -> tuple[Floats, Floats]:
    """Distances to the nearest and second nearest object; beyond ``reach`` they may be too large."""
    nearest = np.full(objects.shape, np.inf, np.float32)
    second = nearest.copy()
    margins = [math.ceil(reach / size) for size in spacing]
    for index, box in enumerate(ndimage.find_objects(objects), start=1):
        if box is None:
            continue
        around = tuple(
            slice(max(0, part.start - margin), part.stop + margin)
            for part, margin in zip(box, margins, strict=True)
        )
        distance = ndimage.distance_transform_edt(objects[around] != index, sampling=spacing).astype(
            np.float32
        )
        np.minimum(second[around], np.maximum(distance, nearest[around]), out=second[around])
        np.minimum(nearest[around], distance, out=nearest[around])
    return nearest, second


def _numbered(instances: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Small positive ids for the same objects; 0 stays 0."""
    if instances.size == 0 or int(instances.max()) <= max(_DENSE_IDS * instances.size, 255):
        return instances.astype(np.int32 if instances.size < 2**28 else np.int64)
    ids, numbered = np.unique(instances, return_inverse=True)
    return numbered.reshape(instances.shape) + (ids[0] != 0)


def _checked_class_weight(class_weight: Sequence[float] | None) -> tuple[float, float]:
    if class_weight is None:
        return 1.0, 1.0
    weights = [float(weight) for weight in class_weight]
    if len(weights) != 2 or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(
            f"class_weight = {weights} is not the pair (w_background, w_object) of weights, 0 or more."
        )
    return weights[0], weights[1]


def _checked_spacing(spacing: Sequence[float] | None, dims: int) -> tuple[float, ...]:
    if spacing is None:
        return (1.0,) * dims
    sizes = tuple(float(size) for size in spacing)
    if len(sizes) != dims or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise ValueError(f"spacing = {sizes} is not one voxel size above 0 for each of the {dims} axes.")
    return sizes
