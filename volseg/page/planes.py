"""Slices as the page gets them: bytes, row by row as a screen shows them. The page mirrors where it has to.

Grey values of 8 bits go as they are. Others go in 16 bits, spread over the range of their channel, so that
the page can change the contrast without asking again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.auditing import orientation_of
from volseg.report.picture import Plane, planes_of
from volseg.session import Session

__all__ = ["Channel", "Pictures", "as_bytes"]

_SAMPLE = 9  # slices along each axis, from which the range of a channel is found
_MOST_OF_ONE = 1 << 18  # voxels of such a slice that are looked at


@dataclass(frozen=True)
class Channel:
    """The grey values of a channel.

    Args:
        low: as is ``high``, the range of all; the page shows ``window`` of it at first.
        bits: 8 if values go as they are, 16 if they are spread over the range.
        whole: values are whole numbers.
    """

    low: float
    high: float
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
        like = session.image.like
        self.planes: list[Plane] = planes_of(session.size, orientation_of(like))
        self.channels: list[Channel] = [_channel(part) for part in _sample(session)]

    def image(self, axis: int, index: int, channel: int) -> bytes:
        """A slice of a channel: unsigned, of 8 bits, or of 16 with the lower byte first."""
        return self._packed(self._session.image_slice(axis, index)[channel], channel)

    def _packed(self, plane: NDArray[Any], channel: int) -> bytes:
        found = self.channels[channel]
        if found.bits == 8:
            return as_bytes(plane.astype(np.uint8, copy=False))
        share = (plane.astype(np.float32) - np.float32(found.low)) / np.float32(found.high - found.low)
        return as_bytes(np.rint(np.clip(share, 0, 1) * 65535).astype("<u2"))


def as_bytes(plane: NDArray[Any]) -> bytes:
    """A slice, axes in the order x, y, z, row by row of a screen."""
    return plane.T.tobytes("C")


def _sample(session: Session) -> list[NDArray[Any]]:
    """Grey values from everywhere, per channel."""
    size, found = session.size, []
    places: Sequence[tuple[int, int]] = [(2, 0)]
    if len(size) == 3:
        places = [
            (axis, int(index))
            for axis, n in enumerate(size)
            for index in np.unique(np.linspace(0, n - 1, _SAMPLE).round())
        ]
    for place in places:
        plane = session.image_slice(*place).reshape(session.image.channels, -1)
        found.append(plane[:, :: -(-plane.shape[1] // _MOST_OF_ONE)])
    return list(np.concatenate(found, axis=1))


def _channel(values: NDArray[Any]) -> Channel:
    window = np.percentile(values, (1, 99.7))
    low, high = float(values.min()), float(values.max())
    bits = 16
    if values.dtype == np.uint8:
        low, high, bits = 0.0, 255.0, 8
    high = high if high > low else low + 1
    first, last = float(window[0]), float(window[1])
    if not first < last:
        first, last = low, high
    return Channel(low, high, (first, last), bits, values.dtype.kind in "ui")
