"""What happens beside a person who paints: learning after each stroke, visible slices, the rest when idle.

One thread does one short thing after another, the most urgent first, so that nothing waits long for it:

1. a round of learning, if there is new paint;
2. the slices that are looked at;
3. image features, nearest to where the person looks;
4. where to paint next, the score, and slices next to those that are looked at, once painting has paused.
"""

import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from volseg.errors import VolsegError
from volseg.session.session import Session

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

News = Callable[[Mapping[str, Any]], None]

_ROUND = 0.4  # seconds of learning after a stroke
_PAUSE = 2.0  # seconds without a stroke before what can wait is done
_AHEAD = 4  # slices on either side
_TICK = 0.25  # seconds between two looks at whether there is something to do


class Worker:
    """Runs in a thread of its own from :meth:`start` to :meth:`stop`.

    Args:
        on_news: called from that thread with what has happened: ``kind`` is ``"model"`` (a round was learnt),
            ``"plane"`` (a slice of the result is at hand), ``"doing"`` (what is being done, and the share of
            it), ``"suggestion"``, ``"score"``, ``"trouble"``.
    """

    def __init__(self, session: Session, on_news: News) -> None:
        self.session = session
        self.doing = ""
        self._news = on_news
        self._wake = threading.Event()
        self._over = threading.Event()
        self._resting = threading.Event()
        self._position = [n // 2 for n in session.size]
        self._visible: list[tuple[int, int]] = []
        self._painted = time.monotonic()
        self._built = False
        self._advised = self._scored = -1
        self._could_learn = False
        self._failed: set[tuple[object, ...]] = set()  # what is not tried again
        self._thread = threading.Thread(target=self._run, name="volseg-worker", daemon=True)
        self.look(self._position)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is being done now."""
        self._over.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def look(self, position: Sequence[int], axis: int | None = None) -> None:
        """Where the person looks: a voxel, through which all visible slices go.

        Args:
            axis: across the slice that the person works on, which is served first.
        """
        self._position = [int(p) for p in position]
        planes = (
            [(2, 0)] if len(self._position) == 2 else [(a, p) for a, p in enumerate(self._position)][::-1]
        )
        self._visible = sorted(planes, key=lambda plane: plane[0] != axis) if axis is not None else planes
        self._built = False
        self._wake.set()

    def painted(self) -> None:
        """There is new paint."""
        self._painted = time.monotonic()
        self._wake.set()

    def rest(self, resting: bool) -> None:
        """Leave the processor to something else, or go on."""
        (self._resting.set if resting else self._resting.clear)()
        self._scored = -1  # the volume may have been made meanwhile, which has a score of its own
        self._wake.set()

    def _run(self) -> None:
        importlib.import_module("torch._dynamo")  # an optimiser needs it: a second that no stroke waits for
        while not self._over.is_set():
            self._wake.clear()
            try:
                did = not self._resting.is_set() and self._next()
            except VolsegError as error:
                self._news({"kind": "trouble", "what": str(error)})
                did = False
            except Exception as error:
                logger.exception("What happens beside painting has failed.")
                self._news({"kind": "trouble", "what": f"Learning has failed: {error!r}. Painting goes on."})
                did = False
            if not did:
                self._say("", None)
                self._wake.wait(_TICK)

    def _next(self) -> bool:
        """Do the most urgent thing; whether there was one."""
        session = self.session
        if session.trouble:
            session.flush()
            self._news({"kind": "trouble", "what": session.trouble})
        if session.can_learn != self._could_learn:
            self._could_learn = not self._could_learn
            self._news({"kind": "model", "model": session.model, "revision": session.revision})
        if session.can_learn and not session.is_learnt and self._learn():
            return True
        session.look(self._position)
        for plane in self._visible:
            if self._predict(plane):
                return True
        if session.is_learnt and not session.is_done and self._learn():
            return True
        if not self._built:
            return self._build()
        if time.monotonic() - self._painted < _PAUSE:
            return False
        if session.is_learnt and self._advised != session.revision:
            self._advised = session.revision
            place = session.suggest()
            self._news({"kind": "suggestion"} | ({} if place is None else vars(place)))
            return True
        if session.is_learnt and self._scored != session.revision:
            return self._score()
        return any(
            self._predict((axis, index + step))
            for step in sorted(range(-_AHEAD, _AHEAD + 1), key=abs)
            for axis, index in self._visible
            if len(session.size) == 3 and 0 <= index + step < session.size[axis]
        )

    def _once(self, what: tuple[object, ...], do: Callable[[], object]) -> bool:
        """Do something that is not tried again if it has failed; whether it was done."""
        if what in self._failed:
            return False
        self._say(str(what[0]), None)
        try:
            do()
        except Exception:
            self._failed.add(what)
            raise
        return True

    def _learn(self) -> bool:
        session = self.session
        if not self._once(("learning", session.revision), lambda: session.learn(_ROUND)):
            return False
        self._news({"kind": "model", "model": session.model, "revision": session.revision})
        return True

    def _predict(self, plane: tuple[int, int]) -> bool:
        session = self.session
        if not session.model or session.known_slice(*plane) is not None:
            return False
        if not self._once(("segmenting", *plane, session.model), lambda: session.slice(*plane)):
            return False
        self._news({"kind": "plane", "axis": plane[0], "index": plane[1], "model": session.model})
        return True

    def _build(self) -> bool:
        """One brick of image features, nearest to where the person looks."""
        live = self.session.prepare()
        block = next(iter(live.next_bricks(self._position)), None)
        if block is None:
            self._built = True
            return False
        self._say("looking at the image", live.bricks.filled)
        self._built = True  # if it fails, until the person looks elsewhere
        with self.session.learning():
            live.build(block, should_stop=self._wake.is_set)
        self._built = False
        return True

    def _score(self) -> bool:
        self._say("scoring", None)
        self._scored = revision = self.session.revision
        found = self.session.score(lambda: self._over.is_set() or self.session.revision != revision)
        if found is not None:
            self._news({"kind": "score", **found.as_json()})
        return True

    def _say(self, what: str, share: float | None) -> None:
        if what != self.doing or share is not None:
            self.doing = what
            self._news({"kind": "doing", "what": what, "share": share})
