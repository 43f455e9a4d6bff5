"""Bundle files as data: their entries, their ids, and the targets these name.

MONAI forgives what is nearly always a slip: of two equal keys the last wins, a mistyped override
becomes a new entry that nothing reads. Here both are reported, with the nearest name that exists.

Ids of entries, and the nearest name to one that does not exist.

An *id* is the path to an entry of a bundle, joined by ``::`` inside MONAI, by ``#`` where people write it.

What a bundle's ``_target_`` names, and which arguments that takes.

Looking a name up imports its module, as a run would, but calls nothing: a bundle of unknown origin
deserves a look before it is checked.
"""

import copy
import difflib
import functools
import inspect
import json
import pydoc
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai
import monai.engines
import monai.handlers
from monai.bundle import ComponentLocator, ConfigParser
from monai.bundle.utils import merge_kv

from volseg.errors import InputError
from volseg.io import parse_json

__all__ = [
    "SEP",
    "Merged",
    "argument_problems",
    "check_overrides",
    "did_you_mean",
    "keywords",
    "load_json",
    "locate",
    "member",
    "merge",
    "nearest",
    "nearest_id",
    "read_bundle",
    "shown",
    "walk",
]

SEP = "::"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that whoever typed ``name`` most likely meant, if any comes close."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def nearest_id(entry: str, ids: Iterable[str]) -> str | None:
    """The id most likely meant: the same name elsewhere, else a close neighbour, else any close id."""
    ids = list(ids)
    parent, _, name = entry.rpartition(SEP)
    elsewhere = [i for i in ids if i.rpartition(SEP)[2] == name and not name.isdigit()]
    if elsewhere:
        return nearest(entry, elsewhere) or min(elsewhere, key=lambda i: i.count(SEP))
    neighbours = {i.rpartition(SEP)[2]: i for i in ids if i.rpartition(SEP)[0] == parent}
    if close := nearest(name, neighbours):
        return neighbours[close]
    return nearest(entry, ids)


def did_you_mean(close: str | None) -> str:
    """The end of a sentence about a name that does not exist."""
    return f"; did you mean {shown(close)!r}?" if close else "."


def shown(entry: str) -> str:
    """An id the way people write it."""
    return entry.replace(SEP, "#")


def walk(config: Any, entry: str = "") -> Iterator[tuple[str, Any]]:
    """Every entry of a configuration with its id, parents before children, the root left out."""
    if isinstance(config, Mapping):
        items: Iterable[tuple[Any, Any]] = config.items()
    elif isinstance(config, list):
        items = enumerate(config)
    else:
        return
    for key, value in items:
        child = f"{entry}{SEP}{key}" if entry else str(key)
        yield child, value
        yield from walk(value, child)


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
    """The names of the arguments that a class or function takes; none where it does not say."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some functions written in C do not say, and None is no function
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def argument_problems(
    target: Any, shown: str, names: Iterable[str], *, positional: int = 0, complete: bool = True
) -> Iterator[str]:
    """What speaks against calling ``target`` with these keywords; ``complete`` if no more will follow."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some functions written in C do not say
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


@dataclass
class Merged:
    """A bundle with its overlays laid over it, and which file each entry came from."""

    config: dict[str, Any]
    files: list[Path]
    origin: dict[str, Path] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)

    def file_of(self, entry: str) -> Path:
        """The file that had the last word on an entry."""
        while entry:
            if entry in self.origin:
                return self.origin[entry]
            entry = entry.rpartition(SEP)[0]
        return self.files[0]


def read_bundle(paths: Sequence[Path]) -> dict[str, Any]:
    """The configuration that MONAI would make of a bundle and the overlays laid over it, in this order.

    Nothing in it is evaluated. A file that cannot be read, or an overlay that does not fit, is an
    ``InputError``.
    """
    merged, problems = merge(paths)
    if problems:
        rest = len(problems) - 1
        more = f" ({rest} more problem{'s' if rest > 1 else ''})" if rest else ""
        raise InputError(problems[0] + more)
    return merged.config


def check_overrides(config: Mapping[str, Any], overrides: Mapping[str, object]) -> None:
    """Refuse overrides of entries that a bundle does not have; MONAI would add them and never look at them.

    An argument that a component does not mention but does take is fine.

    Args:
        config: a merged bundle, as ``read_bundle`` returns it.
        overrides: new values by id, such as ``{"train#trainer#max_epochs": 3}``.
    """
    entries = dict(walk(config))
    for key in overrides:
        entry = key.replace("#", SEP)
        if entry in entries:
            continue
        parent, _, name = entry.rpartition(SEP)
        component = entries.get(parent)
        target = component.get("_target_") if isinstance(component, dict) else None
        takes = keywords(locate(target)[0]) if isinstance(target, str) else []
        if name in takes:
            continue
        close = nearest(name, takes)
        hint = did_you_mean(f"{parent}{SEP}{close}" if close else nearest_id(entry, entries))
        raise ValueError(f"There is no {shown(entry)!r} in the bundle: setting it would change nothing{hint}")


