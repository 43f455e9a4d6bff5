"""Weights to hand on: the safetensors format, which holds tensors and text and cannot hold code.

Eight bytes with the length of a JSON header, the header (for each tensor its type, shape and place), and the
numbers. The header is written by strangers: every tensor has to lie inside the file, they have to cover it
without overlap, and nothing is allocated before that is known. A SHA-256 of the numbers, kept in the
header, tells damage; one of the whole file, told by another way, tells who it is from.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volseg.errors import InputError
from volseg.io.atomic import atomic_write
from volseg.io.json_text import parse_json

__all__ = ["read_weights", "write_weights"]

_MAX_HEADER = 100_000_000  # the limit of the format
_MAX_AXES = 64  # of a tensor, as in numpy
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_NAME_OF = {dtype: name for name, dtype in _TYPES.items()}
_HASH = "sha256 of the numbers"


def write_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    notes: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> str:
    """Write named tensors and notes as safetensors; the SHA-256 of the file is returned.

    Raises:
        ValueError: if a tensor is of a type that the format does not have.
    """
    header: dict[str, Any] = {}
    pieces: list[bytes] = []
    place = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.dtype not in _NAME_OF:
            raise ValueError(f"{name} is of type {tensor.dtype}: safetensors has {', '.join(_TYPES)} only.")
        piece = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        ends = [place, place + len(piece)]
        header[name] = {"dtype": _NAME_OF[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends}
        pieces.append(piece)
        place += len(piece)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    header["__metadata__"] = {**(notes or {}), _HASH: digest.hexdigest()}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (
        atomic_write(path, overwrite=overwrite, verify=read_weights) as temporary,
        temporary.open("wb") as file,
    ):
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(pieces)
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(
    path: str | os.PathLike[str], *, sha256: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and notes of a safetensors file.

    Args:
        sha256: what the hash of the whole file must be.

    Raises:
        InputError: if the file is cut, altered, or not what ``sha256`` says.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}. Check the spelling and the folder.")
    data = bytearray(path.read_bytes())
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
        raise InputError(
            f"{path} has another SHA-256 than the one given: it is not that file. Fetch it again."
        )
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_MAX_HEADER, len(data) - 8):
        raise InputError(f"{path} is not a safetensors file, or was cut. Fetch it again.")
    try:
        header = parse_json(bytes(data[8 : 8 + length]), f"{path}: the header")
        notes = header.pop("__metadata__", {})
        rows = sorted((*_row(value), name) for name, value in header.items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: the header of the safetensors file is damaged ({error!r}).") from error
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise InputError(f"{path}: the notes in the safetensors file are not text. It is damaged.")
    body = memoryview(data)[8 + length :]
    place = 0
    tensors: dict[str, Tensor] = {}
    for begin, end, kind, shape, name in rows:
        dtype, count = _TYPES[kind], prod(shape)
        if begin != place or end - begin != count * dtype.itemsize or end > len(body):
            raise InputError(
                f"{path}: the tensor {name[:60]!r} does not lie where the header says. The file was cut or "
                "is damaged; fetch it again."
            )
        place = end
        flat = torch.frombuffer(body[begin:end], dtype=dtype) if count else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(shape).clone()
    if place != len(body):
        raise InputError(f"{path}: there are bytes that belong to no tensor. The file is damaged.")
    known = notes.pop(_HASH, None)
    if known is not None and known != hashlib.sha256(body).hexdigest():
        raise InputError(
            f"{path}: the checksum of the weights is wrong. The file was altered; fetch it again."
        )
    return tensors, notes


def _row(value: Mapping[str, Any]) -> tuple[int, int, str, tuple[int, ...]]:
    """Begin, end, type and shape of a tensor, if the header has them."""
    (begin, end), kind, shape = value["data_offsets"], value["dtype"], tuple(value["shape"])
    numbers = (begin, end, *shape)
    if (
        kind not in _TYPES
        or len(shape) > _MAX_AXES
        or not all(type(n) is int and 0 <= n < 2**53 for n in numbers)
    ):
        raise ValueError(f"{kind!r} {numbers[: 2 + _MAX_AXES]}")
    if 0 in shape and prod(n or 1 for n in shape) >= 2**53:  # no number, but strides that torch cannot count
        raise ValueError(f"{kind!r} {shape}")
    return begin, end, kind, shape
