"""The training loop: a MONAI trainer whose step knows about missing annotation and bad numbers."""

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from volseg.data import TrainingPatches
from volseg.engines.checkpoint import load_checkpoint, save_checkpoint
from volseg.engines.handlers import ProgressBar, StopOnSignal, Tracking, quiet, reraise
from volseg.engines.run_folder import check_run, close_log, open_run
from volseg.errors import InputError, VolsegError
from volseg.labels import IGNORE_INDEX
from volseg.report import panel

__all__ = ["trainer"]

logger = logging.getLogger(__name__)

_BAD_STEPS = 3  # so many non-finite steps in a row end a run
_TIMED = (3, 8)  # iterations between which a step is timed; the first ones allocate memory
_MAX_NORM = 12.0  # of the gradient: far above what is usual, so it bounds accidents only


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
    amp: bool = False,
    weight_average: float = 0.0,
    evaluator: SupervisedEvaluator | None = None,
    val_interval: int = 1,
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
        lr_scheduler: stepped after every iteration.
        output_dir: folder of the run; if it holds a checkpoint, say ``resume`` or ``overwrite``.
        amp: bfloat16 autocast.
        weight_average: decay of an exponential moving average of the weights, which is then what is
            evaluated and segmented with; 0 for none.
        evaluator: scores the network on held-out slices, every ``val_interval`` epochs and at the end.
        val_interval: in epochs; 0 for never.
        note: what the log says at the start, before the expected time.
    """
    device, folder = torch.device(device), Path(output_dir)
    iterations = max_epochs * epoch_length
    if min(max_epochs, epoch_length) < 1:
        raise ValueError(f"{max_epochs} epochs of {epoch_length} iterations are no training: 1 is the least.")
    step = _Step(amp=amp, average=_average(network, weight_average))
    start, trained_on = 0, dataset.trained_on()
    if resume:
        check_run(folder, resume=resume, overwrite=overwrite)
        content = _restore(folder / "last.pt", network, optimizer, lr_scheduler, step)
        start, trained_on = content["iteration"], _both(content["trained_on"], trained_on)
        if start >= iterations:
            raise InputError(
                f"{folder / 'last.pt'} has {start} iterations, no fewer than the {iterations} asked for: "
                "there is nothing to resume. Raise --epochs to train on."
            )
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(start * batch_size, iterations * batch_size),
        num_workers=num_workers,
        worker_init_fn=_leave_signals,
        pin_memory=device.type == "cuda",
        persistent_workers=False,
    )
    engine = SupervisedTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=loader,
        epoch_length=epoch_length,
        network=network,
        optimizer=optimizer,
        loss_function=loss.to(device),
        iteration_update=step,
        decollate=False,
    )
    quiet(engine)
    engine.state.iteration, engine.state.epoch = start, start // epoch_length

    @engine.on(Events.STARTED)
    def begin(_: Engine) -> None:
        check_run(folder, resume=resume, overwrite=overwrite)
        open_run(folder, resume=resume)
        if resume:
            logger.info("Resuming at iteration %d.", start)

    engine.add_event_handler(Events.ITERATION_STARTED, _seed_step, seed)
    if lr_scheduler is not None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: _advance(engine, lr_scheduler))
    ProgressBar(start).attach(engine)
    tracking = Tracking(folder)
    tracking.attach(engine)
    _announce(engine, note, iterations - start)

    def save(engine: Engine) -> None:
        with step.averaged(network):
            weights = {"model": network.state_dict(), "trained_on": trained_on}
            save_checkpoint(folder / "model.pt", {**weights, "iteration": engine.state.iteration})
        state = _state(engine, network, optimizer, lr_scheduler, step)
        save_checkpoint(folder / "last.pt", {**state, "trained_on": trained_on})

    if evaluator is not None and val_interval > 0:

        def validate(engine: Engine) -> None:
            with step.averaged(network):
                evaluator.run()
            tracking.scores(engine.state.iteration, evaluator.state.metrics)
            for name, picture in evaluator.state.pictures.items():
                tracking.picture(engine.state.iteration, name, picture)

        due = Events.EPOCH_COMPLETED(
            event_filter=lambda _, epoch: epoch % val_interval == 0 or epoch == max_epochs
        )
        engine.add_event_handler(due, validate)
    engine.add_event_handler(Events.EPOCH_COMPLETED, save)
    StopOnSignal(save).attach(engine)
    engine.add_event_handler(Events.COMPLETED, _say_done, folder, step)
    engine.add_event_handler(Events.EXCEPTION_RAISED, reraise)
    return engine


class _Step:
    """One iteration: forward, loss, backward, update; and what to do when one of them goes wrong."""

    def __init__(self, *, amp: bool, average: AveragedModel | None) -> None:
        self.amp = amp
        self.average = average
        self.blank = 0  # patches without annotation
        self.bad = 0  # steps with a non-finite loss or gradient
        self.bad_in_a_row = 0

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        network, optimizer = engine.network, engine.optimizer
        network.train()
        image, target = (
            torch.as_tensor(batch[key]).to(engine.state.device, non_blocking=True)
            for key in ("image", "label")
        )
        if not bool((torch.as_tensor(batch["label"]) != IGNORE_INDEX).any()):
            self.blank += 1
            return {"loss": 0.0, "annotated": False}
        weight = batch.get("weight")
        buffers = [buffer.clone() for buffer in network.buffers()]
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.amp):
            logits = network(image)
        loss = engine.loss_function(logits, target, None if weight is None else weight.to(image.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), _MAX_NORM)
        value = float(loss.detach())
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            with torch.no_grad():  # the running statistics have seen the bad numbers by now
                for buffer, before in zip(network.buffers(), buffers, strict=True):
                    buffer.copy_(before)
            self._refuse(engine.state.iteration, value)
            return {"loss": value, "annotated": False}
        self.bad_in_a_row = 0
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(network)
        output: dict[str, Any] = {"loss": value, "annotated": True}
        if engine.state.iteration % engine.state.epoch_length == 0:
            output["picture"] = _picture(image[0], target[0], logits[0].detach())
        return output

    def _refuse(self, iteration: int, loss: float) -> None:
        self.bad += 1
        self.bad_in_a_row += 1
        logger.warning("Iteration %d: the loss (%g) or its gradient is not finite; skipped.", iteration, loss)
        if self.bad_in_a_row >= _BAD_STEPS:
            raise VolsegError(
                f"Loss or gradient were not finite in {_BAD_STEPS} steps in a row, the last at iteration "
                f"{iteration}. The weights of the last checkpoint are good. Lower the learning rate "
                "(--learning_rate) or compute in full precision (--precision float32)."
            )

    @contextmanager
    def averaged(self, network: nn.Module) -> Iterator[None]:
        """The network with its averaged weights, for as long as the block lasts."""
        if self.average is None:
            yield
            return
        own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            network.load_state_dict(own)


def _picture(image: Tensor, target: Tensor, logits: Tensor) -> Any:
    """What the network made of a patch: image, annotation and prediction."""
    for axis, (outer, inner) in enumerate(zip(image.shape[1:], target.shape[1:], strict=True), start=1):
        image = image.narrow(axis, (outer - inner) // 2, inner)
    prediction = logits.argmax(0, keepdim=True)
    return panel(image.cpu(), target.cpu(), prediction.cpu(), None, len(logits), annotated=True)


def _average(network: nn.Module, decay: float) -> AveragedModel | None:
    if not 0 <= decay < 1:
        raise ValueError(
            f"weight_average = {decay} is not a decay: 0 for none, or a number below 1 such as 0.99."
        )
    if decay == 0:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _leave_signals(_: int) -> None:
    """Ctrl-C reaches the workers, too: they go on until the main process has finished its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _seed_step(engine: Engine, seed: int) -> None:
    """Dropout of iteration ``i`` is a function of the seed and ``i``, as the patches are."""
    torch.manual_seed(seed * 1_000_003 + engine.state.iteration)


