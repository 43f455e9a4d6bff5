"""``volseg check``."""

import argparse
import sys
from collections.abc import Sequence

from volseg.cli.settings import add_bundle, bundle_paths

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "check every name in a bundle and its overlays without running it"
EXAMPLE = "volseg check my_bundle.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser, nargs="+")


def run(given: argparse.Namespace, _: Sequence[str]) -> int:
    from volseg.bundle import check_bundle

    paths = bundle_paths(given.bundle, given.config)
    problems = check_bundle(paths)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{', '.join(map(str, paths))}: nothing wrong found")
    return 3 if problems else 0
