"""What ``volseg train``, ``evaluate`` and ``predict`` share: a bundle, run through MONAI."""

import argparse
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from volseg.cli.settings import add_bundle, as_typed, bundle_paths, entries, typed

__all__ = ["RUN_IDS", "add_arguments", "run"]

_READING = {"spacing": "spacing", "colours": "colours", "colors": "colours"}
RUN_IDS = {"train": "training", "evaluate": "evaluating", "predict": "predicting"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--trust-bundle",
        dest="trust",
        action="store_true",
        help="run whatever the bundle says; read it before",
    )
    parser.usage = f"{parser.prog} [BUNDLE [OVERLAY ...]] [--config OVERLAY] [--ENTRY VALUE ...]"
    parser.description = f"{parser.description} Any entry of the bundle can be set with --ENTRY VALUE."
    parser.epilog = (
        f"{parser.epilog}\n--spacing X,Y,Z[UNIT] says the voxel size where files name none or a wrong one,"
        "\nand, for labels, --colours COLOUR=VALUE,... the number of each colour."
    )


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Run a bundle through MONAI, after everything that can be checked beforehand."""
    paths = bundle_paths(given.bundle, given.config)
    from monai.bundle import run as run_bundle  # slow: not before the arguments are known to make sense

    from volseg.bundle import check_overrides, read_bundle, runnable
    from volseg.runs.running import announce_bundles

    bundle = read_bundle(paths)
    overrides = _reading(entries(rest, bundle), bundle, given.command)
    with runnable(paths, overrides, trust=given.trust) as files:
        check_overrides(bundle, overrides)
        settings = {key: typed(bundle, key, text) for key, text in overrides.items()}
        settings = {
            key: "$None" if value is None else as_typed(value) for key, value in settings.items()
        }  # run drops None
        for name in ("scripts", "workflows"):
            logging.getLogger(f"monai.bundle.{name}").setLevel(logging.CRITICAL)  # they repeat what was typed
        announce_bundles()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
            warnings.filterwarnings(
                "ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning
            )
            run_bundle(run_id=RUN_IDS[given.command], config_file=[str(path) for path in files], **settings)


def _reading(overrides: dict[str, str], bundle: Mapping[str, Any], command: str) -> dict[str, str]:
    """``--spacing`` and ``--colours``, set where the bundle finds its files."""
    from volseg.bundle.files import SEP, walk

    reads_labels = command != "predict"
    finder = "volseg.find_cases" if reads_labels else "volseg.find_images"
    places = [
        key for key, value in walk(bundle) if isinstance(value, dict) and value.get("_target_") == finder
    ]
    found = {}
    for key, text in overrides.items():
        if key in bundle or key not in _READING or not places or not (reads_labels or key == "spacing"):
            found[key] = text
        else:
            found |= {f"{place.replace(SEP, '#')}#{_READING[key]}": repr(text) for place in places}
    return found
