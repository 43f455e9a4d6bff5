"""What a bundle's ``_target_`` names, and which arguments that takes.

Looking a name up imports its module, as a run would, but calls nothing: a bundle by somebody unknown
deserves a look before it is checked.
"""

import functools
import inspect
import pydoc
from collections.abc import Iterable, Iterator
from typing import Any

import monai
import monai.engines
import monai.handlers
from monai.bundle import ComponentLocator

from volseg.bundle.names import did_you_mean, nearest

__all__ = ["argument_problems", "keywords", "locate", "member"]

_MISSING = object()


def locate(target: str) -> tuple[Any, str | None]:
    """The class or function of a ``_target_`` as MONAI would find it, or ``None`` and why not."""
    modules = _locator().get_component_module_name(target)
    if isinstance(modules, list):
        return (
            None,
            f"{target!r} is in several of MONAI's modules ({', '.join(modules)}); write the full path.",
        )
    try:
        found = pydoc.locate(f"{modules}.{target}" if modules else target)
    except pydoc.ErrorDuringImport as error:
        return None, f"importing {target!r} fails: {error.value}."
    if found is None:
        return None, f"cannot locate {target!r}{did_you_mean(_nearest_target(target))}"
    if not callable(found):
        return None, f"{target!r} is a {type(found).__name__}, neither class nor function."
    return found, None


def keywords(target: Any) -> list[str]:
    """The names of the arguments that a class or function takes; none where it does not tell."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some functions written in C do not tell, and None is no function
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def argument_problems(
    target: Any, shown: str, names: Iterable[str], *, positional: int = 0, complete: bool = True
) -> Iterator[str]:
    """What speaks against calling ``target`` with these keywords; ``complete`` if no more will follow."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some functions written in C do not tell
        return
    known = keywords(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    names = list(names)
    unknown = [] if open_ended else [name for name in names if name not in known]
    for name in unknown:
        close = did_you_mean(nearest(name, known))
        yield f"{shown} takes no argument {name!r}{close}"
    if unknown:
        return
    try:
        bind = signature.bind if complete else signature.bind_partial
        bind(*[None] * positional, **dict.fromkeys(names))
    except TypeError as error:
        yield f"{shown}: {error}."


def member(owner: Any, path: Iterable[str]) -> tuple[Any, str | None]:
    """What a path of attributes leads to in modules and classes (``None`` beyond them), or the problem."""
    for name in path:
        if not (inspect.ismodule(owner) or inspect.isclass(owner)):
            return None, None
        found = getattr(owner, name, _MISSING)
        if found is _MISSING:
            return None, f"{owner.__name__} has no {name!r}{did_you_mean(nearest(name, dir(owner)))}"
        owner = found
    return owner, None


@functools.cache
def _locator() -> ComponentLocator:
    """MONAI's table of short names; it holds the modules loaded so far, hence the imports above."""
    return ComponentLocator()


def _nearest_target(target: str) -> str | None:
    """An existing name close to one that cannot be located."""
    head, *rest = target.split(".")
    if not rest:
        rooms = [monai.data, monai.engines, monai.handlers, monai.inferers, monai.losses, monai.metrics]
        rooms += [monai.networks.nets, monai.transforms]
        return nearest(target, {name for room in rooms for name in dir(room)})
    owner, known = pydoc.locate(head), head
    if owner is None:
        return None
    for name in rest:
        found = getattr(owner, name, _MISSING)
        if found is _MISSING:
            close = nearest(name, dir(owner))
            return f"{known}.{close}" if close else None
        owner, known = found, f"{known}.{name}"
    return None
