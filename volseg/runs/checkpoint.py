"""What a network has learnt, as files: checkpoints to resume from, weights to share.

``last.pt`` holds everything that a resumed run needs to go on exactly where the other stopped, and
``last_1.pt``, ``last_2.pt`` ... are the ones before it. ``model.pt`` holds the weights to segment with,
and what they were trained on; ``best.pt`` the same, of the best validation.

Each carries the SHA-256 of its content, because neither the file format nor torch notices a flipped bit.

Weights to share: what ``model.pt`` holds, in safetensors, which cannot hold code.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from volseg.annotation.record import is_record
from volseg.arguments import option
from volseg.errors import InputError, ResourceError
from volseg.inferers.statistics import statistics_of
from volseg.io import atomic_write, parse_json, read_weights, write_weights

__all__ = [
    "batch_norm_of",
    "export_weights",
    "import_weights",
    "load_checkpoint",
    "load_newest",
    "load_weights",
    "past_checkpoints",
    "save_checkpoint",
]

logger = logging.getLogger(__name__)

# Needed to resume, or in the weights themselves.
_FROM_TRAINING = ("optimizer", "lr_scheduler", "average", "best", "statistics")


def export_weights(content: Mapping[str, Any], target: str | Path, *, overwrite: bool = False) -> str:
    """Write the weights of a checkpoint's content, and what they were trained on, as safetensors.

    A network with these weights computes, in evaluation mode, what :class:`volseg.OverlapTileInferer` does
    with ``batch_norm="running"``. The note ``batch_norm`` says which mode the run's bundle segments with, and
    the scores of both as far as ``volseg evaluate`` has measured them; see :func:`batch_norm_of`.

    Returns:
        the SHA-256 of the file, to be given by another way than the file.

    Raises:
        InputError: if the content is a result of ``volseg densify``: more than the weights of a network.
    """
    if "paint" in content:
        raise InputError(
            "this model was learnt by volseg densify and is more than the weights of a network, so no other "
            "program could use it as safetensors. Share the folder of the result: volseg densify applies "
            "it to another image, and volseg.load reads it in Python."
        )
    if Path(target).suffix != ".safetensors":
        raise ValueError(f"{target} does not end in .safetensors, by which programs know the format.")
    kept = {key: value for key, value in content.items() if key not in ("model", *_FROM_TRAINING)}
    if "statistics" in content:
        kept["statistics"] = "clean" if "clean" in content["statistics"] else "running"
    notes = {key: json.dumps(value) for key, value in kept.items()}
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


_HASH = "sha256"


def save_checkpoint(path: Path, content: Mapping[str, Any], *, keep: int = 1) -> None:
    """Replace ``path`` by ``content`` in one step: a reader sees the old file or the new one, whole.

    Args:
        keep: how many to keep, the new one included; the one before becomes ``NAME_1.pt``, and so on.

    Raises:
        ValueError: if a weight is not finite; such a checkpoint would be worthless.
        ResourceError: if what was written cannot be read back.
    """
    for name, tensor in content["model"].items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                f"{name} holds values that are not finite: {path.name} is not written, an earlier one stays."
            )

    def accept(temporary: Path) -> None:
        try:
            load_checkpoint(temporary)
        except InputError as error:
            raise ResourceError(
                f"{path.name} was written but cannot be read back, so an earlier one stays. "
                f"Check the disk of {path.parent}. ({error})"
            ) from error
        _move_on(path, keep)

    with atomic_write(path, overwrite=True, verify=accept) as temporary:
        torch.save({**content, _HASH: _digest(content)}, temporary)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU. Only tensors and plain values are accepted.

    Weights that were exported as ``.safetensors`` are read as well.

    Raises:
        InputError: if there is none, it cannot be read, or its content is not what was written.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"There is no checkpoint at {path}. Train first, or name the folder of the run "
            f"({option('output_dir')})."
        )
    if path.suffix == ".safetensors":
        return import_weights(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage happens to trigger
        raise InputError(f"{path} cannot be read as a checkpoint ({error}).") from error
    if not isinstance(content, dict) or "model" not in content:
        raise InputError(f"{path} is not a checkpoint of volseg: it holds no 'model'.")
    if not is_record(content.get("trained_on", {})):
        raise InputError(
            f"{path}: its record of what was trained on was not written by volseg, so no one can say what "
            "may be scored. Take the checkpoint of a training."
        )
    _require_dense(content, path)
    noted = content.pop(_HASH, None)
    if noted is not None and noted != _digest(content):
        raise InputError(
            f"{path} is damaged: its content does not have the SHA-256 that it was written with. "
            "Take another checkpoint, or a copy of this one."
        )
    return content


def past_checkpoints(path: Path) -> list[Path]:
    """The checkpoint and the ones before it, as far as they exist, newest first."""
    others = list(path.parent.glob(f"{path.stem}_[0-9]{path.suffix}"))
    others += path.parent.glob(f"{path.stem}_[0-9][0-9]{path.suffix}")
    return [p for p in (path, *sorted(others, key=lambda p: int(p.stem.rpartition("_")[2]))) if p.is_file()]


def load_newest(path: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read, and its content; damaged ones are reported and passed over.

    Raises:
        InputError: if there is none.
    """
    found = past_checkpoints(path)
    for candidate in found:
        try:
            content = load_checkpoint(candidate)
        except InputError as error:
            logger.warning("%s", error)
            continue
        if candidate != found[0] or candidate != path:
            logger.warning("Going on from %s instead, of iteration %s.", candidate, content.get("iteration"))
        return candidate, content
    raise InputError(f"None of the {len(found)} checkpoint(s) in {path.parent} can be read: train again.")


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
    if "statistics" not in content and statistics_of(network):
        logger.info(
            "%s has the running statistics of its training for batch norm: the training was stopped before "
            "its end, or the file is older than the choice.",
            path,
        )
    return content


def _move_on(path: Path, keep: int) -> None:
    """``NAME.pt`` also becomes ``NAME_1.pt``, that ``NAME_2.pt`` ...; what is beyond ``keep`` goes."""
    names = [path, *(path.with_stem(f"{path.stem}_{n}") for n in range(1, keep))]
    for old in past_checkpoints(path):
        if old not in names:
            old.unlink()
    for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
        if not newer.exists():
            continue
        if newer != path:
            os.replace(newer, older)
            continue
        with contextlib.suppress(FileNotFoundError):
            older.unlink()
        try:
            os.link(newer, older)  # so that there is a file of this name at any moment
        except OSError:  # a file system without links
            os.replace(newer, older)


def _require_dense(content: Any, path: Path) -> None:
    """Every tensor holds as many numbers as it shows: one that is shown 2**33 times needs no room."""
    todo = [content]
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            dense = value.layout == torch.strided and value.device.type == "cpu"
            if not dense or value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise InputError(
                    f"{path} holds a tensor of shape {tuple(value.shape)} whose numbers are not all in the "
                    "file. It was made to exhaust memory, or by another program: save the weights with "
                    ".contiguous()."
                )
        elif isinstance(value, Mapping):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            todo += value


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of names, values and tensors, whatever the file that holds them looks like."""
    sha = hashlib.sha256()
    for part in _parts(content):
        sha.update(part)
    return sha.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        yield f"{tensor.dtype}{tuple(tensor.shape)}".encode()
        yield tensor.reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, Mapping):
        yield f"mapping of {len(value)}".encode()
        for key, item in value.items():
            yield from _parts(key)
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        yield f"list of {len(value)}".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield f"{type(value).__name__} {value!r};".encode()
