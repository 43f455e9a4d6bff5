"""``volseg phantom``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "make a data set to try things on"
EXAMPLE = "volseg phantom data/phantom_cells --kind cells"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a new folder for it, with images, labels and truth")
    kinds = ("kidney", "membranes", "cells", "brain")
    parser.add_argument("--kind", choices=kinds, default="kidney", help="of what (default kidney, in 3D)")


def run(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.data import KINDS, write_phantom

    write_phantom(given.folder, given.kind)
    print(f"{given.folder}: {KINDS[given.kind]}, nothing real")
