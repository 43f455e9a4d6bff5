"""Losses that know nothing of unlabelled voxels, such as MONAI's and torch's, over annotated ones only.

A loss that takes ``(input, target)`` is given the annotated voxels alone, as one row: logits ``(1, C, N)``.
So what is unlabelled cannot reach it, and a Dice over these voxels is a Dice over all that is known. A loss
that looks at neighbours (distances, boundaries, skeletons) has none in such a row and is refused. What a
loss takes is read from its signature and its options, not found out by letting it fail.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX

__all__ = ["AnnotatedLoss", "over_annotated"]

# What these compute of a voxel depends on where it lies, or they are not losses of a segmentation at all.
_NEIGHBOURS = frozenset({
    "AUCMLoss", "BarlowTwinsLoss", "BendingEnergyLoss", "BoundaryLoss", "BoxGIoULoss", "ContrastiveLoss",
    "DiffusionLoss", "GlobalMutualInformationLoss", "HausdorffDTLoss", "JukeboxLoss",
    "LocalNormalizedCrossCorrelationLoss", "LogHausdorffDTLoss", "MultiScaleLoss", "NACLLoss",
    "PatchAdversarialLoss", "PerceptualLoss", "SSIMLoss", "SURELoss", "SoftDiceclDiceLoss", "SoftclDiceLoss",
})  # fmt: skip
_TARGETS_OF_TORCH = (nn.CrossEntropyLoss, nn.MultiMarginLoss)  # class indices
_TWO_CLASSES = "AsymmetricUnifiedFocalLoss"  # MONAI's: of probabilities, and of two axes or three
_USE_INSTEAD = "Take volseg.SparseDiceCE, monai.losses.DiceCELoss or torch.nn.CrossEntropyLoss instead."


def over_annotated(loss: nn.Module | Callable[..., Tensor], *, weighted: bool = False) -> nn.Module:
    """The loss, called as ``loss(logits, target, weight)`` with a target in which 255 means unlabelled.

    A loss whose third argument is called ``weight``, as that of volseg's own, is taken to know of 255 and
    comes back as it is; any other is wrapped in an :class:`AnnotatedLoss`.

    Args:
        weighted: whether patches come with a map of weights.

    Raises:
        InputError: if the loss cannot be used so; the message names the argument to change.
    """
    names = _arguments(loss)
    if len(names) >= 3 and names[2] == "weight":
        return loss if isinstance(loss, nn.Module) else _AsModule(loss)
    return AnnotatedLoss(loss, weighted=weighted)


class AnnotatedLoss(nn.Module):
    """A loss ``(input, target)`` over the annotated voxels of a batch, selected and laid in one row.

    MONAI's losses get the target in the form that their ``to_onehot_y`` asks for; torch's
    ``CrossEntropyLoss`` class indices ``(1, N)``; any other loss class indices ``(1, 1, N)``.
    MONAI's ``AsymmetricUnifiedFocalLoss`` cuts its input to 0..1 and so gets probabilities, ``(1, 2, N, 1)``.
    A loss with ``batch=False`` is computed for each sample and averaged over those that have annotation.

    Shape:
        - logits: ``(B, C, *spatial)``; target: ``(B, 1, *spatial)``, class indices or 255; weight: ``None``.
        - output: scalar. Zero, with zero gradient, if nothing is annotated.

    Raises:
        InputError: see :func:`over_annotated`.
    """

    def __init__(self, loss: nn.Module | Callable[..., Tensor], *, weighted: bool = False) -> None:
        super().__init__()
        self.name = getattr(loss, "__name__", type(loss).__name__)
        self.loss = loss if isinstance(loss, nn.Module) else _AsModule(loss)
        problem = _unfit(self.loss, self.name, _arguments(loss))
        if problem is None and weighted:
            problem = self.no_weight()
        if problem is not None:
            raise InputError(problem)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        if weight is not None:
            raise InputError(self.no_weight())
        logits, target = logits.as_subclass(Tensor), target.as_subclass(Tensor)
        annotated = target[:, 0] != IGNORE_INDEX
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        each = [annotated] if self._is_pooled or len(annotated) == 1 else _one_by_one(annotated)
        found = [self._of(logits, target, where, dtype) for where in each if bool(where.any())]
        if not found:
            return torch.where(torch.zeros_like(logits, dtype=torch.bool), logits, 0).to(dtype).sum()
        return torch.stack(found).mean()

    def _of(self, logits: Tensor, target: Tensor, where: Tensor, dtype: torch.dtype) -> Tensor:
        row = logits.movedim(1, -1)[where].T[None].to(dtype)  # (1, C, N)
        classes = target[:, 0][where].long()[None]  # (1, N)
        self._check_ignored(row.shape[1])
        target = self._target(row, classes)
        if isinstance(self.loss, nn.MultiMarginLoss):
            row, target = row[0].T, classes[0]
        if self._is_of_two_classes:
            if row.shape[1] != 2:
                raise InputError(
                    f"{self.name} is for two classes, but the network gives {row.shape[1]}. {_USE_INSTEAD}"
                )
            row, target = row.softmax(1)[..., None], target[..., None]
        value: Tensor = self.loss(row, target)
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"{self.name} returned {what} instead of one number: set its reduction to 'mean'."
            )
        return value.reshape(())

    def _target(self, row: Tensor, classes: Tensor) -> Tensor:
        """The classes in the form that this loss expects them."""
        if isinstance(self.loss, _TARGETS_OF_TORCH):
            return classes
        if isinstance(self.loss, nn.modules.loss._Loss) and type(self.loss).__module__.startswith("torch."):
            return F.one_hot(classes, row.shape[1]).movedim(-1, 1).to(row)
        one_hot = next(_given(self.loss, "to_onehot_y"), None)
        if one_hot is False:
            return F.one_hot(classes, row.shape[1]).movedim(-1, 1).to(row)
        return classes[:, None]

    def _check_ignored(self, classes: int) -> None:
        for index in _given(self.loss, "ignore_index"):
            if isinstance(index, int) and 0 <= index < classes:
                raise InputError(
                    f"{self.name} has ignore_index = {index}, which is a class here (indices count from 0 as "
                    "labels lists them), so none of its voxels would be learnt from. Leave ignore_index out: "
                    "what is unlabelled is left out anyhow."
                )

    @property
    def _is_of_two_classes(self) -> bool:
        return any(type(part).__name__ == _TWO_CLASSES for part in self.loss.modules())

    @property
    def _is_pooled(self) -> bool:
        return next(_given(self.loss, "batch"), True) is not False

    def no_weight(self) -> str:
        """What to do where patches come with a map of weights."""
        return (
            f"{self.name} takes no weights, but there is a weight_map: set weight_map to null, or take a "
            "loss that weighs voxels, such as volseg.SparseCrossEntropy."
        )


class _AsModule(nn.Module):
    """A plain function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Tensor:
        return self.function(*args)


