"""Applying a trained network to whole images and volumes."""

from volseg.inferers.averaging import RotationAveragingInferer
from volseg.inferers.overlap_tile import OverlapTileInferer

__all__ = ["OverlapTileInferer", "RotationAveragingInferer"]
