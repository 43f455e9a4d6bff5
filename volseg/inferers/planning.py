"""Which tiles cost least within a limit of memory: bytes of a forward pass, its operations, and the search.

What a forward pass keeps in memory is a sum of products of lengths, one factor per axis. So the forecast
for the corners of a range of block sizes gives the sizes between them (where another operation sets the
peak there, it is an overestimate), and thousands of tiles can be compared.

What a forward pass of a U-Net costs: multiplications, as a function of the input's size. Every map of the
network is as long, along each axis, as ``input / scale - lost``. So the work of a tile is a sum of products
of lengths, and the work of all tiles of a volume can be added up axis by axis.
"""

import copy
import weakref
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import reduce
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from volseg.errors import ResourceError
from volseg.geometry import Tile, balanced_tiles, plan_tiles
from volseg.inferers.blocks import BlockRunner, unwrapped
from volseg.networks import UNet
from volseg.networks.measuring import copy_of
from volseg.networks.rows import ROWS, forward_rows

__all__ = [
    "Forecast",
    "Layer",
    "MemoryTracker",
    "Plan",
    "estimate_memory",
    "estimate_quick_memory",
    "layers",
    "make_plan",
    "operations",
]


# Beside the tensors that torch shows, a convolution needs copies in another layout and scratch space.
# Measured on a CPU with the 2016 network at full, half and a quarter of its width: 1.27 with channels first;
# with channels last the weights are copied, by rows one convolution's at a time.
# ``benchmarks/inference.py`` compares forecast and resident memory.
_WORKSPACE = 1.3
_WORKSPACE_AT_ONCE = 1.05
_WORKSPACE_BY_ROWS = 1.15
# With at most this many values per place of the last axis torch 2.13 leaves oneDNN for a batch of one in
# float32, and writes down all inputs of the kernel for each voxel.
_FEW = 20480


class Forecast(NamedTuple):
    """Bytes needed at once, and the elements of the largest tensor."""

    bytes: int
    largest: int


