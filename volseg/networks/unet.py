"""The U-Net of any dimension, and the two published networks.

One class, :class:`UNet`, describes both networks of the papers and what lies between.

Two words, in voxels, one number per spatial axis:

* ``context`` the border an unpadded network consumes on each side: output = input - 2 context
* ``stride``  the total downsampling; legal input sizes lie ``stride`` apart

A level is one resolution: level 0 is the finest, the last is the bottom of the U.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from volseg.geometry import legal_sizes, per_axis
from volseg.networks.layers import Block, CropAndPool, Norm, crop, initialise, is_scripting, normalisation

__all__ = ["Padding", "UNet", "unet3d_2016", "unet_2015"]

Padding = Literal["valid", "same"]
UpChannels = Literal["keep", "halve"]
PerLevel = int | Sequence[int | Sequence[int]]

_is_tracing = torch.jit.is_tracing  # type: ignore[attr-defined]

# Convolution, up-convolution, pooling.
_LAYERS: dict[int, tuple[Any, Any, Any]] = {
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d),
}


class UNet(nn.Module):
    """Logits for every voxel that has its full context in the input.

    Per level two convolutions, each followed by ``norm`` and ReLU; max pooling on the way
    down; an up-convolution and concatenation with the centre-cropped map of the same level
    on the way up, upsampled map first; a convolution with kernel 1 at the end.
    No padding: nothing is invented at the border, and overlapping tiles agree
    (Ronneberger et al. 2015, Sec. 2). ``padding="same"`` pads with zeros instead and keeps the size.

    Weights start as Gaussian numbers of standard deviation sqrt(2 / fan_in), biases at zero.

    Args:
        channels: the channels of the two convolutions of each level, finest level first.
            A level of the way up has twice the second number.
        norm: statistics by which a map is normalised before its ReLU; ``None`` for none.
        dropout: probability of zeroing a value at the end of the two deepest levels of the
            way down, where the first of them feeds both the pooling and the skip.
        kernel_size: odd; one number, or per level a number or one number per axis.
        pooling: one number, or per step down a number or one number per axis; 1 leaves an axis as it is.
        up_channels: whether an up-convolution keeps or halves the channels; a sequence says it
            level by level, finest first.
        up_activation: whether a ReLU follows each up-convolution.
        checkpointing: forget what lies inside a level during training and compute it again for
            the gradient: less memory, about a third more time.

    Attributes:
        pooling: per step down, one number per axis.
        margins: per level, finest first, the voxels per axis that are cropped off each side of its skip.

    Shape:
        - input: ``(B, in_channels, *spatial)``, of a legal size (:meth:`output_size`).
        - output: ``(B, out_channels, *output_size)``, unnormalised.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[Sequence[int]],
        padding: Padding = "valid",
        norm: Norm | None = None,
        dropout: float = 0.0,
        kernel_size: PerLevel = 3,
        pooling: PerLevel = 2,
        up_channels: UpChannels | Sequence[UpChannels] = "keep",
        up_activation: bool = False,
        conv_bias: bool = True,
        up_bias: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_choices(spatial_dims, in_channels, out_channels, padding, norm, dropout)
        pairs = _channel_pairs(channels)
        levels = len(pairs)
        kernels = _per_level(kernel_size, levels, spatial_dims, "kernel_size", "level")
        pools = _per_level(pooling, levels - 1, spatial_dims, "pooling", "step down")
        for level, kernel in enumerate(kernels):
            if not all(size % 2 for size in kernel):
                raise ValueError(
                    f"kernel_size of level {level} is {kernel}: an even kernel has no centre voxel, "
                    "so the output would be shifted. Use odd sizes."
                )
        ups = _up_widths(up_channels, pairs)

        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.padding = padding
        self._sizes = legal_sizes(kernels, pools, padded=padding == "same")
        self.context = self._sizes.context
        self.receptive_radius = self._sizes.receptive_radius
        self.stride = self._sizes.stride
        self.pooling = pools
        self.margins = [list(margin) for margin in self._sizes.margins]

        convolution, up_convolution, max_pool = _LAYERS[spatial_dims]

        def block(level: int, inputs: int, widths: Sequence[int], block_dropout: float = 0.0) -> Block:
            layers: list[nn.Module] = []
            pad: tuple[int, ...] = (0,) * spatial_dims
            if padding == "same":
                pad = tuple(size // 2 for size in kernels[level])
            for width in widths:
                layers.append(convolution(inputs, width, kernels[level], padding=pad, bias=conv_bias))
                if norm is not None:
                    layers.append(normalisation(norm, spatial_dims, width))
                layers.append(nn.ReLU(inplace=True))
                inputs = width
            if block_dropout > 0:
                layers.append(nn.Dropout(block_dropout))
            return Block(layers, checkpointing)

        entering = [in_channels, *(pair[1] for pair in pairs[:-1])]
        down = [
            block(level, entering[level], pairs[level], dropout if level >= levels - 2 else 0.0)
            for level in range(levels)
        ]
        self.analysis = nn.ModuleList(down[:-1])
        self.pools = nn.ModuleList(max_pool(pool) for pool in pools)
        self.bottom = down[-1]
        self.ups = nn.ModuleList()
        self.synthesis = nn.ModuleList()
        for level in reversed(range(levels - 1)):
            entry = pairs[level + 1][1]
            up = up_convolution(entry, ups[level], pools[level], stride=pools[level], bias=up_bias)
            self.ups.append(nn.Sequential(up, nn.ReLU(inplace=True)) if up_activation else up)
            width = pairs[level][1]
            self.synthesis.append(block(level, ups[level] + width, (width, width)))
        self.head = convolution(pairs[0][1], out_channels, 1)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        if not is_scripting():
            self._check_input(x)
        skips: list[Tensor] = []
        for block, pool in zip(self.analysis, self.pools, strict=True):
            x = block(x)
            margin = self.margins[len(skips)]
            if not is_scripting() and x.requires_grad:
                skip, x = self._crop_and_pool(x, margin, pool)
            else:
                skip, x = crop(x, margin), pool(x)
            skips.append(skip)
        x = self.bottom(x)
        for up, block in zip(self.ups, self.synthesis, strict=True):
            x = block(torch.cat([up(x), skips.pop()], dim=1))
        return self.head(x)

    def output_size(self, input_size: int | Sequence[int]) -> tuple[int, ...]:
        """The size that comes out when ``input_size`` goes in."""
        return self._sizes.output_size(input_size)

    def input_size(self, output_size: int | Sequence[int]) -> tuple[int, ...]:
        """The size that must go in for ``output_size`` to come out."""
        return self._sizes.input_size(output_size)

    @torch.jit.unused
    def _crop_and_pool(self, x: Tensor, margin: list[int], pool: nn.Module) -> tuple[Tensor, Tensor]:
        return CropAndPool.apply(x, margin, pool.kernel_size)

    @torch.jit.unused
    def _check_input(self, x: Tensor) -> None:
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"The input has the shape {tuple(x.shape)}, but the network takes "
                f"(batch, {self.in_channels}, *spatial) with {self.spatial_dims} spatial axes."
            )
        if not _is_tracing() and not torch.compiler.is_compiling():
            self.output_size(tuple(x.shape[2:]))


