"""``volseg convert``."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "write an image or label anew: with its axes told, on another's grid, in another format"
EXAMPLE = "volseg convert stack.tif --axes ZYX -o stack.nii.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", help="a volume, or the files of its channels")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the suffix says in which format")
    parser.add_argument("--axes", help="what the axes of the file are, such as ZYX, where it does not say")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="IMAGE",
        help="lay it onto the grid of this image: voxel by voxel if it is as large, else where it lies",
    )
    parser.add_argument("--labels", action="store_true", help="it holds class numbers: refuse anything else")
    parser.add_argument(
        "--nonfinite",
        choices=("refuse", "replace"),
        default="refuse",
        help="replace NaN and infinity by the smallest value (default: refuse them)",
    )
    parser.add_argument(
        "--series", type=int, metavar="N", help="which image of a TIFF file that holds several, from 0"
    )
    parser.add_argument(
        "--ignore-affine",
        action="store_true",
        help="leave a position that cannot be used aside: a plain voxel grid, or that of --like",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.io import join_volumes, put_onto, read_volume, segments_of, with_segments, write_volume

    volumes = [
        read_volume(
            path,
            labels=given.labels or path.name.lower().endswith(".seg.nrrd"),
            axes=given.axes,
            nonfinite=given.nonfinite,
            series=given.series,
            ignore_affine=given.ignore_affine,
        )
        for path in given.files
    ]
    volume = join_volumes(volumes)
    if given.axes is not None:
        volume = replace(volume, header=None)  # which did not say what the axes are
    if given.like is not None:
        image = read_volume(given.like)
        names = segments_of(volume)
        volume = replace(image, array=put_onto(image, volume).array)
        if names and given.output.name.lower().endswith(".seg.nrrd"):
            volume = with_segments(volume, names)
    write_volume(given.output, volume.array, volume, overwrite=given.overwrite)
    print(
        f"{given.output}: {volume.channels} channel(s) of {volume.spatial_shape} voxels, "
        f"voxel {volume.spacing} {volume.unit or '(unit unknown)'}"
    )
