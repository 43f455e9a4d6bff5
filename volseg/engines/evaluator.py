"""Scoring whole volumes on what was not trained on: a MONAI evaluator."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from volseg.annotation.record import Record, learnt_of
from volseg.data import LoadedCase, WholeVolumes
from volseg.engines.handlers import quiet, reraise
from volseg.engines.pages import page_of, write_pages
from volseg.engines.scale import device_of
from volseg.engines.scores import Measure, Scores
from volseg.errors import InputError
from volseg.inferers import OverlapTileInferer, RotationAveragingInferer
from volseg.inferers.statistics import statistics_of
from volseg.io import write_json, write_text
from volseg.labels import IGNORE_INDEX
from volseg.machine import library_versions
from volseg.networks.measuring import spatial_dims_of
from volseg.report import Report, panel
from volseg.runs import processes
from volseg.runs.checkpoint import load_weights
from volseg.runs.claim import claim, release
from volseg.runs.folder import FIGURES, new_file

__all__ = ["engine_for", "evaluator", "segment"]

logger = logging.getLogger(__name__)

_KEPT = 3  # cases whose pages are kept in memory until it is known which are the worst and the best
_LOCK = ".evaluate.lock"  # a training may go on in the same folder meanwhile


def evaluator(
    *,
    device: torch.device | str | None = None,
    dataset: WholeVolumes,
    network: nn.Module,
    inferer: Inferer,
    checkpoint: str | Path | None = None,
    output_dir: str | Path | None = None,
    tolerance: float | None = None,
    measures: Sequence[Measure] = (),
    val_handlers: Sequence[Any] = (),
    overwrite: bool = False,
) -> SupervisedEvaluator:
    """A MONAI evaluator that segments each volume and scores it on voxels that were not trained on.

    Which these are is read from the checkpoint, which knows each image by its voxels: all that is annotated
    now and was never learnt from, in that training or those it went on from. Where a dense truth lies
    beside sparse labels, the voxels that are unlabelled and were never learnt from are scored as well,
    separately.

    Args:
        device: ``None`` for the one that the network is on.
        checkpoint: weights to load; ``None`` for the network as it is, with the split of the dataset, or of
            the trainer that asks for a validation.
        output_dir: where ``metrics.json``, ``metrics.csv``, ``picture.png`` and ``report.html`` go. The
            last two show the worst case, the page with an index of all; ``report_median.html`` and
            ``report_best.html`` beside it. ``None`` for nowhere.
        tolerance: in voxels; adds precision, recall and F1 of thin structures with that tolerance.
        measures: what else to measure on the voxels that were held out, such as
            :class:`volseg.engines.MembraneScores` and :class:`volseg.engines.InstanceScores`.
        val_handlers: further MONAI handlers, such as those that MONAI adds for ``tracking``.
    """
    folder = None if output_dir is None else Path(output_dir)
    plain = _without_image(inferer) if folder is not None and statistics_of(network) else None
    scores = Scores(dataset.labels, tolerance=tolerance)
    work = _Evaluation(dataset, network, inferer, plain, checkpoint, folder, measures, overwrite, scores)
    # Of several processes each scores a part of the volumes, as far as parts can be put together.
    part = range(len(dataset)) if measures else processes.share(len(dataset))
    leave = None if folder is None else partial(release, folder, lock=_LOCK)
    engine = engine_for(device, dataset, network, inferer, work.score, "evaluating", part, leave)
    engine.add_event_handler(Events.STARTED, work.start)
    engine.add_event_handler(Events.EPOCH_COMPLETED, work.finish)
    for handler in val_handlers:  # after the above: they are given the metrics of this very epoch
        handler.attach(engine)
    return engine


@dataclass
class _Evaluation:
    """The scores of some volumes, and the files that say them.

    Attributes:
        plain: the inferer with batch norm in evaluation mode, to compare with; ``None`` where it is that.
    """

    dataset: WholeVolumes
    network: nn.Module
    inferer: Inferer
    plain: Inferer | None
    checkpoint: str | Path | None
    folder: Path | None
    measures: Sequence[Measure]
    overwrite: bool
    scores: Scores

    def __post_init__(self) -> None:
        self.plain_scores = Scores(self.dataset.labels)
        self.content: dict[str, Any] = {}  # of the checkpoint
        self.pages: dict[str, Report] = {}

    def start(self, engine: Engine) -> None:
        """The weights are loaded, the folder is taken, and nothing is scored yet."""
        if self.folder is not None:
            for name in FIGURES:
                new_file(self.folder / name, overwrite=self.overwrite)
        if self.checkpoint is not None:
            self.content.update({"trained_on": {}} | load_weights(self.network, self.checkpoint))
        if self.folder is not None and processes.rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            claim(self.folder, lock=_LOCK)
        engine.state.pictures = {}
        self.pages.clear()
        self.scores.clear()
        self.plain_scores.clear()
        for measure in self.measures:
            measure.clear()

    def score(self, engine: Any, batch: Sequence[LoadedCase]) -> dict[str, Any]:
        """Segment a volume and score it."""
        item = batch[0]
        name, truth = item["name"], item.get("truth")
        train, held, learnt = self._split(engine, item)
        if truth is None and not bool((held != IGNORE_INDEX).any()):
            return {}  # all of it was trained on
        logits = _logits(engine, item, engine.inferer)
        prediction = logits.argmax(0, keepdim=True).to(torch.uint8)
        self.scores.add(name, "held out", prediction, held, item["spacing"])
        if self.plain is not None:
            other = _logits(engine, item, self.plain).argmax(0, keepdim=True).to(torch.uint8)
            self.plain_scores.add(name, "held out", other, held, item["spacing"])
        for measure in self.measures:
            measure.add(name, logits.softmax(0), held[0], item.get("instances"), self.dataset.labels)
        if truth is not None:
            untouched = (train == IGNORE_INDEX) & (held == IGNORE_INDEX) & ~learnt
            unseen = truth.where(untouched, IGNORE_INDEX)
            self.scores.add(name, "never annotated", prediction, unseen, item["spacing"])
        annotation = torch.where(held == IGNORE_INDEX, train, held)
        if not engine.state.pictures:
            picture = panel(item["image"], annotation, prediction, truth, len(self.dataset.labels))
            engine.state.pictures[name] = picture
        if self.folder is not None and len(self.pages) < _KEPT:
            self.pages[name] = page_of(item, logits, annotation, self.dataset)
        return {}

    def finish(self, engine: Engine) -> None:
        """All volumes are scored: put together what each process has, say it and write it."""
        for found, without_image in processes.gather((self.scores.found, self.plain_scores.found)):
            self.scores.merge(found)
            self.plain_scores.merge(without_image)
        engine.state.metrics = self.scores.summary()
        reports = [measure.report() for measure in self.measures]
        tables = [measure.table(found) for measure, found in zip(self.measures, reports, strict=True)]
        for line in chain(self.scores.table(), *tables):
            logger.info(line)
        if not self.scores.matrices:
            logger.warning(
                "Nothing was scored: every annotated voxel was trained on. Set held_out before training, or "
                "evaluate on other cases."
            )
        if self.folder is not None and processes.rank() == 0:
            self._write(engine, self.folder, reports)

    def _write(self, engine: Engine, folder: Path, reports: Sequence[Mapping[str, Any]]) -> None:
        iteration = self.content.get("iteration")
        report: dict[str, Any] = {"checkpoint": str(self.checkpoint), "iteration": iteration}
        if self.plain is not None and self.plain_scores.matrices:
            summary = self.plain_scores.summary()
            report["batch_norm"] = _compared(self.inferer, engine.state.metrics, summary)
        for found in (*reports, self.scores.report()):
            report |= found
        _write_metrics(folder, report, list(self.scores.rows()))
        weights = f"{self.checkpoint}, iteration {iteration}"
        page = partial(self._page, engine)
        write_pages(folder, self.scores, page, checkpoint=weights, versions=library_versions())
        release(folder, lock=_LOCK)
        logger.info("Figures, a picture and report.html to look around in are in %s.", folder)

    def _page(self, engine: Any, name: str) -> Report:
        """That of a case; where there are many, it is segmented once more."""
        if name in self.pages:
            return self.pages[name]
        item = self.dataset[[case.name for case in self.dataset.data].index(name)]
        train, held, _ = self._split(engine, item)
        annotation = torch.where(held == IGNORE_INDEX, train, held)
        return page_of(item, _logits(engine, item, engine.inferer), annotation, self.dataset)

    def _split(self, engine: Any, item: LoadedCase) -> tuple[Tensor, Tensor, Tensor]:
        """By the checkpoint's record, or that of the trainer which asks for a validation."""
        if self.checkpoint is None:
            return _split(item, getattr(engine.state, "trained_on", None))
        return _split(item, self.content["trained_on"])


