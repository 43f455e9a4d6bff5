"""What a network does to sizes, found by trying: for networks that do not say it themselves.

:class:`volseg.UNet` knows its ``context``, ``stride`` and ``receptive_radius``. Any other network is sent
blocks on torch's ``meta`` device, where tensors have a size and no content, which shows the sizes that it
takes and returns; how far it looks is shown by blocks with NaN on both sides, for a NaN spreads to whatever
is computed from it. Instance, group and batch normalisation are left out: they look at the whole block.
"""

import copy
import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from volseg.errors import InputError, brief

__all__ = [
    "Sizes",
    "context_of",
    "copy_of",
    "first_output",
    "looks_how_far",
    "nearest_sizes",
    "sizes_of",
    "spatial_dims_of",
]

_TRIED = (64, 96, 128, 32, 48, 80, 112, 160, 192, 16, 224, 256, 320, 384, 512)
_GROWN_BY = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24, 27, 28, 32, 36, 48, 64)
_LONGEST = 1536  # voxels along an axis, beyond which it is not tried how far a network looks
_MOST_VOXELS = 2**22
_DIMS_OF = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_LOOKING_AT_ALL = (_NormBase, _BatchNorm, nn.GroupNorm)


class Sizes(NamedTuple):
    """Which sizes a network takes and returns, one number per spatial axis.

    ``context`` is what it returns less on each side; ``stride`` its total downsampling; ``size`` an input
    that it takes and ``step`` what inputs may grow by, 0 where it takes ``size`` only.
    """

    in_channels: int
    size: tuple[int, ...]
    step: tuple[int, ...]
    context: tuple[int, ...]
    stride: tuple[int, ...]
    out_channels: int


_KNOWN: "weakref.WeakKeyDictionary[nn.Module, Sizes]" = weakref.WeakKeyDictionary()
_REACH: "weakref.WeakKeyDictionary[nn.Module, tuple[int, ...] | None]" = weakref.WeakKeyDictionary()


def context_of(network: nn.Module) -> tuple[int, ...]:
    """Voxels that the network returns less on each side, per axis: its own word, or what is measured.

    Raises:
        InputError: if no size was found that it takes, or what it returns is not a segmentation of its input.
    """
    said = getattr(network, "context", None)
    if isinstance(said, int):
        return (said,) * _spatial_dims(network)
    if said is not None:
        return tuple(said)
    return sizes_of(network).context


def sizes_of(network: nn.Module) -> Sizes:
    """The sizes of any network, measured once.

    Raises:
        InputError: see :func:`context_of`.
    """
    if network not in _KNOWN:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            _KNOWN[network] = _measure(network)
    return _KNOWN[network]


def looks_how_far(network: nn.Module) -> tuple[int, ...] | None:
    """How far beyond a block of output, its origin on a multiple of the stride, the input matters, per axis.

    ``None`` where a voxel depends on all others, as in a transformer, or on more than can be tried.
    """
    if network not in _REACH:
        sizes = sizes_of(network)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            _REACH[network] = _reach(network, sizes)
    return _REACH[network]


def first_output(found: Any, spatial_dims: int) -> Tensor:
    """The segmentation of what a network returns: of several outputs (deep supervision) the first.

    Raises:
        InputError: if there is no tensor ``(B, classes, *spatial)`` in it.
    """
    if isinstance(found, list | tuple) and found:
        found = found[0]
    if isinstance(found, Tensor) and found.ndim == spatial_dims + 3:  # MONAI's DynUNet stacks them
        found = found[:, 0]
    if not isinstance(found, Tensor) or found.ndim != spatial_dims + 2:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"The network returned {what} where logits (B, classes, *spatial) with {spatial_dims} spatial "
            "axes are needed. Choose its options so that it returns them, first if it returns several."
        )
    return found


def copy_of(network: nn.Module) -> nn.Module:
    """A deep copy, also of a network that keeps what it computed last, as MONAI's DynUNet does."""
    kept = [value for part in network.modules() for value in vars(part).values()]
    kept += [item for value in kept if isinstance(value, list | tuple) for item in value]
    memo = {id(item): item.detach() for item in kept if isinstance(item, Tensor) and item.grad_fn is not None}
    return copy.deepcopy(network, memo)


def nearest_sizes(sizes: Sizes, wanted: Sequence[int]) -> list[tuple[int, ...]]:
    """Inputs that the network takes, below and above a wanted size."""
    found = []
    for up in (False, True):
        choice = []
        for n, known, step in zip(wanted, sizes.size, sizes.step, strict=True):
            off = (n - known) % step if step else n - known
            choice.append(known if not step else n - off + (step if up and off else 0))
        if tuple(choice) not in found and min(choice) > 0:
            found.append(tuple(choice))
    return found


