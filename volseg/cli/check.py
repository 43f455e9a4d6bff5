"""``volseg check``."""

import argparse
import sys
from collections.abc import Sequence

from volseg.cli.settings import add_bundle, bundle_paths, entries, typed

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "check a bundle and its overlays: every name, and one step on data made up for it"
EXAMPLE = "volseg check my_bundle.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser, nargs="+")
    parser.add_argument(
        "--trust-bundle",
        dest="trust",
        action="store_true",
        help="build whatever the bundle names; read it before",
    )
    parser.usage = f"{parser.prog} BUNDLE [OVERLAY ...] [--trust-bundle] [--ENTRY VALUE ...]"


def run(given: argparse.Namespace, rest: Sequence[str]) -> int:
    """Exit code 3 and a line for each thing that a training would fail at."""
    paths = bundle_paths(given.bundle, given.config)
    from volseg.bundle import check_bundle, check_overrides, read_bundle, runnable
    from volseg.engines.trial import try_bundle
    from volseg.errors import RefusedError

    if given.trust:  # as MONAI does, so that modules beside a bundle are found
        sys.path.insert(1, str(paths[0].parent))
    problems, notes = check_bundle(paths), list[str]()
    if not problems:
        bundle = read_bundle(paths)
        overrides = entries(rest, bundle)
        check_overrides(bundle, overrides)
        try:
            with runnable(paths, overrides, trust=given.trust) as files:
                config = read_bundle(files)
        except RefusedError as error:
            notes.append(f"Only its names were checked, nothing was built: {error}")
        else:
            settings = {key: typed(bundle, key, text) for key, text in overrides.items()}
            found, notes = try_bundle(config, settings)
            problems = [f"{paths[0]}: {problem}" for problem in found]
    for line in (*problems, *notes):
        print(line, file=sys.stderr)
    if not problems:
        print(f"{', '.join(map(str, paths))}: nothing wrong found")
    return 3 if problems else 0
