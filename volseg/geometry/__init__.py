"""Sizes, tiles and symmetries of voxel grids: arithmetic that touches no image.

Sizes, tiles, context and stride are numbers of voxels, one per spatial axis, in the order x, y(, z).
"""

from volseg.geometry.sizes import AXES, LegalSizes, legal_sizes, per_axis
from volseg.geometry.symmetry import Symmetry, check_planes, grid_symmetries
from volseg.geometry.tiles import (
    Tile,
    balanced_tiles,
    choose_tile,
    halve_tile,
    mirror_indices,
    plan_tiles,
    tile_writing,
    tiles_needed,
)

__all__ = [
    "AXES",
    "LegalSizes",
    "Symmetry",
    "Tile",
    "balanced_tiles",
    "check_planes",
    "choose_tile",
    "grid_symmetries",
    "halve_tile",
    "legal_sizes",
    "mirror_indices",
    "per_axis",
    "plan_tiles",
    "tile_writing",
    "tiles_needed",
]
