"""The command of a benchmark that runs once per small volume, and can be stopped and gone on with."""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from small_volumes import KINDS

__all__ = ["study"]


def study(
    about: str,
    folder: str,
    run: Callable[[str, int, argparse.Namespace], dict[str, Any]],
    table: Callable[[list[dict[str, Any]], argparse.Namespace], str],
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    kinds: Callable[[argparse.Namespace], Iterable[str]] = lambda _: KINDS,
) -> None:
    """A benchmark's command: what is missing of ``run(kind, seed, given)``, a line each, and the table.

    Args:
        about: its help.
        folder: where it writes if nothing else is said.
        options: adds those of its own.
        kinds: of the volumes that it runs on.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(folder))
    parser.add_argument("--runs", type=int, default=10, help="volumes per kind (10)")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them, its seed (0)")
    parser.add_argument("--seconds", type=float, default=3.0, help="per training (3)")
    parser.add_argument("--directions", type=int, choices=(1, 3), default=3, help="that are painted (3)")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    if options is not None:
        options(parser)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / "runs.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(r["kind"], r["seed"]) for r in results}
    seeds = range(given.first, given.first + given.runs)
    todo = [] if given.table else [(k, s) for s in seeds for k in kinds(given) if (k, s) not in done]
    for kind, seed in todo:
        results.append(run(kind, seed, given))
        with path.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
        print(kind, seed, results[-1]["seconds"], "s", flush=True)
    print(table([r for r in results if r["seed"] in seeds], given))
