"""The training loop: a MONAI trainer with checkpoints, budgets, validation and a log attached."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor, nn

from volseg.data import PatchLoader, TrainingPatches
from volseg.engines.course import Course, Validation
from volseg.engines.handlers import Announcement, ProgressBar, quiet, reraise
from volseg.engines.profiling import Stopwatch
from volseg.engines.scale import Cache, device_of, keep_on_device, use_bf16
from volseg.engines.state import RunState
from volseg.engines.step import Step, can_wait, moving_average
from volseg.losses import over_annotated
from volseg.machine import allowed_processors
from volseg.runs import processes
from volseg.runs.folder import RunFolder
from volseg.runs.stopping import Budget, Improvement

__all__ = ["trainer"]

_WORKERS = 8  # draw patches for a GPU, at most
_EVERY = 10  # on a GPU, so many steps go by between two looks at what became of them


def trainer(
    *,
    device: torch.device | str | None = None,
    max_epochs: int,
    epoch_length: int,
    dataset: TrainingPatches,
    network: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: Any = None,
    output_dir: str | Path,
    batch_size: int = 1,
    num_workers: int | None = None,
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
        device: ``None`` for the one that the network is on.
        max_epochs: an epoch is what lies between two checkpoints: ``epoch_length`` iterations.
        network: any that returns logits ``(B, classes, *spatial)``, first if it returns several.
        loss: called as ``(logits, target, weight)`` if it takes a ``weight``, as volseg's own; one of MONAI
            or torch that takes ``(input, target)`` gets the annotated voxels alone, see
            :func:`volseg.losses.over_annotated`.
        lr_scheduler: stepped after every iteration, and faster where minutes limit the run, so that it
            comes to its end when they do.
        output_dir: folder of the run; if it holds a checkpoint, say ``resume`` or ``overwrite``. What is
            overwritten stays until the new training is complete, which takes place in ``unfinished`` inside.
        num_workers: processes that draw patches ahead of the step; ``None`` for one per processor beside a
            GPU, 8 at most, and for none where the step itself needs the processors.
        precision: see :func:`volseg.engines.use_bf16`; with ``"auto"`` a resumed run goes on in the
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
            as training left them, ``"clean"`` gathered again from undeformed blocks of the training images.
            The others are kept beside them.
        cache: where the volumes are kept and patches drawn: ``"device"``, ``"host"``, or ``"auto"``, the
            device if they take no more than half of its free memory.
        compiled: run the network through ``torch.compile``; a text names its backend.
        profile: say, after some steps, where the time of a step goes.
        sync_batch_norm: with several processes, statistics over the patches of all; on GPUs only.
        train_handlers: further MONAI handlers, such as those that MONAI adds for ``tracking``.
        note: what the log says at the start, before the expected time.
    """
    folder, device = RunFolder.at(output_dir, resume=resume, overwrite=overwrite), device_of(network, device)
    num_workers = _workers(device) if num_workers is None else num_workers
    _require_least(max_epochs, epoch_length, batch_size, num_workers, keep_last, statistics)
    _require_step(lr_scheduler)
    iterations = max_epochs * epoch_length
    validation = None if evaluator is None or val_interval == 0 else Validation(evaluator, val_interval)
    budget, best = Budget(iterations, max_minutes), _improvement(patience, validation)
    forward = processes.parallel(network, device, sync_batch_norm=sync_batch_norm)
    if amp is None:
        amp = processes.any_of(use_bf16(network, device, precision=precision), device)
    every = _steps_between_looks(device, optimizer)
    stopwatch = Stopwatch(device) if profile else None
    lap = stopwatch.lap if stopwatch else _no_lap
    average = moving_average(network, weight_average)
    step = Step(_faster(forward, compiled), amp=amp, average=average, every=every, lap=lap)
    state = RunState(network, optimizer, lr_scheduler, step, budget, best, seed, dataset, statistics)
    start = _start(state, folder, precision)
    if keep_on_device(dataset, device, cache) or profile:
        num_workers = 0  # what is drawn on the device is drawn here; what is timed, too
    loader = _loader(dataset, range(start, iterations), batch_size, num_workers, device)
    engine = _engine(state, loader, loss, device, max_epochs, epoch_length, train_handlers)
    engine.state.iteration, engine.state.epoch = start, start // epoch_length
    course = Course(state, folder, device, start, max_epochs, validation, keep_last)
    _attach(engine, course, note, stopwatch, forward)
    return engine


