"""The server's place on this machine: a port of 127.0.0.1, an address with a token, an end."""

import asyncio
import socket
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from volseg.arguments import option
from volseg.errors import RefusedError
from volseg.page.guard import Guard
from volseg.page.server import Desk
from volseg.session import Session

__all__ = ["Serving", "serve"]

_FIRST, _LAST = 20000, 32000  # ports that few services have, and no system gives away by itself
_PATIENCE = 3  # seconds for requests at the end


def serve(
    session: Session, *, port: int | None = None, on_ready: Callable[[str], object] = lambda address: None
) -> None:
    """Serve the painting page of a session until Ctrl-C.

    Args:
        session: stays open.
        port: see `Serving`.
        on_ready: gets the address, with the token, once the server listens.

    Raises:
        RefusedError: if the port is taken.
        KeyboardInterrupt: by Ctrl-C, after the server has ended.
    """
    serving = Serving(session, port=port)
    on_ready(serving.address)
    serving.run()


class Serving:
    """The painting page of a session at an address: it listens at once, and answers in :meth:`run`.

    Args:
        port: of 127.0.0.1. By itself one that stays the same for a folder, if it is free: a page that is
            still open then finds the server again, with what was not saved.

    Attributes:
        address: with the token that lets in who has it.

    Raises:
        RefusedError: if the port is taken.
    """

    def __init__(self, session: Session, *, port: int | None = None) -> None:
        folder = None if session.folder is None else session.folder.path
        self._socket = _listen(port, folder)
        number = self._socket.getsockname()[1]
        self._desk = Desk(session)
        guard = Guard(self._desk.application, number)
        self._server = _Server(guard, self._desk)
        self.address = f"http://127.0.0.1:{number}/?token={guard.token}"

    def run(self) -> None:
        """Answer until :meth:`stop`, or Ctrl-C in the main thread."""
        with self._socket:
            self._desk.worker.start()
            try:
                self._server.run(sockets=[self._socket])
            finally:
                self._desk.close()

    def stop(self) -> None:
        """Let :meth:`run` end; from any thread."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Ends the streams of news before it waits for requests to end."""

    def __init__(self, guard: Guard, desk: Desk) -> None:
        super().__init__(
            uvicorn.Config(
                guard, log_config=None, log_level="error", access_log=False, server_header=False,
                lifespan="off", ws="none", http="h11", loop="asyncio", proxy_headers=False,
                timeout_graceful_shutdown=_PATIENCE,
            )
        )  # fmt: skip
        self._desk = desk

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._desk.hub.close()
        await asyncio.sleep(0)
        await super().shutdown(sockets)


def _listen(port: int | None, folder: Path | None) -> socket.socket:
    """A socket that listens; of the ports to be tried the first that is free."""
    usual = []
    if folder is not None:
        number = zlib.crc32(str(folder.resolve()).encode(errors="replace"))
        usual = [_FIRST + number % (_LAST - _FIRST)]
    for one in [port] if port is not None else [*usual, 0]:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with suppress(OSError, OverflowError):
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", one))
            listening.listen(128)
            return listening
        listening.close()
    raise RefusedError(
        f"{option('port', port)}: this port cannot be had; another program may listen on it. Choose another, "
        "or leave it out."
    )