def _logits(engine: Any, item: LoadedCase, inferer: Inferer) -> Tensor:
    return segment(item, engine.network, inferer, engine.state.device)[0].cpu()


def _without_image(inferer: Inferer) -> Inferer | None:
    """The same with batch norm in evaluation mode, as other programs compute; ``None`` if it is that."""
    if isinstance(inferer, RotationAveragingInferer):
        inner = _without_image(inferer.inferer)
        if inner is None:
            return None
        found = copy(inferer)
        found.inferer, found.spread = inner, False
        return found
    if not isinstance(inferer, OverlapTileInferer) or inferer.batch_norm == "running":
        return None
    plain = copy(inferer)
    plain.batch_norm = "running"
    return plain


def _compared(
    inferer: Inferer, with_image: Mapping[str, float], without: Mapping[str, float]
) -> dict[str, Any]:
    """The headline with the bundle's batch norm and with that of evaluation mode, said and returned."""
    inner = inferer.inferer if isinstance(inferer, RotationAveragingInferer) else inferer
    mode = inner.batch_norm if isinstance(inner, OverlapTileInferer) else "unknown"
    name = next(iter(without), None)
    if name is None or not math.isfinite(without[name]):
        return {"mode": mode}
    found = {"mode": mode, "figure": name, "score": with_image[name], "running": without[name]}
    logger.info(
        'Batch norm: %s is %.3f with batch_norm = "%s", as predict computes, and %.3f in plain evaluation '
        "mode, as a program computes that was given the exported weights.",
        name, found["score"], mode, found["running"],
    )  # fmt: skip
    return found


