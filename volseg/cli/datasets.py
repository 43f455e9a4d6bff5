"""``volseg verify``, ``phantom``: a data set looked through, and one made to try things on."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from volseg.cli.command import Command, add_reading
from volseg.cli.settings import bundle_paths

__all__ = ["PHANTOM", "VERIFY"]


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a data set, a folder of images, or an image")
    parser.add_argument("--bundle", type=Path, help="also compare with the classes and channels of a bundle")
    parser.add_argument("--jobs", type=int, help="files to read at a time (default: one per processor)")
    parser.add_argument("--no-cache", action="store_true", help="read files again that were read before")
    add_reading(parser, labels=True)


def _verify(given: argparse.Namespace, _: Sequence[str]) -> int:
    from tqdm import tqdm

    from volseg.bundle import read_bundle
    from volseg.data.verification import default_cache, expectations, verify
    from volseg.findings import table

    expected = expectations(read_bundle(bundle_paths([given.bundle]))) if given.bundle else None
    cache = None if given.no_cache else default_cache()
    with tqdm(desc="verifying", unit="case", leave=False, disable=None) as bar:
        cases = 0  # a bar that is not shown, as in a pipe, counts nothing

        def show(done: int, total: int) -> None:
            nonlocal cases
            bar.total = total
            bar.update(done - cases)
            cases = done

        found = verify(
            given.path, expected=expected, jobs=given.jobs, cache=cache, progress=show,
            spacing=given.spacing, colours=given.colours,
        )  # fmt: skip
    for line in table(found, given.path) if found else ():
        print(line)
    errors = sum(one.severity == "error" for one in found)
    print(f"{given.path}: {cases} case(s), {errors} error(s), {len(found) - errors} warning(s)")
    return 3 if errors else 0


def _add_phantom(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a new folder for it, with images, labels and truth")
    kinds = ("kidney", "membranes", "cells", "brain")
    parser.add_argument("--kind", choices=kinds, default="kidney", help="of what (default kidney, in 3D)")


def _phantom(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.data import KINDS, write_phantom

    write_phantom(given.folder, given.kind)
    print(f"{given.folder}: {KINDS[given.kind]}, nothing real")


VERIFY = Command(
    "verify",
    "look for everything that is wrong with a data set",
    "volseg verify my_data --bundle xenopus",
    _add_verify,
    _verify,
)
PHANTOM = Command(
    "phantom",
    "make a data set to try things on",
    "volseg phantom data/phantom_cells --kind cells",
    _add_phantom,
    _phantom,
)
