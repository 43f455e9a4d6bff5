"""Volumes in files: reading, writing, and whether an image and its label lie on the same grid.

Every format gives the same `Volume`: an array ``(C, *spatial)``, axes x, y(, z), with an affine from voxel
indices to RAS positions in ``unit``. Every file is written whole or not at all.
"""

from volseg.io.alignment import check_alignment, put_onto
from volseg.io.atomic import atomic_write, digest, stamp
from volseg.io.colours import as_colours
from volseg.io.files import (
    SUFFIXES,
    as_volume,
    channel_of,
    check_writable,
    is_volume,
    join_volumes,
    output_suffix,
    read_channels,
    read_volume,
    suffix_of,
    write_volume,
)
from volseg.io.grid import as_spacing, with_spacing
from volseg.io.nrrd import segments_of, with_segments
from volseg.io.nrrd_grid import Segment, class_names
from volseg.io.slices import slices_in, stack_slices
from volseg.io.text import append_text, parse_json, read_json, read_text, write_json, write_text
from volseg.io.volume import Note, Notes, Volume
from volseg.io.weights import read_weights, write_weights

__all__ = [
    "SUFFIXES",
    "Note",
    "Notes",
    "Segment",
    "Volume",
    "append_text",
    "as_colours",
    "as_spacing",
    "as_volume",
    "atomic_write",
    "channel_of",
    "check_writable",
    "check_alignment",
    "class_names",
    "digest",
    "is_volume",
    "join_volumes",
    "output_suffix",
    "parse_json",
    "put_onto",
    "read_channels",
    "read_json",
    "read_text",
    "read_volume",
    "read_weights",
    "segments_of",
    "slices_in",
    "stack_slices",
    "stamp",
    "suffix_of",
    "with_segments",
    "with_spacing",
    "write_json",
    "write_text",
    "write_volume",
    "write_weights",
]
