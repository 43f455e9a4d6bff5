"""``volseg check``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "check every name in a bundle and its overlays without running it"
EXAMPLE = "volseg check bundles/xenopus.json configs/smoke.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="+", type=Path, help="bundle, then overlays")


def run(given: argparse.Namespace, _: Sequence[str]) -> int:
    from volseg.bundle import check_bundle

    problems = check_bundle(given.bundle)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{', '.join(map(str, given.bundle))}: nothing wrong found")
    return 3 if problems else 0
