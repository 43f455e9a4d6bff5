"""``volseg plan``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from volseg.cli.settings import add_bundle, bundle_paths

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "estimate tiles, memory and time that segmenting a volume will take"
EXAMPLE = "volseg plan volume.nii xenopus --max-memory 2e9"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("volume", type=Path, help="an image, of which only the size is read")
    add_bundle(parser, nargs="+")
    parser.add_argument("--max-memory", type=float, help="bytes for one tile (default: half of what is free)")
    parser.add_argument(
        "--trust-bundle", dest="trust", action="store_true", help="run whatever the bundle says"
    )


def run(given: argparse.Namespace, _: Sequence[str]) -> None:
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
