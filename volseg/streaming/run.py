"""Segmenting a volume that does not fit into memory, from file to file, so that it can be stopped and go on.

One thread reads the next tile, one writes the last one, and the network computes in between. Finished tiles
are noted in a journal beside the unfinished output; a run that was killed goes on from there and ends with
the same bytes.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from volseg.errors import DISK, InputError, RefusedError, ResourceError
from volseg.geometry import Symmetry, plan_tiles
from volseg.greyvalues import GreyScale
from volseg.inferers import OverlapTileInferer, RotationAveragingInferer
from volseg.inferers.averaging import Turned, check_symmetric
from volseg.inferers.blocks import BlockRunner, Source
from volseg.inferers.planning import Plan, make_plan
from volseg.inferers.statistics import (
    Statistics,
    as_for_inference,
    freeze_volume_statistics,
    load_statistics,
    needs_image,
    statistics_of,
)
from volseg.io.atomic import put_in_place
from volseg.io.blocks import (
    BlockVolume,
    can_write_blocks,
    create_blocks,
    finish_blocks,
    hidden_name,
    open_blocks,
)
from volseg.labels import LabelScheme
from volseg.networks import UNet
from volseg.runs import processes
from volseg.streaming.cluster import fill_by_cluster, workers_of
from volseg.streaming.job import Job, Output, TileWorker, fill
from volseg.streaming.journal import Journal
from volseg.streaming.source import Blocks, kept_as, normalisation, require_unchanged, why_not_blockwise

__all__ = ["plan_streamed", "predict_streamed", "why_not_streamed"]

logger = logging.getLogger(__name__)

_TILES_EACH = 3  # tiles at least for each of several processes

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


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


@torch.no_grad()
def predict_streamed(
    image: Paths,
    output: str | os.PathLike[str] | None,
    *,
    network: UNet,
    inferer: OverlapTileInferer | RotationAveragingInferer,
    labels: LabelScheme | None = None,
    preprocessing: Callable[..., Any] | None = None,
    probabilities: str | os.PathLike[str] | None = None,
    spread: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    cluster: str | None = None,
) -> None:
    """Segment a file into others, block by block, as far as its format allows.

    If unfinished outputs of the same image, network and settings are there, the run continues with them.
    Nothing stands under a final name before it is complete. Processes that ``torchrun`` started share the
    tiles.

    Args:
        image: a file, or one for each channel.
        output: where class numbers go; ``None`` for nowhere.
        labels: what class indices are called in the file; ``None`` writes the indices.
        preprocessing: ``None``, :class:`~volseg.NormalizeGreyValuesd`, or MONAI's ``NormalizeIntensityd``
            over all voxels of the image or channel.
        probabilities: where probabilities go, one float32 map per class.
        spread: where their standard deviation over the turned versions goes, likewise.
        cluster: ``"local"``, or the address of a Dask scheduler, for images in OME-Zarr.

    Raises:
        RefusedError: if an output exists and is not to be overwritten, or is the image itself.
        InputError: if the work cannot be done block by block, or the image is changed meanwhile.
        ResourceError: if the disk is full; it says what stays to go on from.
    """
    images = (Path(image),) if isinstance(image, str | os.PathLike) else tuple(map(Path, image))
    wanted = {"classes": output, "probabilities": probabilities, "spread": spread}
    targets = {kind: Path(path) for kind, path in wanted.items() if path is not None}
    _check_targets(targets, images, overwrite)
    problem = why_not_streamed(network, inferer, preprocessing, list(targets.values()))
    if problem is not None:
        raise InputError(problem)
    plain = inferer.inferer if isinstance(inferer, RotationAveragingInferer) else inferer
    assert isinstance(plain, OverlapTileInferer)
    source = open_blocks(*images)
    stamp = source.stamp
    if cluster is not None and source.path.suffix.lower() != ".zarr":
        raise InputError(
            f"A cluster works on images in OME-Zarr, but {source.path} is none. Convert it first."
        )
    work = BlockRunner(network, amp=plain.amp)
    if source.shape[0] != network.in_channels or len(source.shape) != len(work.required.stride) + 1:
        raise InputError(
            f"{source.path} has {source.shape[0]} channel(s) and {len(source.shape) - 1} spatial axes, but "
            f"the network takes {network.in_channels} and {len(work.required.stride)}."
        )
    workers = processes.count() if cluster is None else workers_of(cluster)
    versions: tuple[Symmetry, ...] = ()
    if isinstance(inferer, RotationAveragingInferer):
        versions = inferer.versions_for(len(work.required.stride), source.like.spacing)
        check_symmetric(network, versions)
    elif spread is not None:
        raise ValueError("A spread is that of several versions: give a RotationAveragingInferer.")
    values = np.arange(network.out_channels, dtype=np.uint8)
    if labels is not None:
        values = labels.decode(values)
    outputs = tuple(_output(kind, path, source, network, values) for kind, path in targets.items())

    def plan() -> dict[str, Any]:
        """Everything that is found out before the first tile, for whoever goes on."""
        normalise = normalisation(source, preprocessing)
        volume = Blocks(source, normalise)
        statistics = _statistics(volume, work, plain, versions)
        work.prepare()
        found = plan_streamed(source, work, plain, outputs, versions=versions, workers=workers)
        return {
            "tile": list(found.tile), "by_rows": found.by_rows, "normalise": normalise,
            "statistics": statistics,
        }  # fmt: skip

    def job_of(plan: dict[str, Any]) -> Job:
        scales = plan["normalise"]
        normalise = None if scales is None else [GreyScale.of(scale) for scale in scales]
        return Job(
            images, network, plain.amp, versions, values, outputs, tuple(plan["tile"]), plan["by_rows"],
            normalise, plan["statistics"], stamp,
        )  # fmt: skip

    def create() -> None:
        for each in outputs:
            create_blocks(each.made, each.shape, each.dtype, source.like, tile=journal.plan["tile"])

    settings = [
        plain.batch_norm,
        plain.share,
        plain.amp,
        plain.tile,
        values.tolist(),
        str(versions),
        _told(preprocessing),
    ]
    settings += [[each.kind, str(each.target)] for each in outputs]
    journal = Journal(outputs[0].target, _fingerprint(source, network, settings))

    def begin() -> tuple[dict[str, Any], set[int]]:
        journal.open(plan, create, lambda: all(each.made.exists() for each in outputs))
        return journal.plan, journal.done

    try:
        with as_for_inference(network, plain.batch_norm):
            known, done = processes.from_first(begin)
            if processes.rank() > 0:
                journal.join(known, done)
            job = job_of(known)
            if cluster is None:
                fill(TileWorker(job, source), journal, plain.progress)
            else:
                tiles = job.tiles(work.required, source.shape[1:])
                fill_by_cluster(job, journal, cluster, tiles, progress=plain.progress)
        processes.wait()
        if processes.rank() == 0:
            require_unchanged(source, stamp)
            _finish(journal, outputs)
    except BaseException as error:
        if processes.rank() == 0 and isinstance(error, Exception | KeyboardInterrupt):
            _leave(error, journal, outputs, source, stamp)
        raise
    finally:
        journal.close()
    processes.wait()


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


def _finish(journal: Journal, outputs: Sequence[Output]) -> None:
    """Give the outputs their names, that of the journal last, and forget the rest."""
    ready = [finish_blocks(each.made, each.target) for each in outputs]
    for each, path in reversed(list(zip(outputs, ready, strict=True))):
        put_in_place(path, each.target)
        if path != each.made:
            each.made.unlink()
        logger.info("Segmented %s.", each.target)
    journal.finish()


def _leave(
    error: BaseException, journal: Journal, outputs: Sequence[Output], source: BlockVolume, stamp: str
) -> None:
    """Keep what one can go on from, and say so; of an image that was changed nothing is kept.

    Raises:
        InputError: if it was, whatever that has led to.
        ResourceError: if the disk is to blame, with the names of what is kept.
    """
    if isinstance(error, RefusedError):
        return  # it is another process's work
    made = [each.made for each in outputs]
    if source.stamp != stamp or not journal.done:
        journal.drop(made)
        if isinstance(error, Exception):
            require_unchanged(source, stamp)
    kept = ""
    if journal.done:
        names = " and ".join(path.name for path in (*made, journal.path))
        kept = f"{len(journal.done)} tiles are kept in {journal.path.parent}, in {names}; the same command "
        kept += "goes on from there."
        logger.warning("%s", kept)
    if isinstance(error, OSError) and error.errno in DISK:
        raise ResourceError(
            f"cannot write {outputs[0].target}: {error.strerror}. No result is there yet. "
            f"{kept or 'Nothing was kept.'} Free some space or choose another folder."
        ) from error


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


def _told(preprocessing: Callable[..., Any] | None) -> object:
    """A preprocessing that is possible here, in a few words."""
    normaliser = getattr(preprocessing, "normalizer", None)
    if preprocessing is None or normaliser is None:
        return None if preprocessing is None else type(preprocessing).__name__
    return f"normalised, channel_wise={normaliser.channel_wise}"


def _fingerprint(source: BlockVolume, network: UNet, settings: Sequence[object]) -> str:
    """What the bytes of the output depend on."""
    facts = [str(source.path.resolve()), source.stamp, *settings, torch.__version__]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
