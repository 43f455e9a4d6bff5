"""How much voxels count: narrow gaps between objects (Ronneberger et al. 2015, Eq. 2), and rare classes."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from volseg.errors import InputError
from volseg.labels import checked_ids, compact_ids

__all__ = ["border_weight_map", "class_balance"]

Floats: TypeAlias = npt.NDArray[np.float32]

_NEGLIGIBLE = 2.0**-24  # below this a border term does not change a float32 weight of 1


def border_weight_map(
    instances: npt.NDArray[Any],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weight: Sequence[float] | None = None,
    spacing: Sequence[float] | None = None,
    ignore: int | None = None,
    background_only: bool = False,
) -> Floats:
    r"""Weight of each voxel, large in the gaps between objects (Ronneberger et al. 2015, Eq. 2).

    .. math:: w(x) = w_c(x) + w_0 \exp\left(-\frac{(d_1(x) + d_2(x))^2}{2\sigma^2}\right)

    with the distances d1, d2 to the nearest and second nearest object, measured between voxel
    centres; inside an object d1 is 0. With fewer than two objects the second term is 0.

    Terms below 2^-24 are left out, which a float32 weight around 1 does not show. The distances are
    exact; one pass per axis finds them for all objects at once, so their number costs nothing.

    Args:
        instances: ids of the objects, ``(*spatial)``; 0 is background.
        w0: weight where two objects touch.
        sigma: how quickly it falls off, in voxels, or in the units of ``spacing``.
        class_weight: weights of background and objects, ``(w_background, w_object)``; ``None`` for ones.
        spacing: voxel size per axis.
        background_only: leave the second term out inside objects. As it stands, Eq. 2 gives both sides of
            the border of a narrow gap nearly the same weight, which sharpens the border but does not
            speak for the gap; with this, what lies between two objects counts more than they do.
        ignore: id that means "unlabelled", as negative ids do. Weight 0 there.

    Returns:
        float32 array, ``(*spatial)``.
    """
    background, inside = _checked_class_weight(class_weight)
    if not (math.isfinite(w0) and w0 >= 0):
        raise ValueError(f"w0 = {w0} must be a finite number, 0 or more.")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma = {sigma} must be a finite number above 0.")
    instances = checked_ids(instances)
    voxel_size = _checked_spacing(spacing, instances.ndim)

    unlabelled = instances < 0
    if ignore is not None:
        unlabelled |= instances == ignore
    objects = compact_ids(np.where(unlabelled, np.zeros((), instances.dtype), instances))
    weight = np.where(objects > 0, np.float32(inside), np.float32(background))
    if w0 > _NEGLIGIBLE and objects.any():
        from volseg.weightmaps.nearest import two_nearest

        reach = sigma * math.sqrt(2 * math.log(w0 / _NEGLIGIBLE))
        term, second = two_nearest(objects, reach, voxel_size)
        term += second  # inf where there are no two objects within reach
        np.square(term, out=term)
        term *= np.float32(-0.5 / sigma**2)
        np.exp(term, out=term)
        term *= np.float32(w0)
        if background_only:
            term[objects > 0] = 0
        weight += term
    weight[unlabelled] = 0
    return weight


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