def _advance(engine: Engine, lr_scheduler: Any) -> None:
    if engine.state.output["annotated"]:
        lr_scheduler.step()


def _announce(engine: Engine, note: str, iterations: int) -> None:
    """Say how long the run will take, once a few steps have been timed."""
    began: list[float] = []
    first, last = _TIMED

    def tell(engine: Engine) -> None:
        began.append(time.perf_counter())
        if len(began) == min(last, iterations):
            per_step = (began[-1] - began[min(first, len(began) - 1)]) / max(1, len(began) - 1 - first)
            minutes = iterations * per_step / 60
            logger.info(
                "%s: %d iterations, about %.0f min on this machine.", note, iterations, max(1, minutes)
            )

    engine.add_event_handler(Events.ITERATION_COMPLETED, tell)


def _say_done(_: Engine, folder: Path, step: _Step) -> None:
    for count, what in (
        (step.blank, "had no annotation"),
        (step.bad, "had a loss or gradient that is not finite"),
    ):
        if count:
            logger.warning("%d step(s) %s and were skipped.", count, what)
    logger.info("Trained. The weights are in %s.", folder / "model.pt")
    close_log()


def _state(
    engine: Engine, network: nn.Module, optimizer: torch.optim.Optimizer, lr_scheduler: Any, step: _Step
) -> dict[str, Any]:
    return {
        "model": network.state_dict(),
        "average": None if step.average is None else step.average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": None if lr_scheduler is None else lr_scheduler.state_dict(),
        "iteration": engine.state.iteration,
    }


def _restore(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, lr_scheduler: Any, step: _Step
) -> dict[str, Any]:
    """Put everything back as it was; the checkpoint's content is returned."""
    content = load_checkpoint(path)
    try:
        network.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        if step.average is not None:
            step.average.load_state_dict(content["average"])
        if lr_scheduler is not None:
            lr_scheduler.load_state_dict(content["lr_scheduler"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} belongs to a run with another network or optimiser ({error}). "
            "Resume with the settings of that run; they stand in config.json beside it."
        ) from error
    return content


def _both(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What two parts of a run were trained on: held out is only what both held out."""
    trained_on = {**before, **now}
    for label in set(before) & set(now):
        first, second = before[label]["held_out"], now[label]["held_out"]
        held_out = {axis: sorted(set(first[axis]) & set(second[axis])) for axis in set(first) & set(second)}
        trained_on[label] = {**now[label], "held_out": held_out}
    return trained_on
