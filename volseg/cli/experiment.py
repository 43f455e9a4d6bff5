"""``volseg experiment``."""

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from volseg.cli.command import Command
from volseg.cli.settings import add_bundle, add_trust, bundle_paths, entries, typed
from volseg.installation import find

__all__ = ["EXPERIMENT"]


_KINDS = {
    "semi": "k-fold cross-validation over annotated slices, 3D and 2D (Table 1 of 2016)",
    "budget": "more and more slices of one case (Table 2)",
    "auto": "one case left out (Table 3)",
    "sweep": "entries of the bundle varied",
}


def _add_arguments(sub: argparse.ArgumentParser) -> None:
    kinds = "; ".join(f"{kind}: {what}" for kind, what in _KINDS.items())
    sub.add_argument("kind", choices=_KINDS, help=kinds)
    add_bundle(sub)
    sub.add_argument("-o", "--output", type=Path, help="folder of the experiment (default runs/KIND)")
    sub.add_argument("--folds", type=int, default=3, help="semi: number of test subsets (default 3)")
    sub.add_argument(
        "--budgets", help='budget: slices per direction, yz,xz,xy (default "1,1,1 2,2,1 3,3,2 5,5,3")'
    )
    sub.add_argument("--variants", help="semi, auto: some of 3d,3d-bn,2d-bn (default all)")
    sub.add_argument("--cases", help="budget, auto: names of cases, joined by commas (default all)")
    sub.add_argument(
        "--overlay-2d",
        type=Path,
        help="semi, auto: makes the bundle a 2D one (default slices_2d)",
    )
    sub.add_argument(
        "--overlay-3d",
        type=Path,
        help="semi, auto: what the bundle needs without batch norm (default without_norm)",
    )
    sub.add_argument(
        "--vary", action="append", metavar="ENTRY=V1,V2", help="sweep: values of one entry; may be repeated"
    )
    sub.add_argument(
        "--examples", type=int, default=4, help="sweep: cases to show predictions of (default 4)"
    )
    add_trust(sub)
    sub.usage = "volseg experiment {semi,budget,auto,sweep} BUNDLE [OVERLAY ...] [-o OUT] [--ENTRY VALUE ...]"


def _run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Many runs of a bundle, and one table."""
    paths = bundle_paths(given.bundle, given.config)
    from volseg.bundle import read_bundle, runnable
    from volseg.experiments import protocols
    from volseg.experiments.sweep import sweep

    bundle = read_bundle(paths)
    as_typed = partial(typed, bundle)
    settings = {key: as_typed(key, text) for key, text in entries(rest, bundle).items()}
    folder = given.output or Path("runs", given.kind)
    vary = _vary(given.vary or [], as_typed)
    variants = tuple(given.variants.split(",")) if given.variants else protocols.EVERY_VARIANT
    cases = given.cases.split(",") if given.cases else None
    moot = {*settings, *vary}
    with ExitStack() as open_files:
        files = open_files.enter_context(runnable(paths, moot, trust=given.trust))
        overlays = {
            "files_2d": ("2d-bn", find(given.overlay_2d or "slices_2d")),
            "files_bare": ("3d", find(given.overlay_3d or "without_norm")),
        }
        overlaid = {
            argument: open_files.enter_context(runnable([*paths, overlay], moot, trust=given.trust))
            for argument, (variant, overlay) in overlays.items()
            if given.kind in ("semi", "auto") and variant in variants
        }
        if given.kind == "semi":
            protocols.semi(files, settings, folder, folds=given.folds, variants=variants, **overlaid)
        elif given.kind == "auto":
            protocols.auto(files, settings, folder, cases=cases, variants=variants, **overlaid)
        elif given.kind == "budget":
            budgets = _budgets(given.budgets) if given.budgets else protocols.BUDGETS
            protocols.budget(files, settings, folder, budgets=budgets, cases=cases)
        else:
            sweep(files, settings, folder, vary=vary, examples=given.examples)


def _budgets(text: str) -> list[tuple[int, ...]]:
    try:
        return [tuple(int(n) for n in budget.split(",")) for budget in text.split()]
    except ValueError:
        raise ValueError(f'--budgets "{text}" is not a list such as "1,1,1 3,3,2".') from None


def _vary(texts: Sequence[str], typed: Callable[[str, str], Any]) -> dict[str, list[Any]]:
    """``ENTRY=V1,V2``; a value with commas in it stands in brackets."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        entry, equals, values = text.partition("=")
        if not equals or not values or entry in found:
            raise ValueError(f"--vary {text}: write each entry once, as ENTRY=V1,V2.")
        parts = [""]
        for letter in values:
            if letter == "," and all(parts[-1].count(a) == parts[-1].count(b) for a, b in ("[]", "()", "{}")):
                parts.append("")
            else:
                parts[-1] += letter
        found[entry] = [typed(entry, part.strip()) for part in parts]
    return found


EXPERIMENT = Command(
    "experiment",
    "repeat an experiment of the papers, or vary entries of a bundle",
    "volseg experiment semi xenopus -o runs/semi --folds 3",
    _add_arguments,
    _run,
    takes_entries=True,
)
