"""Slices as the page gets them: bytes, row by row as a screen shows them. The page mirrors where it has to.

Grey values of 8 bits go as they are. Others go in 16 bits, spread over the range of their channel, so that
the page can change the contrast without asking again.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.auditing import orientation_of
from volseg.report.picture import Plane, planes_of
from volseg.session import Session

__all__ = ["Channel", "Pictures", "as_bytes"]

_BLOCKS, _SIDE = 6, 32  # per axis, and voxels of each: from these the range of a channel is found
_LEVELS = 65535
_FAR, _NEAR, _ALIKE = 1e300, 1e-300, 1e-12  # largest values, smallest range of them, and its smallest share


@dataclass(frozen=True)
class Channel:
    """The grey values of a channel.

    Args:
        low: of what goes in 16 bits, this is 0, and ``high`` is 65535.
        range: of the values that were found; the page shows ``window`` of it at first.
        bits: 8 if values go as they are.
        whole: values are whole numbers.
    """

    low: float
    high: float
    range: tuple[float, float]
    window: tuple[float, float]
    bits: int
    whole: bool


class Pictures:
    """The image of a session, slice by slice.

    Attributes:
        channels: by number.
        planes: the views.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.planes: list[Plane] = planes_of(session.size, orientation_of(session.image.like))
        self.channels: list[Channel] = [_channel(part) for part in _sample(session)]

    def image(self, axis: int, index: int, channel: int) -> bytes:
        """A slice of a channel: unsigned, of 8 bits, or of 16 with the lower byte first."""
        plane = self._session.image_slice(axis, index)[channel]
        known = self.channels[channel]
        if known.bits == 8:
            return as_bytes(plane.astype(np.uint8, copy=False))
        if plane.dtype.kind in "ui" and plane.dtype.itemsize == 2:  # as it is, from its lowest value upwards
            return as_bytes(plane.astype("<u2", copy=False) + np.uint16(-int(known.low)))
        with np.errstate(over="ignore"):
            share = (plane - np.float64(known.low)) * (_LEVELS / (known.high - known.low))
        return as_bytes(np.rint(np.nan_to_num(np.clip(share, 0, _LEVELS))).astype("<u2"))


def as_bytes(plane: NDArray[Any]) -> bytes:
    """A slice, axes in the order x, y, z, row by row of a screen."""
    return plane.T.tobytes("C")


def _sample(session: Session) -> list[NDArray[Any]]:
    """Grey values of blocks from everywhere, per channel; of a small volume all of them."""
    spans = []
    for n in session.size:
        starts = np.unique(np.linspace(0, max(n - _SIDE, 0), min(_BLOCKS, -(-n // _SIDE))).astype(int))
        spans.append([slice(int(start), min(int(start) + _SIDE, n)) for start in starts])
    image = session.image
    parts = [
        np.asarray(image.voxels[(slice(0, image.channels), *block)]).reshape(image.channels, -1)
        for block in itertools.product(*spans)
    ]
    return list(np.concatenate(parts, axis=1))


def _channel(values: NDArray[Any]) -> Channel:
    """What is known of a channel from a sample of it; values that are not finite say nothing."""
    finite = values[np.isfinite(values)].astype(np.float64).clip(-_FAR, _FAR)
    finite = finite if len(finite) else np.zeros(1)
    first, last = (float(value) for value in np.percentile(finite, (1, 99.7)))
    least, most = float(finite.min()), float(finite.max())
    if most - least < max(_NEAR, abs(least) * _ALIKE):
        most = least + max(1.0, abs(least) * _ALIKE)
    if not first < last:
        first, last = least, most
    kind, width = values.dtype.kind, most - least
    low, high = least - width, most + width  # values beyond what was found are shown, too
    if kind in "ui" and values.dtype.itemsize <= 2:
        info = np.iinfo(values.dtype)
        low, high = float(info.min), float(info.max)
    bits = 8 if values.dtype in (np.uint8, bool) else 16
    return Channel(low, high, (least, most), (first, last), bits, kind in "uib")
