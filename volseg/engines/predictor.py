"""Segmenting whole images with a trained network: a MONAI evaluator that writes files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import nn
from torch.utils.data import Dataset

from volseg.data import Case, WholeVolumes, output_of
from volseg.engines.batch import Batch, described, fingerprint, weights_hash
from volseg.engines.evaluator import engine_for, segment
from volseg.errors import InputError, RefusedError
from volseg.io import Volume, stamp, write_volume
from volseg.io.blocks import voxels_of
from volseg.runs import processes
from volseg.runs.checkpoint import load_weights
from volseg.runs.claim import claim, release
from volseg.runs.folder import new_file
from volseg.streaming.run import predict_streamed, why_not_streamed

__all__ = ["predictor"]

logger = logging.getLogger(__name__)

_LARGE = 2**24  # voxels; from here on an image is not read as a whole


def predictor(
    *,
    device: torch.device | str,
    dataset: WholeVolumes,
    network: nn.Module,
    inferer: Inferer,
    checkpoint: str | Path,
    output_dir: str | Path,
    probabilities: bool = False,
    blockwise: bool | None = None,
    cluster: str | None = None,
    val_handlers: Sequence[Any] = (),
    overwrite: bool = False,
) -> SupervisedEvaluator:
    """A MONAI evaluator that writes a segmentation beside each image's name, in the image's geometry.

    What belongs to one image appears together or not at all. A run that was stopped goes on when it is
    started again with the same images, weights and settings: finished images are passed over, which is said.

    Several processes (``torchrun``) share the images, and the tiles of those that are read block by block.

    Args:
        output_dir: ``NAME.nii.gz`` or ``NAME.tif`` go there, as the image was; values as in the label files.
        probabilities: write ``NAME_probabilities`` too: one channel per class, float32. Likewise
            ``NAME_spread``, if the inferer tells how far turned versions disagree.
        blockwise: read, segment and write block by block, so that a run that was killed can go on; ``None``
            for images of more than 16 million voxels.
        cluster: work off the tiles of OME-Zarr images by Dask: ``"local"``, or a scheduler's address.
        val_handlers: further MONAI handlers, such as those of ``--tracking mlflow``.
    """
    folder = Path(output_dir)
    kinds = [True, probabilities, bool(getattr(inferer, "spread", False))]
    outputs = [
        [path if wanted else None for path, wanted in zip(output_of(case, folder), kinds, strict=True)]
        for case in dataset.data
    ]

    books: list[Batch] = []

    def update(engine: Any, batch: Sequence[int]) -> dict[str, Any]:
        try:
            work_on(engine, batch[0], books[-1])
        except BaseException:
            books[-1].close(complete=False)
            if len(dataset) > 1:
                logger.warning("The same command goes on with the images that are left.")
            raise
        return {}

    def work_on(engine: Any, number: int, book: Batch) -> None:
        case, paths = dataset.data[number], outputs[number]
        ours = number % processes.count() == processes.rank()
        if number in book.finished:
            if processes.rank() == 0:
                logger.info("%s is finished already: passed over.", paths[0])
        elif _in_blocks(case, paths):
            if processes.rank() == 0:
                book.begin(number)
            predict_streamed(
                case.images, paths[0], network=engine.network, inferer=engine.inferer, labels=dataset.labels,
                preprocessing=dataset.preprocessing, probabilities=paths[1], spread=paths[2],
                overwrite=overwrite or number in book.begun, cluster=cluster,
            )  # fmt: skip
            if processes.rank() == 0:
                book.finish(number)
        elif ours:
            book.begin(number)
            in_memory(engine, number, overwrite or number in book.begun)
            book.finish(number)

    def _in_blocks(case: Case, paths: Sequence[Path | None]) -> bool:
        if blockwise is False or (not blockwise and cluster is None and voxels_of(case.image) < _LARGE):
            return False
        problem = why_not_streamed(
            network, inferer, dataset.preprocessing, [path for path in paths if path is not None]
        )
        if problem is not None:
            logger.info("%s is segmented as a whole, in memory: %s", case.image, problem)
        return problem is None

    def in_memory(engine: Any, number: int, may_replace: bool) -> None:
        images, (path, named, spread_path) = dataset.data[number].images, outputs[number]
        assert path is not None
        lock = f".{path.name}.lock"
        claim(folder, lock=lock)  # two commands may have some images in common
        try:
            before = [stamp(image) for image in images]
            item = dataset[number]
            logits, spread = segment(item["image"], engine.network, engine.inferer, engine.state.device)
            classes = dataset.labels.decode(logits.argmax(0).to(torch.uint8).cpu().numpy())
            if [stamp(image) for image in images] != before:
                raise InputError(
                    f"{images[0]} was changed, replaced or removed while it was being segmented, so no "
                    "result is written. Let nobody write to it meanwhile, and give the command again."
                )
            files: list[tuple[Path, Any]] = [(path, classes)]
            if spread_path is not None and spread is not None:
                files.append((spread_path, spread.cpu().numpy()))
            if named is not None:
                files.append((named, logits.softmax(0).cpu().numpy().astype(np.float32)))
            _write_together(files, item["volume"], overwrite=may_replace)
        finally:
            release(folder, lock=lock)
        logger.info("Segmented %s.", path)

    numbers = range(len(dataset))
    engine = engine_for(device, _Numbers(len(dataset)), network, inferer, update, "segmenting", numbers)

    @engine.on(Events.STARTED)
    def start(_: Engine) -> None:
        load_weights(network, checkpoint)

        def open_book() -> Batch:
            settings = [
                weights_hash(network), kinds, blockwise, cluster,
                *map(described, (inferer, dataset.labels, dataset.preprocessing)),
            ]  # fmt: skip
            works = [fingerprint(case, settings) for case in dataset.data]
            book = Batch(folder, works, [[path for path in paths if path] for paths in outputs])
            book.open()
            try:
                for number, (case, paths) in enumerate(zip(dataset.data, outputs, strict=True)):
                    for path in paths:
                        if path is not None and number not in book.finished:
                            new_file(path, overwrite=overwrite or number in book.begun, source=case.image)
            except RefusedError:
                book.close(complete=False)
                raise
            book.start()
            return book

        books[:] = [processes.from_first(open_book)]  # before the others begin to write

    @engine.on(Events.COMPLETED)
    def finish(_: Engine) -> None:
        processes.wait()
        if processes.rank() == 0:
            books[-1].close(complete=True)

    for handler in val_handlers:
        handler.attach(engine)
    return engine


def _write_together(files: Sequence[tuple[Path, Any]], like: Volume, *, overwrite: bool) -> None:
    """The files of one image: the first gets its name when all are complete, or none does."""
    (path, array), *others = files
    rest = (lambda: _write_together(others, like, overwrite=overwrite)) if others else None
    write_volume(path, array, like, overwrite=overwrite, together=rest)


class _Numbers(Dataset[int]):
    """The cases by their number: large ones are not to be read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> int:
        return number
