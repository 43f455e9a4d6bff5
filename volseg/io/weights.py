"""Weights to share: the safetensors format, which holds tensors and text and cannot hold code.

The library ``safetensors`` reads and writes it: of the headers in tests/io/test_weights.py that lie about
sizes, places or types it opened none but one with 65 axes, which is refused here. The format has no checksum
(544 of 600 flipped bits gave other weights; benchmarks/readers.py), so a SHA-256 of the numbers is kept among
the notes and shows damage; one of the whole file, received by another way, shows who it is from.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from volseg.errors import InputError
from volseg.io.atomic import atomic_write
from volseg.io.text import parse_json

__all__ = ["read_weights", "write_weights"]

_MAX_AXES = 64  # of a tensor, as in numpy
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
    layout = torch.contiguous_format  # a copy of each: the library refuses tensors that share their memory
    plain = {name: tensor.detach().cpu().clone(memory_format=layout) for name, tensor in tensors.items()}
    try:
        body = _numbers(safetensors.torch.save(plain))
    except KeyError as error:
        raise ValueError(
            f"the weights hold a tensor of type {error.args[0]}, which safetensors does not have. "
            "Convert it to float32."
        ) from error
    known = {**(notes or {}), _HASH: hashlib.sha256(body).hexdigest()}
    content = safetensors.torch.save(plain, known)
    with atomic_write(path, overwrite=overwrite, verify=read_weights) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


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
    data = path.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
        raise InputError(
            f"{path} has another SHA-256 than the one given: it is not that file. Fetch it again."
        )
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the library's own, and torch's of sizes that it cannot count
        raise InputError(
            f"{path} is not a safetensors file, or was cut or damaged ({error}). Fetch it again."
        ) from error
    if any(tensor.ndim > _MAX_AXES for tensor in tensors.values()):
        raise InputError(
            f"{path} holds a tensor of more than {_MAX_AXES} axes. It is damaged; fetch it again."
        )
    body = _numbers(data)
    notes = parse_json(data[8 : len(data) - len(body)], f"{path}: the header").get("__metadata__") or {}
    known = notes.pop(_HASH, None)
    if known is not None and known != hashlib.sha256(body).hexdigest():
        raise InputError(
            f"{path}: the checksum of the weights is wrong. The file was altered; fetch it again."
        )
    return tensors, notes


def _numbers(data: bytes) -> memoryview:
    """What follows the length of the header and the header."""
    return memoryview(data)[8 + int.from_bytes(data[:8], "little") :]
