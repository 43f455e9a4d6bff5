"""The server's place on this machine, and who may talk to it: the browser that was given its address.

The server listens on this machine alone, and yet every web page that a browser has open can send requests to
it. So each request has to pass, in this order:

* ``Host`` is the server's own name and port; a name that was made to point here (DNS rebinding) is not.
* The token of the address, or the cookie that it was exchanged for. The cookie is ``HttpOnly`` and
  ``SameSite=Strict``: no script can read it, and no other site can have it sent.
* ``Origin`` and ``Sec-Fetch-Site`` are those of the page itself. A request that changes something must carry
  one of the two.

Starlette's TrustedHostMiddleware looks at the name without its port, and at nothing else of these.

Everything answered forbids the browser to keep it, to show it inside of another site, and to load or run
anything from elsewhere (Content-Security-Policy).
"""

import asyncio
import hmac
import secrets
import socket
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from volseg.arguments import option
from volseg.errors import RefusedError
from volseg.page.server import Desk
from volseg.session import Session

__all__ = ["Guard", "Serving", "serve"]


_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets through to an application what may talk to it, and refuses the rest with 403 and a sentence.

    Args:
        port: that the server listens on.

    Attributes:
        token: what the address carries; whoever has it gets in.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._cookie = f"volseg-{port}"  # cookies of one machine are shared by its ports
        self._secret = secrets.token_urlsafe(32)
        self.token = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        found = self._judged(scope)
        answer = PlainTextResponse(f"{found}\n", 403) if isinstance(found, str) else found
        await answer(scope, receive, send_guarded)

    def _judged(self, scope: Scope) -> ASGIApp | str:
        """What answers a request: the entrance for who has the token, or the application; or why neither."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return (
                f"This is not {' or '.join(self._hosts)}. A tunnel has to lead to the same port: "
                f"ssh -L {self._port}:127.0.0.1:{self._port} MACHINE."
            )
        is_entrance = scope["method"] == "GET" and scope["path"] == "/"
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token") if is_entrance else None
        if token:
            if not _same(token[0], self.token):
                return "This token is of another run of volseg paint. Open the address that it printed last."
            entered = RedirectResponse("/", 303)
            entered.set_cookie(self._cookie, self._secret, httponly=True, samesite="strict")
            return entered
        if not any(_same(value, self._secret) for value in _values(headers, self._cookie)):
            return "Open the whole address that volseg paint printed, with its token."
        return (
            self._app
            if self._is_own(scope["method"], headers, is_entrance)
            else "Another page asked for this."
        )

    def _is_own(self, method: str, headers: Headers, is_entrance: bool) -> bool:
        """Whether the page itself asks, as far as a browser says it."""
        origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
        if any(origin != f"http://{headers['host'].lower()}" for origin in origins):
            return False
        navigates = is_entrance and headers.get("sec-fetch-mode", "navigate") == "navigate"
        if any(site not in ("same-origin", "none") for site in sites) and not navigates:
            return False
        return method in ("GET", "HEAD") or bool(origins or sites)


def _same(given: str, wanted: str) -> bool:
    """Compares in a time that says nothing about where they differ."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode())


def _values(headers: Headers, name: str) -> list[str]:
    """What a cookie of this name was sent with; another server of this machine may have set one, too."""
    pairs = (pair.strip().partition("=") for line in headers.getlist("cookie") for pair in line.split(";"))
    return [value for key, _, value in pairs if key == name]


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
