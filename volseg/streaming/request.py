"""A segmentation from file to file: checked before it begins, and planned before its first tile.

:func:`check` turns what was asked for into a :class:`Request`, which knows the files, the network and how
it is applied. What it finds out is a plain dictionary, which the journal keeps for whoever resumes.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from volseg.errors import InputError, RefusedError, ResourceError
from volseg.geometry import Symmetry, plan_tiles
from volseg.greyvalues import GreyScale
from volseg.inferers import OverlapTileInferer, RotationAveragingInferer
from volseg.inferers.averaging import Turned, check_symmetric
from volseg.inferers.blocks import BlockRunner, Source
from volseg.inferers.planning import Plan, make_plan
from volseg.inferers.statistics import (
    Statistics,
    freeze_volume_statistics,
    load_statistics,
    needs_image,
    statistics_of,
)
from volseg.io.blocks import BlockVolume, can_write_blocks, create_blocks, hidden_name, open_blocks
from volseg.labels import LabelScheme
from volseg.networks import UNet
from volseg.runs import processes
from volseg.streaming.cluster import workers_of
from volseg.streaming.job import Job, Output
from volseg.streaming.source import Blocks, kept_as, normalisation, why_not_blockwise

__all__ = ["Request", "check", "plan_streamed", "why_not_streamed"]

_TILES_EACH = 3  # tiles at least for each of several processes

AnyInferer = OverlapTileInferer | RotationAveragingInferer
Preprocessing = Callable[..., Any] | None


@dataclass(frozen=True)
class Request:
    """What is to be segmented, by what, into which files.

    Args:
        inferer: that of one version, whatever averages over several.
        versions: turned versions to average over; none for the image as it is.
        values: what class indices are called in the file.
        stamp: of the image, when the work was begun.
        cluster: ``"local"``, the address of a Dask scheduler, or ``None`` for this process.
        workers: processes that share the tiles.
        spacing: the voxel size, where the image names none or a wrong one.
    """

    images: tuple[Path, ...]
    source: BlockVolume
    stamp: str
    work: BlockRunner
    network: UNet
    inferer: OverlapTileInferer
    versions: tuple[Symmetry, ...]
    values: NDArray[Any]
    outputs: tuple[Output, ...]
    preprocessing: Preprocessing
    cluster: str | None
    workers: int
    spacing: str | None = None

    def plan(self) -> dict[str, Any]:
        """Everything that is found out before the first tile, for whoever resumes."""
        normalise = normalisation(self.source, self.preprocessing)
        volume = Blocks(self.source, normalise)
        statistics = _statistics(volume, self.work, self.inferer, self.versions)
        self.work.prepare()
        found = plan_streamed(
            self.source, self.work, self.inferer, self.outputs, versions=self.versions, workers=self.workers
        )
        return {
            "tile": list(found.tile), "by_rows": found.by_rows, "normalise": normalise,
            "statistics": statistics,
        }  # fmt: skip

    def job(self, plan: dict[str, Any]) -> Job:
        """The work as it was planned."""
        scales = plan["normalise"]
        normalise = None if scales is None else [GreyScale.of(scale) for scale in scales]
        return Job(
            self.images, self.network, self.inferer.amp, self.versions, self.values, self.outputs,
            tuple(plan["tile"]), plan["by_rows"], normalise, plan["statistics"], self.stamp, self.spacing,
        )  # fmt: skip

    def create(self, plan: dict[str, Any]) -> None:
        """Make the unfinished files, empty."""
        for each in self.outputs:
            create_blocks(each.made, each.shape, each.dtype, self.source.like, tile=plan["tile"])

    @property
    def made(self) -> list[Path]:
        """The unfinished files."""
        return [each.made for each in self.outputs]

    def fingerprint(self) -> str:
        """What the bytes of the outputs depend on."""
        inferer = self.inferer
        settings = [
            inferer.batch_norm,
            inferer.share,
            inferer.amp,
            inferer.tile,
            self.values.tolist(),
            str(self.versions),
            _in_words(self.preprocessing),
            *([self.spacing] if self.spacing else []),
            *([each.kind, str(each.target)] for each in self.outputs),
        ]
        facts = [str(self.source.path.resolve()), self.source.stamp, *settings, torch.__version__]
        digest = hashlib.sha256(json.dumps(facts).encode())
        for name, value in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def check(
    images: tuple[Path, ...],
    targets: dict[str, Path],
    *,
    network: UNet,
    inferer: AnyInferer,
    labels: LabelScheme | None,
    preprocessing: Preprocessing,
    overwrite: bool,
    cluster: str | None,
    spacing: str | None = None,
) -> Request:
    """Open the image and see whether all this can be done.

    Args:
        targets: the outputs by their kind, ``"classes"``, ``"probabilities"`` or ``"spread"``.

    Raises:
        RefusedError: if an output exists and is not to be overwritten, or is the image itself.
        InputError: if the work cannot be done block by block.
    """
    _check_targets(targets, images, overwrite)
    problem = why_not_streamed(network, inferer, preprocessing, list(targets.values()))
    if problem is not None:
        raise InputError(problem)
    plain = inferer.inferer if isinstance(inferer, RotationAveragingInferer) else inferer
    assert isinstance(plain, OverlapTileInferer)
    source = open_blocks(*images, spacing=spacing)
    stamp = source.stamp
    if cluster is not None and source.path.suffix.lower() != ".zarr":
        raise InputError(
            f"A cluster works on images in OME-Zarr, but {source.path} is none. Convert it first."
        )
    work = BlockRunner(network, amp=plain.amp)
    dims = len(work.required.stride)
    if source.shape[0] != network.in_channels or len(source.shape) != dims + 1:
        raise InputError(
            f"{source.path} has {source.shape[0]} channel(s) and {len(source.shape) - 1} spatial axes, but "
            f"the network takes {network.in_channels} and {dims}."
        )
    workers = processes.count() if cluster is None else workers_of(cluster)
    versions: tuple[Symmetry, ...] = ()
    if isinstance(inferer, RotationAveragingInferer):
        versions = inferer.versions_for(dims, source.like.spacing)
        check_symmetric(network, versions)
    elif "spread" in targets:
        raise ValueError("A spread is that of several versions: give a RotationAveragingInferer.")
    values = np.arange(network.out_channels, dtype=np.uint8)
    if labels is not None:
        values = labels.decode(values)
    outputs = tuple(_output(kind, path, source, network, values) for kind, path in targets.items())
    return Request(
        images,
        source,
        stamp,
        work,
        network,
        plain,
        versions,
        values,
        outputs,
        preprocessing,
        cluster,
        workers,
        spacing,
    )


def why_not_streamed(
    network: nn.Module,
    inferer: Inferer,
    preprocessing: Callable[..., Any] | None,
    outputs: Sequence[Path] = (),
) -> str | None:
    """Why an image has to be in memory as a whole to be segmented; ``None`` if it has not."""
    inner = inferer.inferer if isinstance(inferer, RotationAveragingInferer) else inferer
    if not isinstance(network, UNet) or not isinstance(inner, OverlapTileInferer):
        return (
            f"The network is a {type(network).__name__} and the inferer a {type(inner).__name__}; block by "
            "block there can be volseg.UNet with volseg.OverlapTileInferer."
        )
    if inner is not inferer and needs_image(inner.batch_norm) and _is_watched(network):
        return "Averaging over versions with statistics of the volume, the network may have no hooks."
    for path in outputs:
        if not can_write_blocks(path):
            return f"{path.name} cannot be written block by block."
    return why_not_blockwise(preprocessing)


def plan_streamed(
    source: BlockVolume,
    work: BlockRunner,
    inferer: OverlapTileInferer,
    outputs: Sequence[Output] = (),
    *,
    versions: Sequence[Symmetry] = (),
    workers: int = 1,
) -> Plan:
    """The plan for a volume that stays in its file; without outputs, one of classes in a byte each.

    Args:
        workers: processes that share the tiles, and on a CPU the memory.
    """
    size = source.shape[1:]
    # The block at hand and the next one, as they are stored, and two blocks of output.
    written = sum(each.shape[0] * each.dtype.itemsize for each in outputs) or 1
    carried = 2.0 * (source.shape[0] * kept_as(source.dtype).itemsize + written)
    if versions:  # logits, probabilities, their mean and their squares
        carried += 16 * int(work.network.out_channels)  # type: ignore[arg-type]
    if inferer.tile is None:
        memory = inferer.memory(work)
        if workers > 1 and inferer.max_memory is None and work.device.type == "cpu":
            memory //= workers
        plan = make_plan(work, source.shape[0], size, memory, carried=carried)
        while len(plan.tiles) < _TILES_EACH * workers and workers > 1:  # everybody should have some
            try:
                smaller = make_plan(work, source.shape[0], size, plan.bytes // 2, carried=carried)
            except ResourceError:
                break
            plan = smaller
        return plan
    required = work.required
    tile = (inferer.tile,) * len(size) if isinstance(inferer.tile, int) else tuple(inferer.tile)
    tiles = plan_tiles(size, tile, required.halo, required.stride, required.remainder)
    return Plan(tile, tiles, work.quick is not None, 0, 0)


def _check_targets(targets: dict[str, Path], images: Sequence[Path], overwrite: bool) -> None:
    if not targets:
        raise ValueError("No output is named: give a path for classes, probabilities or the spread.")
    for path in targets.values():
        is_image = path.exists() and any(image.exists() and path.samefile(image) for image in images)
        if path.exists() and (not overwrite or is_image):
            raise RefusedError(f"{path} exists already and is not overwritten. Choose another name.")


def _output(kind: Any, path: Path, source: BlockVolume, network: UNet, values: Any) -> Output:
    channels = 1 if kind == "classes" else network.out_channels
    dtype = values.dtype if kind == "classes" else np.dtype(np.float32)
    return Output(kind, path, hidden_name(path), (channels, *source.shape[1:]), dtype)


def _statistics(
    volume: Source, work: BlockRunner, inferer: OverlapTileInferer, versions: Sequence[Symmetry]
) -> list[Statistics] | None:
    """Of batch normalisation, for each version, if they are to be those of the volume."""
    if not needs_image(inferer.batch_norm):
        return None
    found = []
    before = statistics_of(work.network)
    all_seen: list[Source] = [Turned(volume, version) for version in versions]
    for seen in all_seen or [volume]:
        load_statistics(work.network, before)
        freeze_volume_statistics(seen, work, inferer.memory(work), share=inferer.share)
        found.append(statistics_of(work.network))
    return found


def _is_watched(network: UNet) -> bool:
    """Whether no quick copy can be made that keeps the statistics of a version."""
    parts = list(network.modules())
    hooks = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    return hooks and any(isinstance(part, _BatchNorm) for part in parts)


def _in_words(preprocessing: Callable[..., Any] | None) -> object:
    """A preprocessing that is possible here, in a few words."""
    normaliser = getattr(preprocessing, "normalizer", None)
    if preprocessing is None or normaliser is None:
        return None if preprocessing is None else type(preprocessing).__name__
    return f"normalised, channel_wise={normaliser.channel_wise}"
