"""How far it is, from the first second to the last: a bar on a terminal, a line now and then elsewhere.

A thread of its own moves the bar, so that it goes on while an image is read or a page is drawn.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from volseg.densification.timing import Forecast

__all__ = ["Progress", "clock"]

logger = logging.getLogger(__name__)

_BAR = 0.5  # seconds between two looks at the bar
_LINES = 20  # about as many, in all, where there is no terminal
_SOONEST = 30.0  # seconds between two lines
_LATE = 1.05  # times as long as asked for, from which on that is said


class Progress:
    """Shown while the block lasts.

    Args:
        seconds: that everything may take; ``None`` where nothing limits it.
        began: when the time began to count, by ``time.monotonic()``.
    """

    def __init__(self, seconds: float | None, began: float | None = None) -> None:
        self.seconds = seconds
        self.began = time.monotonic() if began is None else began
        self.expected: Callable[[], Forecast] | None = None
        self.stage = "starting"
        self._share: float | None = None
        self._over = threading.Event()
        self._told = self.began

    @contextlib.contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Begin, and end with the block."""
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        with contextlib.ExitStack() as stack:
            bar = None
            if is_terminal:
                stack.enter_context(logging_redirect_tqdm())
                bar = stack.enter_context(
                    tqdm(total=100, leave=False, bar_format="{desc} |{bar:24}|{postfix}")
                )
                self._draw(bar)
            thread = threading.Thread(target=self._go_on, args=(bar,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self._over.set()
                thread.join()

    def now(self, stage: str) -> None:
        """What is being done from now on."""
        self.stage, self._share = stage, None

    def __call__(self, share: float, _: str = "") -> None:
        """How much of this stage is done, from 0 to 1."""
        self._share = share

    @property
    def left(self) -> Forecast | None:
        """Until all is done, as far as that can be told: nothing can while the image is still being read and
        the time is over."""
        if self.seconds is None:
            return None
        if self.expected is not None:
            return self.expected()
        if self.gone > self.seconds:
            return None
        return Forecast(self.seconds - self.gone)

    @property
    def gone(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def told(self) -> str:
        """``3:12 of 15:00 minutes, about 4:20 left: learning, fold 2 of 4 (35 % of it)``."""
        stage = self.stage if self._share is None else f"{self.stage} ({self._share:.0%} of it)"
        left, gone = self.left, clock(self.gone)
        if self.seconds is None:
            return f"{gone} minutes: {stage}"
        if left is None:
            return f"{gone} minutes, {clock(self.seconds)} were asked for: {stage}"
        until = f"{'at most' if left.is_most else 'about'} {clock(left.seconds)} left"
        if self.gone + left.seconds > _LATE * self.seconds:
            return f"{gone} minutes, {until}, {clock(self.seconds)} were asked for: {stage}"
        return f"{gone} of {clock(self.seconds)} minutes, {until}: {stage}"

    def _go_on(self, bar: "tqdm[None] | None") -> None:
        every = _SOONEST if self.seconds is None else max(_SOONEST, self.seconds / _LINES)
        while not self._over.wait(_BAR if bar is not None else min(every, 1.0)):
            if bar is not None:
                self._draw(bar)
            elif time.monotonic() - self._told >= every:
                self._told = time.monotonic()
                logger.info("%s.", self.told())

    def _draw(self, bar: "tqdm[None]") -> None:
        left = self.left
        if left is not None:
            bar.n = 100 * self.gone / max(self.gone + left.seconds, 1e-9)
        times, _, stage = self.told().partition(": ")
        bar.set_description_str(stage, refresh=False)
        bar.set_postfix_str(times, refresh=False)
        bar.refresh()


def clock(seconds: float) -> str:
    """``3:05``."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    return f"{minutes}:{rest:02d}"
