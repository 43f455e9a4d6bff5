"""Any model of this package, loaded and asked: ``volseg.load(path).predict(image)``.

Three kinds of path are understood:

* the folder (or the segmentation, or the ``model.pt``) of a result of ``volseg densify``, of either learner;
* the folder of a training with a bundle, or a checkpoint in it: its ``config.json`` says what the network is;
* weights that were exported as ``.safetensors``, with a bundle beside them or named.

A bundle can be a program. One that is not known is judged as ``volseg predict`` judges it, before anything of
it is evaluated (:mod:`volseg.bundle.trust`).
"""

import copy
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from monai.bundle import ConfigParser
from torch import nn

from volseg.bundle import read_bundle
from volseg.bundle.trust import judge
from volseg.data.loading import image_tensor, preprocess
from volseg.densification.calibration import Calibrator
from volseg.densification.earlier import Earlier, load_earlier, pixels_of
from volseg.engines.evaluator import segment
from volseg.engines.scale import scale_names, to_device
from volseg.errors import InputError
from volseg.installation import find
from volseg.io import Volume, as_volume
from volseg.labels import LabelScheme
from volseg.learning import Task
from volseg.runs.checkpoint import load_checkpoint, load_weights

__all__ = ["DensifyModel", "LoadedModel", "NetworkModel", "load"]

_Path = str | os.PathLike[str]
Image = _Path | Sequence[_Path] | Volume | npt.NDArray[Any]
Result = Volume | npt.NDArray[Any]
Spacing = str | Sequence[float]

_WEIGHTS = ("model.pt", "best.pt")  # of a run; the first that is there
_PARTS = ("labels", "inferer", "in_channels", "preprocessing")  # entries of a bundle
_NEEDED = ("network_def", *_PARTS[:-1])
_REFERENCE = re.compile(r"@(\w+)")


class LoadedModel(ABC):
    """Segments images.

    Attributes:
        labels: names of the classes, and their values in files.
        channels: that an image must have.
        spatial_dims: 2 or 3; ``None`` where an old file does not say.
        source: where it was loaded from.
    """

    labels: LabelScheme
    channels: int
    spatial_dims: int | None
    source: Path

    @overload
    def predict(
        self,
        image: Image,
        *,
        spacing: Spacing | None = ...,
        probabilities: Literal[False] = ...,
    ) -> Result: ...

    @overload
    def predict(
        self, image: Image, *, spacing: Spacing | None = ..., probabilities: Literal[True]
    ) -> tuple[Result, Result]: ...

    def predict(
        self,
        image: Image,
        *,
        spacing: Spacing | None = None,
        probabilities: bool = False,
    ) -> Result | tuple[Result, Result]:
        """Segment an image.

        Args:
            image: a file, a list of files with a channel each, a :class:`volseg.Volume`, or an array
                ``(C, *spatial)``.
            spacing: voxel size along each axis, such as ``(0.5, 0.5, 2.0)`` or ``"0.5,0.5,2um"``; of an array
                1 along every axis if not given, of a file what it says.
            probabilities: give the probability of each class as well.

        Returns:
            labels, in the values of files: a volume ``(1, *spatial)`` in the image's geometry, ready for
            :func:`volseg.write_volume`; of an array an array ``(*spatial)``. With ``probabilities`` a pair of
            these and ``(classes, *spatial)``, float32.

        Raises:
            InputError: if the image has other channels, axes or voxels than what was learnt from.
        """
        volume = as_volume(image, spacing)
        self._check(volume)
        found = self._probabilities(volume)
        values = self.labels.decode(found.argmax(0).astype(np.uint8))
        if isinstance(image, np.ndarray):
            return (values, found) if probabilities else values
        segmentation = replace(volume, array=values[None], blank=None)
        return (segmentation, replace(volume, array=found, blank=None)) if probabilities else segmentation

    def _check(self, volume: Volume) -> None:
        if self.spatial_dims not in (None, volume.spatial_dims):
            todo = (
                "An array is (channels, *spatial): add a missing axis with image[None]."
                if volume.path is None
                else "Give it an image of as many axes as those that it was trained on."
            )
            raise InputError(
                f"{self.source} segments {self.spatial_dims}D, and {volume.name} is {volume.spatial_dims}D, "
                f"of shape {volume.array.shape}. {todo}"
            )
        if volume.channels != self.channels:
            raise InputError(
                f"{self.source} takes {self.channels} channel(s), and {volume.name} has {volume.channels}. "
                "Give it the channels that it was trained on, in the same order."
            )

    @abstractmethod
    def _probabilities(self, volume: Volume) -> npt.NDArray[np.float32]:
        """Of every class, ``(classes, *spatial)``."""


class DensifyModel(LoadedModel):
    """What ``volseg densify`` learnt, as :func:`load` gives it; probabilities are calibrated as there.

    On the image that it was learnt from last, what it knows of the paint's place counts, too; what was
    painted does not come back as painted.
    """

    def __init__(self, earlier: Earlier, device: torch.device | str = "cpu") -> None:
        self.source = earlier.folder
        self.labels = LabelScheme(earlier.names, earlier.values)
        self.channels = earlier.channels
        dims = {len(seen.spacing) for seen in earlier.images}
        self.spatial_dims = dims.pop() if len(dims) == 1 else None
        self._earlier = earlier
        self._device = device

    def _check(self, volume: Volume) -> None:
        super()._check(volume)
        self._earlier.check_alone(volume, force=False)

    def _probabilities(self, volume: Volume) -> npt.NDArray[np.float32]:
        earlier = self._earlier
        task = Task(volume.array, volume.spacing, len(self.labels), device=self._device)
        model = earlier.model_for(task, pixels_of(volume))
        return Calibrator(earlier.temperature).probabilities(model.predict(task))


