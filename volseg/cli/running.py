"""What ``volseg train``, ``evaluate`` and ``predict`` share: a bundle, run through MONAI."""

import argparse
import logging
import warnings
from collections.abc import Sequence

from volseg.cli.settings import add_bundle, bundle_paths, entries, typed

__all__ = ["RUN_IDS", "add_arguments", "run"]

RUN_IDS = {"train": "training", "evaluate": "evaluating", "predict": "predicting"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--trust-bundle", action="store_true", help="run whatever the bundle says; read it before"
    )
    parser.usage = f"{parser.prog} [BUNDLE [OVERLAY ...]] [--config OVERLAY] [--ENTRY VALUE ...]"
    parser.description = f"{parser.description} Any entry of the bundle can be set with --ENTRY VALUE."


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Run a bundle through MONAI, after everything that can be checked beforehand."""
    paths = bundle_paths(given.bundle, given.config)
    from monai.bundle import run as run_bundle  # slow: not before the arguments are known to make sense

    from volseg.bundle import check_overrides, read_bundle, runnable

    bundle = read_bundle(paths)
    overrides = entries(rest, bundle)
    with runnable(paths, overrides, trust=given.trust_bundle) as files:
        check_overrides(bundle, overrides)
        settings = {key: typed(bundle, key, text) for key, text in overrides.items()}
        settings = {
            key: "$None" if value is None else value for key, value in settings.items()
        }  # run drops None
        for name in ("scripts", "workflows"):
            logging.getLogger(f"monai.bundle.{name}").setLevel(logging.CRITICAL)  # they repeat what was typed
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
            run_bundle(run_id=RUN_IDS[given.command], config_file=[str(path) for path in files], **settings)
