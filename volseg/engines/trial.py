"""A bundle tried on data made up for it: everything built, patches drawn, steps taken, nothing written.

What a training would fail at is found in seconds, and reported with the entry to change. The bundle's own
data is not touched; whether it fits is what ``volseg verify`` says.
"""

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from volseg.engines.stand_ins import HINT, Blamed, MadeUp, WatchedParser, explained, replace_function
from volseg.errors import InputError, RefusedError, brief
from volseg.labels import IGNORE_INDEX
from volseg.losses import AnnotatedLoss, over_annotated
from volseg.networks.measuring import context_of, copy_of, first_output, nearest_sizes, sizes_of
from volseg.runs.folder import check_run

__all__ = ["try_bundle"]

logger = logging.getLogger(__name__)

_IN_ORDER = (
    "imports", "labels", "device", "network_def", "network", "preprocessing", "inferer",
    "train::preprocessing", "train::dataset", "optimizer", "lr_scheduler", "loss",
    "validate::evaluator", "train::trainer", "scorer", "evaluator",
)  # fmt: skip
_CHEAP = 1e10  # multiplications of a forward pass that is computed; a dearer one only shows its sizes
_MOST_PATCHES = 2  # in the batch that is tried
_STEPS = 2  # of training; a learning rate far too high shows from the second on
_SCHEDULED = 200_000  # steps of a schedule that are tried


def try_bundle(
    config: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> tuple[list[str], list[str]]:
    """What would fail, one message each, beginning with the entry; and what is worth knowing.

    Runs what the bundle says, so it is for bundles that are trusted or were judged.

    Args:
        config: a merged bundle, as ``volseg.bundle.read_bundle`` returns it.
        settings: entries that are set to other values, by id.
    """
    notes: list[str] = []
    if "trainer" not in config.get("train", {}):
        return [], notes
    problems: dict[str, str] = {}
    level = logging.getLogger("volseg").level
    logging.getLogger("volseg").setLevel(logging.ERROR)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="volseg-trial-") as folder,
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=()),
        ):
            warnings.simplefilter("ignore")
            trial = _Trial(config, settings or {}, Path(folder), problems, notes)
            trial.build()
            if not problems:
                trial.folder_of_the_run()
            if not problems:
                trial.step()
    finally:
        logging.getLogger("volseg").setLevel(level)
    return [f"{entry.replace('::', '#')}: {text}" for entry, text in problems.items()], notes


