"""Which way up a picture is shown: the orientation tag of EXIF and TIFF (number 274), heeded.

Cameras and microscopes store rows as the sensor gives them and note in a tag how to turn the picture. Every
viewer turns it; so does volseg, for images and labels alike, and what it writes lies as it was shown and
carries no tag. Programs that ignore the tag (Fiji, for one) show such a file otherwise, so it is said.
"""

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_shown", "exif_orientation", "swaps_axes"]

logger = logging.getLogger(__name__)

_WORDS = {
    2: "mirrored left to right", 3: "turned by 180 degrees", 4: "mirrored top to bottom",
    5: "mirrored at its diagonal", 6: "turned clockwise by 90 degrees", 7: "mirrored at its other diagonal",
    8: "turned counterclockwise by 90 degrees",
}  # fmt: skip
_TAG = 274


def as_shown(array: NDArray[Any], orientation: int, path: Path) -> NDArray[Any]:
    """A stored picture or stack ``(C, X, Y[, Z])`` as viewers show it; 2 to 8 change it."""
    if orientation not in _WORDS:
        return array
    logger.warning(
        "%s is %s, as its orientation tag (%d) asks and viewers show it. A program that ignores the tag, "
        "such as Fiji, shows it otherwise: paint made there does not fit. 'volseg convert' writes it as "
        "shown, without a tag.",
        path, _WORDS[orientation], orientation,
    )  # fmt: skip
    if swaps_axes(orientation):
        array = array.swapaxes(1, 2)
    backward = (1,) * (orientation in (2, 3, 6, 7)) + (2,) * (orientation in (3, 4, 7, 8))
    return np.flip(array, backward)


def swaps_axes(orientation: int) -> bool:
    """Whether what is stored as x is shown as y."""
    return 5 <= orientation <= 8


def exif_orientation(exif: bytes) -> int:
    """The orientation that a block of EXIF asks for; 1, as stored, where it asks for none or is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is not None:
            (start,) = struct.unpack_from(f"{order}I", exif, 4)
            (count,) = struct.unpack_from(f"{order}H", exif, start)
            for i in range(count):
                tag, kind, number, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * i)
                if (tag, kind, number) == (_TAG, 3, 1):
                    return int(value)
    except struct.error:
        logger.warning("a block of EXIF is cut: its orientation is taken as 1, as stored.")
    return 1
