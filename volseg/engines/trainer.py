"""The training loop: a MONAI trainer with checkpoints, budgets, validation and a log attached."""

import logging
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor, nn

from volseg.data import PatchLoader, TrainingPatches, listed
from volseg.engines.handlers import ProgressBar, StopOnSignal, Tracking, quiet, reraise, taken
from volseg.engines.profiling import Stopwatch
from volseg.engines.scale import Cache, keep_on_device, use_bf16
from volseg.engines.state import RunState
from volseg.engines.step import Step, can_wait, moving_average
from volseg.errors import theirs
from volseg.losses import over_annotated
from volseg.runs import processes
from volseg.runs.budget import Budget, Improvement, advance
from volseg.runs.checkpoint import save_checkpoint
from volseg.runs.claim import release
from volseg.runs.folder import check_run, complete_run, open_run, say_what_is_older, tidy_up, working_folder
from volseg.runs.log import close_log

__all__ = ["trainer"]

logger = logging.getLogger(__name__)

_TIMED = (3, 8)  # iterations between which a step is timed; the first ones allocate memory
_EVERY = 10  # on a GPU, so many steps go by between two looks at what became of them


def trainer(
    *,
    device: torch.device | str,
    max_epochs: int,
    epoch_length: int,
    dataset: TrainingPatches,
    network: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: Any = None,
    output_dir: str | Path,
    batch_size: int = 1,
    num_workers: int = 0,
    amp: bool | None = None,
    weight_average: float = 0.0,
    evaluator: SupervisedEvaluator | None = None,
    val_interval: int = 1,
    max_minutes: float | None = None,
    patience: int = 0,
    keep_last: int = 2,
    statistics: Literal["running", "clean"] = "running",
    precision: str = "float32",
    cache: Cache = "auto",
    compiled: bool | str = False,
    profile: bool = False,
    sync_batch_norm: bool = False,
    train_handlers: Sequence[Any] = (),
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    note: str = "Training",
) -> SupervisedTrainer:
    """A MONAI trainer with everything attached that one expects of a training.

    A progress bar, a log file, scalars and pictures for TensorBoard, a CSV of the loss, the resolved
    configuration, checkpoints after every epoch, and a clean stop on Ctrl-C or SIGTERM. Making the
    trainer writes nothing; the folder is checked and opened when it runs.

    Args:
        max_epochs: an epoch is what lies between two checkpoints: ``epoch_length`` iterations.
        network: any that returns logits ``(B, classes, *spatial)``, first if it returns several.
        loss: called as ``(logits, target, weight)`` if it takes a ``weight``, as volseg's own; one of MONAI
            or torch that takes ``(input, target)`` gets the annotated voxels alone, see
            :func:`~volseg.losses.over_annotated`.
        lr_scheduler: stepped after every iteration, and faster where minutes limit the run, so that it
            comes to its end when they do.
        output_dir: folder of the run; if it holds a checkpoint, say ``resume`` or ``overwrite``. What is
            overwritten stays until the new training is complete, which takes place in ``unfinished`` inside.
        precision: see :func:`~volseg.engines.use_bf16`; with ``"auto"`` a resumed run goes on in the
            format that it was begun in, whatever is faster now.
        amp: bfloat16 autocast or not, whatever ``precision`` says; ``None`` to leave it to that.
        weight_average: decay of an exponential moving average of the weights, which is then what is
            evaluated and segmented with; 0 for none.
        evaluator: scores the network on held-out slices, every ``val_interval`` epochs and at the end;
            ``best.pt`` holds the weights with the best score, the first figure it reports.
        val_interval: in epochs; 0 for never.
        max_minutes: the run ends, saved and resumable, when it has taken so long, earlier parts included.
        patience: the run ends after so many validations without a better score; 0 for never.
        keep_last: how many of the checkpoints to resume from are kept.
        statistics: of batch norm in ``model.pt``, once the training is done, and ``best.pt``: ``"running"``
            as training left them, ``"clean"`` gathered anew from undeformed blocks of the training images.
            The others are kept beside them.
        cache: where the volumes are kept and patches drawn: ``"device"``, ``"host"``, or ``"auto"``, the
            device if they take no more than half of its free memory.
        compiled: run the network through ``torch.compile``; a text names its backend.
        profile: say, after some steps, where the time of a step goes.
        sync_batch_norm: with several processes, statistics over the patches of all; on GPUs only.
        train_handlers: further MONAI handlers, such as those of ``--tracking mlflow``.
        note: what the log says at the start, before the expected time.
    """
    device, home = torch.device(device), Path(output_dir)
    processes.from_first(lambda: tidy_up(home))
    folder = working_folder(home, resume=resume, overwrite=overwrite)
    iterations = max_epochs * epoch_length
    if min(max_epochs, epoch_length) < 1:
        raise ValueError(f"{max_epochs} epochs of {epoch_length} iterations are no training: 1 is the least.")
    if statistics not in ("running", "clean"):
        raise ValueError(f'statistics = {statistics!r} is unknown. Use "running" or "clean".')
    for name, count, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if count < least:
            raise ValueError(f"{name} = {count} is too small: {least} is the least.")
    if keep_last < 1:
        raise ValueError(f"keep_last = {keep_last} keeps no checkpoint: 1 is the least.")
    validates = evaluator is not None and val_interval > 0
    if patience and not validates:
        raise ValueError(
            f"patience = {patience} counts validations, but there are none: set val_interval to 1 or more."
        )
    budget, best = Budget(iterations, max_minutes), Improvement(patience)
    forward = processes.parallel(network, device, sync_batch_norm=sync_batch_norm)
    if amp is None:
        amp = processes.any_of(use_bf16(network, device, precision=precision), device)
    every = _steps_between_looks(device, optimizer)
    stopwatch = Stopwatch(device) if profile else None
    lap = stopwatch.lap if stopwatch else lambda _: None
    average = moving_average(network, weight_average)
    step = Step(_faster(forward, compiled), amp=amp, average=average, every=every, lap=lap)
    state = RunState(network, optimizer, lr_scheduler, step, budget, best, seed, dataset, statistics)
    start = 0
    if resume:
        check_run(home, resume=resume, overwrite=overwrite)
        start = state.restore(folder / "last.pt", precision=precision)
    if keep_on_device(dataset, device, cache) or profile:
        num_workers = 0  # what is drawn on the device is drawn here; what is timed, too
    each = batch_size * processes.count()
    loader = PatchLoader(
        dataset,
        [
            range(first, first + batch_size)
            for first in range(start * each + processes.rank() * batch_size, iterations * each, each)
        ],
        num_workers=num_workers,
        prepare=_leave_signals,
        pin_memory=device.type == "cuda",
    )
    engine = SupervisedTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=loader,
        epoch_length=epoch_length,
        network=network,
        optimizer=optimizer,
        loss_function=over_annotated(loss).to(device),
        iteration_update=step,
        decollate=False,
        train_handlers=list(train_handlers) or None,
    )
    quiet(engine)
    engine.state.iteration, engine.state.epoch = start, start // epoch_length
    writes = processes.rank() == 0
    describe: list[Callable[[], None]] = []  # for once: the description of this part of the run
    tracking = Tracking(folder)

    @engine.on(Events.STARTED)
    def begin(_: Engine) -> None:
        check_run(home, resume=resume, overwrite=overwrite)
        processes.wait()
        if writes:
            facts = state.facts(device)
            describe.append(
                open_run(
                    home, folder, resume=resume, data=[listed(case) for case in dataset.data], facts=facts
                )
            )
        processes.wait()
        if resume:
            logger.info("Resuming at iteration %d.", start)
        budget.start()

    engine.add_event_handler(Events.ITERATION_STARTED, _seed_step, seed + processes.rank())
    if writes:
        ProgressBar(start).attach(engine)
        tracking.attach(engine)
    if lr_scheduler is not None:

        @engine.on(Events.ITERATION_COMPLETED)
        def schedule(engine: Engine) -> None:
            if every > 1 or taken(engine):  # on a GPU what became of the step is not known yet
                with theirs("lr_scheduler", lr_scheduler, "failed"):
                    advance(lr_scheduler, budget, engine.state.iteration)

    _announce(engine, note, iterations - start, budget)
    if stopwatch and writes:
        stopwatch.attach(engine, forward, amp)

    def save(engine: Engine, *, done: bool = False) -> None:
        if writes:
            iteration = engine.state.iteration
            save_checkpoint(folder / "model.pt", state.weights(iteration, done=done))
            save_checkpoint(folder / "last.pt", state.content(iteration), keep=keep_last)
            while describe:
                describe.pop()()
        processes.wait()

    def validate(engine: Engine) -> None:
        if evaluator is None or val_interval == 0:
            return
        iteration = engine.state.iteration
        evaluator.state.trained_on = state.trained_on  # what it has learnt from is not scored
        with state.in_use(done=True), processes.alone(network):
            evaluator.run(max(1, engine.state.epoch))
        metrics = evaluator.state.metrics
        if best.note(next(iter(metrics.values()), math.nan), iteration) and writes:
            save_checkpoint(folder / "best.pt", state.weights(iteration, done=True))
        if writes:
            tracking.scores(iteration, metrics)
            for name, picture in evaluator.state.pictures.items():
                tracking.picture(iteration, name, picture)

    @engine.on(Events.EPOCH_COMPLETED)
    def close_epoch(engine: Engine) -> None:
        epoch = engine.state.epoch
        is_spent = processes.any_of(budget.is_spent, device)
        if is_spent or epoch == max_epochs or (val_interval and epoch % val_interval == 0):
            validate(engine)
        save(engine, done=is_spent or best.is_over or epoch == max_epochs)
        if is_spent or best.is_over:
            engine.terminate()

    @engine.on(Events.ITERATION_COMPLETED)
    def watch_the_clock(engine: Engine) -> None:
        iteration = engine.state.iteration
        if max_minutes is None or iteration % epoch_length == 0 or iteration % every:
            return
        if processes.any_of(budget.is_spent, device):
            validate(engine)
            save(engine, done=True)
            engine.terminate()

    StopOnSignal(save, every=every).attach(engine)

    @engine.on(Events.COMPLETED)
    def say_done(engine: Engine) -> None:
        step.read()
        _say_done(engine.state.iteration, home, step, budget, best)
        close_log()
        if writes and folder != home:
            complete_run(home)
        if writes:
            say_what_is_older(home, engine.state.iteration)

    for event in (Events.COMPLETED, Events.EXCEPTION_RAISED):
        engine.add_event_handler(event, lambda *_: release(home))
    engine.add_event_handler(Events.EXCEPTION_RAISED, reraise)
    return engine


