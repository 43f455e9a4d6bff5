"""The command ``volseg``: what the bundles do, for people who do not know MONAI."""

import argparse
import ast
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from volseg.errors import InputError, RefusedError, cause
from volseg.experiments import options

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
    "plan": (
        "tell the tiles, memory and time that segmenting a volume will take",
        "volseg plan volume.nii bundles/xenopus.json --max-memory 2e9",
    ),
    "info": ("tell what a volume, a checkpoint or a dataset folder holds", "volseg info volume.nii.gz"),
    "phantom": ("make a data set to try things on", "volseg phantom data/phantom_cells --kind cells"),
    "sparsify": (
        "keep a few slices of a dense label and mark the rest unlabelled",
        "volseg sparsify dense.nii.gz --slices 7,5,21 -o sparse.nii.gz",
    ),
    "experiment": (
        "repeat an experiment of the papers, or vary entries of a bundle",
        "volseg experiment semi bundles/xenopus.json -o runs/semi --folds 3",
    ),
    "verify": (
        "look for everything that is wrong with a data set",
        "volseg verify my_data --bundle bundles/xenopus.json",
    ),
    "audit": (
        "tell what painted slices were understood to say, and what looks wrong with them",
        "volseg audit image.nii.gz painted.nii.gz --names 1=tubule 2=lumen",
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
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
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
        sub.add_argument(
            "--trust-bundle", action="store_true", help="run whatever the bundle says; read it before"
        )
        sub.usage = f"volseg {name} [BUNDLE [OVERLAY ...]] [--ENTRY VALUE ...]"
        sub.description = f"{sub.description} Any entry of the bundle can be set with --ENTRY VALUE."
    sub = command("plan", _plan)
    sub.add_argument("volume", type=Path)
    sub.add_argument("bundle", nargs="+", type=Path, help="bundle, then overlays")
    sub.add_argument("--max-memory", type=float, help="bytes for one tile (default: half of what is free)")
    sub.add_argument("--trust-bundle", action="store_true", help="run whatever the bundle says")
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
    options.add_options(command("experiment", _experiment))
    sub = command("verify", _verify)
    sub.add_argument("path", type=Path, help="a data set, a folder of images, or an image")
    sub.add_argument("--bundle", type=Path, help="also compare with the classes and channels of a bundle")
    sub.add_argument("--jobs", type=int, help="files to read at a time (default: one per processor)")
    sub.add_argument("--no-cache", action="store_true", help="read files again that were read before")
    sub = command("audit", _audit)
    sub.add_argument("image", type=Path)
    sub.add_argument("labels", type=Path, help="a file with painted slices")
    sub.add_argument("--unlabelled", type=int, metavar="VALUE", help="what nobody looked at (default: found)")
    sub.add_argument("--painted-only", action="store_true", help="0 is unlabelled, on painted slices, too")
    sub.add_argument(
        "--names", nargs="+", default=[], metavar="VALUE=NAME", help="the classes (default: all)"
    )
    sub = command("check", _check)
    sub.add_argument("bundle", nargs="+", type=Path, help="bundle, then overlays")
    return parser


def _run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Run a bundle through MONAI, after everything that can be checked beforehand."""
    paths = _bundle_paths(given.bundle)
    overrides = _overrides(rest)
    from monai.bundle import run  # slow: not before the arguments are known to make sense

    from volseg.bundle import check_overrides, read_bundle, runnable

    bundle = read_bundle(paths)
    with runnable(paths, overrides, trust=given.trust_bundle) as files:
        check_overrides(bundle, overrides)
        settings = {key: _typed(bundle, key, text) for key, text in overrides.items()}
        settings = {
            key: "$None" if value is None else value for key, value in settings.items()
        }  # run drops None
        for name in ("scripts", "workflows"):
            logging.getLogger(f"monai.bundle.{name}").setLevel(logging.CRITICAL)  # they repeat what was typed
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
            run(run_id=_RUN_IDS[given.command], config_file=[str(path) for path in files], **settings)


def _experiment(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Many runs of a bundle, and one table."""
    paths = _bundle_paths(given.bundle)
    overrides = _overrides(rest)
    from volseg.bundle import read_bundle

    typed = partial(_typed, read_bundle(paths))
    options.run(given, paths, {key: typed(key, text) for key, text in overrides.items()}, typed)


def _set_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words for argparse, and the settings of a bundle, which only the bundle knows."""
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command not in (*_RUN_IDS, "experiment"):
        return arguments, []
    flags = [word for word in arguments if word in ("--debug", "--help", "-h", "--trust-bundle")]
    others = [word for word in arguments if word not in flags]
    if command == "experiment":
        words, settings = options.set_apart(others)
    else:
        first = next((i for i, word in enumerate(others) if word.startswith("--")), len(others))
        words, settings = others[:first], others[first:]
    flags.sort(key=lambda word: word != "--debug")  # it belongs before the command, the others behind it
    before = flags.count("--debug")
    return [*flags[:before], *words, *flags[before:]], settings


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


def _typed(bundle: Mapping[str, Any], key: str, text: str) -> Any:
    """What the text of a setting stands for, given the entry it is for."""
    return text if _is_text(bundle, key) else _value(text)


def _value(text: str) -> Any:
    """What the text of a setting stands for, as Python or JSON."""
    constants = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _plan(given: argparse.Namespace, _: Sequence[str]) -> None:
    from monai.bundle import ConfigParser

    from volseg.bundle import read_bundle, runnable
    from volseg.engines.forecast import forecast

    parser = ConfigParser()
    with runnable(_bundle_paths(given.bundle), trust=given.trust_bundle) as files:
        parser.update(read_bundle(files))
    network, inferer = (parser.get_parsed_content(name) for name in ("network", "inferer"))
    if given.max_memory is not None:
        inferer.max_memory = int(given.max_memory)
    print("\n".join(forecast(given.volume, network, inferer)))


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
            print(
                f"{case.name}: {case.image}, {case.label}, held out {case.held_out or 'nothing of its own'}"
            )
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


def _verify(given: argparse.Namespace, _: Sequence[str]) -> int:
    from tqdm import tqdm

    from volseg.bundle import read_bundle
    from volseg.data.verification import default_cache, expectations, table, verify

    expected = expectations(read_bundle(_bundle_paths([given.bundle]))) if given.bundle else None
    cache = None if given.no_cache else default_cache()
    with tqdm(desc="verifying", unit="case", leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = verify(given.path, expected=expected, jobs=given.jobs, cache=cache, progress=show)
        cases = bar.n
    for line in table(found, given.path) if found else ():
        print(line)
    errors = sum(one.level == "error" for one in found)
    print(f"{given.path}: {cases} case(s), {errors} error(s), {len(found) - errors} warning(s)")
    return 3 if errors else 0


def _audit(given: argparse.Namespace, _: Sequence[str]) -> int:
    from volseg.data import auditing

    names = auditing.names_from(given.names)
    paint, findings = auditing.audit_files(
        given.image, given.labels, unlabelled=given.unlabelled, painted_only=given.painted_only, names=names
    )
    for line in auditing.lines(paint, findings, names):
        print(line)
    return 3 if any(finding.severity == "error" for finding in findings) else 0


def _check(given: argparse.Namespace, _: Sequence[str]) -> int:
    from volseg.bundle import check_bundle

    problems = check_bundle(given.bundle)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{', '.join(map(str, given.bundle))}: nothing wrong found")
    return 3 if problems else 0
