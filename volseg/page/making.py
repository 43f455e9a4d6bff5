"""Making the whole volume beside the page: ``Session.densify`` in a thread, with its progress as news."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from volseg.errors import RefusedError, in_words
from volseg.session import Session
from volseg.session.worker import Worker

__all__ = ["Making"]


@dataclass(frozen=True)
class _State:
    """How far it is.

    Attributes:
        began: by ``time.monotonic()``.
        share: of the time that is gone; ``None`` if it is not known.
        what: is being done.
        ended: how: ``"made"``, ``"stopped"``, or why it could not be made; empty before.
    """

    running: bool = False
    minutes: float = 0.0
    began: float | None = None
    share: float | None = None
    what: str = ""
    ended: str = ""


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
        self._over = threading.Event()
        self._state = _State()

    def state(self) -> dict[str, Any]:
        """How far it is, as JSON; ``seconds`` since it began."""
        found = asdict(self._state)
        began = found.pop("began")
        return found | {"seconds": None if began is None else time.monotonic() - began}

    def start(self, minutes: float) -> None:
        """Begin.

        Raises:
            RefusedError: if it runs already.
        """
        if self._state.running:
            raise RefusedError("The volume is being made already. Wait for it, or stop it first.")
        self._over.clear()
        self._now(_State(running=True, minutes=minutes, began=time.monotonic()))
        self._thread = threading.Thread(target=self._make, args=(minutes,), name="volseg-making", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let it end after the step that it is at."""
        self._over.set()

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _make(self, minutes: float) -> None:
        self._worker.rest(True)
        ended = "made"
        try:
            self._session.densify(minutes, on_progress=self._progress, should_stop=self._over.is_set)
        except KeyboardInterrupt:
            ended = "stopped"
        except Exception as error:
            ended = in_words(error)[0]
        finally:
            self._worker.rest(False)
            self._now(replace(self._state, running=False, ended=ended))

    def _progress(self, share: float | None, what: str) -> None:
        if share != self._state.share or what != self._state.what:
            self._now(replace(self._state, share=share, what=what))

    def _now(self, state: _State) -> None:
        self._state = state
        self._publish({"kind": "densify", **self.state()})
