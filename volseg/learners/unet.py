"""The U-Net as a learner: trained from nothing on patches around painted voxels, in a given time.

The parts are those that the bundles train with: :class:`volseg.UNet`, patches by
:class:`volseg.RandDeformedPatchd` and :class:`volseg.RandGreyValuesd`, :class:`volseg.SparseDiceCE` over
annotated voxels, overlap-tile inference. What differs is that they are not chosen by a person:
:mod:`volseg.learners.network` does.

Patch ``i`` is a function of the seed and ``i``, so a number of steps gives the same network wherever time is
not the limit.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor

from volseg.errors import InputError
from volseg.inferers import OverlapTileInferer
from volseg.inferers.blocks import BlockRunner
from volseg.inferers.statistics import clean_statistics, load_statistics
from volseg.labels import IGNORE_INDEX
from volseg.learners.network import (
    UNET,
    Architecture,
    UNetModel,
    choose_architecture,
    grey_values,
    in_16_bits,
    placed,
)
from volseg.learning import Curve, Labels, Learner, Progress, Task, Trained
from volseg.losses import SparseDiceCE
from volseg.transforms import RandDeformedPatchd, RandGreyValuesd
from volseg.transforms.deformation import annotated_voxels

__all__ = ["UNetLearner"]

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
