"""A bundle checked without running it.

A mistyped name in JSON otherwise surfaces when MONAI comes to it, perhaps after the training, or never. ``$``
expressions are read as Python and not evaluated.
"""

import ast
import builtins
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from monai.utils import BundleProperty, BundlePropertyConfig

from volseg.bundle.files import (
    SEP,
    Merged,
    argument_problems,
    did_you_mean,
    load_json,
    locate,
    member,
    merge,
    nearest,
    nearest_id,
    shown,
    walk,
)

__all__ = ["REFERENCE", "check_bundle", "expression_problems", "importable"]

# MONAI's own pattern (ReferenceResolver.id_matcher), with both separators and "@#x" for a neighbour.
REFERENCE = re.compile(r"@(?:#|::)*\w*(?:(?:#|::)\w*)*")
_STAND_IN = "__local_refs"


def expression_problems(code: str, names: Mapping[str, Any]) -> Iterator[str]:
    """Wrong syntax, unknown names and attributes, and wrong arguments of calls in one expression.

    Args:
        code: the expression, without its ``$``.
        names: what it may name, as ``importable`` returns it.
    """
    if _import_statement("$" + code):
        return
    if "import" in code and "@" in code:
        yield "MONAI takes an expression with 'import' in it for a statement and fails at '@'; rename that."
    plain = REFERENCE.sub(_STAND_IN, code)
    try:
        ast.parse(plain)  # MONAI does this first; it minds a leading blank
        tree = ast.parse(plain, mode="eval")
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        yield f"'${code}' is not an expression: {reason}."
        return
    own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    own |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)} | {_STAND_IN}
    problems: dict[str, None] = {}
    for node in ast.walk(tree):
        problems |= dict.fromkeys(_node_problems(node, names, own))
    yield from problems


