"""Ctrl-C and SIGTERM: a training that runs ends after its step and is kept, anything else ends at once."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["Stopping"]

logger = logging.getLogger(__name__)


class Stopping:
    """Listens while the block lasts; ``asked`` is what a training looks at."""

    def __init__(self) -> None:
        self.asked = False
        self._patient = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: signals are somebody else's business
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Within, the first signal is only noted; the second ends the program."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._patient or self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.warning(
            "Stopping after this step; once more stops at once, without saving what was learnt in it."
        )
