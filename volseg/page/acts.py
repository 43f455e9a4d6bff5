"""What the page can ask for, by name: each takes the fields that it needs, and does it.

An act has an ``id``, which the page gave it. The session notes it with what was done, so an act that is sent
again, because the answer was lost or the server had to be started again, is done once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from volseg.errors import InputError
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX
from volseg.page.asked import Asked
from volseg.session import Session

__all__ = ["ACTS", "save"]

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
