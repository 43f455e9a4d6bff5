"""Losses over annotated voxels, for targets in which most voxels were never looked at.

All of them take ``logits (B, C, *spatial)``, a ``target (B, 1, *spatial)`` of class indices in which
``ignore_index`` means "unlabelled", and optionally a float map ``weight (B, 1, *spatial)``
(see :mod:`volseg.weightmaps`). A voxel counts if it is annotated and its weight is not zero.

Voxels that do not count are *selected away*, not multiplied by zero: ``0 * nan`` is ``nan``, and an
average over all voxels would scale the learning rate by the annotated share of the patch. Their
gradient is exactly zero whatever the network says there. A batch without any voxel that counts has
loss exactly zero, still attached to the graph. Everything is computed in float32 at least.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volseg.labels import IGNORE_INDEX

__all__ = ["SparseCrossEntropy", "SparseDice", "SparseDiceCE"]


class SparseCrossEntropy(nn.Module):
    r"""Softmax cross-entropy averaged over annotated voxels.

    Voxels labelled ``ignore_index`` belong to slices without annotation. They carry weight zero
    (Çiçek et al. 2016, Sec. 2), so they add nothing to the numerator *and* nothing to the
    denominator:

    .. math:: L = \frac{\sum_v w_{y_v} w(v)\,\ell_v}{\sum_v w_{y_v} w(v)}

    Hence the loss does not depend on how much of the volume was left blank.

    Args:
        class_weight: one weight per class, shape ``(C,)``; ``None`` for all ones.
        ignore_index: label of voxels without annotation.

    Shape:
        - logits: ``(B, C, *spatial)``, unnormalised.
        - target: ``(B, 1, *spatial)``, class indices or ``ignore_index``.
        - weight: ``(B, 1, *spatial)``, one weight per voxel, or ``None``.
        - output: scalar. Zero, with zero gradient, if nothing is annotated.
    """

    class_weight: Tensor | None

    def __init__(
        self, class_weight: Sequence[float] | Tensor | None = None, ignore_index: int = IGNORE_INDEX
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.register_buffer("class_weight", _checked_class_weight(class_weight), persistent=False)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return _cross_entropy(_select(logits, target, weight, self.ignore_index), self.class_weight)


class SparseDice(nn.Module):
    r"""One minus the soft Dice coefficient of softmax probabilities, over annotated voxels.

    .. math:: L = 1 - \frac{1}{C} \sum_c
        \frac{2 \sum_v w(v)\,p_c(v)\,[y_v = c] + s}{\sum_v w(v)\,(p_c(v) + [y_v = c]) + s}

    Dice balances the classes by itself; a class that occurs in no annotated voxel of the batch pushes
    its probability down everywhere.

    Args:
        class_weight: one weight per class for the average over classes, shape ``(C,)``.
        ignore_index: label of voxels without annotation.
        include_background: whether class 0 takes part in the average.
        smooth: the constant s, which defines 0/0; above zero.
        batch: whether the sums run over the whole batch, or over each sample, followed by the mean of
            the samples that have annotation. Where annotation is sparse the whole batch is steadier.

    Shape:
        As :class:`SparseCrossEntropy`.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        *,
        include_background: bool = True,
        smooth: float = 1e-5,
        batch: bool = True,
    ) -> None:
        super().__init__()
        if not smooth > 0:
            raise ValueError(f"smooth = {smooth} is not above zero: a class that is absent would give 0/0.")
        self.ignore_index = ignore_index
        self.include_background = include_background
        self.smooth = smooth
        self.batch = batch
        checked = _checked_class_weight(class_weight)
        if checked is not None and not include_background and not checked[1:].any():
            raise ValueError("class_weight is zero for every class but the background, which is left out.")
        self.register_buffer("class_weight", checked, persistent=False)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return self._of_selected(_select(logits, target, weight, self.ignore_index))

    def _of_selected(self, voxels: "_Voxels") -> Tensor:
        classes = voxels.logits.shape[1]
        first = 0 if self.include_background else 1
        axes = list(range(2, voxels.logits.ndim))
        if self.batch:
            axes.insert(0, 0)
        probabilities = voxels.logits.softmax(1)
        truth = torch.zeros_like(probabilities).scatter_(1, voxels.target[:, None], voxels.weight)
        overlap = (probabilities * truth).sum(axes)
        total = (probabilities * voxels.weight).sum(axes) + truth.sum(axes)
        per_class = (1 - (2 * overlap + self.smooth) / (total + self.smooth))[..., first:]
        if self.class_weight is None:
            loss = per_class.mean(-1)
        else:
            class_weight = _fitting(self.class_weight, classes).to(per_class)[first:]
            loss = (per_class * class_weight).sum(-1) / class_weight.sum()
        if self.batch:
            return loss
        annotated = voxels.counts.flatten(1).any(1)
        return torch.where(annotated, loss, 0.0).sum() / annotated.sum().clamp(min=1)


