"""Annotation: which slices are annotated, what a painted file means; in ``audit`` what is wrong with it.

Arrays are ``(*spatial)``, axes x, y(, z), without a channel: the values of a file as they stand, or class
indices with 255 where nothing is labelled. A slice is named by the axis it is perpendicular to and its
index from 0.
"""

from volseg.annotation.numbering import COUNTED, numbered, numbered_slices, ordinal, summarise
from volseg.annotation.paint import Paint, understand_paint
from volseg.annotation.recognition import intent_of, looks_grey
from volseg.annotation.slices import (
    annotated_slices,
    annotation_counts,
    choose_held_out,
    choose_more_held_out,
    even_positions,
    find_slices,
    hold_out,
    keep_slices,
)
from volseg.findings import Finding

__all__ = [
    "COUNTED",
    "Finding",
    "Paint",
    "annotated_slices",
    "annotation_counts",
    "choose_held_out",
    "choose_more_held_out",
    "even_positions",
    "find_slices",
    "hold_out",
    "intent_of",
    "keep_slices",
    "looks_grey",
    "numbered",
    "numbered_slices",
    "ordinal",
    "summarise",
    "understand_paint",
]