def merge(paths: Sequence[Path]) -> tuple[Merged, list[str]]:
    """Lay overlays over a bundle as MONAI does; ``#`` steps into an entry, a leading ``+`` extends it."""
    if not paths:
        raise ValueError("No bundle given: name at least one file.")
    paths = [Path(path) for path in paths]
    parser = ConfigParser(config={})
    merged = Merged(config={}, files=paths)
    problems: list[str] = []
    for path in paths:
        content, trouble = load_json(path)
        problems += trouble
        for key, value in content.items():
            problem = _lay_over(merged, parser, path, key, copy.deepcopy(value))
            if problem:
                problems.append(f"{path}: {key}: {problem}")
    merged.config = parser.get()
    return merged, problems


def _lay_over(merged: Merged, parser: ConfigParser, path: Path, key: str, value: Any) -> str | None:
    """Merge one top-level entry of one file; what is wrong with it, if anything."""
    entry = key.removeprefix("+").replace("#", SEP)
    new = not _has(parser.get(), entry)
    if key.startswith("+"):
        if new:
            return f"there is no such entry to extend{did_you_mean(nearest_id(entry, _ids(parser)))}"
        old = parser[entry]
        if not isinstance(value, dict | list) or type(old) is not type(value):
            return f"'+' adds a list to a list or an object to an object, not {_kind(value)} to {_kind(old)}."
        keys = value if isinstance(value, dict) else range(len(old), len(old) + len(value))
        children = [f"{entry}{SEP}{child}" for child in keys]
        added = [child for child in children if isinstance(value, dict) and not _has(parser.get(), child)]
    else:
        children, added = [entry], [entry] if new else []
    try:
        merge_kv(parser, key, value)
    except (KeyError, IndexError, ValueError):
        parent = entry.rpartition(SEP)[0]
        return f"there is no {shown(parent)!r} to set this in{did_you_mean(nearest_id(parent, _ids(parser)))}"
    if path != merged.files[0]:
        for child in children:
            merged.origin = {i: f for i, f in merged.origin.items() if not i.startswith(child + SEP)}
            merged.origin[child] = path
        merged.added += added
    return None


def _has(config: Any, entry: str) -> bool:
    """Whether there is an entry of this id."""
    for name in entry.split(SEP):
        if isinstance(config, dict) and name in config:
            config = config[name]
        elif isinstance(config, list) and name.isdecimal() and int(name) < len(config):
            config = config[int(name)]
        else:
            return False
    return True


def _ids(parser: ConfigParser) -> list[str]:
    return [entry for entry, _ in walk(parser.get())]


def load_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A JSON file, strictly: its content (empty if unreadable) and what is wrong with it."""
    if path.suffix.lower() != ".json":
        return {}, [f"{path}: only JSON is read here; YAML turns 1e-3 into text and 'on' into true."]
    if not path.is_file():
        here = [other.name for other in path.parent.glob("*.json")] if path.parent.is_dir() else []
        close = nearest(path.name, here)
        return {}, [f"{path}: there is no such file{did_you_mean(close)}"]
    problems: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key in [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            lines = [n for n, line in enumerate(lines_of_text, 1) if f'"{key}"' in line]
            where = ", ".join(map(str, lines))
            problems.append(
                f"{path}: {key}: this key stands twice in one object (lines {where}); only the last counts."
            )
        return dict(pairs)

    def no_constant(name: str) -> float:
        problems.append(
            f"{path}: {name} is not JSON; write it as an expression, \"$float('nan')\" or \"$float('inf')\"."
        )
        return 0.0

    try:
        data = path.read_bytes()
        lines_of_text = data.decode(errors="replace").splitlines()
        content = parse_json(data, path, pairs=unique, constant=no_constant)
    except InputError as error:
        slip = error.__cause__
        if not isinstance(slip, json.JSONDecodeError):
            return {}, [str(error)]
        line = slip.doc.splitlines()[slip.lineno - 1].strip() if slip.doc.strip() else ""
        why = " JSON knows no comments." if re.match(r"(//|#|/\*)", line) else ""
        return {}, [f"{path}: line {slip.lineno}, column {slip.colno}: not JSON: {slip.msg}.{why}"]
    except OSError as error:
        return {}, [f"{path}: cannot be read: {error}."]
    if not isinstance(content, dict):
        return {}, [f"{path}: a bundle is a JSON object {{...}}, this is {_kind(content)}."]
    return content, problems


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    return {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )
