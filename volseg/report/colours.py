"""The colours of classes and of series, once, for pictures, charts and the page's style sheet.

They are Okabe and Ito's, which the colour-blind can distinguish (https://jfly.uni-koeln.de/color/); those
that are too pale for thin lines on white, or too dark for black, have a shade of their own there.

A module of its own, small as it is: pictures, both back ends of charts and the templates take colours from
here, and none of these may import another.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MARK", "SERIES", "SERIES_ON_BLACK", "class_colours", "coloured", "line_style"]

_ORANGE, _BLUE, _GREEN, _PURPLE = "#e69f00", "#0072b2", "#009e73", "#cc79a7"
_SKY, _VERMILION, _YELLOW = "#56b4e9", "#d55e00", "#f0e442"

# In this order, as the last class of all is often background.
_CLASSES = (_ORANGE, _BLUE, _GREEN, _PURPLE, _SKY, _VERMILION, _YELLOW)
MARK = _ORANGE  # where a slice is painted
_RGB = np.array([list(bytes.fromhex(colour[1:])) for colour in _CLASSES], np.uint8)
SERIES = (_BLUE, _VERMILION, _GREEN, "#b0568f", "#8a6d00")  # lines and marks on white
SERIES_ON_BLACK = (_SKY, "#f08a3c", "#2cc79a", "#e59ac6", _YELLOW)


def class_colours(num_classes: int) -> NDArray[np.uint8]:
    """The colour of each class, ``(num_classes, 3)``; beyond seven classes darker, then lighter shades."""
    rounds, index = np.divmod(np.arange(num_classes), len(_RGB))
    shade = np.where(rounds % 2, 0.0, 255.0)[:, None]  # towards black, towards white
    share = (1 - 0.55 ** ((rounds + 1) // 2))[:, None]
    mixed: NDArray[np.uint8] = np.rint(_RGB[index] * (1 - share) + shade * share).astype(np.uint8)
    return mixed


def coloured(labels: NDArray[Any], num_classes: int) -> NDArray[np.uint8]:
    """Class indices ``(X, Y)`` in their colours, ``(Y, X, 3)``; what is not annotated is light grey."""
    table = np.full((256, 3), 235, np.uint8)
    table[:num_classes] = class_colours(num_classes)
    return table[labels.astype(np.uint8).T]


def line_style(j: int) -> str:
    """The CSS classes of the j-th line of a chart: colours, then the same ones dashed."""
    return f"line line-{j % len(SERIES)}" + (" dashed" if j // len(SERIES) % 2 else "")
