"""What a network says about its sizes: the border it reads, the multiples on which tiles must stand."""

import logging
import weakref
from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel

from volseg.networks.measuring import looks_how_far, sizes_of

__all__ = ["Demand", "demand_of", "says_its_sizes", "unwrapped", "window_of"]

_log = logging.getLogger(__name__)

_MOST_BORDER = 8  # times the image, with the borders that tiles of a network of others read
_SAID: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()  # networks whose sizes were logged


class Demand(NamedTuple):
    """What tiles have to respect: border to read, multiples, and what outputs are modulo these."""

    context: tuple[int, ...]
    halo: tuple[int, ...]
    stride: tuple[int, ...]
    remainder: tuple[int, ...]


def demand_of(network: nn.Module) -> Demand:
    """What the network says of its sizes, by the attributes of :class:`volseg.UNet`, or what is measured."""
    described: Any = unwrapped(network)
    if not says_its_sizes(described):
        demand = _measured(described)
        _say(described, demand)
        return demand
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


def says_its_sizes(network: nn.Module) -> bool:
    """Whether a network has any of the attributes of :class:`volseg.UNet`."""
    return any(hasattr(unwrapped(network), name) for name in ("context", "input_size", "receptive_radius"))


def window_of(network: nn.Module, size: Sequence[int]) -> tuple[int, ...] | None:
    """The window for MONAI's sliding window over an image of ``size``, where seamless tiles cannot be.

    That is so for a network of others of which a voxel depends on the whole input, or on so much of it that
    the borders of tiles would be several times the image. ``None`` for all others.
    """
    described = unwrapped(network)
    if says_its_sizes(described):
        return None
    sizes, radius = sizes_of(described), looks_how_far(described)
    if len(size) != len(sizes.size):
        return None if radius is not None else sizes.size
    if radius is not None:
        halo = _measured(described).halo
        if prod(n + 2 * h for n, h in zip(size, halo, strict=True)) <= _MOST_BORDER * prod(size):
            return None
    if described not in _SAID:
        _SAID.add(described)
        far = "its whole input" if radius is None else f"{radius} voxels around it"
        _log.info(
            "Each voxel that %s returns depends on %s, too much for seamless tiles: MONAI's sliding window "
            "of %s voxels, half overlapping, is taken. Set the inferer's tile to the patch size for windows "
            "as in training.",
            *(type(described).__name__, far, " x ".join(map(str, sizes.size))),
        )
    return sizes.size


def _measured(network: nn.Module) -> Demand:
    sizes, radius = sizes_of(network), looks_how_far(network)
    if radius is None:
        raise ValueError(
            f"Each voxel that {type(network).__name__} returns depends on its whole input, so tiles cannot "
            "be planned for it. Take monai.inferers.SlidingWindowInferer."
        )
    context, stride = sizes.context, sizes.stride
    halo = tuple(c + -(-(r - c) // s) * s for c, r, s in zip(context, radius, stride, strict=True))
    remainder = tuple((n - 2 * c) % s for n, c, s in zip(sizes.size, context, stride, strict=True))
    return Demand(context, halo, stride, remainder)


def _say(network: nn.Module, demand: Demand) -> None:
    if network in _SAID:
        return
    _SAID.add(network)
    _log.info(
        "%s does not say its sizes; measured: context %s, stride %s; tiles overlap by the %s voxels that it "
        "looks beyond them.%s",
        *(type(network).__name__, demand.context, demand.stride, demand.halo, _of_norms(network)),
    )


def _of_norms(network: nn.Module) -> str:
    """What to say of norms that look at the tile."""
    kinds = _InstanceNorm | nn.GroupNorm
    names = {type(part).__name__ for part in network.modules() if isinstance(part, kinds)}
    if not names:
        return ""
    return (
        f" Its {' and '.join(sorted(names))} takes statistics from the tile at hand: with the inferer's tile "
        "set to about the patch size these are as in training."
    )


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
