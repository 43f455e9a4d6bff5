"""Where the volumes lie that are trained on: on the device if there is room, patches are then drawn there."""

import logging
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from volseg.data import TrainingPatches

__all__ = ["Cache", "keep_on_device"]

logger = logging.getLogger(__name__)

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
    room = _free_memory(device)
    if cache == "auto" and size > _SHARE * room:
        logger.info(
            "The volumes (%.1f GB) stay in main memory: %.1f GB are free on %s.",
            size / 1e9,
            room / 1e9,
            device,
        )
        return False
    for item in dataset.cases:
        item.update({key: tensor.to(device) for key, tensor in _volumes(item).items()})
    logger.info("The volumes (%.1f GB) are on %s, where the patches are drawn.", size / 1e9, device)
    return True


def _volumes(item: dict[str, Any]) -> dict[str, Tensor]:
    """What patches are drawn from; annotation that is held out is not needed there."""
    return {
        key: value
        for key, value in item.items()
        if isinstance(value, Tensor) and key in ("image", "label", "weight", "instances")
    }


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
