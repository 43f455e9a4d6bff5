"""The server behind the page: what it shows as JSON and bytes, what it asks for as acts, and news.

One tab paints at a time; others look. Every act is answered after it has reached the disk.
"""

import asyncio
import gzip
import itertools
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from volseg.errors import InputError, RefusedError, ResourceError, cause, in_words
from volseg.geometry import AXES
from volseg.io import read_text
from volseg.page.acts import ACTS, Asked, TooLargeError, act, asked, save
from volseg.page.making import Making
from volseg.page.news import Hub
from volseg.page.planes import Pictures, as_bytes
from volseg.session import Session
from volseg.session.advice import suggest
from volseg.session.worker import Worker

__all__ = ["Desk"]

logger = logging.getLogger(__name__)

_STATUS: dict[type, int] = {InputError: 400, RefusedError: 409, ResourceError: 507, TooLargeError: 413}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# A report brings its script along. In a sandbox it is of no origin, so it can ask this server for nothing.
_REPORT = (
    "sandbox allow-scripts allow-popups; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'self'"
)
_FORMATS = (".nii.gz", ".tif", ".nrrd", ".seg.nrrd", ".mha", ".ome.zarr")
_FORMATS_2D = (".png", ".tif", ".nrrd", ".seg.nrrd", ".mha", ".ome.zarr")
_SHARED = ("clamp", "doubtTable", "borders", "strokeBorders", "drawWords", "drawLetters", "drawScale")


