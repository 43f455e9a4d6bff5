"""``volseg verify``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from volseg.cli.settings import add_reading, bundle_paths

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "look for everything that is wrong with a data set"
EXAMPLE = "volseg verify my_data --bundle xenopus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a data set, a folder of images, or an image")
    parser.add_argument("--bundle", type=Path, help="also compare with the classes and channels of a bundle")
    parser.add_argument("--jobs", type=int, help="files to read at a time (default: one per processor)")
    parser.add_argument("--no-cache", action="store_true", help="read files again that were read before")
    add_reading(parser, labels=True)


def run(given: argparse.Namespace, _: Sequence[str]) -> int:
    from tqdm import tqdm

    from volseg.bundle import read_bundle
    from volseg.data.verification import default_cache, expectations, verify
    from volseg.findings import table

    expected = expectations(read_bundle(bundle_paths([given.bundle]))) if given.bundle else None
    cache = None if given.no_cache else default_cache()
    with tqdm(desc="verifying", unit="case", leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = verify(
            given.path, expected=expected, jobs=given.jobs, cache=cache, progress=show,
            spacing=given.spacing, colours=given.colours,
        )  # fmt: skip
        cases = bar.n
    for line in table(found, given.path) if found else ():
        print(line)
    errors = sum(one.severity == "error" for one in found)
    print(f"{given.path}: {cases} case(s), {errors} error(s), {len(found) - errors} warning(s)")
    return 3 if errors else 0
