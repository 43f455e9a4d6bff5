"""What the page can ask for, by name: each act takes the fields that it needs, and does it.

A request is checked field by field before anything is done. Whatever is not as it must be is an `InputError`
with a sentence, which the server answers with 400. pydantic checks types as well, in sentences of its own for
programmers; volseg does not depend on it otherwise.

An act has an ``id``, which the page gave it. The session notes it with what was done, so an act that is sent
again, because the answer was lost or the server had to be started again, is done once.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request

from volseg.errors import InputError
from volseg.geometry import AXES
from volseg.io import parse_json
from volseg.labels import IGNORE_INDEX
from volseg.session import Session

__all__ = ["ACTS", "Asked", "TooLargeError", "asked", "save"]


_MOST = 4 << 20  # bytes of a request
_PATIENCE = 30  # seconds until it has come
_MOST_POINTS = 50_000  # of a stroke
_FAR = 1e6  # voxels; no point of a plane lies farther out


class TooLargeError(InputError):
    """A request that is larger than any that the page sends."""


async def asked(request: Request) -> "Asked":
    """The fields of a request's body, a JSON object.

    Raises:
        InputError: if it is none, is packed, or takes too long to come.
        TooLargeError: if it is too large.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InputError("a request must be of the type application/json.")
    if "content-encoding" in request.headers:
        raise InputError("a request must not be packed: send it without Content-Encoding.")
    body = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                body += part
                if len(body) > _MOST:
                    raise TooLargeError(f"a request may have {_MOST} bytes, and this one has more.")
    except TimeoutError:
        raise InputError(f"the request did not come within {_PATIENCE} seconds. Send it again.") from None
    content = parse_json(bytes(body), "the request")
    if not isinstance(content, dict):
        raise InputError("a request must be a JSON object, {...}.")
    return Asked(content)


class Asked:
    """The fields of a request, each checked as it is taken; :meth:`done` refuses what is left."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = dict(fields)

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InputError(f"{name} = {_short(value)} must be a whole number from {low} to {high}.")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        value = self._take(name)
        if not _is_number(value) or not low <= value <= high:
            raise InputError(f"{name} = {_short(value)} must be a number from {low:g} to {high:g}.")
        return float(value)

    def point(self, name: str) -> tuple[float, float]:
        """A point of a plane, in voxels."""
        return _point(name, self._take(name))

    def points(self, name: str) -> list[tuple[float, float]]:
        """Points of a plane, at least one."""
        value = self._take(name)
        if not isinstance(value, list) or not 1 <= len(value) <= _MOST_POINTS:
            raise InputError(f"{name} = {_short(value)} must be a list of 1 to {_MOST_POINTS} points.")
        return [_point(name, each) for each in value]

    def text(self, name: str, most: int) -> str:
        """A text that is not empty, without control characters."""
        value = self._take(name)
        if not isinstance(value, str) or not 1 <= len(value.strip()) <= most or not value.isprintable():
            raise InputError(f"{name} = {_short(value)} must be a text of 1 to {most} printable characters.")
        return value.strip()

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise InputError(f"{name} = {_short(value)} must be true or false.")
        return value

    def colour(self, name: str) -> tuple[int, int, int]:
        """Red, green and blue from 0 to 255."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) != 3 or not all(_is_byte(part) for part in value):
            raise InputError(f"{name} = {_short(value)} must be three whole numbers from 0 to 255.")
        return value[0], value[1], value[2]

    def done(self) -> None:
        """Refuse what the server does not know: it would be passed over in silence."""
        if self._fields:
            raise InputError(f"the request has fields that are not known: {_short(sorted(self._fields))}.")

    def _take(self, name: str) -> Any:
        if name not in self._fields:
            raise InputError(f"the request must have a field {name}.")
        return self._fields.pop(name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _point(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_number, value)):
        raise InputError(f"{name}: {_short(value)} must be a point, two numbers.")
    if max(map(abs, value)) > _FAR:
        raise InputError(f"{name}: {_short(value)} lies {_FAR:g} voxels away from everything.")
    return float(value[0]), float(value[1])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_ID = 64  # letters