def _require_least(
    max_epochs: int, epoch_length: int, batch_size: int, num_workers: int, keep_last: int, statistics: str
) -> None:
    if min(max_epochs, epoch_length) < 1:
        raise ValueError(f"{max_epochs} epochs of {epoch_length} iterations: both must be 1 or more.")
    if statistics not in ("running", "clean"):
        raise ValueError(f'statistics = {statistics!r} is unknown. Use "running" or "clean".')
    for name, count, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if count < least:
            raise ValueError(f"{name} = {count} is too small: {least} is the least.")
    if keep_last < 1:
        raise ValueError(f"keep_last = {keep_last} keeps no checkpoint: 1 is the least.")


def _require_step(lr_scheduler: Any) -> None:
    if lr_scheduler is not None and not callable(getattr(lr_scheduler, "step", None)):
        raise ValueError(
            f"lr_scheduler = {lr_scheduler!r} has no step(): the learning rate could not follow it. Give "
            "one of torch.optim.lr_scheduler, or None for a rate that stays."
        )


def _improvement(patience: int, validation: Validation | None) -> Improvement:
    if patience and validation is None:
        raise ValueError(
            f"patience = {patience} counts validations, but there are none: set val_interval to 1 or more."
        )
    return Improvement(patience)


def _start(state: RunState, folder: RunFolder, precision: str) -> int:
    """The iteration to begin with: 0, or where the checkpoint of a resumed run, put back now, was written."""
    if not folder.resume:
        return 0
    folder.check()
    return state.restore(folder.stage / "last.pt", precision=precision)


def _loader(
    dataset: TrainingPatches, iterations: range, batch_size: int, num_workers: int, device: torch.device
) -> PatchLoader:
    """The batches of this process; patches are numbered over all processes."""
    each = batch_size * processes.count()
    firsts = (iteration * each + processes.rank() * batch_size for iteration in iterations)
    return PatchLoader(
        dataset,
        [range(first, first + batch_size) for first in firsts],
        num_workers=num_workers,
        prepare=_leave_signals,
        pin_memory=device.type == "cuda",
    )


def _engine(
    state: RunState,
    loader: PatchLoader,
    loss: nn.Module,
    device: torch.device,
    max_epochs: int,
    epoch_length: int,
    train_handlers: Sequence[Any],
) -> SupervisedTrainer:
    engine = SupervisedTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=loader,
        epoch_length=epoch_length,
        network=state.network,
        optimizer=state.optimizer,
        loss_function=over_annotated(loss).to(device),
        iteration_update=state.step,
        decollate=False,
        train_handlers=list(train_handlers) or None,
    )
    quiet(engine)
    return engine


def _attach(
    engine: Engine, course: Course, note: str, stopwatch: Stopwatch | None, network: nn.Module
) -> None:
    """In this order: what opens the folder, seeds and shows the steps, validates and saves, and raises."""
    course.attach_opening(engine)
    seed = course.state.seed + processes.rank()
    engine.add_event_handler(Events.ITERATION_STARTED, _seed_step, seed)
    if processes.rank() == 0:
        ProgressBar(course.start).attach(engine)
        course.tracking.attach(engine)
    Announcement(note, course.state.budget, course.start).attach(engine)
    if stopwatch and processes.rank() == 0:
        stopwatch.attach(engine, network, course.state.step.amp)
    course.attach(engine)
    engine.add_event_handler(Events.EXCEPTION_RAISED, reraise)


def _workers(device: torch.device) -> int:
    """Processes that draw patches, where no number is asked for: on a CPU the step itself needs them all."""
    return 0 if device.type == "cpu" else min(_WORKERS, allowed_processors())


def _no_lap(_: str) -> None:
    """The time is not taken."""


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
