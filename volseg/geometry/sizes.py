"""Sizes that a U-shaped network accepts, and what it gives for them, one number per spatial axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from operator import index

__all__ = ["AXES", "LegalSizes", "legal_sizes", "per_axis"]

AXES = ("x", "y", "z")  # what axes 0, 1 and 2 of a grid are called


@dataclass(frozen=True)
class LegalSizes:
    """What goes in and what comes out of a U-shaped network. One number per spatial axis.

    ``receptive_radius`` is how far beyond a block of output, its origin on a multiple of the
    stride, the input matters; ``margins`` what the map of each level loses per side before it
    meets the upsampled one; ``remainder`` what legal outputs are modulo the stride.
    """

    context: tuple[int, ...]
    receptive_radius: tuple[int, ...]
    stride: tuple[int, ...]
    margins: tuple[tuple[int, ...], ...]
    remainder: tuple[int, ...]

    def output_size(self, input_size: int | Sequence[int]) -> tuple[int, ...]:
        """The size that comes out when ``input_size`` goes in."""
        lost = tuple(2 * border for border in self.context)
        sizes = per_axis(input_size, len(lost), "input_size", minimum=0)
        self._check(sizes, lost, "input")
        return tuple(n - less for n, less in zip(sizes, lost, strict=True))

    def input_size(self, output_size: int | Sequence[int]) -> tuple[int, ...]:
        """The size that must go in for ``output_size`` to come out."""
        sizes = per_axis(output_size, len(self.context), "output_size", minimum=0)
        self._check(sizes, (0,) * len(sizes), "output")
        return tuple(n + 2 * border for n, border in zip(sizes, self.context, strict=True))

    def _check(self, sizes: tuple[int, ...], lost: tuple[int, ...], word: str) -> None:
        for axis, (n, less, step, rest) in enumerate(
            zip(sizes, lost, self.stride, self.remainder, strict=True)
        ):
            least = less + (rest or step)
            if n >= least and (n - least) % step == 0:
                continue
            below = n - (n - least) % step
            nearest = f"{least}" if n < least else f"{below} and {below + step}"
            raise ValueError(
                f"{word}_size[{axis}] = {n} is not a legal {word} size: legal are {least}, {least + step}, "
                f"{least + 2 * step} and so on in steps of {step}, so that every pooling divides evenly "
                f"and at least one voxel is left. Nearest: {nearest}."
            )


def legal_sizes(
    kernels: Sequence[Sequence[int]], pools: Sequence[Sequence[int]], *, padded: bool = False
) -> LegalSizes:
    """The sizes of a U-shaped network with two convolutions per level and direction.

    Args:
        kernels: per level one odd number per axis, finest level first.
        pools: per step down one number per axis.
        padded: whether convolutions pad their input and so keep its size.
    """
    # Per axis: what two convolutions of each level take off one side, and the poolings.
    borders = [[size - 1 for size in axis] for axis in zip(*kernels, strict=True)]
    steps = list(zip(*pools, strict=True)) if pools else [()] * len(borders)
    axes = list(zip(borders, steps, strict=True))
    stride = tuple(prod(step) for step in steps)
    reach = tuple(_aligned_reach(border, step) for border, step in axes)
    if padded:
        none = (0,) * len(axes)
        return LegalSizes(none, reach, stride, (none,) * len(pools), none)
    context = tuple(_context(border, step, 0) for border, step in axes)
    margins = tuple(
        tuple(step[level] * _context(border, step, level + 1) for border, step in axes)
        for level in range(len(pools))
    )
    # An input of this size would arrive at the bottom as zero voxels.
    start = [_input_for_nothing(border, step) for border, step in axes]
    remainder = tuple((n - 2 * c) % s for n, c, s in zip(start, context, stride, strict=True))
    return LegalSizes(context, context, stride, margins, remainder)


def _context(borders: Sequence[int], steps: Sequence[int], level: int) -> int:
    """Voxels lost per side from entering ``level`` on the way down to leaving it on the way up."""
    if level == len(steps):
        return borders[level]
    return 2 * borders[level] + steps[level] * _context(borders, steps, level + 1)


def _input_for_nothing(borders: Sequence[int], steps: Sequence[int]) -> int:
    size = 0
    for border, step in zip(reversed(borders[:-1]), reversed(steps), strict=True):
        size = step * size + 2 * border
    return size


def _aligned_reach(borders: Sequence[int], steps: Sequence[int]) -> int:
    """How far a padded network looks beyond a block that starts on a multiple of the stride."""
    reach = 0
    for border, step in zip(borders[:-1], steps, strict=True):
        reach = -(-(reach + border) // step)
    reach += borders[-1]
    for border, step in zip(reversed(borders[:-1]), reversed(steps), strict=True):
        reach = reach * step + border
    return reach


def per_axis(
    value: int | Sequence[int], spatial_dims: int, name: str, *, minimum: int = 1
) -> tuple[int, ...]:
    """One whole number per spatial axis; a single number stands for all axes.

    ``name`` is how the caller calls the argument, for the message.
    """
    try:
        numbers = (_whole(value),) * spatial_dims
    except TypeError:
        try:
            numbers = tuple(_whole(item) for item in value)  # type: ignore[union-attr]
        except TypeError:
            raise ValueError(
                f"{name} = {value!r} is neither a whole number nor a sequence of whole numbers. "
                f"Give one number, or {spatial_dims}, one per axis."
            ) from None
    if len(numbers) != spatial_dims:
        raise ValueError(
            f"{name} = {value!r} holds {len(numbers)} numbers, but there are {spatial_dims} spatial axes. "
            f"Give one number, or {spatial_dims}, one per axis."
        )
    for axis, number in enumerate(numbers):
        if number < minimum:
            raise ValueError(f"{name}[{axis}] = {number} is too small: at least {minimum} is needed.")
    return numbers


def _whole(value: object) -> int:
    if isinstance(value, bool):
        raise TypeError("a truth value is not a size")
    return index(value)  # type: ignore[arg-type]
