"""Ctrl-C, SIGTERM, a closed terminal: a training ends after its step and is kept, all else ends at once."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["Stopping"]

logger = logging.getLogger(__name__)


class Stopping:
    """Listens while the block lasts; ``asked`` is what a training looks at.

    Args:
        patient: whether the first signal is only noted, from the beginning; see :meth:`patient`.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.asked = False
        self._patient = patient
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listen(self) -> None:
        """From now on signals come here."""
        for number in _numbers():
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: signals are not ours to handle
                break

    def close(self) -> None:
        """Signals go where they went before."""
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


def _numbers() -> list[int]:
    """Ctrl-C, SIGTERM, and a terminal that is closed unless that is to be ignored (nohup)."""
    closed = [getattr(signal, "SIGHUP")] if hasattr(signal, "SIGHUP") else []  # noqa: B009 - not on Windows
    heard = [number for number in closed if signal.getsignal(number) is not signal.SIG_IGN]
    return [signal.SIGINT, signal.SIGTERM, *heard]
