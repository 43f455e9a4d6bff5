"""``volseg sparsify``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from volseg.cli.settings import add_reading, refuse_inputs
from volseg.errors import RefusedError

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "keep a few slices of a dense label and mark the rest unlabelled"
EXAMPLE = "volseg sparsify dense.nii.gz --slices 7,5,21 -o sparse.nii.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", type=Path, help="a dense label file")
    parser.add_argument("--slices", required=True, help="how many yz, xz, xy slices to keep, such as 7,5,21")
    parser.add_argument("--unlabelled", type=int, default=255, help="value for the rest (default 255)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the sparse label file")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_reading(parser, labels=True)


def run(given: argparse.Namespace, _: Sequence[str]) -> None:
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
