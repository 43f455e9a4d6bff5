"""Checkpoints: written atomically, read without running code.

``last.pt`` holds everything that a resumed run needs to go on exactly where the other stopped;
``model.pt`` holds the weights to segment with, and what they were trained on.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from volseg.errors import InputError
from volseg.io import atomic_write

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint"]


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Replace ``path`` by ``content`` in one step: a reader sees the old file or the new one, whole.

    Raises:
        ValueError: if a weight is not finite; such a checkpoint would be worthless.
    """
    for name, tensor in content["model"].items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                f"{name} holds values that are not finite: {path.name} is not written, an earlier one stays."
            )
    with atomic_write(path, overwrite=True) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU. Only tensors and plain values are accepted.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"There is no checkpoint at {path}. Train first, or name the folder of the run with --output_dir."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage happens to trigger
        raise InputError(f"{path} cannot be read as a checkpoint ({error}).") from error
    if not isinstance(content, dict) or "model" not in content:
        raise InputError(f"{path} is not a checkpoint of volseg: it holds no 'model'.")
    return content


def load_weights(network: nn.Module, path: str | Path) -> dict[str, Any]:
    """Put the weights at ``path`` into ``network``; the rest of the checkpoint is returned.

    Raises:
        InputError: if they belong to another network.
    """
    content = load_checkpoint(path)
    try:
        network.load_state_dict(content["model"])
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(
            f"The weights in {path} belong to another network ({first}). Use the bundle and the scale "
            "that they were trained with; both stand in config.json beside them."
        ) from error
    return content
