"""The command ``volseg``: what the bundles do, for people who do not know MONAI."""

import argparse
import ast
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from volseg.errors import InputError, RefusedError, cause

__all__ = ["main"]

DEFAULT_BUNDLE = "bundles/xenopus.json"
_RUN_IDS = {"train": "training", "evaluate": "evaluating", "predict": "predicting"}

_HELP = {
    "train": (
        "train on annotated slices, as a bundle says",
        "volseg train bundles/xenopus.json --dataset_dir my_data --output_dir runs/mine --epochs 20",
    ),
    "evaluate": (
        "score a trained network on slices it was not trained on",
        "volseg evaluate bundles/xenopus.json --dataset_dir my_data --output_dir runs/mine",
    ),
    "predict": (
        "segment whole volumes with a trained network",
        "volseg predict bundles/xenopus.json --images new_volume.tif --output_dir runs/mine",
    ),
    "info": ("tell what a volume, a checkpoint or a dataset folder holds", "volseg info volume.nii.gz"),
    "phantom": ("make a data set to try things on", "volseg phantom data/phantom_cells --kind cells"),
    "sparsify": (
        "keep a few slices of a dense label and mark the rest unlabelled",
        "volseg sparsify dense.nii.gz --slices 7,5,21 -o sparse.nii.gz",
    ),
    "check": (
        "check every name in a bundle and its overlays without running it",
        "volseg check bundles/xenopus.json configs/smoke.json",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 (usage), 3 (input), 4 (resources), 5 (refused) or 130."""
    parser = _parser()
    words, rest = _set_apart(list(sys.argv[1:] if arguments is None else arguments))
    given = parser.parse_args(words)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("volseg").setLevel(logging.INFO)
    try:
        return int(given.function(given, rest) or 0)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        mendable = cause(error)
        if mendable is None or given.debug:
            raise
        print(f"volseg {given.command}: {mendable}", file=sys.stderr)
        return getattr(mendable, "exit_code", 3)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="volseg", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Callable[..., int | None]) -> argparse.ArgumentParser:
        summary, example = _HELP[name]
        sub = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(function=function)
        return sub

    for name in _RUN_IDS:
        sub = command(name, _run)
        sub.add_argument(
            "bundle", nargs="*", type=Path, help=f"bundle, then overlays (default {DEFAULT_BUNDLE})"
        )
        sub.usage = f"volseg {name} [BUNDLE [OVERLAY ...]] [--ENTRY VALUE ...]"
        sub.description = f"{sub.description} Any entry of the bundle can be set with --ENTRY VALUE."
    sub = command("info", _info)
    sub.add_argument("path", type=Path)
    sub = command("phantom", _phantom)
    sub.add_argument("folder", type=Path)
    kinds = ("kidney", "membranes", "cells", "brain")
    sub.add_argument("--kind", choices=kinds, default="kidney", help="of what (default kidney, in 3D)")
    sub = command("sparsify", _sparsify)
    sub.add_argument("labels", type=Path, help="a dense label file")
    sub.add_argument("--slices", required=True, help="how many yz, xz and xy slices to keep, such as 7,5,21")
    sub.add_argument("--unlabelled", type=int, default=255, help="value for the rest (default 255)")
    sub.add_argument("-o", "--output", type=Path, required=True)
    sub.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    sub = command("check", _check)
    sub.add_argument("bundle", nargs="+", type=Path, help="bundle, then overlays")
    return parser


def _run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Run a bundle through MONAI, after everything that can be checked beforehand."""
    paths = _bundle_paths(given.bundle)
    overrides = _overrides(rest)
    from monai.bundle import run  # slow: not before the arguments are known to make sense

    from volseg.bundle import check_overrides, read_bundle

    bundle = read_bundle(paths)
    check_overrides(bundle, overrides)
    settings = {key: text if _is_text(bundle, key) else _value(text) for key, text in overrides.items()}
    for name in ("scripts", "workflows"):
        logging.getLogger(f"monai.bundle.{name}").setLevel(logging.ERROR)  # they repeat what was typed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
        run(run_id=_RUN_IDS[given.command], config_file=[str(path) for path in paths], **settings)


def _set_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words for argparse, and the settings of a bundle, which only the bundle knows."""
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command not in _RUN_IDS:
        return arguments, []
    flags = [word for word in arguments if word in ("--debug", "--help", "-h")]
    others = [word for word in arguments if word not in flags]
    first = next((i for i, word in enumerate(others) if word.startswith("--")), len(others))
    flags.sort(key=lambda word: word != "--debug")  # it belongs before the command, the others behind it
    before = flags[: flags.count("--debug")]
    return [*before, *others[:first], *flags[len(before) :]], others[first:]


def _bundle_paths(paths: Sequence[Path]) -> list[Path]:
    for path in paths:
        if path.suffix.lower() != ".json":
            raise InputError(
                f"'{path}' is not a bundle: bundles end in .json, and settings are --ENTRY VALUE."
            )
    return list(paths) or [Path(DEFAULT_BUNDLE)]


def _overrides(rest: Sequence[str]) -> dict[str, str]:
    """``--key value`` and ``--key=value`` as a dictionary."""
    found: dict[str, str] = {}
    words = iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise ValueError(f"{word!r} stands alone: settings are given as --ENTRY VALUE.")
        key, equals, text = word[2:].partition("=")
        if not equals:
            try:
                text = next(words)
            except StopIteration:
                raise ValueError(f"--{key} has no value: settings are given as --ENTRY VALUE.") from None
        found[key] = text
    return found


def _is_text(bundle: Mapping[str, Any], key: str) -> bool:
    """Whether an entry holds a text, such as a path, directly or by reference: then ``2016`` is one, too."""
    value = bundle.get(key)
    for _ in bundle:
        if not (isinstance(value, str) and value.startswith("@")):
            break
        value = bundle.get(value[1:])
    return isinstance(value, str) and not value.startswith(("$", "@"))


def _value(text: str) -> Any:
    """What the text of a setting stands for, as Python or JSON."""
    constants = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _info(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.data import find_cases
    from volseg.engines.checkpoint import load_checkpoint
    from volseg.io import read_volume

    path: Path = given.path
    if path.suffix == ".pt":
        content = load_checkpoint(path)
        print(f"{path}: weights after {content.get('iteration')} iterations,")
        tensors = content["model"].values()
        print(f"  {sum(tensor.numel() for tensor in tensors)} numbers in {len(tensors)} tensors")
        for trained in content.get("trained_on", {}).values():
            print(f"  trained on {trained['name']}, held out {trained['held_out']}")
    elif path.is_dir():
        for case in find_cases(path):
            print(f"{case.name}: {case.image}, {case.label}, held out {case.held_out or 'nothing of its own'}")
    else:
        volume = read_volume(path)
        print(f"{path}: {volume.channels} channel(s) of {volume.spatial_shape} voxels, {volume.array.dtype}")
        print(f"  voxel {volume.spacing} {volume.unit or '(unit unknown)'}")
        print(f"  values {volume.array.min()} to {volume.array.max()}")


def _phantom(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.data import KINDS, write_phantom

    write_phantom(given.folder, given.kind)
    print(f"{given.folder}: {KINDS[given.kind]}, nothing real")


def _sparsify(given: argparse.Namespace, _: Sequence[str]) -> None:
    import numpy as np

    from volseg.annotation import keep_slices
    from volseg.io import read_volume, write_volume
    from volseg.labels import LabelScheme

    if given.output.exists() and not given.overwrite:
        raise RefusedError(f"{given.output} exists already; add --overwrite to replace it.")
    try:
        counts = [int(n) for n in given.slices.split(",")]
    except ValueError:
        raise ValueError(f"--slices {given.slices} is not a list of numbers such as 7,5,21.") from None
    volume = read_volume(given.labels, labels=True)
    values = [int(v) for v in np.unique(volume.array) if v != given.unlabelled]
    scheme = LabelScheme([str(v) for v in values], values, given.unlabelled)
    sparse = keep_slices(scheme.encode(volume.array[0], source=str(given.labels)), counts)
    write_volume(given.output, scheme.decode(sparse), volume, overwrite=given.overwrite)
    print(
        f"{given.output}: {(sparse != 255).mean():.1%} of the voxels annotated, the rest {given.unlabelled}"
    )


def _check(given: argparse.Namespace, _: Sequence[str]) -> int:
    from volseg.bundle import check_bundle

    problems = check_bundle(given.bundle)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{', '.join(map(str, given.bundle))}: nothing wrong found")
    return 3 if problems else 0
