"""Weights to hand on: what ``model.pt`` holds, in safetensors, which cannot hold code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volseg.data import is_record
from volseg.errors import InputError
from volseg.io import parse_json, read_weights, write_weights

__all__ = ["batch_norm_of", "export_weights", "import_weights"]

# Needed to resume, or in the weights themselves.
_FROM_TRAINING = ("optimizer", "lr_scheduler", "average", "best", "statistics")


def export_weights(content: Mapping[str, Any], target: str | Path, *, overwrite: bool = False) -> str:
    """Write the weights of a checkpoint's content, and what they were trained on, as safetensors.

    A network with these weights computes, in evaluation mode, what :class:`~volseg.OverlapTileInferer` does
    with ``batch_norm="running"``. The note ``batch_norm`` says which mode the run's bundle segments with, and
    the scores of both as far as ``volseg evaluate`` has measured them; see :func:`batch_norm_of`.

    Returns:
        the SHA-256 of the file, to be told by another way than the file.
    """
    if Path(target).suffix != ".safetensors":
        raise ValueError(f"{target} does not end in .safetensors, by which programs know the format.")
    told = {key: value for key, value in content.items() if key not in ("model", *_FROM_TRAINING)}
    if "statistics" in content:
        told["statistics"] = "clean" if "clean" in content["statistics"] else "running"
    notes = {key: json.dumps(value) for key, value in told.items()}
    return write_weights(target, content["model"], notes, overwrite=overwrite)


def batch_norm_of(checkpoint: Path, iteration: int | None) -> dict[str, Any]:
    """What the files beside a checkpoint say of batch norm; empty where they say nothing.

    Returns:
        ``mode``, that the run's bundle segments with, and, if these weights were evaluated, ``score`` with it
        and ``running``, the score in plain evaluation mode.
    """
    found: dict[str, Any] = {}
    config = _json_beside(checkpoint, "config.json").get("inferer", {})
    while isinstance(config, dict) and isinstance(config.get("inferer"), dict):
        config = config["inferer"]
    if isinstance(config, dict) and isinstance(config.get("batch_norm"), str):
        found["mode"] = config["batch_norm"]
    metrics = _json_beside(checkpoint, "metrics.json")
    if metrics.get("iteration") == iteration and isinstance(metrics.get("batch_norm"), dict):
        found |= metrics["batch_norm"]
    return found


def _json_beside(checkpoint: Path, name: str) -> dict[str, Any]:
    path = checkpoint.with_name(name)
    if not path.is_file():
        return {}
    content = parse_json(path.read_text(encoding="utf-8"), str(path), constant=float)
    return content if isinstance(content, dict) else {}


def import_weights(path: str | Path, *, sha256: str | None = None) -> dict[str, Any]:
    """The content of a file of :func:`export_weights`, in the form of a checkpoint's.

    Files of other programs are read, too; of their notes nothing is known.
    """
    tensors, notes = read_weights(path, sha256=sha256)
    content: dict[str, Any] = {"model": tensors}
    for key, text in notes.items():
        try:
            content[key] = parse_json(text, f"{path}: the note {key!r}", constant=float)
        except InputError:
            content[key] = text
    if not is_record(content.get("trained_on", {})):
        raise InputError(
            f"{path}: its note 'trained_on' was not written by volseg. Export the weights again."
        )
    return content
