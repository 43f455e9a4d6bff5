"""What the machine at hand can bear: the scale of a training, its number format, where its volumes lie."""

import functools
import logging
import time
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from volseg.arguments import option
from volseg.data import TrainingPatches
from volseg.machine import free_memory, has_bf16

__all__ = ["Cache", "choose_scale", "device_of", "keep_on_device", "scale_names", "to_device", "use_bf16"]

logger = logging.getLogger(__name__)

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_FASTER = 0.8  # of float32's time: so much less, or the difference is not worth the coarser numbers
_TRIALS = 5


def choose_scale(
    scales: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    table: Mapping[str, Mapping[str, Any]] | None = None,
    scale: str = "auto",
    device: torch.device | str,
) -> dict[str, Any]:
    """The settings of one scale of a bundle, with its ``name`` and a ``note`` for the log.

    ``"auto"`` takes the first scale where there is a GPU and the last where there is none.

    Args:
        scales: the settings of each scale, by its name.
        table: the same with a row for each setting, instead: its value at each scale.

    Raises:
        ValueError: if there is no such scale, or a row of the table lacks one.
    """
    if (scales is None) == (table is None):
        raise ValueError("choose_scale takes either scales or a table of them: give one of both.")
    scales = _columns(table) if scales is None else scales
    names = list(scales)
    if scale != "auto" and scale not in scales:
        raise ValueError(f"scale = {scale!r} is not one of: auto, {', '.join(names)}.")
    on_gpu = torch.device(device).type != "cpu"
    name = scale if scale != "auto" else names[0] if on_gpu else names[-1]
    note = f"Training at the {name!r} scale"
    if not on_gpu and scale == "auto":
        note = f"No GPU was found: training at the {name!r} scale, the bundle's settings for a CPU"
        note += f" ({option('scale', names[0])} takes those for a GPU)"
    return {**scales[name], "name": name, "note": note}


def _columns(table: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """The settings of each scale, of a table with a row for each setting."""
    rows = dict(table or {})
    names = scale_names(rows)
    for setting, row in rows.items():
        if set(row) != set(names):
            raise ValueError(
                f"{setting} has values for the scales {', '.join(row)}, other settings for "
                f"{', '.join(names)}: give each setting a value at each scale."
            )
    return {name: {setting: row[name] for setting, row in rows.items()} for name in names}


def scale_names(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The scales that a table of settings has a column for, in their order."""
    return list(next(iter(table.values()), {}))


def to_device(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on its device, in the memory layout that convolutions run fastest in.

    On a CPU, networks with flat kernels such as (1, 3, 3) keep torch's ordinary layout: in channels-last
    memory bfloat16 was seen to crash or to return NaN with them (torch 2.13). So do networks with linear
    layers, anywhere: they may lay voxels in a row by ``view``, which that memory does not allow, as MONAI's
    SegResNetVAE does.
    """
    is_flat = torch.device(device).type == "cpu" and _has_flat_kernels(network)
    if is_flat or any(isinstance(part, nn.Linear) for part in network.modules()):
        return network.to(device)
    dims = 2 if any(isinstance(part, nn.Conv2d) for part in network.modules()) else 3
    return network.to(device).to(memory_format=_CHANNELS_LAST[dims])  # type: ignore[call-overload]


def device_of(network: nn.Module, device: torch.device | str | None = None) -> torch.device:
    """The device that is asked for, or the one that the network is on."""
    if device is not None:
        return torch.device(device)
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def use_bf16(
    network: nn.Module, device: torch.device | str | None = None, *, precision: str = "auto"
) -> bool:
    """Whether to compute in bfloat16: where that is clearly faster, unless set otherwise.

    On a CPU that multiplies it natively a convolution of the network is timed in both formats.
    ``"auto"`` keeps to float32 there for networks with flat kernels, see :func:`to_device`.

    Raises:
        ValueError: if ``precision`` is not ``"auto"``, ``"bfloat16"`` or ``"float32"``.
    """
    if precision not in ("auto", "bfloat16", "float32"):
        raise ValueError(f"precision = {precision!r} is not one of: auto, bfloat16, float32.")
    if precision != "auto":
        return precision == "bfloat16"
    device = device_of(network, device)
    if device.type == "cuda":
        return has_bf16(device)
    convolutions = _convolutions(network)
    if not has_bf16(device) or not convolutions or _has_flat_kernels(network):
        return False
    layer = convolutions[min(1, len(convolutions) - 1)]  # of the finest level, where most of the time goes
    return _is_faster(layer.in_channels, layer.out_channels, layer.kernel_size)


@functools.cache  # asked once for the trainer and once for the inferer
def _is_faster(inputs: int, outputs: int, kernel: tuple[int, ...]) -> bool:
    """Whether a training step of a convolution takes clearly less time in bfloat16 than in float32."""
    dims = len(kernel)
    with torch.random.fork_rng(devices=()), torch.enable_grad():  # the run's own numbers stay as they are
        layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(inputs, outputs, kernel)  # type: ignore[arg-type]
        image = torch.randn(1, inputs, *{2: (192, 192), 3: (32, 32, 32)}[dims])
    layer = layer.to(memory_format=_CHANNELS_LAST[dims])  # type: ignore[call-overload]
    image = image.to(memory_format=_CHANNELS_LAST[dims]).requires_grad_()
    seconds: dict[bool, float] = {}
    for _ in range(_TRIALS):
        for amp in (False, True):
            seconds[amp] = min(_seconds(layer, image, amp), seconds.get(amp, float("inf")))
    logger.debug("A convolution takes %.4f s in float32, %.4f s in bfloat16.", seconds[False], seconds[True])
    return seconds[True] < _FASTER * seconds[False]


def _seconds(layer: nn.Module, image: torch.Tensor, amp: bool) -> float:
    start = time.perf_counter()
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        output = layer(image)
    output.backward(torch.ones_like(output))
    return time.perf_counter() - start


def _convolutions(network: nn.Module) -> list[Any]:
    return [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)]


def _has_flat_kernels(network: nn.Module) -> bool:
    return any(len(set(layer.kernel_size)) > 1 for layer in _convolutions(network))


Cache: TypeAlias = Literal["auto", "device", "host"]

_SHARE = 0.5  # of the free memory; the rest is the network's


def keep_on_device(dataset: TrainingPatches, device: torch.device, cache: Cache) -> bool:
    """Move the volumes of a dataset to the device, if that is asked for or they fit; whether they moved.

    Raises:
        ValueError: if ``cache`` is not ``"auto"``, ``"device"`` or ``"host"``.
    """
    if cache not in get_args(Cache):
        raise ValueError(f"cache = {cache!r} is not one of: {', '.join(get_args(Cache))}.")
    if device.type == "cpu" or cache == "host":
        return False
    size = sum(tensor.nbytes for item in dataset.cases for tensor in _volumes(item).values())
    room = free_memory(device)
    if cache == "auto" and size > _SHARE * room:
        logger.info(
            "The volumes (%.1f GB) stay in main memory: %.1f GB are free on %s.",
            size / 1e9,
            room / 1e9,
            device,
        )
        return False
    for item in dataset.cases:
        cast(dict[str, object], item).update({key: one.to(device) for key, one in _volumes(item).items()})
    logger.info("The volumes (%.1f GB) are on %s, where the patches are drawn.", size / 1e9, device)
    return True


def _volumes(item: Mapping[str, object]) -> dict[str, Tensor]:
    """What patches are drawn from; annotation that is held out is not needed there."""
    return {
        key: value
        for key, value in item.items()
        if isinstance(value, Tensor) and key in ("image", "label", "weight", "instances")
    }
