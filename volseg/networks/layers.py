"""What a level of a U-Net is made of: its convolutions, and the fork to the pooling and to the skip."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import gcd, sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = [
    "Block",
    "CropAndPool",
    "Norm",
    "convolve",
    "crop",
    "initialise",
    "is_scripting",
    "normalisation",
]

Norm = Literal["batch", "instance", "group"]

is_scripting = torch.jit.is_scripting  # type: ignore[attr-defined]

_MAX_POOL: dict[int, Any] = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
_MAX_POOL_BACKWARD: dict[int, Any] = {
    2: torch.ops.aten.max_pool2d_with_indices_backward,
    3: torch.ops.aten.max_pool3d_with_indices_backward,
}
_BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_GROUPS = 8
_CONVOLUTIONS: dict[int, Any] = {4: nn.functional.conv2d, 5: nn.functional.conv3d}


class Block(nn.Module):
    """The convolutions of one level."""

    def __init__(self, layers: Sequence[nn.Module], checkpointing: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        if not is_scripting():  # noqa: SIM102 (TorchScript drops what stands under this line alone)
            if self.checkpointing and torch.is_grad_enabled():
                return self._checkpointed(x)
        return self.layers(x)

    @torch.jit.unused
    def _checkpointed(self, x: Tensor) -> Tensor:
        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _without_running_statistics(self.layers)

        return checkpoint(self.layers, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _without_running_statistics(module: nn.Module) -> Iterator[None]:
    """Keep a second pass over the same data from moving the running statistics once more."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [(part.momentum, part.num_batches_tracked) for part in norms]
    for part in norms:
        part.momentum = 0.0
        if part.num_batches_tracked is not None:
            part.num_batches_tracked = part.num_batches_tracked.clone()
    try:
        yield
    finally:
        for part, (momentum, count) in zip(norms, before, strict=True):
            part.momentum, part.num_batches_tracked = momentum, count


class CropAndPool(torch.autograd.Function):
    """The skip and the pooled map of a level; their gradients are added up in place.

    Left to itself, autograd fills a map of zeros for each axis that is cropped and adds it to the
    gradient of the pooling: an eighth of a training step at the finest level.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, margin: list[int], kernel: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        pooled, indices = _MAX_POOL[x.ndim - 2](x, kernel, return_indices=True)
        ctx.save_for_backward(x, indices)
        ctx.margin, ctx.kernel = margin, list(kernel)
        return crop(x, margin).contiguous(memory_format=_memory_format(x)), pooled

    @staticmethod
    def backward(ctx: Any, skip_gradient: Tensor, pooled_gradient: Tensor) -> tuple[Tensor, None, None]:
        x, indices = ctx.saved_tensors
        dims, kernel = x.ndim - 2, ctx.kernel
        gradient = _MAX_POOL_BACKWARD[dims](
            pooled_gradient, x, kernel, kernel, [0] * dims, [1] * dims, False, indices
        )
        view = gradient
        for axis, border in enumerate(ctx.margin, start=2):
            view = view.narrow(axis, border, view.shape[axis] - 2 * border)
        view.add_(skip_gradient)
        return gradient, None, None


def _memory_format(x: Tensor) -> torch.memory_format:
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return last if x.is_contiguous(memory_format=last) else torch.contiguous_format


def crop(x: Tensor, margin: list[int]) -> Tensor:
    """The middle of a map, ``margin`` voxels off each side."""
    cropped = x
    for axis, border in enumerate(margin):
        cropped = cropped.narrow(axis + 2, border, cropped.shape[axis + 2] - 2 * border)
    # A view would keep the whole map alive until the way up; autograd keeps it in any case.
    return cropped if torch.is_grad_enabled() else cropped.clone()


def convolve(x: Tensor, convolution: nn.modules.conv._ConvNd, padding: Sequence[int]) -> Tensor:
    """What a convolution of stride 1 gives, without gradient, with another padding.

    On a CPU by oneDNN throughout. By itself torch 2.13 leaves it for a batch of one in float32 where
    channels times the first two lengths are at most 20480, and writes down all inputs of the kernel for each
    voxel: 16 channels of 6 x 200 x 160 voxels take 225 MB instead of 7, and many times as long.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        ones = [1] * (x.ndim - 2)
        return torch.ops.aten.mkldnn_convolution(
            x, convolution.weight, convolution.bias, list(padding), ones, ones, 1
        )
    return _CONVOLUTIONS[x.ndim](x, convolution.weight, convolution.bias, 1, tuple(padding))


def initialise(layer: nn.Module) -> None:
    """Gaussian weights, standard deviation sqrt(2 / fan_in), as the authors' released code starts them.

    ``fan_in`` counts the weights per entry of the first axis of the weight array: input channels
    times kernel for a convolution, output channels times kernel for an up-convolution.
    """
    if isinstance(layer, nn.modules.conv._ConvNd):
        nn.init.normal_(layer.weight, std=sqrt(2 / layer.weight[0].numel()))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def normalisation(norm: Norm, spatial_dims: int, width: int) -> nn.Module:
    if norm == "batch":
        return _BATCH_NORM[spatial_dims](width)
    if norm == "instance":
        return _INSTANCE_NORM[spatial_dims](width, affine=True)
    return nn.GroupNorm(gcd(_GROUPS, width), width)
