"""Applying a trained network to whole images and volumes.

An inferer is called as ``inferer(x, network)``, as MONAI's are: ``x`` ``(B, C, *spatial)`` of any size in,
logits ``(B, classes, *spatial)`` of the same size out. Sizes of tiles are in voxels, memory in bytes.
"""

from volseg.inferers.averaging import RotationAveragingInferer
from volseg.inferers.overlap_tile import OverlapTileInferer

__all__ = ["OverlapTileInferer", "RotationAveragingInferer"]
