"""The two published networks, parameter for parameter."""

from collections.abc import Sequence

from volseg.networks.layers import Norm
from volseg.networks.unet import Padding, UNet

__all__ = ["unet3d_2016", "unet_2015"]


def unet_2015(
    in_channels: int = 1,
    out_channels: int = 2,
    *,
    width: float = 1.0,
    padding: Padding = "valid",
    norm: Norm | None = None,
    dropout: float = 0.5,
    released: bool = False,
    checkpointing: bool = False,
) -> UNet:
    """The 2D network of Ronneberger et al. 2015, Fig. 1: 31,030,658 parameters, 572 x 572 to 388 x 388.

    Args:
        width: factor on all channels; a narrower network has even numbers of them.
        released: the variant of the authors' released code (31,100,354 parameters): the last
            up-convolution keeps its 128 channels, and a ReLU follows every up-convolution.
    """
    return UNet(
        2,
        in_channels,
        out_channels,
        channels=_scaled([(64, 64), (128, 128), (256, 256), (512, 512), (1024, 1024)], width),
        padding=padding,
        norm=norm,
        dropout=dropout,
        up_channels=["keep" if released else "halve", "halve", "halve", "halve"],
        up_activation=released,
        checkpointing=checkpointing,
    )


def unet3d_2016(
    in_channels: int = 3,
    out_channels: int = 3,
    *,
    norm: Norm | None = "batch",
    width: float = 1.0,
    padding: Padding = "valid",
    dropout: float = 0.0,
    checkpointing: bool = False,
) -> UNet:
    """The 3D network of Çiçek et al. 2016, Fig. 2: 19,069,955 parameters, 132 x 132 x 116 to 44 x 44 x 28.

    The scales and shifts of the normalisation, 4,672 with ``norm="batch"``, are not in that count.

    Args:
        width: factor on all channels; a narrower network has even numbers of them.
    """
    return UNet(
        3,
        in_channels,
        out_channels,
        channels=_scaled([(32, 64), (64, 128), (128, 256), (256, 512)], width),
        padding=padding,
        norm=norm,
        dropout=dropout,
        up_channels="keep",
        up_bias=False,
        checkpointing=checkpointing,
    )


def _scaled(channels: Sequence[tuple[int, int]], width: float) -> list[tuple[int, int]]:
    if not width > 0:
        raise ValueError(f"width = {width} must be positive: it is the factor on all channels.")
    return [(_even(first * width), _even(second * width)) for first, second in channels]


def _even(number: float) -> int:
    return max(2, 2 * round(number / 2))
