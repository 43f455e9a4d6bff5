"""Read the ``$`` expressions of a bundle as Python, without evaluating them."""

import ast
import builtins
import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from volseg.bundle.names import did_you_mean, nearest
from volseg.bundle.targets import argument_problems, member

__all__ = ["REFERENCE", "expression_problems", "importable"]

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
