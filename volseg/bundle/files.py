"""Bundle files as data: strict JSON, merged as MONAI merges it, nothing evaluated.

MONAI forgives what is nearly always a slip: of two equal keys the last wins, a mistyped override
becomes a new entry that nothing reads. Here both are told, with the nearest name that exists.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from volseg.bundle.names import SEP, did_you_mean, nearest, nearest_id, shown, walk
from volseg.bundle.targets import keywords, locate
from volseg.errors import InputError
from volseg.io import parse_json

__all__ = ["Merged", "check_overrides", "load_json", "merge", "read_bundle"]


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
