"""What the kind of a TIFF page means for its numbers: whether they are exact, and how they are shown."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from volseg.errors import InputError

__all__ = ["orientation_of", "require_exact", "say_how_shown"]

logger = logging.getLogger(__name__)

_JPEG = (6, 7, 34892)
_JPEG2000 = (33003, 33004, 33005, 34712)
_WEBP = (34927, 50001)
_PERHAPS = {22610: "JPEG XR", 34934: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL", 34887: "LERC"}
_MINISWHITE, _TABLE = 0, 3
_SHOWN = 12  # entries of a colour table


def require_exact(page: Any, path: Path) -> None:
    """Refuse labels packed in a way that changes numbers: class 2 would come back as 1, 2 and 3."""
    code = int(page.compression)
    name = ""
    if code in _JPEG:
        name = "JPEG" if not _has_mark(page, b"\xff\xc3") else ""  # 0xC3 begins lossless JPEG
    elif code in _JPEG2000:
        name = "JPEG 2000 with its irreversible transform" if _is_irreversible(page) else ""
    elif code in _WEBP:
        name = "WebP" if b"VP8L" not in _first_bytes(page)[:64] else ""
    elif code in _PERHAPS:
        name = f"{_PERHAPS[code]}, which may change numbers"
    if name:
        raise InputError(
            f"{path} is packed with {name}, which does not keep the numbers it stores, so it cannot hold "
            "labels. Save them again from the original with LZW, deflate, zstd or no compression."
        )


def say_how_shown(page: Any, path: Path) -> None:
    """Numbers are taken as stored, whatever colour a viewer gives them; it is said where it may surprise."""
    if int(page.photometric) == _MINISWHITE:
        logger.warning("%s is stored with 0 as white (MINISWHITE): its numbers are taken as stored.", path)
    elif int(page.photometric) == _TABLE and page.colormap is not None:
        table = np.asarray(page.colormap) >> 8
        shown = ", ".join(f"{n} as {r:02x}{g:02x}{b:02x}" for n, (r, g, b) in enumerate(table.T[:_SHOWN]))
        logger.info("%s has a colour table; its numbers are used, which viewers show: %s, ...", path, shown)


def orientation_of(page: Any) -> int:
    """The page's orientation tag."""
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None and isinstance(tag.value, int) else 1


def _first_bytes(page: Any) -> bytes:
    """The first block of packed voxels, as far as a codec's header reaches."""
    handle = page.parent.filehandle
    handle.seek(page.dataoffsets[0])
    found: bytes = handle.read(min(page.databytecounts[0], 4096))
    return found


def _has_mark(page: Any, mark: bytes) -> bool:
    return mark in _first_bytes(page)


def _is_irreversible(page: Any) -> bool:
    """Whether the first code block of JPEG 2000 names the 9-7 wavelet."""
    data = _first_bytes(page)
    at = data.find(
        b"\xff\x52"
    )  # COD: length, style, 4 bytes of order and layers, 5 of code blocks, transform
    return at < 0 or len(data) < at + 14 or data[at + 13] == 0
