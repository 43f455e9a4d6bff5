"""One training step, and what to do when there is nothing to learn from or a number goes bad.

A step that has no annotation, or whose loss or gradient is not finite, leaves weights, statistics and
optimiser exactly as they were. On a CPU each step is looked at before the weights change. On a GPU
looking would make the processor wait for it: there the update is made conditional on the device, and
what happened is read back every few steps.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from volseg.arguments import option
from volseg.errors import VolsegError, theirs
from volseg.labels import IGNORE_INDEX
from volseg.losses import AnnotatedLoss
from volseg.networks.measuring import first_output
from volseg.report import panel
from volseg.runs import processes

__all__ = ["Outcome", "Step", "can_wait", "moving_average"]

logger = logging.getLogger(__name__)

_BAD_STEPS = 3  # so many non-finite steps in a row end a run
_MAX_NORM = 12.0  # of the gradient: far above what is usual, so it bounds accidents only
_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class Outcome(NamedTuple):
    """What became of one step."""

    iteration: int
    loss: float
    is_annotated: bool
    is_finite: bool

    @property
    def is_taken(self) -> bool:
        """Whether the weights moved."""
        return self.is_annotated and self.is_finite


class Step:
    """One iteration: forward, loss, backward, update.

    Args:
        forward: what to call with the image: the network, or what was made of it to run faster.
        every: so many steps go by between two looks at what became of them; 1 on a CPU.
        lap: given the name of each part of a step when it is done.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        *,
        amp: bool,
        average: AveragedModel | None,
        every: int = 1,
        lap: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.forward = forward
        self.amp = amp
        self.average = average
        self.every = every
        self.lap = lap
        self.blank = 0  # patches without annotation
        self.bad = 0  # steps with a non-finite loss or gradient
        self.bad_in_a_row = 0
        self._waiting: list[tuple[int, Tensor]] = []

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        self.lap("collating")
        network, optimizer, device = engine.network, engine.optimizer, engine.state.device
        iteration = engine.state.iteration
        network.train()
        image, target = (
            torch.as_tensor(batch[key]).to(device, non_blocking=True) for key in ("image", "label")
        )
        weight = batch.get("weight")
        weight = None if weight is None else torch.as_tensor(weight).to(device, non_blocking=True)
        at_once = self.every == 1
        if at_once and processes.count() == 1 and not bool((target != IGNORE_INDEX).any()):
            blank = Outcome(iteration, 0.0, False, True)
            self._count(blank)
            return _output([blank])
        buffers = [buffer.clone() for buffer in network.buffers()]
        with (
            theirs("network_def", network, f"refused an input of shape {tuple(image.shape)}"),
            torch.autocast(device.type, torch.bfloat16, enabled=self.amp),
        ):
            logits = first_output(self.forward(image), image.ndim - 2)
        joint = processes.together(logits, target, weight)
        with theirs("loss", _own(engine.loss_function), f"refused logits of shape {tuple(logits.shape)}"):
            loss = engine.loss_function(*joint)
        self.lap("forward")
        optimizer.zero_grad(set_to_none=True)
        (loss * processes.count() if processes.count() > 1 else loss).backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), _MAX_NORM)
        self.lap("backward")
        annotated = (joint[1] != IGNORE_INDEX).any()
        finite = torch.isfinite(norm) & torch.isfinite(loss.detach())
        good = annotated & finite
        facts = torch.stack([loss.detach().double(), annotated.double(), finite.double()])
        self._waiting.append((iteration, facts))
        outcomes = self.read() if at_once else []
        if not at_once or not outcomes[0].is_taken:
            with torch.no_grad():  # running statistics have seen the bad numbers by now
                for buffer, before in zip(network.buffers(), buffers, strict=True):
                    buffer.copy_(torch.where(good, buffer, before))
        if not at_once or outcomes[0].is_taken:
            if not at_once:
                optimizer.found_inf = (~good).float()  # a fused optimiser then leaves everything as it is
            with theirs("optimizer", optimizer, "failed"):
                optimizer.step()
            if self.average is not None:
                self.average.update_parameters(network)
        self.lap("optimiser")
        ends_epoch = iteration % engine.state.epoch_length == 0
        if ends_epoch or len(self._waiting) >= self.every:
            outcomes += self.read()
        output = _output(outcomes)
        if ends_epoch and bool(good):
            output[0]["picture"] = _picture(image[0], target[0], logits[0].detach())
        return output

    def read(self) -> list[Outcome]:
        """What became of the steps since the last look, counted. Waits for the device."""
        if not self._waiting:
            return []
        iterations, facts = zip(*self._waiting, strict=True)
        self._waiting = []
        outcomes = [
            Outcome(iteration, loss, bool(annotated), bool(finite))
            for iteration, (loss, annotated, finite) in zip(
                iterations, torch.stack(facts).tolist(), strict=True
            )
        ]
        for outcome in outcomes:
            self._count(outcome)
        return outcomes

    def _count(self, outcome: Outcome) -> None:
        if not outcome.is_annotated:
            self.blank += 1
            return
        if outcome.is_finite:
            self.bad_in_a_row = 0
            return
        self.bad += 1
        self.bad_in_a_row += 1
        logger.warning(
            "Iteration %d: the loss (%g) or its gradient is not finite; skipped.",
            outcome.iteration,
            outcome.loss,
        )
        if self.bad_in_a_row >= _BAD_STEPS:
            raise VolsegError(
                f"Loss or gradient were not finite in {_BAD_STEPS} steps in a row, the last at iteration "
                f"{outcome.iteration}. The weights of the last checkpoint are good. Lower the learning rate "
                f"({option('lr')}) or compute in full precision ({option('precision', 'float32')})."
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


def moving_average(network: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of the weights; ``None`` for a decay of 0."""
    if not 0 <= decay < 1:
        raise ValueError(
            f"weight_average = {decay} is not a decay: 0 for none, or a number below 1 such as 0.99."
        )
    if decay == 0:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def can_wait(optimizer: torch.optim.Optimizer) -> bool:
    """Switch to the fused form of the optimiser, whose steps can be made conditional on the device.

    Returns:
        Whether it has one.
    """
    if type(optimizer) not in _FUSED:
        return False
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
        if group.get("momentum"):
            for parameter in group["params"]:
                # Else the first step leaves them uninitialised if it is one that is not taken.
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
    return True


def _own(loss: nn.Module) -> nn.Module:
    """The loss that the bundle names, inside what was put around it."""
    return loss.loss if isinstance(loss, AnnotatedLoss) else loss


def _output(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """In MONAI's form, a list of one dictionary, so that its own handlers find the loss, too."""
    return [{"loss": outcomes[-1].loss if outcomes else None, "outcomes": outcomes}]


def _picture(image: Tensor, target: Tensor, logits: Tensor) -> Any:
    """What the network made of a patch: image, annotation and prediction."""
    for axis, (outer, inner) in enumerate(zip(image.shape[1:], target.shape[1:], strict=True), start=1):
        image = image.narrow(axis, (outer - inner) // 2, inner)
    prediction = logits.argmax(0, keepdim=True)
    return panel(image.cpu(), target.cpu(), prediction.cpu(), None, len(logits), annotated=True)
