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

from volseg.data import Case, WholeVolumes
from volseg.engines import processes
from volseg.engines.checkpoint import load_weights
from volseg.engines.evaluator import engine_for, segment
from volseg.engines.run_folder import new_file, output_of
from volseg.engines.streaming import predict_streamed, why_not_streamed
from volseg.io import write_volume
from volseg.io.blocks import voxels_of

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

    def update(engine: Any, batch: Sequence[int]) -> dict[str, Any]:
        number = batch[0]
        case, paths = dataset.data[number], outputs[number]
        folder.mkdir(parents=True, exist_ok=True)
        if _in_blocks(case, paths):
            predict_streamed(
                case.images, paths[0], network=engine.network, inferer=engine.inferer, labels=dataset.labels,
                preprocessing=dataset.preprocessing, probabilities=paths[1], spread=paths[2],
                overwrite=overwrite, cluster=cluster,
            )  # fmt: skip
        elif number % processes.count() == processes.rank():
            in_memory(engine, number)
        return {}

    def _in_blocks(case: Case, paths: Sequence[Path | None]) -> bool:
        if blockwise is False or (not blockwise and cluster is None and voxels_of(case.image) < _LARGE):
            return False
        problem = why_not_streamed(
            network, inferer, dataset.preprocessing, [path for path in paths if path is not None]
        )
        if problem is not None:
            logger.info("%s is segmented as a whole, in memory: %s", case.image, problem)
        return problem is None

    def in_memory(engine: Any, number: int) -> None:
        item = dataset[number]
        path, named, spread_path = outputs[number]
        logits, spread = segment(item["image"], engine.network, engine.inferer, engine.state.device)
        classes = dataset.labels.decode(logits.argmax(0).to(torch.uint8).cpu().numpy())
        assert path is not None
        write_volume(path, classes, item["volume"], overwrite=overwrite)
        if named is not None:
            maps = logits.softmax(0).cpu().numpy().astype(np.float32)
            write_volume(named, maps, item["volume"], overwrite=overwrite)
        if spread_path is not None and spread is not None:
            write_volume(spread_path, spread.cpu().numpy(), item["volume"], overwrite=overwrite)
        logger.info("Segmented %s.", path)

    numbers = range(len(dataset))
    engine = engine_for(device, _Numbers(len(dataset)), network, inferer, update, "segmenting", numbers)

    @engine.on(Events.STARTED)
    def start(_: Engine) -> None:
        def check() -> None:
            for case, paths in zip(dataset.data, outputs, strict=True):
                for path in paths:
                    if path is not None:
                        new_file(path, overwrite=overwrite, source=case.image)

        processes.from_first(check)  # before the others begin to write
        load_weights(network, checkpoint)

    for handler in val_handlers:
        handler.attach(engine)
    return engine


class _Numbers(Dataset[int]):
    """The cases by their number: large ones are not to be read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> int:
        return number