class Desk:
    """One session on one page.

    Args:
        session: stays open; who made it closes it.

    Attributes:
        application: to be served; it lets in everybody, so a `Guard` belongs before it.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.hub = Hub()
        self.worker = Worker(session, self._on_news)
        self.making = Making(session, self.worker, self.hub.publish)
        self._pictures = Pictures(session)
        self._statics = _statics()
        self._last: dict[str, Any] = {}  # the last news of each kind, for a tab that comes later
        self._painter: str | None = None
        self._order = asyncio.Lock()
        self._reading, self._reads, self._name = threading.Lock(), itertools.count(), secrets.token_hex(4)
        routes = [
            ("/", self._page),
            ("/static/{name}", self._static),
            ("/state", self._state),
            ("/image/{axis}/{index}", self._image),
            ("/layer/{kind}/{axis}/{index}", self._layer),
            ("/events", self._events),
            ("/suggestion", self._suggestion),
            ("/report", self._report),
        ]
        acts = [(f"/{name}", self._act) for name in ACTS]
        others = [("/look", self._look), ("/claim", self._claim), ("/save", self._save)]
        others += [("/densify", self._densify), ("/densify/stop", self._stop)]
        self.application = Starlette(
            routes=[
                *(Route(path, _answered(answer), methods=["GET"]) for path, answer in routes),
                *(Route(path, _answered(answer), methods=["POST"]) for path, answer in [*acts, *others]),
            ]
        )

    def close(self) -> None:
        """End what runs beside the page."""
        self.making.close()
        self.worker.stop()

    def _on_news(self, news: Any) -> None:
        self._last[news["kind"]] = news
        self.hub.publish(dict(news))

    async def _page(self, _: Request) -> Response:
        return Response(self._statics["page.html"], media_type=_TYPES[".html"])

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._statics or name == "page.html":
            return _refusal(f"there is no file {name[:40]!r}.", 404)
        return Response(self._statics[name], media_type=_TYPES[name[name.rindex(".") :]])

    async def _state(self, _: Request) -> Response:
        state = await run_in_threadpool(self._whole_state)
        latest = {kind: self._last.get(kind) for kind in ("score", "doing", "suggestion")}
        return JSONResponse(state | latest | {"densify": self.making.state(), "painter": self._painter})

    async def _image(self, request: Request) -> Response:
        axis, index = self._slice(request)
        channel = _number(request.query_params.get("channel", "0"), len(self._pictures.channels), "channel")
        data = await run_in_threadpool(self._pictures.image, axis, index, channel)
        return Response(data, media_type="application/octet-stream")

    async def _layer(self, request: Request) -> Response:
        axis, index = self._slice(request)
        kind = request.path_params["kind"]
        headers = {"X-Revision": str(self.session.revision)}
        if kind == "paint":
            plane = await run_in_threadpool(self.session.paint_slice, axis, index)
            return await _packed(plane, request, headers)
        if kind not in ("result", "doubt"):
            return _refusal("there are the layers paint, result and doubt.", 404)
        found = await run_in_threadpool(self.session.known_slice, axis, index)
        if found is None:
            return Response(status_code=204)
        headers["X-Model"] = str(found.revision)
        return await _packed(
            found.values if kind == "result" else (255 * found.confidence).astype("u1"), request, headers
        )

    async def _events(self, request: Request) -> Response:
        client = request.query_params.get("client", "")[:64]

        async def stream() -> Any:
            try:
                async for text in self.hub.listen():
                    yield text
            finally:
                if client and self._painter == client:
                    self._painter = None
                    self.hub.publish({"kind": "painter", "painter": None})

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def _suggestion(self, _: Request) -> Response:
        place = await run_in_threadpool(suggest, self.session)
        if place is None:
            return _refusal("There is nothing to suggest yet. Paint two classes first.", 409)
        return JSONResponse(
            {"axis": place.axis, "index": place.index, "point": place.point, "text": place.text}
        )

    async def _report(self, _: Request) -> Response:
        path = None if self.session.folder is None else self.session.folder.path / "report.html"
        if path is None or not path.is_file():
            return _refusal("there is no report yet: make the volume first.", 404)
        data = await run_in_threadpool(read_text, path)
        return Response(
            data,
            media_type=_TYPES[".html"],
            headers={"Content-Security-Policy": _REPORT, "X-Frame-Options": "SAMEORIGIN"},
        )

    async def _act(self, request: Request) -> Response:
        wanted = await self._of_painter(request)
        name = request.url.path[1:]
        async with self._order:
            changed = await run_in_threadpool(act, self.session, name, wanted)
        if changed:
            self.worker.painted()
        state = await run_in_threadpool(self._paint_state)
        self.hub.publish({"kind": "paint", **state})
        return JSONResponse({"changed": changed, **state})

    async def _look(self, request: Request) -> Response:
        wanted = await self._of_painter(request)
        size = self.session.size
        position = [wanted.whole(axis, 0, n - 1) for axis, n in zip("xyz", size, strict=False)]
        axis = wanted.whole("axis", 0, 2) if "axis" in wanted else None
        self.worker.look(position, axis if len(size) == 3 else None)
        return JSONResponse({})

    async def _claim(self, request: Request) -> Response:
        wanted = await asked(request)
        client, force = wanted.text("client", 64), wanted.flag("force")
        if self._painter is None or force:
            self._painter = client
            self.hub.publish({"kind": "painter", "painter": client})
        return JSONResponse({"painter": self._painter})

    async def _save(self, request: Request) -> Response:
        wanted = await self._of_painter(request)
        return JSONResponse(await run_in_threadpool(save, self.session, wanted))

    async def _densify(self, request: Request) -> Response:
        wanted = await self._of_painter(request)
        minutes = wanted.number("minutes", 0.05, 24 * 60)
        wanted.done()
        self.making.start(minutes)
        return JSONResponse({"densify": self.making.state()})

    async def _stop(self, request: Request) -> Response:
        (await self._of_painter(request)).done()
        self.making.stop()
        return JSONResponse({"densify": self.making.state()})

    async def _of_painter(self, request: Request) -> Asked:
        """What the tab that paints asks for; of another one it is refused."""
        wanted = await asked(request)
        client = wanted.text("client", 64)
        if self._painter not in (None, client):
            raise RefusedError("Another tab is painting. Take over there, or go on in that one.")
        self._painter = client
        return wanted

    def _paint_state(self) -> dict[str, Any]:
        """What changes as a person paints. Answers overtake each other; each says when it was read."""
        session = self.session
        with self._reading:
            return {
                "server": self._name,
                "read": next(self._reads),
                "revision": session.revision,
                "undo": session.can_undo,
                "redo": session.can_redo,
                "finished": sorted(session.finished),
                "painted": session.painted(),
                "counts": session.counts(),
                "classes": [
                    {"value": value, "name": info.name, "colour": list(info.colour), "locked": info.locked}
                    for value, info in session.classes.items()
                ],
                "unsaved": session.trouble,
            }

    def _whole_state(self) -> dict[str, Any]:
        """All of it, for a page that is opened."""
        session, pictures = self.session, self._pictures
        image, folder = session.image, session.folder
        return self._paint_state() | {
            "name": image.name,
            "folder": None if folder is None else str(folder.path.resolve()),
            "size": list(session.size),
            "spacing": list(session.spacing),
            "unit": image.like.unit.replace("um", "µm"),
            "channels": [asdict(channel) for channel in pictures.channels],
            "planes": [
                {
                    "name": plane.name,
                    "h": plane.across,
                    "v": plane.down,
                    "axis": 2 if plane.normal is None else plane.normal,
                    "letter": "" if plane.normal is None else AXES[plane.normal],
                    "flip": list(plane.flipped),
                    "letters": list(plane.letters),
                }
                for plane in pictures.planes
            ],
            "formats": list(_FORMATS if len(session.size) == 3 else _FORMATS_2D),
            "report": folder is not None and (folder.path / "report.html").is_file(),
        }

    def _slice(self, request: Request) -> tuple[int, int]:
        size = self.session.size
        axis = _number(request.path_params["axis"], 3, "axis")
        if len(size) == 2 and axis != 2:
            raise InputError("an image has one plane: axis 2, index 0.")
        return axis, _number(request.path_params["index"], 1 if len(size) == 2 else size[axis], "index")


def _answered(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The same, with a sentence and a number instead of an error."""

    async def answered(request: Request) -> Response:
        try:
            return await answer(request)
        except Exception as error:
            known = cause(error)
            if known is not None:
                return _refusal(str(known), _STATUS.get(type(known), 400))
            logger.exception("A request has failed.")
            return _refusal(in_words(error)[0], 500)

    return answered


def _refusal(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)


def _number(text: str, limit: int, name: str) -> int:
    """A number from 0 to below a limit, of an address."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) < limit):
        raise InputError(f"{name} = {text[:20]!r} must be a whole number from 0 to {limit - 1}.")
    return int(text)


async def _packed(plane: Any, request: Request, headers: dict[str, str]) -> Response:
    """Labels are much the same everywhere, so little is left of them when packed."""
    data = as_bytes(plane)
    if "gzip" in request.headers.get("accept-encoding", ""):
        data = await run_in_threadpool(gzip.compress, data, 1)
        headers = headers | {"Content-Encoding": "gzip"}
    return Response(data, media_type="application/octet-stream", headers=headers)


def _statics() -> dict[str, str]:
    """All files of the page, by name; what is not among them cannot be asked for."""
    names = [each.name for each in files("volseg.page").joinpath("static").iterdir()]
    found = {name: files("volseg.page").joinpath("static", name).read_text("utf-8") for name in names}
    of_report = {
        name: files("volseg.report").joinpath(name).read_text("utf-8") for name in ("base.css", "shared.js")
    }
    of_report["shared.js"] += f"\nexport {{ {', '.join(_SHARED)} }};\n"
    return found | of_report
