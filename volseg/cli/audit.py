"""``volseg audit``."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.errors import RefusedError

if TYPE_CHECKING:
    from volseg.data.auditing import Audited

from volseg.cli.settings import add_reading

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "report what painted slices were understood to mean, and what looks wrong with them"
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
        "-o",
        "--output",
        type=Path,
        metavar="PAGE",
        help="show it, too: as a page (.html) or a picture (.png)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it exists")
    parser.add_argument(
        "--names", nargs="+", default=[], metavar="VALUE=NAME", help="the classes (default: all)"
    )
    add_reading(parser, labels=True)


def run(given: argparse.Namespace, _: Sequence[str]) -> int:
    from volseg.data import auditing

    if given.output is not None and given.output.suffix.lower() not in (".html", ".png"):
        raise ValueError(
            f"-o {given.output}: what was understood is shown as a page, .html, or picture, .png."
        )
    if given.output is not None and given.output.exists() and not given.overwrite:
        raise RefusedError(f"{given.output} exists already; add --overwrite to replace it.")
    found = auditing.look_at(
        given.image,
        given.labels,
        unlabelled=given.unlabelled,
        painted_only=given.painted_only,
        finished=given.finished,
        names=auditing.names_from(given.names),
        spacing=given.spacing,
        colours=given.colours,
    )
    for line in auditing.lines(found.paint, found.findings, found.names):
        print(line)
    if given.output is not None:
        _show(found, given)
    return 3 if any(finding.severity == "error" for finding in found.findings) else 0


def _show(found: "Audited", given: argparse.Namespace) -> None:
    """The same as a page or a picture."""
    from volseg.data import auditing
    from volseg.report import Report, write_gallery, write_report

    paint, image = found.paint, found.image
    report = Report(
        f"{given.labels.name} over {given.image.name}",
        image.array,
        paint.scheme(found.names),
        None,
        spacing=image.spacing,
        unit=image.unit,
        orientation=auditing.orientation_of(image),
        paint=paint.labels,
        background=paint.background,
        painted=paint.slices,
        understood=auditing.understood(paint, found.names),
        findings=found.findings,
        command=shlex.join(["volseg", *sys.argv[1:]]),
    )
    write = write_gallery if given.output.suffix.lower() == ".png" else write_report
    print(f"To look at: {write(given.output, report, overwrite=given.overwrite)}")