def estimate_memory(
    network: nn.Module,
    shape: Sequence[int],
    dtype: torch.dtype,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Forecast:
    """What a forward pass without gradient will need for an input of ``shape``, computed on no data.

    The network runs on torch's ``meta`` device, where tensors have a size and no content, and the
    bytes alive at once are counted. In 16-bit arithmetic it is an overestimate.
    """
    if len(list(network.named_modules(remove_duplicate=False))) > len(list(network.modules())):
        network = copy_of(network)  # functional_call leaves its tensors in modules that have two names
    state = {
        name: value.to("meta") for name, value in [*network.named_parameters(), *network.named_buffers()]
    }
    try:
        with torch.no_grad(), MemoryTracker(device) as tracker:
            block = torch.empty(tuple(shape), dtype=dtype, device="meta")
            functional_call(network, state, (block, *args), dict(kwargs or {}))
    except (
        RuntimeError
    ) as error:  # torch's word for an operation that the device lacks, and for a wrong shape
        raise ValueError(
            f"The memory that {type(network).__name__} needs cannot be estimated, because it does not run on "
            f"torch's meta device: {error} Give the inferer a tile instead."
        ) from error
    return Forecast(int(_WORKSPACE * tracker.peak), tracker.largest)


def estimate_quick_memory(
    meta: UNet, shape: Sequence[int], *, by_rows: bool, device: str = "cpu"
) -> Forecast:
    """The same for the quick copy of a U-Net, which stands on the ``meta`` device, at once or by rows.

    By rows, only as many are sent through as it takes until memory no longer grows.
    """
    weights = list(meta.parameters())
    size = list(shape)
    if by_rows:
        step = meta.stride[0]
        enough = 2 * meta.receptive_radius[0] + 4 * max(ROWS, step)
        size[2] -= max(0, size[2] - enough) // step * step
    parts = [ROWS] * (size[2] // ROWS) + [size[2] % ROWS] * bool(size[2] % ROWS) if by_rows else [size[2]]
    blocks = (weights[0].new_empty((*size[:2], rows, *size[3:])) for rows in parts)
    with torch.no_grad(), MemoryTracker(device, is_quick=True) as tracker:
        for _ in forward_rows(meta, blocks) if by_rows else map(meta, blocks):
            pass
    copies = [part.numel() * part.element_size() for part in weights]
    if by_rows:
        return Forecast(int(_WORKSPACE_BY_ROWS * tracker.peak) + max(copies), tracker.largest)
    return Forecast(int(_WORKSPACE_AT_ONCE * tracker.peak) + sum(copies), tracker.largest)


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes that the results of all operations occupy until they are freed, and those that
    convolutions take beside them.

    Args:
        device: the type of the one that is counted for.
        is_quick: whether convolutions are those of `volseg.networks.layers.convolve`.
    """

    def __init__(self, device: str = "cpu", *, is_quick: bool = False) -> None:
        super().__init__()
        self.device, self.is_quick = device, is_quick
        self.now = self.peak = self.largest = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if isinstance(part, Tensor):
                self._enter(part)
        if func is torch.ops.aten.convolution.default:
            self.peak = max(self.peak, self.now + self._columns(args, result))
        return result

    def _columns(self, args: tuple[Any, ...], result: Tensor) -> int:
        """What a convolution writes down where it does not run by oneDNN."""
        x, weight, transposed = args[0], args[1], args[6]
        taps = prod(weight.shape[2:])
        is_volume = x.ndim == 5 and len(x) == 1 and taps > 1  # of an image it is next to nothing
        few = is_volume and prod(x.shape[:4]) <= _FEW and x.dtype == torch.float32
        if self.device != "cpu" or not few or (self.is_quick and not transposed):
            return 0
        if transposed:
            return int(4 * weight.shape[1] * taps * prod(x.shape[2:]))
        return int(4 * x.shape[1] * taps * prod(result.shape[2:]))

    def _enter(self, part: Tensor) -> None:
        storage = part.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            self.largest = max(self.largest, part.numel())
            weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


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

    for block, pooling in zip(network.analysis, network.pooling, strict=True):
        convolve(block)
        scale = [before * step for before, step in zip(scale, pooling, strict=True)]
        lost = [before / step for before, step in zip(lost, pooling, strict=True)]
    convolve(network.bottom)
    for up, pooling, block in zip(network.ups, reversed(network.pooling), network.synthesis, strict=True):
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


# No tensor inside the network may reach the size that 32-bit indices cannot count.
_MOST_ELEMENTS = 2**31 - 1


class Plan(NamedTuple):
    """How a volume will be processed.

    ``operations`` are the multiplications of the whole volume, or, for networks other than
    :class:`volseg.UNet`, the voxels that are read; ``bytes`` the memory for the largest tile;
    ``by_rows`` whether blocks go through a few rows at a time.
    """

    tile: tuple[int, ...]
    tiles: list[Tile]
    by_rows: bool
    operations: int
    bytes: int


def make_plan(
    runner: BlockRunner, channels: int, size: Sequence[int], memory: int, *, carried: float = 0
) -> Plan:
    """The plan with the fewest operations for a volume of ``size`` within ``memory`` bytes.

    Args:
        carried: bytes per voxel of a block that are held while it is computed, beside the network's own.

    Raises:
        ResourceError: if the smallest possible tile is too large.
    """
    required = runner.required
    options = balanced_tiles(size, required.halo, required.stride, required.remainder)
    estimate = _Forecasts(runner, channels)
    whole = [max(axis[0][1]) for axis in options]
    forecast = estimate(tuple(whole), False)
    fits = forecast.bytes + carried * prod(whole) <= memory and forecast.largest <= _MOST_ELEMENTS
    if fits:
        options = [axis[:1] for axis in options]  # it fits, so nothing else need be looked at
    costs = _costs(options, _layers(runner))
    ways = estimate.ways[:1] if fits else estimate.ways
    found = [
        (costs[place], by_rows, place)
        for by_rows in ways
        if (place := _cheapest(costs, options, estimate, by_rows, memory, carried)) is not None
    ]
    if not found:
        least = tuple(max(axis[-1][1]) for axis in options)
        need = min(estimate(least, by_rows).bytes for by_rows in estimate.ways) + carried * prod(least)
        raise ResourceError(
            f"The smallest possible tile needs about {need / 2**20:,.1f} MiB, but only "
            f"{memory / 2**20:,.1f} MiB may be used. Allow more (max_memory), free memory, "
            "or use a narrower network."
        )
    operations, by_rows, place = min(found)
    tile = tuple(axis[i][0] for axis, i in zip(options, place, strict=True))
    read = tuple(max(axis[i][1]) for axis, i in zip(options, place, strict=True))
    need = estimate(read, by_rows).bytes + int(carried * prod(read))
    tiles = plan_tiles(size, tile, required.halo, required.stride, required.remainder)
    return Plan(tile, tiles, by_rows, int(operations), need)


class _Forecasts:
    """What blocks of any size need, each asked for once."""

    def __init__(self, runner: BlockRunner, channels: int) -> None:
        self.runner = runner
        self.channels = channels
        self.meta = None if runner.quick is None else copy.deepcopy(runner.quick).to("meta")
        self.ways = (False,) if runner.quick is None else (False, True)
        self.known: dict[tuple[tuple[int, ...], bool], Forecast] = {}

    def __call__(self, read: tuple[int, ...], by_rows: bool) -> Forecast:
        if (read, by_rows) not in self.known:
            shape, device = (1, self.channels, *read), self.runner.device.type
            if self.meta is not None:
                forecast = estimate_quick_memory(self.meta, shape, by_rows=by_rows, device=device)
            else:
                runner = self.runner
                network = unwrapped(runner.network)
                forecast = estimate_memory(network, shape, runner.dtype, runner.args, runner.kwargs, device)
            self.known[read, by_rows] = forecast
        return self.known[read, by_rows]


_Options = list[list[tuple[int, list[int]]]]


def _cheapest(
    costs: NDArray[Any],
    options: _Options,
    estimate: _Forecasts,
    by_rows: bool,
    memory: int,
    carried: float,
) -> tuple[int, ...] | None:
    """The place of the cheapest tile that fits, among all combinations of options."""
    blocks = [np.array([max(reads) for _, reads in axis]) for axis in options]
    ends = [(int(axis.min()), int(axis.max())) for axis in blocks]
    best: tuple[int, ...] | None = None
    for _ in range(2):  # once over all sizes, once more closely
        need, largest = _between(ends, blocks, estimate, by_rows)
        need = need + carried * _outer([axis.astype(float) for axis in blocks])
        inside = _outer([axis <= high for axis, (_, high) in zip(blocks, ends, strict=True)])
        fits = inside & (need <= memory) & (largest <= _MOST_ELEMENTS)
        if fits.any():
            best = tuple(map(int, np.unravel_index(np.where(fits, costs, np.inf).argmin(), costs.shape)))
        place = best or (-1,) * len(blocks)  # options are sorted, the smallest comes last
        centre = [int(axis[i]) for axis, i in zip(blocks, place, strict=True)]
        ends = [
            (low, int(axis[axis <= max(low, 2 * n)].max()))
            for n, axis, (low, _) in zip(centre, blocks, ends, strict=True)
        ]
    return best


def _between(
    ends: Sequence[tuple[int, int]], blocks: Sequence[NDArray[Any]], estimate: _Forecasts, by_rows: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bytes and largest tensor for all combinations of block sizes, from those at the corners."""
    need, largest = np.zeros(()), np.zeros(())
    parts = []
    for axis, ((low, high), sizes) in enumerate(zip(ends, blocks, strict=True)):
        share = (sizes - low) / max(1, high - low)
        one_end = low == high or (by_rows and axis == 0)  # by rows, memory does not depend on their number
        parts.append([(high, np.ones(len(sizes)))] if one_end else [(low, 1 - share), (high, share)])
    for corner in product(*parts):
        forecast = estimate(tuple(size for size, _ in corner), by_rows)
        weight = _outer([share for _, share in corner])
        need, largest = need + forecast.bytes * weight, largest + forecast.largest * weight
    return need, largest


def _costs(options: _Options, convolutions: Sequence[Layer]) -> NDArray[Any]:
    """Operations of the whole volume for all combinations of options."""
    lengths = [
        np.array([[sum(layer.length(axis, n) for n in reads) for layer in convolutions] for _, reads in each])
        for axis, each in enumerate(options)
    ]
    letters = "abc"[: len(options)]
    weights = np.array([float(layer.per_voxel) for layer in convolutions])
    terms = ",".join(f"{letter}l" for letter in letters)
    return np.einsum(f"{terms},l->{letters}", *(each.astype(float) for each in lengths), weights)


def _layers(runner: BlockRunner) -> list[Layer]:
    network = unwrapped(runner.network)
    if isinstance(network, UNet):
        return layers(network)
    axes = len(runner.required.stride)
    return [Layer(1, (Fraction(1),) * axes, (Fraction(0),) * axes)]


def _outer(vectors: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return reduce(np.multiply.outer, vectors)
