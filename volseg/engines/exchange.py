"""Weights to hand on: what ``model.pt`` holds, in safetensors, which cannot hold code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volseg.data import is_record
from volseg.errors import InputError
from volseg.io import parse_json, read_weights, write_weights

__all__ = ["export_weights", "import_weights"]

_FROM_TRAINING = ("optimizer", "lr_scheduler", "average", "best")  # needed to resume, not to segment


def export_weights(content: Mapping[str, Any], target: str | Path, *, overwrite: bool = False) -> str:
    """Write the weights of a checkpoint's content, and what they were trained on, as safetensors.

    Returns:
        the SHA-256 of the file, to be told by another way than the file.
    """
    if Path(target).suffix != ".safetensors":
        raise ValueError(f"{target} does not end in .safetensors, by which programs know the format.")
    told = {key: value for key, value in content.items() if key not in ("model", *_FROM_TRAINING)}
    notes = {key: json.dumps(value) for key, value in told.items()}
    return write_weights(target, content["model"], notes, overwrite=overwrite)


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