def _unfit(loss: nn.Module, name: str, arguments: list[str]) -> str | None:
    """Why a loss cannot be computed over annotated voxels, or what of it must be set first."""
    if any(type(part).__name__ in _NEIGHBOURS for part in loss.modules()):
        return (
            f"{name} looks at the neighbours of a voxel, or at more than a segmentation; where only some "
            f"voxels are annotated it cannot be computed. {_USE_INSTEAD}"
        )
    if "mask" in arguments:
        return (
            f"{name} takes a mask, of which there is no need: a loss is given the annotated voxels alone. "
            "Take the one that it masks, such as monai.losses.DiceLoss."
        )
    if len(arguments) != 2:
        given = ", ".join(arguments) or "nothing that is named"
        return (
            f"{name} takes {given}; it must take (input, target) or (logits, target, weight). {_USE_INSTEAD}"
        )
    if isinstance(loss, nn.NLLLoss | nn.BCELoss | nn.KLDivLoss):
        fit = "BCEWithLogitsLoss" if isinstance(loss, nn.BCELoss) else "CrossEntropyLoss"
        return f"{name} wants probabilities, but the network gives logits: take torch.nn.{fit}."
    if type(loss).__module__.startswith("monai."):
        ways = [value for way in ("softmax", "sigmoid", "other_act") for value in _given(loss, way)]
        if ways and not any(ways):
            return f'{name} is given logits but makes no probabilities of them: set "softmax": true.'
    if next(_given(loss, "reduction"), "mean") == "none":
        return f"{name} with reduction = 'none' gives a map instead of one number: set it to 'mean'."
    return None


def _arguments(loss: Any) -> list[str]:
    """The names of what a loss is called with; those with a default beyond the third are left out."""
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):  # some functions written in C do not say
        return ["input", "target"]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p for p in signature.parameters.values() if p.kind in kinds]
    return [
        p.name for n, p in enumerate(found) if p.default is p.empty or n < 2 or p.name in ("weight", "mask")
    ]


def _given(loss: nn.Module, option: str) -> Iterator[Any]:
    """What the loss and the losses that it is made of have for an option."""
    for part in loss.modules():
        if hasattr(part, option):
            yield getattr(part, option)


def _one_by_one(annotated: Tensor) -> list[Tensor]:
    """One mask per sample, each over the whole batch."""
    found = []
    for number, part in enumerate(annotated):
        alone = torch.zeros_like(annotated)
        alone[number] = part
        found.append(alone)
    return found
