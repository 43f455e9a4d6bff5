"""The U-Net as a learner: trained from nothing on patches around painted voxels, in a given time.

The parts are those that the bundles train with: :class:`volseg.UNet`, patches by
:class:`volseg.RandDeformedPatchd` and :class:`volseg.RandGreyValuesd`, :class:`volseg.SparseDiceCE` over
annotated voxels, overlap-tile inference. What differs is that no person chooses the architecture. Depth,
kernels and pooling follow from the size and the spacing of the volume: an axis with longer voxels is not
pooled until the others have caught up, and kernels are flat along it until then (as in nnU-Net, Isensee et
al. 2021). Width and patch follow from the machine and the minutes.

Patch ``i`` is a function of the seed and ``i``, so a number of steps gives the same network wherever time
is not the limit.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose
from torch import Tensor, nn

from volseg.errors import InputError
from volseg.geometry import tiles_needed
from volseg.greyvalues import normalised
from volseg.inferers import OverlapTileInferer
from volseg.inferers.blocks import BlockRunner
from volseg.inferers.overlap_tile import process_tiles
from volseg.inferers.statistics import as_for_inference, clean_statistics, load_statistics
from volseg.labels import IGNORE_INDEX
from volseg.learning import Block, Curve, Labels, Learner, Progress, Scores, Task, Trained
from volseg.losses import SparseDiceCE
from volseg.machine import has_bf16
from volseg.networks import UNet
from volseg.transforms import RandDeformedPatchd, RandGreyValuesd
from volseg.transforms.deformation import annotated_voxels

__all__ = [
    "Architecture",
    "UNET",
    "UNetLearner",
    "UNetModel",
    "choose_architecture",
    "grey_values",
    "in_16_bits",
    "placed",
]


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
        self.notes: list[str] = []
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


_BATCH = 2
_RATE, _DECAY = 1e-2, 0.01
_EVERY = 10  # steps between two points of the curve
_CLEAN = 8  # undeformed patches that batch normalisation takes its statistics from, in the end
_LOOKED_AT = 2  # held-out patches for each point
_STD = 4.0  # of the deformation, in voxels along the finest axis


class UNetLearner(Learner):
    """The U-Net of this package, on patches of the volume at hand."""

    name = UNET
    title = "the U-Net"
    methods = (
        "A U-Net (Ronneberger et al. 2015, Çiçek et al. 2016) with padded convolutions and batch "
        "normalisation was trained from scratch on elastically deformed patches around annotated voxels, "
        "with cross-entropy and soft Dice loss over annotated voxels only and AdamW (Loshchilov and Hutter "
        "2019), and applied by overlapping tiles."
    )
    sources = (
        "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. "
        "MICCAI, LNCS 9351, 234–241 (2015).",
        "Çiçek Ö, Abdulkadir A, Lienkamp SS, Brox T, Ronneberger O. 3D U-Net: learning dense volumetric "
        "segmentation from sparse annotation. MICCAI, LNCS 9901, 424–432 (2016).",
        "Loshchilov I, Hutter F. Decoupled weight decay regularization. ICLR (2019).",
    )
    fewest = 20
    patience = 4.0

    def prepare(self, task: Task) -> float:
        """The normalised image; and the time of all tiles, from that of one patch."""
        image = grey_values(task)
        architecture = choose_architecture(task.size, task.spacing, seconds=0, device=task.device)
        model = UNetModel(architecture, len(image), task.classes)
        network = placed(model, task).eval()
        amp = in_16_bits(architecture, task.device)
        tiles = OverlapTileInferer().tiles(image, BlockRunner(network, amp=amp))
        read = sum(math.prod(span.stop - span.start for span in tile.read) for tile in tiles)
        patch = torch.zeros(1, len(image), *architecture.patch, device=task.device)
        began = time.monotonic()
        with torch.no_grad(), torch.autocast(patch.device.type, torch.bfloat16, enabled=amp):
            network(patch)
        return (time.monotonic() - began) * read / math.prod(architecture.patch)

    def learn(
        self,
        task: Task,
        labels: Labels,
        *,
        slices: Mapping[str, Sequence[int]] | None = None,
        seconds: float,
        fewest: int | None = None,
        start: Trained | None = None,
        held_out: Labels | None = None,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> UNetModel:
        """See :meth:`volseg.learning.Learner.learn`; ``slices`` are not looked at."""
        began, fewest = time.monotonic(), self.fewest if fewest is None else fewest
        if not (labels != IGNORE_INDEX).any():
            raise InputError("No voxel is painted, so there is nothing to learn from. Paint some slices.")
        if start is None:
            architecture = choose_architecture(task.size, task.spacing, seconds=seconds, device=task.device)
            model = UNetModel(architecture, len(task.image), task.classes, seed=task.seed)
        elif isinstance(start, UNetModel):
            model = copy.deepcopy(start)
            model.curve = Curve()
        else:
            raise ValueError(f"start was not learnt by {self.title}, which cannot continue it.")
        model.painted = [known or bool((labels == c).any()) for c, known in enumerate(model.painted)]
        network = placed(model, task)
        patches = _Patches(task, labels, model.architecture)
        looked_at = None
        if held_out is not None and (held_out != IGNORE_INDEX).any():
            looked_at = _Patches(task, held_out, model.architecture, deform=False).batch(range(_LOOKED_AT))
        loss_of, amp = SparseDiceCE(), in_16_bits(model.architecture, task.device)
        optimizer = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
        first, losses = model.steps, []
        network.train()
        for step in itertools.count():
            share = min((time.monotonic() - began) / seconds, step / fewest)
            if share >= 1 or (should_stop is not None and should_stop()):
                break
            for group in optimizer.param_groups:
                group["lr"] = _RATE * min(1.0, 0.05 + 20 * share) * 0.5 * (1 + math.cos(math.pi * share))
            number = first + step
            image, target = patches.batch(range(number * _BATCH, (number + 1) * _BATCH))
            optimizer.zero_grad()
            with torch.autocast(image.device.type, torch.bfloat16, enabled=amp):
                logits = network(image)
            loss = loss_of(logits.float(), target)
            loss.backward()
            optimizer.step()
            model.steps += 1
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(share, "learning")
            if len(losses) == _EVERY or step == 0:
                model.curve.iterations.append(step + 1)
                model.curve.loss.append(sum(losses) / len(losses))
                losses = []
                if looked_at is not None:
                    model.curve.validation.append(_loss_at(network, *looked_at, loss_of))
        undeformed = _Patches(task, labels, model.architecture, deform=False)
        blocks = (undeformed.batch([number])[0] for number in range(_CLEAN))
        load_statistics(network, clean_statistics(network, blocks))
        network.eval()
        return model

    def from_state(self, state: Mapping[str, Any]) -> UNetModel:
        """A model from a file."""
        return UNetModel.from_state(state)


class _Patches:
    """Patches around painted voxels, each a function of the seed and its number."""

    def __init__(
        self, task: Task, labels: Labels, architecture: Architecture, *, deform: bool = True
    ) -> None:
        self.seed = task.seed
        self.data = {
            "image": grey_values(task),
            "label": torch.from_numpy(labels[None]).to(task.device),
            "label_voxels": annotated_voxels(labels, task.classes),
            "spacing": task.spacing,
        }
        finest = min(task.spacing)
        geometry: dict[str, Any] = {"std": [_STD * finest / s for s in task.spacing], "flip": 0.5}
        geometry |= {"quarter_turns": True, "scaling": (0.8, 1.25), "rotation": 30.0}
        if not deform:
            geometry = {"prob_deform": 0.0, "scaling": (1.0, 1.0), "rotation": 0.0}
        steps: list[Any] = [RandDeformedPatchd(patch_size=architecture.patch, **geometry)]
        self.transform = Compose([*steps, RandGreyValuesd(prob=0.8)] if deform else steps)

    def batch(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, *patch)`` and labels ``(B, 1, *patch)``."""
        drawn = []
        for number in numbers:
            self.transform.set_random_state(seed=(self.seed * 1_000_003 + number) % 2**32)
            drawn.append(self.transform(dict(self.data)))
        image, label = (torch.stack([one[key] for one in drawn]) for key in ("image", "label"))
        return image, label


@torch.no_grad()
def _loss_at(network: Any, image: Tensor, target: Tensor, loss_of: SparseDiceCE) -> float:
    network.eval()
    loss = float(loss_of(network(image), target))
    network.train()
    return loss
