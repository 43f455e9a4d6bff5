"""Whether a bundle can be run without knowing who wrote it.

A MONAI bundle is a program: ``"$__import__('os').system('...')"`` and ``{"_target_": "os.system"}`` run when
it is evaluated, an ``$import`` anywhere runs always, and MONAI puts the bundle's folder in front of the
installed packages, so that a file ``tensorboard.py`` beside it is imported instead of TensorBoard.

So a bundle is read as data first and compared with a list of what bundles need
(:mod:`volseg.bundle.judging`): volseg's own components, torch's optimisers, many of MONAI's; expressions
that refer, count and calculate, in the form in which MONAI will evaluate them. What is run is a private copy
of exactly what was compared. Anything beyond the list takes ``trust``.
"""

import json
import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

from volseg.arguments import option
from volseg.bundle.files import SEP, load_json, read_bundle, shown, walk
from volseg.bundle.judging import (
    CALLABLE,
    TARGETS,
    UNKNOWN,
    WRITES,
    Said,
    constant,
    is_plain,
)
from volseg.errors import RefusedError

__all__ = ["TARGETS", "beyond_the_list", "judge", "runnable"]

logger = logging.getLogger(__name__)

# Of a key MONAI makes ids, and of ids in references code: names only.
_KEY = re.compile(r"\w[\w .,()/+-]*")
_SPECIAL = frozenset({"_target_", "_mode_", "_disabled_", "_desc_", "_meta_"})


@contextmanager
def runnable(paths: Sequence[Path], overridden: Collection[str] = (), *, trust: bool) -> Iterator[list[Path]]:
    """The files to hand to MONAI for a bundle and its overlays, for as long as the block lasts.

    Without ``trust`` that is one file, alone in a folder of its own, with what was compared with the list;
    with it, the files themselves, after a word on what they will do.

    Args:
        overridden: entries that the person at the command line sets; what the bundle has there is moot.

    Raises:
        RefusedError: if the bundle asks for more than the list has; nothing of it was evaluated or imported.
    """
    config = read_bundle(paths)
    beside = paths[0].with_name("metadata.json")
    meta = load_json(beside)[0] if beside.is_file() else None  # MONAI would put it in the place of _meta_
    judge(config if meta is None else {**config, "_meta_": meta}, paths[0], overridden, trust=trust)
    if trust:
        yield list(paths)
        return
    with tempfile.TemporaryDirectory(prefix="volseg-") as folder:
        path = Path(folder) / "bundle.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        if meta is not None:
            path.with_name("metadata.json").write_text(json.dumps(meta), encoding="utf-8")
        yield [path]


def judge(config: Mapping[str, Any], source: Path, overridden: Collection[str] = (), *, trust: bool) -> None:
    """Refuse what the list does not cover; with ``trust``, say what it will do.

    Args:
        source: the bundle's file, to be named.

    Raises:
        RefusedError: if there is something, and it is not trusted.
    """
    found = beyond_the_list(config, overridden)
    if trust:
        for text in found:
            logger.warning("Trusted: %s.", text)
    elif found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        raise RefusedError(
            f"{source} is not run, because it could do anything: {'; '.join(found[:3])}{more}. "
            f"If you know who wrote it, read these entries and add {option('trust', True)}."
        )


def beyond_the_list(config: Mapping[str, Any], overridden: Collection[str] = ()) -> list[str]:
    """Each entry that the list does not cover, with why; none if the bundle can be run unseen."""
    moot = {key.replace("#", SEP) for key in overridden}
    entries = dict(walk(config))
    found: list[str] = []
    for entry, value in entries.items():
        if any(entry == key or entry.startswith(key + SEP) for key in moot):
            continue
        problem = _judge(entry, value, entries)
        if problem is None and isinstance(value, dict):
            problem = _misnamed(value)
            for argument, text in _misled(entry, value, entries, moot):
                found.append(f"{shown(argument)} {text}")
        if problem is not None:
            found.append(f"{shown(entry)} {problem}")
    top = _misnamed(config)
    return [*found, *([f"the bundle {top}"] if top else [])]


def _judge(entry: str, value: Any, entries: Mapping[str, Any]) -> str | None:
    """What one entry does beyond the list, its children aside."""
    parent, _, key = entry.rpartition(SEP)
    if key == "_target_" and not (isinstance(value, str) and value in TARGETS):
        return f"calls {str(value)[:60]!r}"
    if key == "_mode_" and value != "default":
        owner = entries.get(parent)
        target = owner.get("_target_") if isinstance(owner, dict) else None
        if value != "callable" or target not in CALLABLE:
            return f"is {str(value)[:60]!r}"
    if key.startswith("_") and key.endswith("_") and key not in _SPECIAL:
        return f"is {str(value)[:60]!r}"
    if not isinstance(value, str):
        return None
    if value.startswith("%"):
        return f"copies from {value[:60]!r}"
    if value.startswith("$") and not is_plain(entry, value, entries):
        return f"evaluates {value[:60]!r}"
    return None


def _misnamed(value: Mapping[str, Any]) -> str | None:
    """A key that MONAI would take apart."""
    wrong = next((key for key in value if not _KEY.fullmatch(key)), None)
    return None if wrong is None else f"has the key {wrong[:60]!r}, which MONAI would not take for a name"


def _misled(
    entry: str, component: Mapping[str, Any], entries: Mapping[str, Any], moot: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Arguments by which a component would write elsewhere, replace results, or ask an unknown host."""
    target = component.get("_target_")
    folder = WRITES.get(target) if isinstance(target, str) else None
    if folder is None:
        return
    folders = frozenset(WRITES.values())
    for name, judge, names in (
        (folder, _leaves, folders),
        ("overwrite", _replaces, {"overwrite"}),
        ("cluster", _asks, {"cluster"}),
    ):
        argument = f"{entry}{SEP}{name}"
        if name in component and argument not in moot:
            problem = judge(constant(argument, component[name], entries, moot, names), component[name])
            if problem is not None:
                yield argument, problem


def _leaves(folder: Any, written: Any) -> str | None:
    """Whether a folder that is written to may lie outside the current one."""
    if folder is UNKNOWN:
        return f"writes to {str(written)[:60]!r}, which may be anywhere"
    if not isinstance(folder, str):
        return None
    absolute = folder.startswith(("/", "\\", "~")) or PureWindowsPath(folder).drive
    if absolute or ".." in folder or "\0" in folder:
        return f"writes to {folder[:60]!r}, outside the current folder"
    return None


def _replaces(value: Any, written: Any) -> str | None:
    """Whether results that are there would be replaced."""
    if value is None or value is False or isinstance(value, Said):
        return None
    return f"is {str(written)[:60]!r}: only you say what may be replaced, by {option('overwrite', True)}"


def _asks(value: Any, written: Any) -> str | None:
    """Whether work would be given to a scheduler that the bundle names: what answers there is unpickled."""
    if value is None or value == "local" or isinstance(value, Said):
        return None
    return (
        f"gives work to {str(written)[:60]!r}, which could answer with code; name it by {option('cluster')}"
    )
