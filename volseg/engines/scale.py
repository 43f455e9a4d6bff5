"""How large a training the machine at hand can bear: which scale of a bundle, which number format."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["choose_scale", "place", "use_bf16"]

logger = logging.getLogger(__name__)

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def choose_scale(
    scales: Mapping[str, Mapping[str, Any]], *, scale: str = "auto", device: torch.device | str
) -> dict[str, Any]:
    """The settings of one scale of a bundle, with its ``name`` and a ``note`` for the log.

    ``"auto"`` takes the first of ``scales`` where there is a GPU and the last where there is none.

    Raises:
        ValueError: if there is no such scale.
    """
    names = list(scales)
    if scale != "auto" and scale not in scales:
        raise ValueError(f"scale = {scale!r} is not one of: auto, {', '.join(names)}.")
    on_gpu = torch.device(device).type != "cpu"
    name = scale if scale != "auto" else names[0] if on_gpu else names[-1]
    note = f"Training at the {name!r} scale"
    if not on_gpu and scale == "auto":
        note = f"No GPU was found: training at the {name!r} scale, a narrower network for fewer iterations"
        note += f" (--scale {names[0]} forces the full recipe)"
    return {**scales[name], "name": name, "note": note}


def place(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on its device, in the memory layout that convolutions run fastest in."""
    dims = getattr(network, "spatial_dims", 3)
    return network.to(device).to(memory_format=_CHANNELS_LAST[dims])  # type: ignore[call-overload]


def use_bf16(network: nn.Module, device: torch.device | str, *, precision: str = "auto") -> bool:
    """Whether to compute in bfloat16: where the device multiplies it natively, unless told otherwise.

    On a CPU, ``"auto"`` keeps to float32 for networks with flat kernels such as (1, 3, 3): torch 2.13
    was seen to crash or to return NaN there in bfloat16 with channels-last memory.

    Raises:
        ValueError: if ``precision`` is not ``"auto"``, ``"bfloat16"`` or ``"float32"``.
    """
    if precision not in ("auto", "bfloat16", "float32"):
        raise ValueError(f"precision = {precision!r} is not one of: auto, bfloat16, float32.")
    if precision != "auto":
        return precision == "bfloat16"
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    kernels = {m.kernel_size for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)}
    if any(len(set(kernel)) > 1 for kernel in kernels):
        return False
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)
