"""Segmenting a volume that does not fit into memory, from file to file; it can be stopped and resumed.

One thread reads the next tile, one writes the last one, and the network computes in between. Finished tiles
are noted in a journal beside the unfinished output; a run that was killed is resumed from there and ends with
the same bytes.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from volseg.errors import DISK, RefusedError, ResourceError
from volseg.inferers import OverlapTileInferer, RotationAveragingInferer
from volseg.inferers.statistics import as_for_inference
from volseg.io.atomic import put_in_place
from volseg.io.blocks import finish_blocks
from volseg.labels import LabelScheme
from volseg.networks import UNet
from volseg.runs import processes
from volseg.streaming.cluster import fill_by_cluster
from volseg.streaming.job import Output, TileWorker, fill
from volseg.streaming.journal import Journal
from volseg.streaming.request import Request, check
from volseg.streaming.source import require_unchanged

__all__ = ["predict_streamed"]

logger = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


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
    spacing: str | None = None,
) -> None:
    """Segment a file into others, block by block, as far as its format allows.

    If unfinished outputs of the same image, network and settings are there, the run continues with them.
    Nothing stands under a final name before it is complete. Processes that ``torchrun`` started share the
    tiles.

    Args:
        image: a file, or one for each channel.
        output: where class numbers go; ``None`` for nowhere.
        labels: what class indices are called in the file; ``None`` writes the indices.
        preprocessing: ``None``, :class:`volseg.NormalizeGreyValuesd`, or MONAI's ``NormalizeIntensityd``
            over all voxels of the image or channel.
        probabilities: where probabilities go, one float32 map per class.
        spread: where their standard deviation over the turned versions goes, likewise.
        cluster: ``"local"``, or the address of a Dask scheduler, for images in OME-Zarr.
        spacing: the voxel size, where the image names none or a wrong one; see `volseg.io.read_volume`.

    Raises:
        RefusedError: if an output exists and is not to be overwritten, or is the image itself.
        InputError: if the work cannot be done block by block, or the image is changed meanwhile.
        ResourceError: if the disk is full; it says what is kept to resume from.
    """
    images = (Path(image),) if isinstance(image, str | os.PathLike) else tuple(map(Path, image))
    wanted = {"classes": output, "probabilities": probabilities, "spread": spread}
    request = check(
        images,
        {kind: Path(path) for kind, path in wanted.items() if path is not None},
        network=network,
        inferer=inferer,
        labels=labels,
        preprocessing=preprocessing,
        overwrite=overwrite,
        cluster=cluster,
        spacing=spacing,
    )
    journal = Journal(request.outputs[0].target, request.fingerprint())
    try:
        _process(request, journal)
    except BaseException as error:
        if processes.rank() == 0 and isinstance(error, Exception | KeyboardInterrupt):
            _leave(error, journal, request)
        raise
    finally:
        journal.close()
    processes.wait()


def _process(request: Request, journal: Journal) -> None:
    """All tiles that are left, by this process, by those beside it or by a cluster; then the final names."""
    with as_for_inference(request.network, request.inferer.batch_norm):
        known, done = processes.from_first(lambda: _opened(request, journal))
        if processes.rank() > 0:
            journal.join(known, done)
        job = request.job(known)
        progress = request.inferer.progress
        if request.cluster is None:
            fill(TileWorker(job, request.source), journal, progress)
        else:
            tiles = job.tiles(request.work.required, request.source.shape[1:])
            fill_by_cluster(job, journal, request.cluster, tiles, progress=progress)
    processes.wait()
    if processes.rank() == 0:
        require_unchanged(request.source, request.stamp)
        _finish(journal, request.outputs)


def _opened(request: Request, journal: Journal) -> tuple[dict[str, Any], set[int]]:
    """The plan, new or that of the run to be resumed, and the tiles that are on the disk."""
    journal.open(
        request.plan,
        lambda: request.create(journal.plan),
        lambda: all(path.exists() for path in request.made),
    )
    return journal.plan, journal.done


def _finish(journal: Journal, outputs: Sequence[Output]) -> None:
    """Give the outputs their names, that of the journal last, and forget the rest."""
    ready = [finish_blocks(each.made, each.target) for each in outputs]
    for each, path in reversed(list(zip(outputs, ready, strict=True))):
        put_in_place(path, each.target)
        if path != each.made:
            each.made.unlink()
        logger.info("Segmented %s.", each.target)
    journal.finish()


def _leave(error: BaseException, journal: Journal, request: Request) -> None:
    """Keep what can be resumed, and say so; of an image that was changed nothing is kept.

    Raises:
        InputError: if it was, whatever that has led to.
        ResourceError: if the disk is to blame, with the names of what is kept.
    """
    if isinstance(error, RefusedError):
        return  # it is another process's work
    made = request.made
    if request.source.stamp != request.stamp or not journal.done:
        journal.drop(made)
        if isinstance(error, Exception):
            require_unchanged(request.source, request.stamp)
    kept = ""
    if journal.done:
        names = " and ".join(path.name for path in (*made, journal.path))
        kept = f"{len(journal.done)} tiles are kept in {journal.path.parent}, in {names}; the same command "
        kept += "resumes from them."
        logger.warning("%s", kept)
    if isinstance(error, OSError) and error.errno in DISK:
        raise ResourceError(
            f"cannot write {request.outputs[0].target}: {error.strerror}. No result is there yet. "
            f"{kept or 'Nothing was kept.'} Free some space or choose another folder."
        ) from error
