"""News for the tabs that are open, as server-sent events, from whatever thread they come.

A module of its own, small as it is: it knows neither requests nor the session. sse-starlette sends events of
a generator; that several threads publish and a slow tab learns what it has missed would be ours there, too.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

__all__ = ["Hub"]

_MOST = 256  # news that wait for a slow tab
_BEAT = 10.0  # seconds between signs of life


class Hub:
    """Hands every piece of news to every listener.

    A listener that does not keep up loses what waits, and gets ``{"kind": "missed"}``: to ask for the state.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[str | None]] = set()

    def publish(self, news: dict[str, Any]) -> None:
        """Send to all listeners; from any thread, and without waiting."""
        if self._loop is not None:
            text = json.dumps(news, allow_nan=False)
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._hand_out, text)

    def close(self) -> None:
        """End all streams; to be called in the loop."""
        self._hand_out(None)

    async def listen(self) -> AsyncIterator[str]:
        """The stream of one listener, in the format of server-sent events."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue(_MOST + 1)
        self._queues.add(queue)
        try:
            yield "retry: 1000\n: here\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), _BEAT)
                except TimeoutError:
                    yield ": here\n\n"
                    continue
                if text is None:
                    return
                yield f"data: {text}\n\n"
        finally:
            self._queues.discard(queue)

    def _hand_out(self, text: str | None) -> None:
        for queue in self._queues:
            if queue.qsize() >= _MOST:
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait('{"kind": "missed"}')
            queue.put_nowait(text)