class _Trial:
    """One bundle on data made up for it."""

    def __init__(
        self,
        config: Mapping[str, Any],
        settings: Mapping[str, Any],
        folder: Path,
        problems: dict[str, str],
        notes: list[str],
    ) -> None:
        parser = ConfigParser(copy.deepcopy(dict(config)))
        parser.update(dict(settings))
        self.config: Any = parser.get()
        self.folder, self.problems, self.notes = folder, problems, notes
        self.data = MadeUp(folder, notes)
        replace_function(self.config, "find_cases", self.data.cases)
        replace_function(self.config, "find_images", self.data.images)
        replace_function(self.config, "Cases", self.data.described)
        trainer = self.config["train"]["trainer"]
        self.resumes: Any = False
        if isinstance(trainer, dict):
            self.resumes = trainer.get("resume", False)
            trainer["resume"] = False
        self.parser = self.data.parser = WatchedParser(self.config)
        self.built: dict[str, Any] = {}

    def build(self) -> None:
        """Everything that a training, an evaluation and a prediction use."""
        for entry in _IN_ORDER:
            if entry not in self.parser or self.problems:
                continue
            try:
                self.built[entry] = self.parser.get_parsed_content(entry)
                if entry == "network_def":
                    self._measure()
                if entry == "loss":
                    self._guarded(entry, lambda: over_annotated(self.built["loss"]))
            except Blamed as blamed:
                self.problems.setdefault(blamed.entry, explained(blamed.error))
            except (KeyError, ValueError, TypeError) as error:  # a reference to nothing, or in a circle
                self.problems.setdefault(entry, explained(error))
        for entry, kind in (("network", nn.Module), ("optimizer", torch.optim.Optimizer), ("loss", object)):
            if entry in self.built and not isinstance(self.built[entry], kind):
                self.problems[entry] = f"gives {type(self.built[entry]).__name__}, not {kind.__name__}."

    def _measure(self) -> None:
        """What is known of a network's sizes, before another entry asks for it and is blamed."""
        network = self.built["network_def"]
        asked = "context_of(@network_def)" in json.dumps(self.config, default=str)
        if asked and isinstance(network, nn.Module):
            self._guarded("network_def", lambda: context_of(network))

    def folder_of_the_run(self) -> None:
        """Whether a training could begin in its folder as it is now."""
        trainer = self.config["train"]["trainer"]
        if not isinstance(trainer, dict) or "output_dir" not in trainer:
            return
        home = self.parser.get_parsed_content("train::trainer::output_dir")
        resume = self._guarded("train::trainer::resume", lambda: self._of("resume", self.resumes))
        overwrite = bool(self.parser.get_parsed_content("train::trainer::overwrite", default=False))
        try:
            check_run(Path(home), resume=bool(resume), overwrite=overwrite)
        except InputError as error:
            self.problems["train::trainer::resume"] = f"is set, but {error}"
        except RefusedError as error:
            self.notes.append(str(error))

    def _of(self, name: str, value: Any) -> Any:
        """What an argument of the trainer is that was taken out of its place."""
        return self.parser.get_parsed_content(value[1:]) if str(value).startswith("@") else value

    def step(self) -> None:
        """A few patches, a pass forward, the loss, steps, the schedule."""
        trainer, dataset = self.built["train::trainer"], self.built["train::dataset"]
        size = min(_MOST_PATCHES, self.parser.get_parsed_content("train::trainer::batch_size", default=1))
        batch = self._guarded(
            "train::preprocessing", lambda: default_collate([dataset[n] for n in range(size)])
        )
        if batch is None or not self._is_patch(batch, dataset):
            return
        network = trainer.network
        image, target = batch["image"].to(trainer.state.device), batch["label"].to(trainer.state.device)
        logits, is_cheap = self._forward(network, image)
        if logits is None or not self._fits(logits, image, target, len(dataset.labels), network):
            return
        weight = batch.get("weight")
        loss = trainer.loss_function
        if weight is not None and isinstance(loss, AnnotatedLoss):
            self.problems["loss"] = loss.no_weight()
            return
        random = torch.randn(tuple(logits.shape), device=target.device, requires_grad=True)

        def lose() -> Tensor:
            given = None if weight is None else torch.as_tensor(weight).to(target.device)
            value: Tensor = loss(random, target, given)
            value.backward()
            return value

        if self._guarded("loss", lose) is None:
            return
        if is_cheap:
            if self._steps(trainer, batch):
                self._infer(network, image, logits)
        else:
            smaller = self._smaller(network, batch)
            self._say_dear(image, smaller)
            if smaller is not None:
                self._steps(trainer, smaller)
        if not self.problems:
            self._schedule()

    def _steps(self, trainer: Any, batch: Mapping[str, Any]) -> bool:
        """Whether a few steps of training go well; their numbers stay finite."""
        step = trainer._process_function
        for iteration in range(1, _STEPS + 1):
            trainer.state.iteration = iteration
            if self._guarded("train::trainer", lambda: step(trainer, batch)) is None:
                return False
            if step.bad and iteration == 1:
                self.problems["loss"] = "is not finite, or its gradient, at the first step of a training."
            elif step.bad:
                self.problems["optimizer"] = (
                    f"after {iteration - 1} step(s) the loss is not finite any more: lower lr, which is "
                    f"{self.built['optimizer'].param_groups[0].get('lr')}."
                )
            if step.bad:
                return False
        return True

    def _smaller(self, network: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any] | None:
        """The batch cut to a size that the network takes and that costs little."""
        sizes = sizes_of(network)
        full = tuple(batch["image"].shape[2:])
        for part in (2, 3, 4, 6, 8):
            size = nearest_sizes(sizes, [n // part for n in full])[-1]
            if any(n > m for n, m in zip(size, full, strict=True)):
                continue
            spans = [slice(0, n) for n in size]
            inner = [slice(0, n - 2 * c) for n, c in zip(size, sizes.context, strict=True)]
            image = batch["image"][(..., *spans)]
            logits, is_cheap = self._forward(network, image)
            if self.problems:
                self.problems.clear()
            elif logits is not None and is_cheap:
                rest = {key: batch[key][(..., *inner)] for key in ("label", "weight") if key in batch}
                return {**batch, "image": image, **rest}
        return None

    def _say_dear(self, image: Tensor, smaller: Mapping[str, Any] | None) -> None:
        tried = "only the sizes were tried, and no step was taken"
        if smaller is not None:
            tried = f"steps were taken on patches of {list(smaller['image'].shape[2:])}"
        self.notes.append(
            f"The network is large for a trial with patches of {list(image.shape[2:])}: {tried}. Whether "
            "memory suffices, the first steps of a training show."
        )

    def _forward(self, network: nn.Module, image: Tensor) -> tuple[Tensor | None, bool]:
        """Logits of a patch, or what is known of them, and whether computing them costs little."""
        dims = image.ndim - 2
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                empty = copy_of(network).to("meta").train()
                logits = first_output(empty(image.to("meta")), dims)
            return logits, counter.get_total_flops() / 2 < _CHEAP
        except Exception as error:  # of any network, and perhaps only of tensors without content
            first = error
        try:
            with torch.no_grad():
                return first_output(copy_of(network).train()(image), dims), True
        except Exception:  # the same
            self._say_sizes(network, image, first)
            return None, False

    def _say_sizes(self, network: nn.Module, image: Tensor, error: Exception) -> None:
        """Why a network does not take a patch."""
        size = tuple(image.shape[2:])
        if "Expected more than 1 value per channel" in str(error):
            self.problems["patch_size"] = (
                f"of {list(size)} {type(network).__name__} leaves one voxel at its coarsest level, of which "
                "batch normalisation can take no statistics: take larger patches, or a batch_size of 2 or "
                "more."
            )
            return
        try:
            sizes = sizes_of(network)
        except InputError:
            self.problems["network_def"] = (
                f"refuses a patch of {tuple(image.shape)} ({brief(error)}): change it, or patch_size."
            )
            return
        if sizes.in_channels != image.shape[1]:
            self.problems["network_def"] = (
                f"takes {sizes.in_channels} channel(s), but in_channels is {image.shape[1]}: "
                "give both one number."
            )
            return
        if len(sizes.size) != len(size):
            self.problems["network_def"] = (
                f"is for {len(sizes.size)} spatial axes, but patch_size has {len(size)} numbers."
            )
            return
        near = nearest_sizes(sizes, size)
        if size in near:
            self.problems["network_def"] = (
                f"refuses a patch of {tuple(image.shape)} ({brief(error)}): change it, or patch_size."
            )
            return
        only = "takes this size only" if 0 in sizes.step else "nearest that it takes"
        self.problems["patch_size"] = (
            f"{type(network).__name__} does not take patches of {list(size)} ({brief(error)}); {only}: "
            f"{' or '.join(str(list(n)) for n in near)}."
        )

    def _is_patch(self, batch: Any, dataset: Any) -> bool:
        entry = "train::preprocessing"
        for key in ("image", "label"):
            if key not in batch:
                self.problems[entry] = f"gives patches without {key!r}."
                return False
        image, label = batch["image"], batch["label"]
        if image.ndim != label.ndim or label.shape[1] != 1:
            self.problems[entry] = f"gives an image {tuple(image.shape)} and a label {tuple(label.shape)}."
            return False
        wrong = (label != IGNORE_INDEX) & (
            (label < 0) | (label >= len(dataset.labels)) | (label != label.round())
        )
        if bool(wrong.any()):
            self.problems[entry] = (
                f"makes {float(label[wrong][0]):.4g} of class indices: interpolate labels by 'nearest', and "
                "leave them out of what changes grey values."
            )
            return False
        return True

    def _fits(self, logits: Tensor, image: Tensor, label: Tensor, classes: int, network: nn.Module) -> bool:
        if logits.shape[1] != classes:
            self.problems["network_def"] = (
                f"returns {logits.shape[1]} classes, but labels names {classes}: set out_channels to "
                '"$len(@labels)".'
            )
        elif logits.shape[2:] != label.shape[2:]:
            lost = [n - m for n, m in zip(image.shape[2:], logits.shape[2:], strict=True)]
            self.problems["train::preprocessing"] = (
                f"gives labels of {tuple(label.shape[2:])} voxels, but of a patch of "
                f"{tuple(image.shape[2:])} the network returns {tuple(logits.shape[2:])}: the context has to "
                f"be {[n // 2 for n in lost]}. {HINT}."
            )
        return not self.problems

    def _infer(self, network: nn.Module, image: Tensor, logits: Tensor) -> None:
        inferer = self.built.get("inferer")
        if inferer is None:
            return
        was_training = network.training
        network.eval()
        volume = image.narrow(2, 0, max(1, image.shape[2] // 2))

        def infer() -> Tensor:
            with torch.no_grad():
                found = inferer(volume, network)
            result: Tensor = found[0] if isinstance(found, tuple) else found
            if tuple(result.shape[2:]) != tuple(volume.shape[2:]):
                raise InputError(
                    f"{type(inferer).__name__} returns {tuple(result.shape[2:])} voxels for an image of "
                    f"{tuple(volume.shape[2:])}: take volseg.OverlapTileInferer."
                )
            return result

        self._guarded("inferer", infer)
        network.train(was_training)

    def _schedule(self) -> None:
        scheduler = self.built.get("lr_scheduler")
        if scheduler is None:
            return
        state = self.built["train::trainer"].state
        steps = min(_SCHEDULED, state.max_epochs * state.epoch_length)

        def run() -> bool:
            for _ in range(steps - scheduler.last_epoch):
                scheduler.step()
            return True

        self._guarded("lr_scheduler", run)

    def _guarded(self, entry: str, deed: Any) -> Any:
        """What a deed gives; ``None``, and a problem noted, if it fails."""
        try:
            return deed()
        except Exception as error:  # objects of any origin raise anything
            self.problems[entry] = explained(error)
            return None