def _check_choices(
    spatial_dims: int, in_channels: int, out_channels: int, padding: str, norm: str | None, dropout: float
) -> None:
    if spatial_dims not in _LAYERS:
        raise ValueError(f"spatial_dims = {spatial_dims} is not possible: 2 for images, 3 for volumes.")
    for name, number in (("in_channels", in_channels), ("out_channels", out_channels)):
        per_axis(number, 1, name)
    if padding not in get_args(Padding):
        raise ValueError(f'padding = {padding!r} is unknown. Use "valid" (unpadded) or "same".')
    if norm is not None and norm not in get_args(Norm):
        raise ValueError(f'norm = {norm!r} is unknown. Use "batch", "instance", "group" or None.')
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout} is not a probability below 1.")


def _channel_pairs(channels: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    if len(channels) == 0:
        raise ValueError("channels is empty: give one pair per level, for example [(32, 64), (64, 128)].")
    return [per_axis(pair, 2, f"channels[{level}]") for level, pair in enumerate(channels)]


def _per_level(value: PerLevel, count: int, spatial_dims: int, name: str, word: str) -> list[tuple[int, ...]]:
    if not isinstance(value, Sequence):
        return [per_axis(value, spatial_dims, name)] * count
    if len(value) != count:
        raise ValueError(
            f"{name} = {value!r} has {len(value)} entries, but there must be {count}, one per {word}."
        )
    return [per_axis(entry, spatial_dims, f"{name}[{level}]") for level, entry in enumerate(value)]


def _up_widths(up_channels: UpChannels | Sequence[UpChannels], pairs: list[tuple[int, ...]]) -> list[int]:
    """Channels that each up-convolution puts out, finest level first."""
    steps = len(pairs) - 1
    choices = [up_channels] * steps if isinstance(up_channels, str) else list(up_channels)
    if len(choices) != steps or any(choice not in get_args(UpChannels) for choice in choices):
        raise ValueError(
            f'up_channels = {up_channels!r} is not possible: use "keep" or "halve", or {steps} of these, '
            "one per up-convolution, finest level first."
        )
    widths = [
        pair[1] // (2 if choice == "halve" else 1) for pair, choice in zip(pairs[1:], choices, strict=True)
    ]
    if 0 in widths:
        raise ValueError('up_channels cannot halve a single channel. Use more channels or "keep".')
    return widths


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