def engine_for(
    device: torch.device | str | None,
    dataset: Dataset[Any],
    network: nn.Module,
    inferer: Inferer,
    update: Any,
    verb: str,
    part: Sequence[int],
    leave: Callable[[], None] | None = None,
) -> SupervisedEvaluator:
    """A MONAI evaluator over some items of a dataset, with a bar.

    Args:
        leave: called when an error ends it.
    """
    engine = SupervisedEvaluator(
        device=device_of(network, device),
        val_data_loader=DataLoader(dataset, batch_size=1, sampler=part, collate_fn=list),
        network=network,
        inferer=inferer,
        iteration_update=update,
        decollate=False,
    )
    quiet(engine)
    bars: list[tqdm[Any]] = []
    engine.add_event_handler(
        Events.STARTED,
        lambda _: bars.append(tqdm(total=len(part), desc=verb, unit="case", leave=False, disable=None)),
    )
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _: bars[-1].update())
    for event in (Events.EPOCH_COMPLETED, Events.EXCEPTION_RAISED):
        engine.add_event_handler(event, lambda *_: [bar.close() for bar in bars])
    if leave is not None:
        engine.add_event_handler(Events.EXCEPTION_RAISED, lambda *_: leave())
    engine.add_event_handler(Events.EXCEPTION_RAISED, reraise)
    return engine


def segment(
    item: Mapping[str, Any], network: nn.Module, inferer: Inferer, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Logits ``(C, *spatial)`` of the image of a case, and their spread if the inferer gives one.

    The inferer sees the voxel size, which decides what planes can be turned. The network's mode is kept.

    Raises:
        InputError: if the image has more or fewer axes than the network is for.
    """
    dims, axes = spatial_dims_of(network), item["image"].ndim - 1
    if dims not in (None, axes):
        name = item["volume"].name if "volume" in item else "the image"
        raise InputError(
            f"{name} is {axes}D, and the network is for {dims}D. Take a model for such images; a volume of "
            "one slice counts as an image."
        )
    sizes = torch.tensor([*item["spacing"], 1.0], dtype=torch.float64)
    image = MetaTensor(item["image"][None], affine=sizes.diag()).to(device)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            found = inferer(image, network)
    finally:
        network.train(was_training)
    logits, spread = found if isinstance(found, tuple) else (found, None)
    return convert_to_tensor(logits[0]), None if spread is None else convert_to_tensor(spread[0])


def _split(item: LoadedCase, record: Record | None) -> tuple[Tensor, Tensor, Tensor]:
    """Annotation that was learnt from, annotation that was not, and all voxels that were."""
    train, held = item["label"], item["held"]
    if record is None:
        return train, held, train != IGNORE_INDEX
    learnt = torch.from_numpy(learnt_of(record, item))[None]
    annotation = torch.where(held == IGNORE_INDEX, train, held)
    nothing = torch.full_like(annotation, IGNORE_INDEX)
    return annotation.where(learnt, nothing), annotation.where(~learnt, nothing), learnt


def _write_metrics(folder: Path, report: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", report)
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    write_text(folder / "metrics.csv", text, errors="backslashreplace")  # names of files may be no UTF-8
