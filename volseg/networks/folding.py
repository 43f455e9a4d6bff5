"""A copy of a network in which batch normalisation has gone into the convolutions before it.

Once its statistics are fixed, batch normalisation multiplies each channel by one number and adds another;
so does a convolution, which can take both over. What is left are fewer passes over the maps.
"""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from volseg.networks.layers import Block, convolve
from volseg.networks.unet import UNet

__all__ = ["fold_batch_norm"]


@torch.no_grad()
def fold_batch_norm(network: UNet) -> UNet:
    """A copy for inference without batch normalisation, which computes the same up to rounding.

    Other normalisation stays as it is. The copy is in evaluation mode and needs no gradient.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for block in [*folded.analysis, folded.bottom, *folded.synthesis]:
        layers = cast(Block, block).layers
        for place, layer in enumerate(layers):
            if isinstance(layer, _BatchNorm):
                _fold(cast(_ConvNd, layers[place - 1]), layer)
                layers[place] = nn.Identity()
            elif isinstance(layer, _ConvNd):
                layers[place] = _quick(layer)
    folded.head = _quick(folded.head)
    return folded


def _quick(convolution: _ConvNd) -> _ConvNd:
    """The same convolution, quicker without gradient."""
    kind = _QuickConv2d if convolution.weight.ndim == 4 else _QuickConv3d
    inputs, outputs, size = convolution.in_channels, convolution.out_channels, convolution.kernel_size
    quick = kind(inputs, outputs, size, padding=convolution.padding, device="meta")  # type: ignore[arg-type]
    quick.weight, quick.bias = convolution.weight, convolution.bias
    return quick.train(convolution.training)


class _QuickConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self, cast(Sequence[int], self.padding))


class _QuickConv3d(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self, cast(Sequence[int], self.padding))


def _fold(convolution: _ConvNd, norm: _BatchNorm) -> None:
    """Let the convolution do what the normalisation after it would do."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    offset = -norm.running_mean.double() * factor
    if norm.bias is not None:
        offset = offset + norm.bias.double()
    weight = convolution.weight
    if convolution.bias is not None:
        offset = offset + convolution.bias.double() * factor
    scaled = weight.double() * factor.reshape(-1, *[1] * (weight.ndim - 1))
    convolution.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=False)