class _Probe:
    """A copy of a network that computes sizes, on the meta device if it runs there."""

    def __init__(self, network: nn.Module, dims: int, device: str) -> None:
        self.dims, self.device = dims, device
        self.network = _without_norms(copy_of(network)).eval().to(device)
        self.trouble: Exception | None = None
        self.seen: dict[int, tuple[int, ...]] = {}
        for number, part in enumerate(self.network.modules()):
            if isinstance(part, _ConvNd | _MaxPoolNd | _AvgPoolNd):
                part.register_forward_hook(self._note(number))

    def __call__(self, channels: int, size: Sequence[int]) -> tuple[int, ...] | None:
        """Classes and size of the output; ``None`` if the network does not take that input."""
        parameter = next(self.network.parameters(), None)
        dtype = torch.float32 if parameter is None else parameter.dtype
        try:
            block = torch.zeros((1, channels, *size), dtype=dtype, device=self.device)
            return tuple(first_output(self.network(block), self.dims).shape[1:])
        except Exception as error:  # whatever a network raises at a size that it does not take
            self.trouble = error
            return None

    def _note(self, number: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == self.dims + 2:
                self.seen[number] = tuple(output.shape[2:])

        return hook


def _measure(network: nn.Module) -> Sizes:
    dims = _spatial_dims(network)
    probe, found = _Probe(network, dims, "meta"), None
    found = _first_taken(network, probe, _candidates(network, dims))
    if found is None:  # perhaps it computes what a tensor without content cannot
        probe = _Probe(network, dims, "cpu")
        found = _first_taken(network, probe, [(n,) * dims for n in (64, 32)])
    if found is None:
        if isinstance(probe.trouble, ImportError):
            raise InputError(f"{type(network).__name__} cannot be run: {brief(probe.trouble)}.")
        reason = f" The last it said: {_short(probe.trouble)}" if probe.trouble else ""
        raise InputError(
            f"{type(network).__name__} took no input of the sizes tried, so its context is not "
            f"known.{reason} If it returns as many voxels as it is given, write 0 for context."
        )
    channels, size = found
    classes, *out = probe(channels, size) or ()
    lost = [n - m for n, m in zip(size, out, strict=True)]
    step = [_growth(probe, channels, size, axis, less) for axis, less in enumerate(lost)]
    if min(lost) < 0 or any(n % 2 or (n and not more) for n, more in zip(lost, step, strict=True)):
        raise InputError(
            f"{type(network).__name__} returns {_times(out)} voxels for {_times(size)}. It has to return as "
            "many as it is given, or less by the same border on both sides."
        )
    stride = tuple(_stride(probe, channels, size, axis, more) for axis, more in enumerate(step))
    return Sizes(channels, size, tuple(step), tuple(n // 2 for n in lost), stride, classes)


def _first_taken(
    network: nn.Module, probe: _Probe, sizes: Sequence[tuple[int, ...]]
) -> tuple[int, tuple[int, ...]] | None:
    for size in sizes:
        for channels in _channels(network):
            if probe(channels, size) is not None:
                return channels, size
            if isinstance(probe.trouble, ImportError):  # no other size brings what is not installed
                return None
    return None


def _candidates(network: nn.Module, dims: int) -> list[tuple[int, ...]]:
    """Sizes to try: what the network itself says first, usual ones, any small ones."""
    given: Any = getattr(network, "img_size", None) or getattr(network, "image_size", None)
    features, patch = getattr(network, "feat_size", None), getattr(network, "patch_size", None)
    if given is None and isinstance(features, tuple | list) and isinstance(patch, tuple | list):
        given = [a * b for a, b in zip(features, patch, strict=False)]  # MONAI's UNETR
    found = [(n,) * dims for n in _TRIED if n <= 256 or dims == 2]
    if isinstance(given, int):
        found.insert(0, (given,) * dims)
    elif isinstance(given, tuple | list) and len(given) == dims:
        found.insert(0, tuple(int(n) for n in given))
    found += [(n,) * dims for n in range(8, 192)]
    return found + [size for size in product((16, 32, 48, 64, 96, 128), repeat=dims) if len(set(size)) > 1]


def _channels(network: nn.Module) -> Iterator[int]:
    """Numbers of input channels, the likeliest first."""
    given = [getattr(network, name, None) for name in ("in_channels", "in_chns", "n_channels", "in_ch")]
    first = [part.in_channels for part in network.modules() if isinstance(part, _ConvNd)][:1]
    yield from dict.fromkeys(n for n in [*given, *first, 1] if isinstance(n, int) and n > 0)


def _growth(probe: _Probe, channels: int, size: tuple[int, ...], axis: int, lost: int) -> int:
    """By how much an input may grow along an axis; 0 if it may not."""

    def fits(larger: int) -> bool:
        found = probe(channels, (*size[:axis], larger, *size[axis + 1 :]))
        return found is not None and found[1 + axis] == larger - lost

    return next((more for more in _GROWN_BY if all(fits(size[axis] + n * more) for n in (1, 4))), 0)


def _stride(probe: _Probe, channels: int, size: tuple[int, ...], axis: int, step: int) -> int:
    """The total downsampling along an axis: how much slower than the input the smallest map grows."""
    probe(channels, size)
    before, grown = dict(probe.seen), 0
    if step:
        grown = step * math.ceil(64 / step)
        probe(channels, (*size[:axis], size[axis] + grown, *size[axis + 1 :]))
    slowest = 1
    for number, small in before.items():
        more = probe.seen[number][axis] - small[axis] if step else small[axis]
        slowest = max(slowest, round((grown or size[axis]) / more) if more > 0 else 1)
    return math.lcm(slowest, step or 1)


def _reach(network: nn.Module, sizes: Sizes) -> tuple[int, ...] | None:
    if 0 in sizes.step:
        return None
    dims = len(sizes.size)
    looking = _without_norms(copy_of(network)).cpu().eval()
    found: list[int] = []
    for axis in range(1 if _is_alike_along_axes(network, sizes) else dims):
        radius = next((r for r in _tries_along(looking, sizes, axis) if r is not None), None)
        if radius is None:
            return None
        found.append(radius)
    return tuple(found) if len(found) == dims else (found[0],) * dims


def _tries_along(network: nn.Module, sizes: Sizes, axis: int) -> Iterator[int | None]:
    """Longer and longer blocks, as narrow as the network takes them."""
    stride = math.lcm(sizes.stride[axis], sizes.step[axis])
    for width in (1, 2, 0):
        narrow = [
            n - max(0, n - width * step_) // step * step if width else n
            for n, step, step_ in zip(sizes.size, sizes.step, sizes.stride, strict=True)
        ]
        length = sizes.size[axis]
        while length <= _LONGEST and length * math.prod(narrow) / narrow[axis] <= _MOST_VOXELS:
            try:
                yield _reach_along(network, sizes, axis, [*narrow[:axis], length, *narrow[axis + 1 :]])
            except Exception:  # it does not take blocks so narrow, or runs on a GPU only
                break
            length += stride * math.ceil(length / stride)


def _is_alike_along_axes(network: nn.Module, sizes: Sizes) -> bool:
    """Whether what is so along one axis is so along all."""
    layers = [part for part in network.modules() if isinstance(part, _ConvNd | _MaxPoolNd | _AvgPoolNd)]
    given = [getattr(part, name) for part in layers for name in ("kernel_size", "stride", "padding")]
    return all(len(set(each)) == 1 for each in [*given, *sizes[1:5]] if isinstance(each, tuple))


def _reach_along(network: nn.Module, sizes: Sizes, axis: int, size: Sequence[int]) -> int | None:
    """The radius along one axis, from what stays free of NaN between two sides; ``None`` if nothing does."""
    stride, context, length = sizes.stride[axis], sizes.context[axis], size[axis]
    low = context + (length // 8) // stride * stride
    high = context + (length - 2 * context - length // 8) // stride * stride
    block = torch.zeros((1, sizes.in_channels, *size))
    block.narrow(2 + axis, 0, low).fill_(math.nan)
    block.narrow(2 + axis, high, length - high).fill_(math.nan)
    logits = first_output(network(block), len(size))
    spread = torch.isnan(logits).movedim(2 + axis, 0).flatten(1).any(1).tolist()
    if all(spread):
        return None
    first = spread.index(False)
    last = len(spread) - spread[::-1].index(False)
    start, stop = -(-first // stride) * stride, last // stride * stride
    if start >= stop or high <= low:
        return None
    return max(0, start + context - low, high - (stop + context))


def _without_norms(network: nn.Module) -> nn.Module:
    """The same object, what normalises over space taken out."""
    for part in network.modules():
        for name, child in part.named_children():
            if isinstance(child, _LOOKING_AT_ALL):
                setattr(part, name, nn.Identity())
    return network


def spatial_dims_of(network: nn.Module) -> int | None:
    """How many axes a network works on: as it says, or by its convolutions if these are of one kind."""
    given = getattr(network, "spatial_dims", None)
    if given in (2, 3):
        return int(given)
    kinds = [
        dims
        for dims, kind in _DIMS_OF.items()
        if dims > 1 and any(isinstance(part, kind) for part in network.modules())
    ]
    return kinds[0] if len(kinds) == 1 else None


def _spatial_dims(network: nn.Module) -> int:
    dims = spatial_dims_of(network)
    if dims is None:
        raise InputError(
            f"{type(network).__name__} has no spatial_dims, and its convolutions, if any, are not all 2D or "
            "all 3D: whether it is for images or volumes cannot be known."
        )
    return dims


def _short(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{brief(error)}."


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