class SparseDiceCE(nn.Module):
    """Weighted sum of :class:`SparseDice` and :class:`SparseCrossEntropy`.

    ``class_weight`` belongs to the cross-entropy; Dice balances the classes by itself. The other
    arguments and the shapes are those of the two losses.
    """

    def __init__(
        self,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        *,
        include_background: bool = True,
        smooth: float = 1e-5,
        batch: bool = True,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("dice_weight", dice_weight), ("ce_weight", ce_weight)):
            if not value >= 0:
                raise ValueError(f"{name} = {value} is negative: that would reward mistakes.")
        self.ignore_index = ignore_index
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight
        self.dice = SparseDice(
            None, ignore_index, include_background=include_background, smooth=smooth, batch=batch
        )
        self.cross_entropy = SparseCrossEntropy(class_weight, ignore_index)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        voxels = _select(logits, target, weight, self.ignore_index)
        cross_entropy = _cross_entropy(voxels, self.cross_entropy.class_weight)
        return self.dice_weight * self.dice._of_selected(voxels) + self.ce_weight * cross_entropy


class _Voxels(NamedTuple):
    """A batch in which the voxels that do not count hold zeros, cut off from the graph."""

    logits: Tensor  # (B, C, *spatial), float32 or float64
    target: Tensor  # (B, *spatial), int64
    weight: Tensor  # (B, 1, *spatial), same type as logits
    counts: Tensor  # (B, 1, *spatial), bool


def _select(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> _Voxels:
    """Check a batch and set every voxel that does not count to zero."""
    logits, target = logits.as_subclass(Tensor), target.as_subclass(Tensor)  # no MetaTensor overhead
    _check_shapes(logits, target, weight)
    counts = target != ignore_index
    if weight is not None:
        weight = weight.as_subclass(Tensor)
        counts = counts & (weight != 0)
    classes = torch.where(counts, target, 0).to(torch.int64)
    _check_classes(classes, torch.where(counts, target, 0), logits.shape[1], ignore_index)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    safe = torch.where(counts, logits, 0).to(dtype)
    selected = counts.to(dtype) if weight is None else torch.where(counts, weight, 0).to(dtype)
    return _Voxels(safe, classes[:, 0], selected, counts)


def _cross_entropy(voxels: _Voxels, class_weight: Tensor | None) -> Tensor:
    per_voxel = F.cross_entropy(voxels.logits, voxels.target, reduction="none")
    weight = voxels.weight[:, 0]
    if class_weight is not None:
        weight = weight * _fitting(class_weight, voxels.logits.shape[1]).to(weight)[voxels.target]
    total = weight.sum()
    weighted = torch.where(weight != 0, weight * per_voxel, 0)
    return weighted.sum() / torch.where(total == 0, 1, total)


def _checked_class_weight(class_weight: Sequence[float] | Tensor | None) -> Tensor | None:
    if class_weight is None:
        return None
    checked = torch.as_tensor(class_weight, dtype=torch.float32).detach().clone()
    if checked.ndim != 1 or not torch.isfinite(checked).all() or (checked < 0).any() or not checked.any():
        raise ValueError(
            f"class_weight = {checked.tolist()} is not a list of one finite weight per class, "
            "none negative and at least one above zero."
        )
    return checked


def _fitting(class_weight: Tensor, classes: int) -> Tensor:
    if len(class_weight) != classes:
        raise ValueError(
            f"class_weight has {len(class_weight)} entries, the logits have {classes} channels: "
            "one weight per class is needed, the background included."
        )
    return class_weight


def _check_shapes(logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if logits.ndim < 3:
        raise ValueError(f"logits of shape {tuple(logits.shape)} are not (B, C, *spatial).")
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} have one channel, whose softmax is always 1. "
            "Give the background a channel of its own: out_channels=2."
        )
    expected = (logits.shape[0], 1, *logits.shape[2:])
    for name, tensor in (("target", target), ("weight", weight)):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)}; logits of shape {tuple(logits.shape)} "
                f"need {expected}. An unpadded network returns less than it is given: "
                "crop the label by the network's context."
            )


def _check_classes(classes: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> None:
    if target.device.type != "cpu":
        return  # looking would wait for the device at every step; torch's own assertions stop there
    wrong = (classes < 0) | (classes >= num_classes)
    if target.is_floating_point():  # labels come as floats from MONAI's spatial transforms
        wrong |= classes != target
    if wrong.any():
        raise ValueError(
            f"target holds {target[wrong][0].item()}; the logits have the classes 0 to {num_classes - 1}, "
            f"and {ignore_index} means unlabelled. Encode labels with LabelScheme.encode."
        )
