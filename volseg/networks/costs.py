"""What a forward pass of a U-Net costs: multiplications, as a function of the input's size.

Every map of the network is as long, along each axis, as ``input / scale - lost``. So the work of a tile is a
sum of products of lengths, and the work of all tiles of a volume can be added up axis by axis.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

from volseg.networks.unet import UNet

__all__ = ["Layer", "layers", "operations"]


class Layer(NamedTuple):
    """One convolution: multiplications per voxel it puts out, and the lengths of what it puts out."""

    per_voxel: int
    scale: tuple[Fraction, ...]
    lost: tuple[Fraction, ...]

    def length(self, axis: int, size: int) -> int:
        """Voxels along one axis for an input of ``size``."""
        return int(size / self.scale[axis] - self.lost[axis])


def layers(network: UNet) -> list[Layer]:
    """All convolutions and up-convolutions, in the order in which they are computed."""
    found: list[Layer] = []
    scale = [Fraction(1)] * network.spatial_dims
    lost = [Fraction(0)] * network.spatial_dims

    def convolve(block: Any) -> None:
        for layer in block.modules():
            if not hasattr(layer, "kernel_size"):
                continue
            if network.padding == "valid":
                lost[:] = [before + size - 1 for before, size in zip(lost, layer.kernel_size, strict=True)]
            found.append(Layer(layer.weight.numel(), tuple(scale), tuple(lost)))

    for block, pooling in zip(network.analysis, network._pooling, strict=True):
        convolve(block)
        scale = [before * step for before, step in zip(scale, pooling, strict=True)]
        lost = [before / step for before, step in zip(lost, pooling, strict=True)]
    convolve(network.bottom)
    for up, pooling, block in zip(network.ups, reversed(network._pooling), network.synthesis, strict=True):
        scale = [before / step for before, step in zip(scale, pooling, strict=True)]
        lost = [before * step for before, step in zip(lost, pooling, strict=True)]
        (weight,) = (part for part in up.parameters() if part.ndim > 1)
        per_voxel = weight.numel() // prod(pooling)  # each voxel comes from one, by one weight
        found.append(Layer(per_voxel, tuple(scale), tuple(lost)))
        convolve(block)
    convolve(network.head)
    return found


def operations(network: UNet, input_size: Sequence[int]) -> int:
    """Multiplications of one forward pass, bias and normalisation left out."""
    return sum(
        layer.per_voxel * prod(layer.length(axis, size) for axis, size in enumerate(input_size))
        for layer in layers(network)
    )
