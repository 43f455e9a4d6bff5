"""``volseg experiment``."""

import argparse
from collections.abc import Sequence
from functools import partial

from volseg.cli.settings import bundle_paths, entries, typed
from volseg.experiments import options

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "repeat an experiment of the papers, or vary entries of a bundle"
EXAMPLE = "volseg experiment semi xenopus -o runs/semi --folds 3"

add_arguments = options.add_options


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Many runs of a bundle, and one table."""
    paths = bundle_paths(given.bundle, given.config)
    from volseg.bundle import read_bundle

    bundle = read_bundle(paths)
    given_entries = entries(rest, bundle)
    as_typed = partial(typed, bundle)
    options.run(given, paths, {key: as_typed(key, text) for key, text in given_entries.items()}, as_typed)
