"""The cells of a sweep: every combination of the values that entries of a bundle are to take."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from volseg.bundle.targets import argument_problems, keywords, locate

__all__ = ["Combination", "combinations", "names_of"]

_TARGET = "#_target_"


class Combination(NamedTuple):
    """One cell: what stands in its row of the table, and what it sets in the bundle."""

    shown: dict[str, str]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """For its folder."""
        parts = (f"{name}={value}" for name, value in self.shown.items())
        return re.sub(r"[^\w.=,+-]+", "_", ",".join(parts))

    @property
    def title(self) -> str:
        """For people."""
        return ", ".join(f"{name} {value}" for name, value in self.shown.items())


def combinations(
    bundle: Mapping[str, Any], settings: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]
) -> list[Combination]:
    """All combinations, the last entry varying fastest.

    An entry with a ``_target_`` takes the name of another one; without dots it is meant to be in the same
    module. Arguments of the bundle that the other target does not take are left out.

    Args:
        bundle: as merged, for the components it holds.
        settings: new values that are the same in all cells.
        vary: values by entry.
    """
    if not vary:
        raise ValueError("Nothing is varied: say what by --vary ENTRY=V1,V2.")
    for entry, values in vary.items():
        if entry in settings:
            raise ValueError(f"{entry} is set and varied: --{entry} or --vary {entry}=..., not both.")
        if len({repr(value) for value in values}) < len(values):
            raise ValueError(f"--vary {entry} has a value twice.")
    names = names_of(vary)
    found = []
    for values in product(*vary.values()):
        chosen = dict(zip(vary, values, strict=True))
        components: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        shown = {}
        for entry, value in chosen.items():
            owner = entry.removesuffix(_TARGET)
            component = _entry(bundle, owner)
            if isinstance(component, Mapping) and "_target_" in component and isinstance(value, str):
                components[owner] = _other(component, value, owner)
                shown[names[entry]] = value.rpartition(".")[2]
            else:
                plain[entry] = value
                shown[names[entry]] = str(value)
        found.append(Combination(shown, {**components, **settings, **plain}))
    if len({one.name for one in found}) < len(found):
        raise ValueError("Two of the values varied look the same; give them names that differ.")
    return found


def names_of(vary: Mapping[str, Any]) -> dict[str, str]:
    """A short name for each entry: its last word, unless two have the same."""
    words = {entry: entry.removesuffix(_TARGET).rpartition("#")[2] for entry in vary}
    return {
        entry: word if list(words.values()).count(word) == 1 else entry.removesuffix(_TARGET)
        for entry, word in words.items()
    }


def _entry(bundle: Mapping[str, Any], entry: str) -> Any:
    found: Any = bundle
    for key in entry.split("#"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _other(component: Mapping[str, Any], target: str, entry: str) -> dict[str, Any]:
    """The component with another target, and the arguments that it takes."""
    if "." not in target and "." in component["_target_"]:
        target = f"{component['_target_'].rpartition('.')[0]}.{target}"
    callable_, problem = locate(target)
    if problem:
        raise ValueError(f"--vary {entry}: {problem}")
    takes = keywords(callable_)
    kept = {key: value for key, value in component.items() if key in takes or key.startswith("_")}
    for problem in _problems(callable_, target, kept):
        raise ValueError(f"--vary {entry}: {problem}")
    return {**kept, "_target_": target}


def _problems(found: Any, target: str, component: Mapping[str, Any]) -> Iterator[str]:
    arguments = [key for key in component if not key.startswith("_")]
    yield from argument_problems(found, target, arguments, complete=component.get("_mode_") != "callable")
