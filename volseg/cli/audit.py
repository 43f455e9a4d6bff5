"""``volseg audit``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from volseg.cli.settings import add_reading

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "tell what painted slices were understood to say, and what looks wrong with them"
EXAMPLE = "volseg audit image.nii.gz painted.nii.gz --names 1=tubule 2=lumen"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="the volume or image that was painted on")
    parser.add_argument("labels", type=Path, help="a file with painted slices")
    parser.add_argument(
        "--unlabelled", type=int, metavar="VALUE", help="the value of what is unlabelled (default: found)"
    )
    parser.add_argument("--painted-only", action="store_true", help="0 is unlabelled, on painted slices, too")
    parser.add_argument(
        "--finished", action="store_true", help="painted slices are finished: 0 on them is background"
    )
    parser.add_argument(
        "--names", nargs="+", default=[], metavar="VALUE=NAME", help="the classes (default: all)"
    )
    add_reading(parser, labels=True)


def run(given: argparse.Namespace, _: Sequence[str]) -> int:
    from volseg.data import auditing

    paint, findings, names = auditing.audit_files(
        given.image,
        given.labels,
        unlabelled=given.unlabelled,
        painted_only=given.painted_only,
        finished=given.finished,
        names=auditing.names_from(given.names),
        spacing=given.spacing,
        colours=given.colours,
    )
    for line in auditing.lines(paint, findings, names):
        print(line)
    return 3 if any(finding.severity == "error" for finding in findings) else 0
