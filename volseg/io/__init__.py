"""Volumes in files: reading, writing, and whether an image and its label lie on the same grid.

Every format gives the same `Volume`; every file is written whole or not at all.
"""

from volseg.io.alignment import check_alignment
from volseg.io.atomic import atomic_write
from volseg.io.channels import channel_of, read_channels
from volseg.io.files import SUFFIXES, output_suffix, read_volume, write_volume
from volseg.io.volume import Volume
from volseg.io.weights import read_weights, write_weights

__all__ = [
    "SUFFIXES",
    "Volume",
    "atomic_write",
    "channel_of",
    "check_alignment",
    "output_suffix",
    "read_channels",
    "read_volume",
    "read_weights",
    "write_volume",
    "write_weights",
]