def importable(entries: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What expressions may name (MONAI's own and what the bundle imports), and the imports that fail."""
    names: dict[str, Any] = {name: importlib.import_module(name) for name in ("monai", "numpy", "torch")}
    names["np"] = names["numpy"]
    found: list[tuple[str, str]] = []
    dotted: dict[str, str] = {}
    for entry, value in entries.items():
        statement = _import_statement(value)
        if statement is None:
            continue
        if len(statement.names) > 1:
            found.append((entry, "MONAI imports only the first of several names; write one statement each."))
        alias = statement.names[0]
        bound = alias.asname or alias.name
        try:
            if isinstance(statement, ast.ImportFrom):
                names[bound] = getattr(importlib.import_module(statement.module or ""), alias.name)
            elif "." in bound:
                importlib.import_module(alias.name)
                dotted[entry] = bound
            else:
                names[bound] = importlib.import_module(alias.name)
        except (ImportError, AttributeError, ValueError) as error:
            found.append((entry, f"the import fails: {error}."))
    for entry, bound in dotted.items():
        if (root := bound.split(".")[0]) not in names:
            found.append(
                (entry, f"no expression can use {bound!r}; add '$import {root}', or 'as' and a name.")
            )
    return names, found


def _import_statement(value: Any) -> ast.Import | ast.ImportFrom | None:
    if not isinstance(value, str) or not value.startswith("$"):
        return None
    try:
        body = ast.parse(value[1:]).body
    except (SyntaxError, ValueError):
        return None
    return body[0] if body and isinstance(body[0], ast.Import | ast.ImportFrom) else None


def _node_problems(node: ast.AST, names: Mapping[str, Any], own: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Lambda):
        yield "no lambda in a bundle: worker processes cannot be sent one. Name a function in Python instead."
    elif isinstance(node, ast.Name):
        if node.id not in own and node.id not in names and not hasattr(builtins, node.id):
            close = nearest(node.id, [*names, *dir(builtins)])
            advice = "'$import' the module, or refer to an entry with '@'"
            yield f"nothing is called {node.id!r} here ({advice}){did_you_mean(close)}"
    elif isinstance(node, ast.Attribute):
        _, problem = _follow(node, names, own)
        if problem:
            yield problem
    elif isinstance(node, ast.Call):
        function, _ = _follow(node.func, names, own)
        if function is not None:
            yield from _call_problems(node, function)


def _follow(node: ast.AST, names: Mapping[str, Any], own: set[str]) -> tuple[Any, str | None]:
    """What ``module.attribute`` stands for, where that can be known without running it."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id in own or node.id not in names:
        return None, None
    return member(names[node.id], path)


def _call_problems(call: ast.Call, function: Any) -> Iterator[str]:
    keywords = [keyword.arg for keyword in call.keywords if keyword.arg]
    starred = len(keywords) < len(call.keywords) or any(isinstance(a, ast.Starred) for a in call.args)
    positional = 0 if starred else len(call.args)
    shown = ast.unparse(call.func)
    yield from argument_problems(function, shown, keywords, positional=positional, complete=not starred)


Found = list[tuple[str, str]]

META = "_meta_"
SPECIAL_KEYS = ("_target_", "_disabled_", "_requires_", "_desc_", "_mode_")
MODES = ("default", "callable", "debug")
_WHOLE = "densifying"  # a run id of ours that trains and segments by itself, with parts of its own
RUN_IDS = (
    "initialize", "run", "finalize", "training", "evaluating", "predicting", "inferring", "testing", _WHOLE,
)  # fmt: skip


def check_bundle(paths: Sequence[Path]) -> list[str]:
    """What is wrong with a bundle and the overlays laid over it: one message each, none if all is well.

    Imports the modules that the bundle names, as a run would, but builds and calls nothing.

    Args:
        paths: the bundle's JSON file, then overlays in the order in which they apply.
    """
    merged, problems = merge([Path(path) for path in paths])
    if not merged.config:
        return problems or [f"{paths[0]}: the bundle is empty."]
    entries = {i: v for i, v in walk(merged.config) if i.split(SEP)[0] != META}
    beside = merged.files[0].with_name("metadata.json")
    if beside.is_file():  # takes the place of what the bundle itself says, as in MONAI
        merged.config[META], trouble = load_json(beside)
        merged.origin[META] = beside
        problems += trouble
    names, found = importable(entries)
    found += [
        (entry, text)
        for entry, value in entries.items()
        for text in _entry_problems(entry, value, entries, names)
    ]
    found += _circle(entries)
    found += _missing_properties(merged, entries)
    found += _idle_run_items(entries)
    found += _unread_additions(merged, entries)
    return problems + [f"{merged.file_of(entry)}: {shown(entry)}: {text}" for entry, text in found]


def _entry_problems(
    entry: str, value: Any, entries: Mapping[str, Any], names: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong with one entry, its children aside."""
    key = entry.rpartition(SEP)[2]
    if key.startswith("_") and key.endswith("_") and key not in SPECIAL_KEYS:
        yield f"MONAI knows no special key {key!r}{did_you_mean(nearest(key, SPECIAL_KEYS))}"
    if isinstance(value, dict) and "_target_" in value:
        yield from _component_problems(value)
    if not isinstance(value, str) or key == "_desc_":
        return
    if value.startswith("%"):
        yield "a '%' macro copies text and looks for files from the current folder; use a reference, '@id'."
        return
    rest = REFERENCE.sub("", value)
    if "#" in rest and (value.startswith("$") or not value.startswith("@")):
        yield f"MONAI turns every '#' in {value!r} into '::'; do without it."
    if value.startswith("$"):
        yield from expression_problems(value[1:], names)
    elif value.startswith("@") and not REFERENCE.fullmatch(value):
        yield f"{value!r} stays plain text: a reference is '@' and words (a-z, 0-9, _) joined by '#'."
        return
    for reference in _references(entry, value):
        if reference not in entries:
            close = nearest_id(reference, entries)
            yield f"refers to '@{shown(reference)}', which is not there{did_you_mean(close)}"


def _references(entry: str, value: Any) -> list[str]:
    """The ids that a string refers to: anywhere in an expression, else the string as a whole."""
    if not isinstance(value, str) or not value.startswith(("$", "@")):
        return []
    try:
        absolute = ConfigParser.resolve_relative_ids(entry, value)
    except ValueError:  # "@###x" steps out of the bundle
        absolute = value.replace("#", SEP)
    if not value.startswith("$") and not REFERENCE.fullmatch(absolute):
        return []
    return list(dict.fromkeys(match[1:] for match in REFERENCE.findall(absolute)))


def _component_problems(component: Mapping[str, Any]) -> Iterator[str]:
    """A ``_target_`` that cannot be found, or that does not take the arguments given."""
    target, mode = component["_target_"], component.get("_mode_", "default")
    if isinstance(mode, str) and not mode.startswith(("$", "@")) and mode not in MODES:
        yield f"_mode_ is one of {', '.join(MODES)}, not {mode!r}{did_you_mean(nearest(mode, MODES))}"
    if not isinstance(target, str):
        yield f"_target_ is a name, not {target!r}."
    elif not target.startswith(("$", "@", "%")):
        found, problem = locate(target)
        if problem:
            yield problem
        else:
            arguments = [key for key in component if not (key.startswith("_") and key.endswith("_"))]
            yield from argument_problems(found, target, arguments, complete=mode != "callable")


def _circle(entries: Mapping[str, Any]) -> Found:
    """The first circle of references; MONAI counts what an entry contains as what it refers to."""
    children: dict[str, list[str]] = {entry: [] for entry in entries}
    for entry in entries:
        parent = entry.rpartition(SEP)[0]
        if parent:
            children[parent].append(entry)
    done: set[str] = set()

    def search(entry: str, path: list[str]) -> list[str] | None:
        if entry in path:
            return path[path.index(entry) :]
        if entry in done:
            return None
        needs = [i for i in _references(entry, entries[entry]) if i in entries] + children[entry]
        for need in needs:
            if circle := search(need, [*path, entry]):
                return circle
        done.add(entry)
        return None

    for entry in entries:
        if circle := search(entry, []):
            steps = " -> ".join(f"'{shown(step)}'" for step in [*circle, circle[0]])
            advice = "MONAI cannot build any of it; attach the last piece in a run list, such as 'training'."
            return [(circle[0], f"refers to itself: {steps}. {advice}")]
    return []


def _missing_properties(merged: Merged, entries: Mapping[str, Any]) -> Found:
    """Entries that MONAI's tools expect in a bundle, and are missing or stand in another place."""
    found: Found = []
    tables: Iterable[tuple[str, Mapping[str, Any]]] = (
        ("training", TrainProperties),
        ("inference", InferProperties),
    )
    if _WHOLE in entries and not {"training", "evaluating", "predicting", "inferring"} & entries.keys():
        tables = ()
    for workflow, table in tables:
        for name, row in table.items():
            entry, link = row[BundlePropertyConfig.ID], row.get(BundlePropertyConfig.REF_ID)
            if row[BundleProperty.REQUIRED]:
                if entry not in entries and all(entry != known for known, _ in found):
                    what = row[BundleProperty.DESC].rstrip(".")
                    found.append((entry, f"missing: MONAI's tools look here for the {what} ({workflow})."))
            elif link and name not in ("evaluator", "val_interval") and link in entries:
                value = entries[link]
                shared = isinstance(value, str) and (
                    value.startswith("$") or value.replace("#", SEP) == f"@{entry}"
                )
                if value is not None and not shared:
                    found.append(
                        (link, f"MONAI's tools expect '@{shown(entry)}' here, the thing itself there.")
                    )
    meta = merged.config.get(META)
    if isinstance(meta, dict):
        wanted = [
            row[BundlePropertyConfig.ID] for row in MetaProperties.values() if row[BundleProperty.REQUIRED]
        ]
        found += [(key, "missing: MONAI asks for it.") for key in wanted if key.split(SEP)[1] not in meta]
    return found


def _idle_run_items(entries: Mapping[str, Any]) -> Found:
    """Items of a run list that would do nothing."""
    found: Found = []
    for run_id in RUN_IDS:
        value = entries.get(run_id)
        items = (
            {f"{run_id}{SEP}{n}": item for n, item in enumerate(value)}
            if isinstance(value, list)
            else {run_id: value}
        )
        for entry, item in items.items():
            runs = isinstance(item, dict) or (isinstance(item, str) and item.startswith(("$", "@", "%")))
            if item is not None and not runs:
                found.append((entry, f"{item!r} does nothing when run; an expression starts with '$'."))
    return found


def _unread_additions(merged: Merged, entries: Mapping[str, Any]) -> Found:
    """New entries of an overlay that nothing reads: nearly always a slip in a name."""
    read = {reference for entry, value in entries.items() for reference in _references(entry, value)}
    tables = (TrainProperties, InferProperties)
    read |= {row[BundlePropertyConfig.ID] for table in tables for row in table.values()} | set(RUN_IDS)
    others = [entry for entry in entries if entry not in merged.added]
    found: Found = []
    for entry in merged.added:
        value = entries.get(entry)
        above = [entry.rsplit(SEP, n)[0] for n in range(entry.count(SEP) + 1)]
        if any(isinstance(entries.get(i), dict) and "_target_" in entries[i] for i in above[1:]):
            continue  # an argument, looked at with its component
        runs = isinstance(value, list) and all(
            isinstance(item, str) and item.startswith("$") for item in value
        )
        used = any(i in read for i in above) or any(i.startswith(entry + SEP) for i in read)
        if not (runs or used or above[-1] == META):
            close = did_you_mean(nearest_id(entry, others))
            found.append((entry, f"the bundle has no such entry and nothing reads it{close}"))
    return found
