"""``volseg info``."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from volseg.cli.settings import add_reading

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "show what a volume, a model, a result, a run or a dataset folder holds"
EXAMPLE = "volseg info volume.nii.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, help="an image, model.pt, .safetensors, or the folder of a run, a result or cases"
    )
    add_reading(parser, labels=False)


def run(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.data import find_cases
    from volseg.io import digest, is_volume, read_volume
    from volseg.runs.checkpoint import load_checkpoint

    path: Path = given.path
    if path.is_dir() and (path / "model.pt").is_file():
        path = path / "model.pt"
    if path.suffix in (".pt", ".safetensors"):
        content = load_checkpoint(path)
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
            told = "held out as a whole" if whole else f"held out {_told(trained['held_out'])}"
            print(f"  {'not ' * whole}trained on {trained['name']}, {told}")
    elif path.is_dir() and not is_volume(path):
        for case in find_cases(path):
            images = ", ".join(map(str, case.images))
            print(f"{case.name}: {images}, {case.label}, held out {_told(case.held_out)}")
    else:
        volume = read_volume(path, spacing=given.spacing)
        print(f"{path}: {volume.channels} channel(s) of {volume.spatial_shape} voxels, {volume.array.dtype}")
        print(f"  voxel {volume.spacing} {volume.unit or '(unit unknown)'}")
        print(f"  values {volume.array.min()} to {volume.array.max()}")


def _told(held_out: Any) -> str:
    """Slices that are held out, from 0 and from 1; all of a case; or none."""
    from volseg.annotation import numbered_slices

    if not isinstance(held_out, Mapping):
        return str(held_out or "nothing of its own")
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
    """What the weights tell apart in what, as far as they or the settings beside them say it."""
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
