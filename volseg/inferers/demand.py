"""What a network says about its sizes: the border it reads, the multiples on which tiles must stand."""

from itertools import product
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["Demand", "demand_of", "unwrapped"]


class Demand(NamedTuple):
    """What tiles have to respect: border to read, multiples, and what outputs are modulo these."""

    context: tuple[int, ...]
    halo: tuple[int, ...]
    stride: tuple[int, ...]
    remainder: tuple[int, ...]


def demand_of(network: nn.Module) -> Demand:
    """What the network says about its sizes, by the attributes of :class:`volseg.UNet`."""
    described: Any = unwrapped(network)
    missing = [name for name in ("context", "stride", "input_size") if not hasattr(described, name)]
    if not missing and not hasattr(described, "receptive_radius") and not any(described.context):
        missing = ["receptive_radius"]
    if missing:
        raise ValueError(
            f"{type(described).__name__} does not tell {' and '.join(missing)}, so tiles cannot be planned "
            "for it. Use volseg.UNet, or monai.inferers.SlidingWindowInferer for a network that returns the "
            "size it is given."
        )
    context, stride = tuple(described.context), tuple(described.stride)
    radius = tuple(getattr(described, "receptive_radius", context))
    halo = tuple(c + -(-(r - c) // s) * s for c, r, s in zip(context, radius, stride, strict=True))
    return Demand(context, halo, stride, _remainder(described, stride))


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside what ``torch.compile`` or parallel training put around it."""
    while isinstance(network, DataParallel | DistributedDataParallel) or hasattr(network, "_orig_mod"):
        network = network.module if hasattr(network, "module") else network._orig_mod  # type: ignore[assignment]
    return network


def _remainder(network: Any, stride: tuple[int, ...]) -> tuple[int, ...]:
    """What the network's output sizes are modulo the stride, found by asking for some."""
    isotropic = ((n,) * len(stride) for n in range(1, max(stride) + 1))
    anything = product(*(range(1, step + 1) for step in stride))
    for candidates in (isotropic, anything):
        for size in candidates:
            try:
                network.input_size(size)
            except ValueError:
                continue
            return tuple(n % step for n, step in zip(size, stride, strict=True))
    raise ValueError(
        f"{type(network).__name__}.input_size accepts no output size up to the stride {stride}, "
        "so tiles cannot be planned."
    )