_NAME = 80
_PATH = 4096
_LARGEST = 1e9  # radius or tolerance, in any unit


def _slice(session: Session, asked: Asked) -> tuple[int, int]:
    """The axis across a slice, and its index."""
    axis = asked.whole("axis", 0, 2)
    if len(session.size) == 2:
        if axis != 2:
            raise InputError(f"axis = {axis}: an image has one plane, axis 2.")
        return 2, asked.whole("index", 0, 0)
    return axis, asked.whole("index", 0, session.size[axis] - 1)


def _value(session: Session, asked: Asked) -> int:
    """A class, or 255 to erase."""
    value = asked.whole("value", 0, IGNORE_INDEX)
    if value != IGNORE_INDEX and value not in session.classes:
        raise InputError(f"value = {value} is no class that there is. Add it first.")
    return value


def _stroke(session: Session, asked: Asked, id: str) -> bool:
    axis, index = _slice(session, asked)
    points, radius = asked.points("points"), asked.number("radius", 0, _LARGEST)
    value = _value(session, asked)
    asked.done()
    return session.stroke(axis, index, points, radius, value, id=id)


def _polygon(session: Session, asked: Asked, id: str) -> bool:
    axis, index = _slice(session, asked)
    points, value = asked.points("points"), _value(session, asked)
    asked.done()
    return session.polygon(axis, index, points, value, id=id)


def _fill(session: Session, asked: Asked, id: str) -> bool:
    axis, index = _slice(session, asked)
    h, v = map(round, asked.point("point"))
    value, tolerance = _value(session, asked), asked.number("tolerance", 0, _LARGEST)
    asked.done()
    across = [n for a, n in enumerate(session.size) if len(session.size) == 2 or a != axis]
    if not (0 <= h < across[0] and 0 <= v < across[1]):
        raise InputError(f"point = {h}, {v} is outside of the slice {AXES[axis]} = {index}.")
    return session.fill(axis, index, (h, v), value, tolerance, id=id)


def _finish(session: Session, asked: Asked, id: str) -> bool:
    axis, index = _slice(session, asked)
    asked.done()
    return session.finish_slice(axis, index, id=id)


def _adopt(session: Session, asked: Asked, id: str) -> bool:
    axis, index = _slice(session, asked)
    asked.done()
    return session.adopt(axis, index, id=id)


def _undo(session: Session, asked: Asked, id: str) -> bool:
    asked.done()
    return session.undo(id=id)


def _redo(session: Session, asked: Asked, id: str) -> bool:
    asked.done()
    return session.redo(id=id)


def _class(session: Session, asked: Asked, _: str) -> bool:
    value = asked.whole("value", 0, IGNORE_INDEX - 1)
    name = asked.text("name", _NAME) if "name" in asked else None
    colour = asked.colour("colour") if "colour" in asked else None
    locked = asked.flag("locked") if "locked" in asked else None
    asked.done()
    if value == 0 and locked:
        raise InputError("background cannot be locked: what is blank on a finished slice becomes background.")
    session.set_class(value, name=name, colour=colour, locked=locked)
    return True


ACTS: dict[str, Callable[[Session, Asked, str], bool]] = {
    "stroke": _stroke,
    "polygon": _polygon,
    "fill": _fill,
    "finish": _finish,
    "adopt": _adopt,
    "undo": _undo,
    "redo": _redo,
    "class": _class,
}
"""By the last part of their address."""


def act(session: Session, name: str, asked: Asked) -> bool:
    """Do what is asked; whether anything has changed."""
    return ACTS[name](session, asked, asked.text("id", _ID))


def save(session: Session, asked: Asked) -> dict[str, Any]:
    """Write the paint or the result where the person says; a bare name goes beside the session's folder."""
    what, name = asked.text("what", 10), asked.text("path", _PATH)
    overwrite = asked.flag("overwrite")
    asked.done()
    if what not in ("paint", "result"):
        raise InputError(f"what = {what!r} must be 'paint' or 'result'.")
    path = Path(name).expanduser()
    folder = session.folder
    if not path.is_absolute():
        path = (Path.cwd() if folder is None else folder.path.resolve().parent) / path
    return {"path": str(session.export(path, what, overwrite=overwrite))}
