"""Segmenting whole images with a trained network: a MONAI evaluator that writes files."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from numpy.typing import NDArray
from torch import Tensor, nn
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
from volseg.streaming.request import why_not_streamed
from volseg.streaming.run import predict_streamed

__all__ = ["predictor"]

logger = logging.getLogger(__name__)

_LARGE = 2**24  # voxels; from here on an image is not read as a whole


def predictor(
    *,
    device: torch.device | str | None = None,
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
        device: ``None`` for the one that the network is on.
        output_dir: ``NAME.nii.gz`` or ``NAME.tif`` go there, as the image was; values as in the label files.
        probabilities: write ``NAME_probabilities`` too: one channel per class, float32. Likewise
            ``NAME_spread``, if the inferer gives how far turned versions disagree.
        blockwise: read, segment and write block by block, so that a run that was killed can go on; ``None``
            for images of more than 16 million voxels.
        cluster: work off the tiles of OME-Zarr images by Dask: ``"local"``, or a scheduler's address.
        val_handlers: further MONAI handlers, such as those that MONAI adds for ``tracking``.
    """
    folder = Path(output_dir)
    kinds = [True, probabilities, bool(getattr(inferer, "spread", False))]
    outputs = [
        [path if wanted else None for path, wanted in zip(output_of(case, folder), kinds, strict=True)]
        for case in dataset.data
    ]
    work = _Prediction(
        folder, dataset, network, inferer, Path(checkpoint), kinds, outputs, blockwise, cluster, overwrite
    )
    numbers = range(len(dataset))
    engine = engine_for(device, _Numbers(len(dataset)), network, inferer, work.update, "segmenting", numbers)
    engine.add_event_handler(Events.STARTED, work.start)
    engine.add_event_handler(Events.COMPLETED, work.finish)
    for handler in val_handlers:
        handler.attach(engine)
    return engine


@dataclass
class _Prediction:
    """The images, their results and the journal of both.

    Attributes:
        kinds: which of classes, probabilities and spread are wanted.
        outputs: for each case the file of each kind, ``None`` where it is not wanted.
    """

    folder: Path
    dataset: WholeVolumes
    network: nn.Module
    inferer: Inferer
    checkpoint: Path
    kinds: Sequence[bool]
    outputs: Sequence[Sequence[Path | None]]
    blockwise: bool | None
    cluster: str | None
    overwrite: bool
    book: Batch = field(init=False)

    def start(self, _: Engine) -> None:
        """The weights are loaded, and the results taken for this run, before another process writes."""
        load_weights(self.network, self.checkpoint)
        self.book = processes.from_first(self._open_book)

    def update(self, engine: Any, batch: Sequence[int]) -> dict[str, Any]:
        """Segment one image."""
        try:
            self._segment(engine, batch[0])
        except BaseException:
            self.book.close(complete=False)
            if len(self.dataset) > 1:
                logger.warning("The same command goes on with the images that are left.")
            raise
        return {}

    def finish(self, _: Engine) -> None:
        """Every image is segmented."""
        processes.wait()
        if processes.rank() == 0:
            self.book.close(complete=True)

    def _open_book(self) -> Batch:
        settings = [
            weights_hash(self.network), self.kinds, self.blockwise, self.cluster,
            *map(described, (self.inferer, self.dataset.labels, self.dataset.preprocessing)),
        ]  # fmt: skip
        works = [fingerprint(case, settings) for case in self.dataset.data]
        book = Batch(self.folder, works, [[path for path in paths if path] for paths in self.outputs])
        book.take()
        try:
            for number, (case, paths) in enumerate(zip(self.dataset.data, self.outputs, strict=True)):
                for path in paths:
                    if path is not None and number not in book.finished:
                        new_file(path, overwrite=self.overwrite or number in book.begun, source=case.image)
        except RefusedError:
            book.close(complete=False)
            raise
        book.start()
        return book

    def _segment(self, engine: Any, number: int) -> None:
        book, case, paths = self.book, self.dataset.data[number], self.outputs[number]
        may_replace = self.overwrite or number in book.begun
        if number in book.finished:
            if processes.rank() == 0:
                logger.info("%s is finished already: passed over.", paths[0])
        elif self._is_streamed(case, paths):
            if processes.rank() == 0:
                book.begin(number)
            predict_streamed(
                case.images, paths[0], network=engine.network, inferer=engine.inferer,
                labels=self.dataset.labels, preprocessing=self.dataset.preprocessing, probabilities=paths[1],
                spread=paths[2], overwrite=may_replace, cluster=self.cluster, spacing=case.spacing,
            )  # fmt: skip
            if processes.rank() == 0:
                book.finish(number)
        elif number % processes.count() == processes.rank():
            book.begin(number)
            self._in_memory(engine, number, may_replace)
            book.finish(number)

    def _is_streamed(self, case: Case, paths: Sequence[Path | None]) -> bool:
        """Whether an image is segmented block by block."""
        small = not self.blockwise and self.cluster is None
        if self.blockwise is False or (small and voxels_of(case.image) < _LARGE):
            return False
        files = [path for path in paths if path is not None]
        problem = why_not_streamed(self.network, self.inferer, self.dataset.preprocessing, files)
        if problem is not None:
            logger.info("%s is segmented as a whole, in memory: %s", case.image, problem)
        return problem is None

    def _in_memory(self, engine: Any, number: int, may_replace: bool) -> None:
        images, path = self.dataset.data[number].images, self.outputs[number][0]
        assert path is not None
        lock = f".{path.name}.lock"
        claim(self.folder, lock=lock)  # two commands may have some images in common
        try:
            before = [stamp(image) for image in images]
            item = self.dataset[number]
            found = segment(item, engine.network, engine.inferer, engine.state.device)
            files = self._files(number, *found)
            if [stamp(image) for image in images] != before:
                raise InputError(
                    f"{images[0]} was changed, replaced or removed while it was being segmented, so no "
                    "result is written. Let nothing write to it meanwhile, and repeat the command."
                )
            _write_together(files, item["volume"], overwrite=may_replace)
        finally:
            release(self.folder, lock=lock)
        logger.info("Segmented %s.", path)

    def _files(self, number: int, logits: Tensor, spread: Tensor | None) -> list[tuple[Path, NDArray[Any]]]:
        """What goes into which file, the classes first."""
        path, named, spread_path = self.outputs[number]
        assert path is not None
        classes = self.dataset.labels.decode(logits.argmax(0).to(torch.uint8).cpu().numpy())
        files: list[tuple[Path, NDArray[Any]]] = [(path, classes)]
        if spread_path is not None and spread is not None:
            files.append((spread_path, spread.cpu().numpy()))
        if named is not None:
            files.append((named, logits.softmax(0).cpu().numpy().astype(np.float32)))
        return files


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
