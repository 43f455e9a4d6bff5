"""Volumes in files: reading, writing, and whether an image and its label lie on the same grid.

Every format gives the same `Volume`; every file is written whole or not at all.
"""

from volseg.io.alignment import check_alignment
from volseg.io.atomic import atomic_write
from volseg.io.files import SUFFIXES, read_volume, write_volume
from volseg.io.volume import Volume

__all__ = ["SUFFIXES", "Volume", "atomic_write", "check_alignment", "read_volume", "write_volume"]
