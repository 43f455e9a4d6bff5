"""``volseg init``, ``check``, ``export``: a bundle made one's own and checked, its weights handed over."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from volseg.cli.command import Command
from volseg.cli.settings import add_bundle, add_trust, bundle_paths, entries, typed
from volseg.errors import InputError, RefusedError
from volseg.installation import BUNDLES, OVERLAYS, shipped

__all__ = ["CHECK", "EXPORT", "INIT"]


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="of a bundle or overlay (default: list them)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the copy (default: NAME.json in this folder)"
    )
    parser.add_argument(
        "--path", action="store_true", help="print where it lies instead, for MONAI's own command"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the copy if it exists")


def _init(given: argparse.Namespace, _: Sequence[str]) -> None:
    if given.name is None:
        for what, names in (("bundles", BUNDLES), ("overlays, laid over a bundle", OVERLAYS)):
            print(f"{what}:")
            print("\n".join(f"  {name:14}{text}" for name, text in names.items()))
        print(f"To make one your own: {INIT.example}")
        return
    source = shipped(given.name)
    if source is None:
        known = ", ".join([*BUNDLES, *OVERLAYS])
        raise InputError(f"Nothing called '{given.name}' came with volseg. There are {known}.")
    if given.path:
        print(source)
        return
    _copy(source, given.output or Path(source.name), overwrite=given.overwrite)


def _copy(source: Path, copy: Path, *, overwrite: bool) -> None:
    from volseg.io import read_text, write_text

    if copy.suffix.lower() != ".json":
        raise InputError(f"-o {copy}: a bundle is a JSON file; give a name that ends in .json.")
    if copy.exists() and not overwrite:
        raise RefusedError(f"{copy} exists already; add --overwrite to replace it, or -o for another name.")
    write_text(copy, read_text(source), overwrite=overwrite)
    print(f"{copy}: a copy of {source.stem}.")
    if source.stem in BUNDLES and source.stem != "densify":
        print(_NEXT.format(copy=shlex.quote(str(copy))))


_NEXT = """\
Edit in it "labels" (names and values of your classes, the value of voxels left blank) and "in_channels"; then
  volseg check {copy}
  volseg verify my_data --bundle {copy}
  volseg train {copy} --dataset_dir my_data --output_dir runs/mine"""


def _add_check(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser, nargs="+")
    add_trust(parser, "build whatever the bundle names; read it before")
    parser.usage = f"{parser.prog} BUNDLE [OVERLAY ...] [--trust-bundle] [--ENTRY VALUE ...]"


def _check(given: argparse.Namespace, rest: Sequence[str]) -> int:
    """Exit code 3 and a line for each thing that a training would fail at."""
    paths = bundle_paths(given.bundle, given.config)
    from volseg.bundle import check_bundle, check_overrides, read_bundle, runnable
    from volseg.engines.trial import try_bundle
    from volseg.errors import RefusedError

    if given.trust:  # as MONAI does, so that modules beside a bundle are found
        sys.path.insert(1, str(paths[0].parent))
    problems, notes = check_bundle(paths), list[str]()
    verdict = "nothing wrong found"
    if not problems:
        bundle = read_bundle(paths)
        overrides = entries(rest, bundle)
        check_overrides(bundle, overrides)
        try:
            with runnable(paths, overrides, trust=given.trust) as files:
                config = read_bundle(files)
        except RefusedError as error:
            notes.append(str(error))
            verdict = (
                "nothing wrong found in its names, which is all that was checked: nothing was built, and "
                "neither loss nor patches nor a step of training were tried"
            )
        else:
            settings = {key: typed(bundle, key, text) for key, text in overrides.items()}
            found, notes = try_bundle(config, settings)
            verdict += " beyond what is said above" if notes else ""
            problems = [f"{paths[0]}: {problem}" for problem in found]
    for line in (*problems, *notes):
        print(line, file=sys.stderr)
    if not problems:
        print(f"{', '.join(map(str, paths))}: {verdict}")
    return 3 if problems else 0


_MUCH = 0.02  # of a score


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="model.pt or best.pt of a run, or its folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a name that ends in .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def _export(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.runs.checkpoint import batch_norm_of, export_weights, load_checkpoint

    path = given.checkpoint / "model.pt" if given.checkpoint.is_dir() else given.checkpoint
    content = load_checkpoint(path)
    batch_norm = batch_norm_of(path, content.get("iteration"))
    if batch_norm:
        content["batch_norm"] = batch_norm
    digest = export_weights(content, given.output, overwrite=given.overwrite)
    print(f"{given.output}: SHA-256 {digest}")
    for line in _about(batch_norm):
        print(line)


def _about(batch_norm: Mapping[str, Any]) -> Iterator[str]:
    """What another program will get with these weights, where that is not what predict gives."""
    mode = batch_norm.get("mode", "running")
    if mode == "running":
        return
    yield (
        f'Batch norm: predict computes with batch_norm = "{mode}", which takes statistics from each image. '
        "A program that loads these weights in evaluation mode does without them and gets another result."
    )
    if "score" in batch_norm and "running" in batch_norm:
        with_image, without = batch_norm["score"], batch_norm["running"]
        verdict = "WARNING, that is much worse" if with_image - without > _MUCH else "about as good"
        yield f"Held-out score: {with_image:.3f} with predict, {without:.3f} in evaluation mode: {verdict}."
    else:
        yield "How good that is, is not known: volseg evaluate into the folder of the run, then export again."


INIT = Command(
    "init",
    "list the bundles that came with volseg, or copy one to make it your own",
    "volseg init xenopus -o my_bundle.json",
    _add_init,
    _init,
)
CHECK = Command(
    "check",
    "check a bundle and its overlays: every name, and one step on data made up for it",
    "volseg check my_bundle.json",
    _add_check,
    _check,
    takes_entries=True,
)
EXPORT = Command(
    "export",
    "write the weights of a checkpoint as safetensors, to hand on",
    "volseg export runs/mine/model.pt -o kidney.safetensors",
    _add_export,
    _export,
)