class NetworkModel(LoadedModel):
    """A trained network of a bundle, as :func:`load` gives it."""

    def __init__(
        self,
        network: nn.Module,
        labels: LabelScheme,
        channels: int,
        inferer: Any,
        preprocessing: Any,
        source: Path,
        device: torch.device | str = "cpu",
    ) -> None:
        self.labels, self.channels, self.source = labels, channels, source
        self.spatial_dims = getattr(network, "spatial_dims", None)
        self.network = network
        self._inferer, self._preprocessing = inferer, preprocessing
        self._device = torch.device(device)

    def _probabilities(self, volume: Volume) -> npt.NDArray[np.float32]:
        item: dict[str, Any] = {"image": image_tensor(volume), "spacing": volume.spacing}
        item = preprocess(item, volume, self._preprocessing)
        logits, _ = segment(item, self.network, self._inferer, self._device)
        found: npt.NDArray[np.float32] = torch.as_tensor(logits).float().softmax(0).cpu().numpy()
        return found


def load(
    path: _Path, *, bundle: _Path | None = None, trust: bool = False, device: str | torch.device | None = None
) -> LoadedModel:
    """A trained model, to be asked with ``.predict(image)``.

    Args:
        path: of a result of ``volseg densify``, of the folder of a training, of a checkpoint in one of these,
            or of exported weights (``.safetensors``).
        bundle: what the network is, where no ``config.json`` lies beside the weights: a file, or the name of
            a bundle that came with volseg.
        trust: evaluate whatever the bundle says; read it before.
        device: where to compute; a GPU if there is one.

    Raises:
        InputError: if there is no model, or its parts do not belong together.
        RefusedError: if the bundle could do anything, and ``trust`` was not given.
    """
    source = Path(path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    weights = _weights_at(source)
    if not source.exists() or (weights is None and source.is_dir()):
        raise InputError(
            f"{source} {'holds no model' if source.exists() else 'does not exist'}. Name a result of volseg "
            "densify, the folder of a training, a checkpoint, or exported weights."
        )
    if weights is None or (bundle is None and "curve" in load_checkpoint(weights)):
        folder = source.parent if source.suffix == ".pt" else source
        return DensifyModel(load_earlier(folder, is_applied=True), device)
    config = find(bundle) if bundle is not None else _config_beside(weights)
    network, parts = _built(config, weights, trust=trust, device=str(device))
    return NetworkModel(
        to_device(network, device).eval(),
        parts["labels"],
        parts["in_channels"],
        parts["inferer"],
        parts.get("preprocessing"),
        weights,
        device,
    )


def _weights_at(source: Path) -> Path | None:
    """The weights that a path stands for; ``None`` if it can only be a segmentation of densify."""
    if source.suffix in (".pt", ".safetensors"):
        return source
    if not source.is_dir():
        return None
    found = [source / name for name in _WEIGHTS if (source / name).is_file()]
    found += sorted(source.glob("*.safetensors"))
    return found[0] if found else None


def _config_beside(weights: Path) -> Path:
    """The bundle that lies beside weights: ``config.json``, or the one of the same name."""
    for name in ("config.json", f"{weights.stem}.json"):
        if weights.with_name(name).is_file():
            return weights.with_name(name)
    raise InputError(
        f"{weights} holds weights alone. Which network they belong to stands in the config.json of their "
        "training: put that beside them, or name a bundle (bundle=)."
    )


def _built(source: Path, weights: Path, *, trust: bool, device: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """The network of a bundle with its weights, and what belongs to it."""
    raw = read_bundle([source])
    missing = [name for name in _NEEDED if name not in raw]
    if missing:
        raise InputError(
            f"{source} has no {', '.join(map(repr, missing))}: it is not a bundle that says how to segment. "
            "Name another one (bundle=)."
        )
    config = _closure(raw | {"device": device}, [*_NEEDED, "preprocessing", "imports"])
    judge(config, source, trust=trust)
    # Where the scale was chosen by the machine, the training may have run on another kind of machine.
    plan, known = config.get("plan"), config.get("scales", {})
    is_table = isinstance(plan, Mapping) and "table" in plan
    scales = [config.get("scale"), *(scale_names(known) if is_table else known)]
    first: InputError | None = None
    for scale in scales:
        parser = ConfigParser(copy.deepcopy(config | ({} if scale is None else {"scale": scale})))
        network = parser.get_parsed_content("network_def")
        try:
            load_weights(network, weights)
        except InputError as error:
            first = first or error
            continue
        return network, {name: parser.get_parsed_content(name) for name in _PARTS if name in config}
    assert first is not None
    raise first


def _closure(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The entries of these names and all that they refer to: nothing else of the bundle is looked at."""
    found: dict[str, Any] = {}
    todo = [name for name in names if name in config]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = config[name]
            todo += [each for each in _REFERENCE.findall(json.dumps(config[name])) if each in config]
    return found
