"""Who may talk to the painting page: the browser that was given its address, and that page only.

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

import hmac
import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

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
