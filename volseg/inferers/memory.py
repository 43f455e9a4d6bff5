"""How much memory a network will need for one block. Bytes throughout."""

import weakref
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from volseg.networks import UNet
from volseg.networks.measuring import copy_of
from volseg.networks.rows import ROWS, forward_rows

__all__ = [
    "Forecast",
    "MemoryTracker",
    "estimate_memory",
    "estimate_quick_memory",
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
