"""Voxels stored as plain numbers, raw or compressed, in the file of their header or beside it.

NRRD and MetaImage are a page of text and such a block. The text is read by `volseg.io.nrrd` and
`volseg.io.metaimage`; what may be believed of it is decided here: the sizes are compared with the file
before anything is allocated, compressed data are read to their checksum, and a header that names another
file gets one that lies beside it, or none.
"""

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError, RefusedError, ResourceError
from volseg.io import gzip_stream

__all__ = ["Stored", "beside", "load", "require_memory"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """Where a header says its voxels are, and of what kind; ``shape`` has the fastest axis first."""

    file: Path
    start: int
    encoding: Literal["raw", "gzip", "zlib"]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def load(stored: Stored, header: Path) -> NDArray[Any]:
    """The array, x fastest, after everything that can be checked about it."""
    if not stored.shape or min(stored.shape) < 1:
        raise InputError(f"{header}: a size of {_times(stored.shape)} holds no voxel. Export it again.")
    size = stored.file.stat().st_size
    need = math.prod(stored.shape) * stored.dtype.itemsize
    raw = stored.encoding == "raw"
    most = max(0, size - stored.start) * (1 if raw else gzip_stream.MAX_RATIO)
    if need > most:
        raise InputError(
            f"{header}: the header needs {need} bytes for {_times(stored.shape)} voxels, but "
            f"{stored.file.name} of {size} bytes holds {'' if raw else 'at most '}{most}. "
            "It was cut or is damaged; fetch it again."
        )
    require_memory(need, header)
    if stored.encoding == "raw":
        flat, extra = np.fromfile(stored.file, np.uint8, need, offset=stored.start), most - need
    else:
        data = gzip_stream.read_at_most(stored.file, need + 1, start=stored.start, kind=stored.encoding)
        if len(data) < need:
            raise InputError(
                f"{header}: the header needs {need} bytes for {_times(stored.shape)} voxels, but there are "
                f"{len(data)} after unpacking. The file was cut before it was packed; export it again."
            )
        flat, extra = np.frombuffer(data, np.uint8, need), len(data) - need
    if extra:
        logger.warning("%s: there are more voxels than the header speaks of; the rest is left out.", header)
    return flat.view(stored.dtype).reshape(stored.shape, order="F")


def beside(header: Path, name: str) -> Path:
    """The data file that a header names: a plain file in the same folder, or it is refused.

    A header is text that anybody can write; one that names ``/etc/passwd`` would show it as an image.
    """
    if not name or name in (".", "..") or any(mark in name for mark in ("/", "\\", ":", "\0")):
        raise RefusedError(
            f"{header} keeps its voxels in '{name}', which is not a name in its own folder, so it is not "
            "opened. Put both files into one folder and write the bare name into the header."
        )
    path = header.parent / name
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RefusedError(
            f"{header} keeps its voxels in '{name}', which is a link or no regular file, so it is not "
            "opened. Put the file itself beside the header."
        )
    if not path.exists():
        raise InputError(
            f"{header} keeps its voxels in '{name}', which is missing. Put it into the same folder."
        )
    return path


def require_memory(need: int, path: Path) -> None:
    """Refuse what the machine could not hold even if it had nothing else to do."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > have > 0:
        raise ResourceError(
            f"{path} asks for {need / 1e9:.3g} GB of voxels; this machine has {have / 1e9:.3g} GB of memory. "
            "Cut the volume into parts, or use a larger machine."
        )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
