"""``volseg audit``, ``verify``, ``sparsify``, ``phantom``: data judged, and made to try things on."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.cli.command import Command, add_paint, add_reading, refuse_inputs
from volseg.cli.settings import bundle_paths
from volseg.errors import RefusedError

if TYPE_CHECKING:
    from volseg.data.auditing import Audited

__all__ = ["AUDIT", "PHANTOM", "SPARSIFY", "VERIFY"]


def _add_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="the volume or image that was painted on")
    parser.add_argument("labels", type=Path, help="a file with painted slices")
    add_paint(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PAGE",
        help="show it, too: as a page (.html) or a picture (.png)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it exists")
    add_reading(parser, labels=True)


def _audit(given: argparse.Namespace, _: Sequence[str]) -> int:
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
    for line in auditing.lines(found.paint, found.findings, found.names, found.image.spacing):
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
        understood=auditing.understood(paint, found.names, image.spacing),
        findings=found.findings,
        command=shlex.join(["volseg", *sys.argv[1:]]),
    )
    write = write_gallery if given.output.suffix.lower() == ".png" else write_report
    print(f"To look at: {write(given.output, report, overwrite=given.overwrite)}")


def _add_sparsify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", type=Path, help="a dense label file")
    parser.add_argument("--slices", required=True, help="how many yz, xz, xy slices to keep, such as 7,5,21")
    parser.add_argument("--unlabelled", type=int, default=255, help="value for the rest (default 255)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the sparse label file")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_reading(parser, labels=True)


def _sparsify(given: argparse.Namespace, _: Sequence[str]) -> None:
    import numpy as np

    from volseg.annotation import COUNTED, even_positions, keep_slices, numbered_slices
    from volseg.io import read_volume, write_volume
    from volseg.labels import LabelScheme

    refuse_inputs(given.output, [given.labels])
    if given.output.exists() and not given.overwrite:
        raise RefusedError(f"{given.output} exists already; add --overwrite to replace it.")
    try:
        counts = [int(n) for n in given.slices.split(",")]
    except ValueError:
        raise ValueError(f"--slices {given.slices} is not a list of numbers such as 7,5,21.") from None
    volume = read_volume(given.labels, labels=True, spacing=given.spacing, colours=given.colours)
    values = [int(v) for v in np.unique(volume.array) if v != given.unlabelled]
    scheme = LabelScheme([str(v) for v in values], values, given.unlabelled)
    sparse = keep_slices(scheme.encode(volume.array[0], source=str(given.labels)), counts)
    write_volume(given.output, scheme.decode(sparse), volume, overwrite=given.overwrite)
    print(
        f"{given.output}: {(sparse != 255).mean():.1%} of the voxels annotated, the rest {given.unlabelled}"
    )
    kept = {axis: even_positions(n, k) for axis, n, k in zip("xyz", sparse.shape, counts, strict=False)}
    print(f"Kept: {numbered_slices(kept)}. {COUNTED}")


AUDIT = Command(
    "audit",
    "report what painted slices were understood to mean, and what looks wrong with them",
    "volseg audit image.nii.gz painted.nii.gz --names 1=tubule 2=lumen",
    _add_audit,
    _audit,
)
SPARSIFY = Command(
    "sparsify",
    "keep a few slices of a dense label and mark the rest unlabelled",
    "volseg sparsify dense.nii.gz --slices 7,5,21 -o sparse.nii.gz",
    _add_sparsify,
    _sparsify,
)


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
