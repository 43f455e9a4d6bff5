"""A U-Net whose architecture follows from the volume and the machine, and what it says once it has learnt.

Depth, kernels and pooling follow from the size and the spacing of the volume: an axis with longer voxels is
not pooled until the others have caught up, and kernels are flat along it until then (as in nnU-Net, Isensee
et al. 2021). Width and patch follow from the machine and the minutes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from volseg.geometry import tiles_needed
from volseg.greyvalues import normalised
from volseg.inferers import OverlapTileInferer
from volseg.inferers.blocks import BlockRunner
from volseg.inferers.overlap_tile import process_tiles
from volseg.inferers.statistics import as_for_inference
from volseg.learning import Block, Curve, Progress, Scores, Task
from volseg.machine import has_bf16
from volseg.networks import UNet

__all__ = ["UNET", "Architecture", "UNetModel", "grey_values", "in_16_bits", "placed", "choose_architecture"]

UNET = "unet"
_WIDTH = {"cpu": 16, "cuda": 32}  # channels of the finest level
_LEVELS = {("cpu", 2): 4, ("cpu", 3): 3, ("cuda", 2): 5, ("cuda", 3): 4}
_VOXELS = {("cpu", 2): 2**15, ("cpu", 3): 2**16, ("cuda", 2): 2**17, ("cuda", 3): 2**20}  # of a patch
_LONG = 3600.0  # seconds of learning from which on the network is twice as wide
_COARSE = 1.5  # an axis this much coarser than the finest is not pooled, and kernels are flat along it
_NEVER = 10.0  # less than any other class, in logits, is one that was never painted


class Architecture(NamedTuple):
    """A network and its patches, as plain lists for a checkpoint; one entry per level, then per axis."""

    channels: list[list[int]]
    kernels: list[list[int]]
    pooling: list[list[int]]
    patch: list[int]


def choose_architecture(
    size: Sequence[int], spacing: Sequence[float], *, seconds: float, device: torch.device | str
) -> Architecture:
    """The network for volumes of this size and spacing on a device, and the patch to train it on."""
    kind, dims = torch.device(device).type, len(size)
    kind = kind if kind in _WIDTH else "cuda"
    width = _WIDTH[kind] * (2 if seconds >= _LONG else 1)
    stride, now, kernels, pooling = [1] * dims, list(spacing), [], []
    for _ in range(_LEVELS[kind, dims]):
        is_fine = [d <= _COARSE * min(now) for d in now]
        now = [2 * d if fine else d for d, fine in zip(now, is_fine, strict=True)]
        kernels.append([3 if fine else 1 for fine in is_fine])
        pool = [2 if fine and n // s >= 8 else 1 for fine, n, s in zip(is_fine, size, stride, strict=True)]
        pooling.append(pool)
        if max(pool) == 1:
            break
        stride = [s * p for s, p in zip(stride, pool, strict=True)]
    pooling.pop()
    strides = [math.prod(steps) for steps in zip(*pooling, strict=True)] if pooling else [1] * dims
    patch = [-(-n // s) * s for n, s in zip(size, strides, strict=True)]
    while math.prod(patch) > _VOXELS[kind, dims]:
        lengths = [n * d if n > s else 0.0 for n, d, s in zip(patch, spacing, strides, strict=True)]
        longest = lengths.index(max(lengths))
        patch[longest] -= strides[longest]
    channels = [[width << level] * 2 for level in range(len(kernels))]
    return Architecture(channels, kernels, pooling, patch)


class UNetModel:
    """A trained network.

    Attributes:
        steps: that it has been trained for, in all.
        painted: by class, whether it was ever painted; others cannot have been learnt, and are found nowhere.
    """

    def __init__(self, architecture: Architecture, channels: int, classes: int, *, seed: int = 0) -> None:
        self.architecture = architecture
        self.channels = channels
        self.steps = 0
        self.painted = [False] * classes
        self.curve = Curve()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.network = UNet(
                len(architecture.patch),
                channels,
                classes,
                channels=architecture.channels,
                kernel_size=architecture.kernels,
                pooling=architecture.pooling,
                padding="same",
                norm="batch",
                up_channels="halve",
            )

    def predict(self, task: Task, block: Block | None = None, *, progress: Progress | None = None) -> Scores:
        """Logits ``(classes, *spatial)`` of every voxel, or of those in a block."""
        where = np.full(task.size, block is None)
        if block is not None:
            where[block] = True
        found = self._logits(task, where, progress)
        return found if block is None else np.ascontiguousarray(found[(slice(None), *block)])

    def predict_at(self, task: Task, where: npt.NDArray[np.bool_]) -> Scores:
        """The same of the voxels where a mask is true, in C order: ``(classes, n)``."""
        return self._logits(task, where)[:, where]

    def without_prior(self, task: Task) -> "UNetModel":
        """Itself: a U-Net does not know where paint lies."""
        return self

    @torch.no_grad()
    def _logits(self, task: Task, where: npt.NDArray[np.bool_], progress: Progress | None = None) -> Scores:
        """Logits ``(classes, *spatial)``, right wherever the mask is true."""
        image, network = grey_values(task), placed(self, task)
        inferer, runner = (
            OverlapTileInferer(),
            BlockRunner(network, amp=in_16_bits(self.architecture, task.device)),
        )
        found = np.zeros((self.network.out_channels, *task.size), np.float32)
        done = 0
        with as_for_inference(network, inferer.batch_norm):
            _, *required = runner.required
            tiles = tiles_needed(inferer.tiles(image, runner), where, *required)
            for _, block, logits in process_tiles(image, runner, tiles):
                found[:, *block] = logits.float().cpu().numpy()
                done += math.prod(logits.shape[1:])
                if progress is not None:
                    progress(min(done / where.size, 1.0), "segmenting")
        painted = np.array(self.painted)
        found[~painted] = found[painted].min(0) - _NEVER
        return found

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        weights = {name: t.detach().cpu().clone() for name, t in self.network.state_dict().items()}
        facts = {"plan": self.architecture._asdict(), "in_channels": self.channels, "steps": self.steps}
        facts |= {"painted": self.painted, "curve": asdict(self.curve)}
        return {"learner": UNET, "model": weights, **facts}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "UNetModel":
        """What :meth:`state` gave."""
        model = cls(Architecture(**state["plan"]), state["in_channels"], len(state["painted"]))
        model.network.load_state_dict(state["model"])
        model.network.eval()
        model.steps, model.painted = state["steps"], list(state["painted"])
        model.curve = Curve(**{name: list(values) for name, values in state["curve"].items()})
        return model


def grey_values(task: Task) -> Tensor:
    """The normalised image ``(C, *spatial)``, on the device."""
    image: Tensor = task.once("grey", lambda: normalised(np.asarray(task.image)).to(task.device))
    return image


def placed(model: UNetModel, task: Task) -> nn.Module:
    """The network on the task's device, in the layout that is quickest there."""
    from volseg.engines.scale import (
        to_device,  # brings all of the engines along, which only this learner needs
    )

    return to_device(model.network, task.device)


def in_16_bits(architecture: Architecture, device: torch.device | str) -> bool:
    """Whether to compute in bfloat16: by what the machine can, not by a measurement, which would not repeat;
    nor with flat kernels on a CPU, see :func:`volseg.engines.scale.to_device`."""
    has_flat_kernels = any(len(set(kernel)) > 1 for kernel in architecture.kernels)
    return has_bf16(device) and not (torch.device(device).type == "cpu" and has_flat_kernels)
