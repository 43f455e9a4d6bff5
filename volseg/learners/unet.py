"""The U-Net as a learner: trained from nothing on patches around painted voxels, in a given time.

The parts are those that the bundles train with: :class:`volseg.UNet`, patches by
:class:`volseg.RandDeformedPatchd` and :class:`volseg.RandGreyValuesd`, :class:`volseg.SparseDiceCE` over
annotated voxels, overlap-tile inference. What differs is that no person chooses the architecture
(:mod:`volseg.learners.architecture`). Where whole slices are painted it is a 2D network that looks at
sections (:mod:`volseg.learners.sections`).

Patch ``i`` is a function of the seed and ``i``, so a number of steps gives the same network wherever time
is not the limit.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose
from torch import Tensor, nn

from volseg.errors import InputError
from volseg.geometry import AXES, tiles_needed
from volseg.greyvalues import normalised
from volseg.inferers import OverlapTileInferer
from volseg.inferers.blocks import BlockRunner
from volseg.inferers.overlap_tile import process_tiles
from volseg.inferers.statistics import as_for_inference, clean_statistics, load_statistics
from volseg.labels import IGNORE_INDEX
from volseg.learners.architecture import Architecture, choose_architecture
from volseg.learners.sections import NEIGHBOURS, across, largest, painted_sections, section, sections_in
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
_SECTIONS = "The U-Net looked at sections across {}, each with its neighbours, not at blocks of the volume."
_NEVER = 10.0  # less than any other class, in logits, is one that was never painted


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
        if architecture.axes:
            self.notes.append(_SECTIONS.format(" and ".join(AXES[axis] for axis in architecture.axes)))
        self.painted = [False] * classes
        self.curve = Curve()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.network = UNet(
                len(architecture.patch),
                channels * (1 + 2 * NEIGHBOURS if architecture.axes else 1),
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
        image, network, axes = grey_values(task), placed(self, task), self.architecture.axes
        inferer, runner = (
            OverlapTileInferer(),
            BlockRunner(network, amp=in_16_bits(self.architecture, task.device)),
        )
        found = np.zeros((self.network.out_channels, *task.size), np.float32)
        views: Any = [(image, found, where)]
        if axes:
            views = (
                (section(image, axis, index), found[(slice(None), *place)], where[place])
                for axis, index, place in sections_in(where, axes)
            )
        done = 0
        with as_for_inference(network, inferer.batch_norm):
            _, *required = runner.required
            for seen, out, needed in views:
                tiles = tiles_needed(inferer.tiles(seen, runner), needed, *required)
                for _, block, logits in process_tiles(seen, runner, tiles):
                    out[:, *block] += logits.float().log_softmax(0).cpu().numpy()
                    done += math.prod(logits.shape[1:])
                    if progress is not None:
                        progress(min(done / (where.size * max(len(axes), 1)), 1.0), "segmenting")
        found /= max(len(axes), 1)
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
_CLEAN, _CLEAN_2D = (
    8,
    24,
)  # undeformed patches that batch normalisation takes its statistics from; of sections
_LOOKED_AT = 2  # held-out patches for each point
_STD, _STD_2D = 4.0, 8.0  # of the deformation, in voxels along the finest axis; of sections


class UNetLearner(Learner):
    """The U-Net of this package, on patches of the volume at hand."""

    name = UNET
    title = "the U-Net"
    methods = (
        "A U-Net (Ronneberger et al. 2015, Çiçek et al. 2016) with padded convolutions and batch "
        "normalisation was trained from scratch on elastically deformed patches around annotated voxels (of "
        "the volume, or of annotated sections with their two neighbours as channels, Roth et al. 2014), "
        "with cross-entropy and soft Dice loss over annotated voxels only and AdamW (Loshchilov and Hutter "
        "2019), and applied by overlapping tiles."
    )
    sources = (
        "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. "
        "MICCAI, LNCS 9351, 234–241 (2015).",
        "Çiçek Ö, Abdulkadir A, Lienkamp SS, Brox T, Ronneberger O. 3D U-Net: learning dense volumetric "
        "segmentation from sparse annotation. MICCAI, LNCS 9901, 424–432 (2016).",
        "Roth HR et al. A new 2.5D representation for lymph node detection using random sets of deep "
        "convolutional neural network observations. MICCAI, LNCS 8673, 520–527 (2014).",
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
        """See :meth:`volseg.learning.Learner.learn`; ``slices`` say which sections there are to look at."""
        began, fewest = time.monotonic(), self.fewest if fewest is None else fewest
        if not (labels != IGNORE_INDEX).any():
            raise InputError("No voxel is painted, so there is nothing to learn from. Paint some slices.")
        if start is None:
            architecture = choose_architecture(
                task.size,
                task.spacing,
                seconds=seconds,
                device=task.device,
                axes=across(labels, slices or {}, task.spacing),
            )
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
        blocks = (undeformed.batch([number])[0] for number in range(undeformed.clean))
        load_statistics(network, clean_statistics(network, blocks))
        network.eval()
        return model

    def from_state(self, state: Mapping[str, Any]) -> UNetModel:
        """A model from a file."""
        return UNetModel.from_state(state)


class _Patches:
    """Patches around painted voxels, each a function of the seed and its number.

    Attributes:
        clean: undeformed ones that batch normalisation takes its statistics from, in the end.
    """

    def __init__(
        self, task: Task, labels: Labels, architecture: Architecture, *, deform: bool = True
    ) -> None:
        self.seed, self.task, self.labels, self.axes = task.seed, task, labels, architecture.axes
        self.clean = _CLEAN_2D if self.axes else _CLEAN
        spacing, std, rotation = list(task.spacing), _STD, 30.0
        if self.axes:
            self.sections = painted_sections(labels, self.axes)
            self.ends = np.cumsum([count for _, _, count in self.sections])
            _, widest = largest(task.size, self.axes)
            spacing, std, rotation = [d for a, d in enumerate(spacing) if a != widest], _STD_2D, 180.0
        else:
            self.whole = self._entries(grey_values(task), labels, spacing)
        self.spacing, finest = spacing, min(spacing)
        geometry: dict[str, Any] = {"std": [std * finest / s for s in spacing], "flip": 0.5}
        geometry |= {"quarter_turns": True, "scaling": (0.8, 1.25), "rotation": rotation}
        if not deform:
            geometry = {"prob_deform": 0.0, "scaling": (1.0, 1.0), "rotation": 0.0}
        steps: list[Any] = [RandDeformedPatchd(patch_size=architecture.patch, **geometry)]
        self.transform = Compose([*steps, RandGreyValuesd(prob=0.8)] if deform else steps)

    def _entries(self, image: Tensor, labels: Labels, spacing: Sequence[float]) -> dict[str, Any]:
        label = torch.from_numpy(np.ascontiguousarray(labels[None])).to(image.device)
        voxels = annotated_voxels(labels, self.task.classes)
        return {"image": image, "label": label, "label_voxels": voxels, "spacing": tuple(spacing)}

    def _source(self, number: int) -> dict[str, Any]:
        """What patch ``number`` is drawn from: a section as often as it is painted."""
        if not self.axes:
            return dict(self.whole)
        at = np.random.default_rng((self.seed, number)).integers(self.ends[-1])
        axis, index, _ = self.sections[int(np.searchsorted(self.ends, at, side="right"))]
        seen = section(grey_values(self.task), axis, index)
        return self._entries(seen, np.take(self.labels, [index], axis).squeeze(axis), self.spacing)

    def batch(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, *patch)`` and labels ``(B, 1, *patch)``."""
        drawn = []
        for number in numbers:
            self.transform.set_random_state(seed=(self.seed * 1_000_003 + number) % 2**32)
            drawn.append(self.transform(self._source(number)))
        image, label = (torch.stack([one[key] for one in drawn]) for key in ("image", "label"))
        return image, label


@torch.no_grad()
def _loss_at(network: Any, image: Tensor, target: Tensor, loss_of: SparseDiceCE) -> float:
    network.eval()
    loss = float(loss_of(network(image), target))
    network.train()
    return loss
