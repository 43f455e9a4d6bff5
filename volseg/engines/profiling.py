"""Where the time of a training step goes, and how near to the machine's limit that is.

While it measures, the device is waited for after every part of a step, and nothing overlaps: the parts
add up, but the steps take longer than in a training.
"""

import copy
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Stopwatch", "matrix_rate"]

logger = logging.getLogger(__name__)

_PARTS = ("sampling", "augmentation", "collating", "forward", "backward", "optimiser", "logging")
_SKIPPED, _MEASURED = 3, 10  # steps: the first ones allocate memory


class Stopwatch:
    """Times the parts of some steps of a trainer, then says what it found.

    Sampling is the first transform of the dataset, augmentation are those after it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps: list[dict[str, float]] = []
        self.flops = 0
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._last = 0.0

    def lap(self, part: str) -> None:
        """A part is done: what went by since the last one was its time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self._parts[part] += now - self._last
        self._last = now

    def attach(self, engine: Any, network: nn.Module, amp: bool) -> None:
        """Follow a trainer until enough steps are measured."""
        dataset = engine.data_loader.dataset
        transform = dataset.transform

        @engine.on(Events.STARTED)
        def start(_: Engine) -> None:
            dataset.transform = _Timed(transform, self)

        @engine.on(Events.ITERATION_COMPLETED)
        def count(engine: Engine) -> None:
            if not self.flops:
                image = torch.as_tensor(engine.state.batch["image"])
                self.flops = _flops(network, image.to(self.device), amp)
                self._last = time.perf_counter()

        @engine.on(Events.GET_BATCH_STARTED)
        def begin(_: Engine) -> None:
            if self._parts:
                self.lap("logging")  # and what else is done at the end of a step
                self.steps.append(dict(self._parts))
                self._parts.clear()
            self._last = time.perf_counter()
            if len(self.steps) == _SKIPPED + _MEASURED:
                stop()

        @engine.on(Events.COMPLETED)
        def stop(_: Engine | None = None) -> None:
            if dataset.transform is transform:
                return
            dataset.transform = transform
            rate = matrix_rate(self.device, torch.bfloat16 if amp else torch.float32)
            for line in self.report(rate, "bfloat16" if amp else "float32"):
                logger.info(line)

    def report(self, rate: float, name: str) -> Iterator[str]:
        """What was measured, line by line.

        Args:
            rate: floating-point operations per second of the machine.
            name: of the number format in which it has that rate.
        """
        steps = self.steps[_SKIPPED:] or self.steps
        if not steps:
            return
        seconds = {part: median(step.get(part, 0.0) for step in steps) for part in _PARTS}
        total = sum(seconds.values())
        yield f"A step takes {total:.4g} s; the median of {len(steps)} steps, in parts:"
        for part, value in seconds.items():
            yield f"  {part:<12} {1000 * value:9.2f} ms {value / total:6.1%}"
        achieved = self.flops / (seconds["forward"] + seconds["backward"])
        yield (
            f"Forward and backward: {self.flops / 1e9:.4g} GFLOP at {achieved / 1e9:.4g} GFLOP/s, "
            f"{achieved / rate:.0%} of the {rate / 1e9:.4g} GFLOP/s of a large matrix product in {name}."
        )


class _Timed:
    """A transform, or the parts of one, whose times are taken."""

    def __init__(self, transform: Any, stopwatch: Stopwatch) -> None:
        self.transform = transform
        self.stopwatch = stopwatch

    def set_random_state(self, **state: Any) -> None:
        self.transform.set_random_state(**state)

    def __call__(self, data: Any) -> Any:
        parts = getattr(self.transform, "transforms", (self.transform,))
        for index, part in enumerate(parts):
            self.stopwatch.lap("collating")
            data = part(data)
            self.stopwatch.lap("augmentation" if index else "sampling")
        return data


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        product = a @ b
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _flops(network: nn.Module, image: Tensor, amp: bool) -> int:
    """Floating-point operations of forward and backward, on a copy: statistics stay as they are."""
    network = copy.deepcopy(getattr(network, "module", network))
    with FlopCounterMode(display=False) as counter, torch.random.fork_rng(devices=()):
        with torch.autocast(image.device.type, torch.bfloat16, enabled=amp):
            logits = network(image)
        logits.float().sum().backward()
    return int(counter.get_total_flops())
