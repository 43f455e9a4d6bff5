"""Making the whole volume beside the page: ``Session.densify`` in a thread, with its progress as news."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from volseg.errors import RefusedError, in_words
from volseg.session import Session
from volseg.session.worker import Worker

__all__ = ["Making"]

_LINES = 40  # of its log that are kept


class Making:
    """At most one at a time; painting goes on meanwhile, the live model rests.

    Args:
        publish: gets ``{"kind": "densify", ...}`` with what :meth:`state` gives, whenever it changes.
    """

    def __init__(self, session: Session, worker: Worker, publish: Callable[[dict[str, Any]], None]) -> None:
        self._session = session
        self._worker = worker
        self._publish = publish
        self._thread: threading.Thread | None = None
        self._state: dict[str, Any] = {"running": False, "lines": [], "error": "", "done": False}

    def state(self) -> dict[str, Any]:
        """Whether it runs, since when, and what it said."""
        began = self._state.get("began")
        return {**self._state, "seconds": None if began is None else time.monotonic() - began}

    def start(self, minutes: float) -> None:
        """Begin.

        Raises:
            RefusedError: if it runs already.
        """
        if self._state["running"]:
            raise RefusedError("The volume is being made already. Wait for it, or stop it first.")
        self._state = {
            "running": True, "lines": [], "error": "", "done": False, "minutes": minutes,
            "began": time.monotonic(), "revision": self._session.revision,
        }  # fmt: skip
        self._thread = threading.Thread(target=self._make, args=(minutes,), name="volseg-making", daemon=True)
        self._thread.start()
        self._tell()

    def stop(self) -> None:
        """End it."""

    def _make(self, minutes: float) -> None:
        handler = _Handler(self._line)
        loggers = logging.getLogger("volseg")
        loggers.addHandler(handler)
        self._worker.rest(True)
        try:
            self._session.densify(minutes)
            self._state["done"] = True
        except Exception as error:
            self._state["error"] = in_words(error)[0]
        finally:
            loggers.removeHandler(handler)
            self._worker.rest(False)
            self._state["running"] = False
            self._tell()

    def _line(self, text: str) -> None:
        self._state["lines"] = [*self._state["lines"], text][-_LINES:]
        self._tell()

    def _tell(self) -> None:
        self._publish({"kind": "densify", **self.state()})


class _Handler(logging.Handler):
    """Hands what one thread logs to a function."""

    def __init__(self, use: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._use = use

    def emit(self, record: logging.LogRecord) -> None:
        if record.threadName is None or not record.name.startswith("volseg.page"):
            self._use(record.getMessage())