def _steps_between_looks(device: torch.device, optimizer: torch.optim.Optimizer) -> int:
    """1 where looking costs nothing, or where the optimiser cannot do without."""
    return _EVERY if device.type != "cpu" and can_wait(optimizer) else 1


def _faster(network: nn.Module, compiled: bool | str) -> Callable[[Tensor], Tensor]:
    if not compiled:
        return network
    return torch.compile(network, backend=compiled if isinstance(compiled, str) else "inductor")


def _leave_signals(_: int) -> None:
    """Ctrl-C reaches the workers, too: they go on until the main process has finished its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _seed_step(engine: Engine, seed: int) -> None:
    """Dropout of iteration ``i`` is a function of the seed and ``i``, as the patches are."""
    torch.manual_seed(seed * 1_000_003 + engine.state.iteration)


def _announce(engine: Engine, note: str, iterations: int, budget: Budget) -> None:
    """Say how long the run will take, once a few steps have been timed."""
    began: list[float] = []
    first, last = _TIMED

    def tell(engine: Engine) -> None:
        began.append(time.perf_counter())
        if len(began) == min(last, iterations):
            per_step = (began[-1] - began[min(first, len(began) - 1)]) / max(1, len(began) - 1 - first)
            minutes = iterations * per_step / 60
            if budget.max_minutes is not None and budget.max_minutes - budget.earlier < minutes:
                logger.info("%s: up to %d iterations, %g min.", note, iterations, budget.max_minutes)
                return
            logger.info(
                "%s: %d iterations, about %.0f min on this machine.", note, iterations, max(1, minutes)
            )

    engine.add_event_handler(Events.ITERATION_COMPLETED, tell)


def _say_done(iteration: int, folder: Path, step: Step, budget: Budget, best: Improvement) -> None:
    for count, what in (
        (step.blank, "had no annotation"),
        (step.bad, "had a loss or gradient that is not finite"),
    ):
        if count:
            logger.warning("%d step(s) %s and were skipped.", count, what)
    if best.is_over:
        logger.info("Stopped at iteration %d: %d validations brought no better score.", iteration, best.since)
    elif budget.is_spent and iteration < budget.iterations:
        logger.info("Stopped at iteration %d: the %g minutes are used up.", iteration, budget.max_minutes)
    if best.score is not None:
        logger.info(
            "The best validation, %.4f, was at iteration %d; its weights are in %s.",
            best.score,
            best.iteration,
            folder / "best.pt",
        )
    logger.info("Trained. The weights are in %s.", folder / "model.pt")
