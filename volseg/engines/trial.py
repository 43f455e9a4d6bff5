"""A bundle tried on data made up for it: everything built, one patch drawn, one step taken, nothing written.

What a training would fail at is found in seconds, and told with the entry to change. The bundle's own data
is not touched; whether it fits is what ``volseg verify`` says.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from volseg.data import find_cases
from volseg.data import find_images as images_of
from volseg.engines.watched import HINT, Blamed, WatchedParser, told
from volseg.errors import InputError, brief
from volseg.io import Volume, write_volume
from volseg.labels import IGNORE_INDEX
from volseg.losses import AnnotatedLoss, over_annotated
from volseg.networks.measuring import copy_of, first_output, nearest_sizes, sizes_of

__all__ = ["try_bundle"]

logger = logging.getLogger(__name__)

_IN_ORDER = (
    "imports", "labels", "device", "network_def", "network", "preprocessing", "inferer",
    "train::preprocessing", "train::dataset", "optimizer", "lr_scheduler", "loss",
    "validate::evaluator", "train::trainer", "scorer", "evaluator",
)  # fmt: skip
_LARGEST = 64  # voxels along an axis of the image that is made up
_CHEAP = 2e10  # multiplications of a forward pass that is computed; a dearer one only shows its sizes
_SCHEDULED = 200_000  # steps of a schedule that are tried


def try_bundle(
    config: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> tuple[list[str], list[str]]:
    """What would fail, one message each, beginning with the entry; and what is worth knowing.

    Runs what the bundle says, so it is for bundles that are trusted or were judged.

    Args:
        config: a merged bundle, as ``volseg.bundle.read_bundle`` returns it.
        settings: entries that are set anew, by id.
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
        _replace(self.config, "find_cases", self._cases)
        _replace(self.config, "find_images", self._images)
        trainer = self.config["train"]["trainer"]
        if isinstance(trainer, dict):
            trainer |= {"resume": False}
        self.parser = WatchedParser(self.config)
        self.built: dict[str, Any] = {}

    def build(self) -> None:
        """Everything that a training, an evaluation and a prediction use."""
        for entry in _IN_ORDER:
            if entry not in self.parser or self.problems:
                continue
            try:
                self.built[entry] = self.parser.get_parsed_content(entry)
                if entry == "loss":
                    self._guarded(entry, lambda: over_annotated(self.built["loss"]))
            except Blamed as blamed:
                self.problems.setdefault(blamed.entry, told(blamed.error))
            except (KeyError, ValueError, TypeError) as error:  # a reference to nothing, or in a circle
                self.problems.setdefault(entry, told(error))
        for entry, kind in (("network", nn.Module), ("optimizer", torch.optim.Optimizer), ("loss", object)):
            if entry in self.built and not isinstance(self.built[entry], kind):
                self.problems[entry] = f"gives {type(self.built[entry]).__name__}, not {kind.__name__}."

    def step(self) -> None:
        """One patch, one pass forward, the loss, the schedule."""
        trainer, dataset = self.built["train::trainer"], self.built["train::dataset"]
        batch = self._guarded("train::preprocessing", lambda: default_collate([dataset[0]]))
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
            trainer.state.iteration = 1
            if self._guarded("train::trainer", lambda: trainer._process_function(trainer, batch)) is None:
                return
            self._infer(network, image, logits)
        self._schedule()

    def _forward(self, network: nn.Module, image: Tensor) -> tuple[Tensor | None, bool]:
        """Logits of a patch, or what is known of them, and whether computing them costs little."""
        dims = image.ndim - 2
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                empty = copy_of(network).to("meta").train()
                logits = first_output(empty(image.to("meta")), dims)
            return logits, counter.get_total_flops() / 2 < _CHEAP
        except Exception as error:  # of a network of anybody, and perhaps only of tensors without content
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
        except Exception as error:  # objects of anybody raise anything
            self.problems[entry] = told(error)
            return None

    def _cases(self, dataset_dir: str = "", **kwargs: Any) -> Any:
        """Instead of :func:`volseg.find_cases`: the case made up, after a look whether there is another."""
        self._look(dataset_dir, kwargs.get("phantom_dir"), lambda: find_cases(dataset_dir, **kwargs))
        return find_cases(self._made_up())

    def _images(self, source: str = "", **kwargs: Any) -> Any:
        self._look(source, kwargs.get("phantom_dir"), lambda: images_of(source, **kwargs))
        return images_of(self._made_up())

    def _look(self, path: str, phantom: Any, find: Any) -> None:
        if phantom is not None and Path(path) == Path(phantom):
            return
        if Path(path).exists():
            find()
            return
        note = f"{path} is not there: name your data with --dataset_dir (or --images)."
        if note not in self.notes:
            self.notes.append(note)

    def _made_up(self) -> Path:
        """A folder with one image and its labels, of as many axes as the patches have."""
        if (self.folder / "images").is_dir():
            return self.folder
        labels = self.parser.get_parsed_content("train::dataset::labels")
        channels = self.parser.get_parsed_content("train::dataset::in_channels")
        transform = self.parser.get_parsed_content("train::dataset::transform")
        parts = [transform, *getattr(transform, "transforms", ())]
        sizes = [part.patch_size for part in parts if hasattr(part, "patch_size")]
        dims = len(sizes[0]) if sizes else 3
        size = [max(16, min(_LARGEST, n)) for n in (sizes[0] if sizes else (_LARGEST,) * dims)]
        random = np.random.default_rng(0)
        image = random.normal(100, 20, (channels, *size)).astype(np.float32)
        classes = random.integers(0, len(labels), size).astype(np.uint8)
        ids = hasattr(labels, "instances")
        values = (classes > 0).astype(np.uint16) if ids else labels.decode(classes)
        for name, array in (("images", image), ("labels", values[None])):
            (self.folder / name).mkdir()
            write_volume(self.folder / name / "trial.tif", array, Volume(array, np.eye(dims + 1)))
        return self.folder


def _replace(config: Any, name: str, other: Any) -> None:
    """Put another function in the place of one of volseg's."""
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        if isinstance(value, dict) and value.get("_target_") == f"volseg.{name}":
            value["_target_"] = other
        _replace(value, name, other)
