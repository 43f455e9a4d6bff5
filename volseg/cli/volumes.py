"""``volseg info``, ``convert``: what a file holds, and another file of the same voxels."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.cli.command import Command, add_reading, refuse_inputs
from volseg.errors import InputError

if TYPE_CHECKING:
    from volseg.io import Volume

__all__ = ["CONVERT", "INFO"]


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, help="an image, model.pt, .safetensors, or the folder of a run, a result or cases"
    )
    add_reading(parser, labels=False)


def _info(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.data import find_cases
    from volseg.io import digest, is_volume, read_volume
    from volseg.runs.checkpoint import load_checkpoint

    path: Path = given.path
    if path.is_dir() and (path / "model.pt").is_file():
        path = path / "model.pt"
    if path.suffix in (".pt", ".safetensors"):
        content = load_checkpoint(path)
        from datetime import datetime

        written = datetime.fromtimestamp(path.stat().st_mtime)
        print(f"{path}: {_learnt(content)}, written {written:%Y-%m-%d %H:%M}")
        for line in _classes_and_channels(content, path):
            print(f"  {line}")
        if path.suffix == ".safetensors":
            print(f"  SHA-256 {digest(path)}")
        tensors = content["model"].values()
        print(f"  {sum(tensor.numel() for tensor in tensors)} numbers in {len(tensors)} tensors")
        for trained in content.get("trained_on", {}).values():
            whole = trained["held_out"] == "all"
            use = "held out as a whole" if whole else f"held out {_in_words(trained['held_out'])}"
            print(f"  {'not ' * whole}trained on {trained['name']}, {use}")
    elif path.is_dir() and not is_volume(path):
        for case in find_cases(path):
            images = ", ".join(map(str, case.images))
            print(f"{case.name}: {images}, {case.label}, held out {_in_words(case.held_out)}")
    else:
        volume = read_volume(path, spacing=given.spacing)
        print(f"{path}: {volume.channels} channel(s) of {volume.spatial_shape} voxels, {volume.array.dtype}")
        print(f"  voxel {_size(volume)}")
        print(f"  values {volume.array.min()} to {volume.array.max()}")


def _size(volume: "Volume") -> str:
    """``(0.5, 0.5, 2.0) um``: as many digits as a header in 32 bits holds."""
    return f"{tuple(float(f'{size:.6g}') for size in volume.spacing)} {volume.unit or '(unit unknown)'}"


def _in_words(held_out: Any) -> str:
    """Slices that are held out, from 0 and from 1; all of a case; or none."""
    from volseg.annotation import numbered_slices

    if not isinstance(held_out, Mapping):
        return str(held_out or "nothing")
    return numbered_slices(held_out) or "nothing"


def _learnt(content: Mapping[str, Any]) -> str:
    """What kind of training weights came from."""
    if "iteration" in content:
        return f"a network's weights after {content['iteration']} iterations"
    if "curve" in content or "stages" in content:
        from volseg.learners import learner_in

        minutes = content.get("seconds", 0) / 60
        return f"what {learner_in(content, 'it').title} of volseg densify learnt in {minutes:.1f} minutes"
    return "weights, of whose training nothing is said"


def _classes_and_channels(content: Mapping[str, Any], path: Path) -> Iterator[str]:
    """The classes that weights distinguish, and in what images, as far as they or their settings say it."""
    from volseg.bundle.files import load_json

    beside = path.with_name("config.json")
    settings = load_json(beside)[0] if beside.is_file() else {}
    labels, channels = settings.get("labels"), content.get("channels", settings.get("in_channels"))
    known = content if "names" in content else labels if isinstance(labels, dict) else {}
    if names := known.get("names"):
        values = known.get("values") or range(len(names))
        yield f"classes {', '.join(f'{v} = {name}' for v, name in zip(values, names, strict=False))}"
    if isinstance(channels, int):
        yield f"for images of {channels} channel(s)"


_CHANNELS = 4  # files that are taken for channels without a word


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        help="a volume, a folder of its slices, or the files of its channels or slices",
    )
    parser.add_argument(
        "--stack",
        choices=("z", "c"),
        help="what several files are: slices (z) or channels (c; default for up to 4 files)",
    )
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
        "--channel", type=int, metavar="N", help="only this channel, or moment of a series in time, from 0"
    )
    parser.add_argument(
        "--ignore-affine",
        action="store_true",
        help="leave a position that cannot be used aside: a plain voxel grid, or that of --like",
    )
    add_reading(parser, labels=True)
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def _convert(given: argparse.Namespace, _: Sequence[str]) -> None:
    from dataclasses import replace

    from volseg.io import check_writable, put_onto, read_volume, segments_of, with_segments, write_volume

    refuse_inputs(given.output, [*given.files, *([given.like] if given.like else [])])
    check_writable(given.output)
    volume = _read(given)
    if given.channel is not None:
        if not 0 <= given.channel < volume.channels:
            raise ValueError(
                f"--channel {given.channel}: {volume.name} has {volume.channels}, counted from 0."
            )
        volume = replace(volume, array=volume.array[given.channel : given.channel + 1])
    if given.axes is not None or given.spacing is not None:
        volume = replace(volume, header=None)  # which says otherwise
    if given.like is not None:
        image = read_volume(given.like)
        names = segments_of(volume)
        volume = replace(image, array=put_onto(image, volume).array)
        if names and given.output.name.lower().endswith(".seg.nrrd"):
            volume = with_segments(volume, names)
    write_volume(given.output, volume.array, volume, overwrite=given.overwrite)
    print(
        f"{given.output}: {volume.channels} channel(s) of {volume.spatial_shape} voxels, "
        f"voxel {_size(volume)}"
    )


def _read(given: argparse.Namespace) -> "Volume":
    """One volume of all that was named."""
    from volseg.io import is_volume, join_volumes, read_volume, slices_in, stack_slices, with_spacing

    def read(path: Path, *, spacing: str | None = None) -> "Volume":
        return read_volume(
            path,
            labels=given.labels or path.name.lower().endswith(".seg.nrrd"),
            axes=given.axes,
            nonfinite=given.nonfinite,
            series=given.series,
            ignore_affine=given.ignore_affine,
            spacing=spacing,
            colours=given.colours,
        )

    files: list[Path] = given.files
    folder = len(files) == 1 and files[0].is_dir() and not is_volume(files[0])
    if folder:
        files = slices_in(files[0])
    several = len(files) > 1 or folder
    if several and given.stack is None and not folder and len(files) > _CHANNELS:
        raise InputError(
            f"{len(files)} files are named: are they slices of one volume or channels of one image? Say so: "
            "--stack z for slices, in the order given, or --stack c for channels."
        )
    if several and given.stack != "c" and (folder or given.stack == "z"):
        volume = stack_slices(files, read)
        return volume if given.spacing is None else with_spacing(volume, given.spacing)
    return join_volumes([read(path, spacing=given.spacing) for path in files])


INFO = Command(
    "info",
    "show what a volume, a model, a result, a run or a dataset folder holds",
    "volseg info volume.nii.gz",
    _add_info,
    _info,
)
CONVERT = Command(
    "convert",
    "write an image or label again: with its axes named, on another's grid, in another format",
    "volseg convert stack.tif --axes ZYX -o stack.nii.gz",
    _add_convert,
    _convert,
)
