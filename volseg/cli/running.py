"""``volseg train``, ``evaluate``, ``predict``: a bundle through MONAI; ``plan``: what that will take."""

import argparse
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volseg.cli.command import Command
from volseg.cli.settings import add_bundle, add_trust, as_typed, bundle_paths, entries, typed

__all__ = ["EVALUATE", "PLAN", "PREDICT", "TRAIN"]

_READING = {"spacing": "spacing", "colours": "colours", "colors": "colours"}
_RUN_IDS = {"train": "training", "evaluate": "evaluating", "predict": "predicting"}


def _add_run(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    add_trust(parser)
    parser.usage = f"{parser.prog} [BUNDLE [OVERLAY ...]] [--config OVERLAY] [--ENTRY VALUE ...]"
    parser.description = f"{parser.description} Any entry of the bundle can be set with --ENTRY VALUE."
    parser.epilog = (
        f"{parser.epilog}\n--spacing X,Y,Z[UNIT] says the voxel size where files name none or a wrong one,"
        "\nand, for labels, --colours COLOUR=VALUE,... the number of each colour."
    )


def _run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Run a bundle through MONAI, after everything that can be checked beforehand."""
    paths = bundle_paths(given.bundle, given.config)
    from monai.bundle import run as run_bundle  # slow: not before the arguments are known to make sense

    from volseg.bundle import check_overrides, read_bundle, runnable
    from volseg.runs.log import announce_bundles

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
            run_bundle(run_id=_RUN_IDS[given.command], config_file=[str(path) for path in files], **settings)


def _reading(overrides: dict[str, str], bundle: Mapping[str, Any], command: str) -> dict[str, str]:
    """``--spacing`` and ``--colours``, set where the bundle finds its files."""
    from volseg.bundle.files import SEP, walk

    reads_labels = command != "predict"
    finders = ("volseg.Cases", "volseg.find_cases" if reads_labels else "volseg.find_images")
    places = [
        key for key, value in walk(bundle) if isinstance(value, dict) and value.get("_target_") in finders
    ]
    found = {}
    for key, text in overrides.items():
        if key in bundle or key not in _READING or not places or not (reads_labels or key == "spacing"):
            found[key] = text
        else:
            found |= {f"{place.replace(SEP, '#')}#{_READING[key]}": repr(text) for place in places}
    return found


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("volume", type=Path, help="an image, of which only the size is read")
    add_bundle(parser, nargs="+")
    parser.add_argument("--max-memory", type=float, help="bytes for one tile (default: half of what is free)")
    add_trust(parser)


def _plan(given: argparse.Namespace, _: Sequence[str]) -> None:
    from monai.bundle import ConfigParser

    from volseg.bundle import read_bundle, runnable
    from volseg.engines.forecast import forecast

    parser = ConfigParser()
    with runnable(bundle_paths(given.bundle, given.config), trust=given.trust) as files:
        parser.update(read_bundle(files))
    network, inferer = (parser.get_parsed_content(name) for name in ("network", "inferer"))
    if given.max_memory is not None:
        inferer.max_memory = int(given.max_memory)
    print("\n".join(forecast(given.volume, network, inferer)))


TRAIN = Command(
    "train",
    "train on annotated slices, as a bundle says",
    "volseg train xenopus --dataset_dir my_data --output_dir runs/mine --epochs 20",
    _add_run,
    _run,
    takes_entries=True,
)
EVALUATE = Command(
    "evaluate",
    "score a trained network on slices it was not trained on",
    "volseg evaluate xenopus --dataset_dir my_data --output_dir runs/mine",
    _add_run,
    _run,
    takes_entries=True,
)
PREDICT = Command(
    "predict",
    "segment whole volumes with a trained network",
    "volseg predict xenopus --images new_volume.tif --output_dir runs/mine",
    _add_run,
    _run,
    takes_entries=True,
)
PLAN = Command(
    "plan",
    "estimate tiles, memory and time that segmenting a volume will take",
    "volseg plan volume.nii xenopus --max-memory 2e9",
    _add_plan,
    _plan,
)
