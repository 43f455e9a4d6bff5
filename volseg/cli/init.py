"""``volseg init``."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from volseg.errors import InputError, RefusedError
from volseg.installation import BUNDLES, OVERLAYS, shipped

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "list the bundles that came with volseg, or copy one to make it your own"
EXAMPLE = "volseg init xenopus -o my_bundle.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="of a bundle or overlay (default: list them)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the copy (default: NAME.json in this folder)"
    )
    parser.add_argument(
        "--path", action="store_true", help="print where it lies instead, for MONAI's own command"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the copy if it exists")


def run(given: argparse.Namespace, _: Sequence[str]) -> None:
    if given.name is None:
        for what, names in (("bundles", BUNDLES), ("overlays, laid over a bundle", OVERLAYS)):
            print(f"{what}:")
            print("\n".join(f"  {name:14}{text}" for name, text in names.items()))
        print(f"To make one your own: {EXAMPLE}")
        return
    source = shipped(given.name)
    if source is None:
        known = ", ".join([*BUNDLES, *OVERLAYS])
        raise InputError(f"Nothing called '{given.name}' came with volseg. There are {known}.")
    if given.path:
        print(source)
        return
    _copy(source, given.output or Path(source.name), overwrite=given.overwrite)


def _copy(source: Path, copy: Path, *, overwrite: bool) -> None:
    from volseg.io import read_text, write_text

    if copy.suffix.lower() != ".json":
        raise InputError(f"-o {copy}: a bundle is a JSON file; give a name that ends in .json.")
    if copy.exists() and not overwrite:
        raise RefusedError(f"{copy} exists already; add --overwrite to replace it, or -o for another name.")
    write_text(copy, read_text(source), overwrite=overwrite)
    print(f"{copy}: a copy of {source.stem}.")
    if source.stem in BUNDLES and source.stem != "densify":
        print(_NEXT.format(copy=shlex.quote(str(copy))))


_NEXT = """\
Edit in it "labels" (names and values of your classes, the value of voxels left blank) and "in_channels"; then
  volseg check {copy}
  volseg verify my_data --bundle {copy}
  volseg train {copy} --dataset_dir my_data --output_dir runs/mine"""
