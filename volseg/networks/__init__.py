"""U-Nets for images and volumes: the class, the two published architectures; any network's sizes, measured.

A network takes ``(B, C, *spatial)`` and gives logits ``(B, classes, *spatial)``. Unpadded, as published, it
loses `context` voxels on each side of each axis, and only some sizes are legal: ``output_size`` and
``input_size``.
"""

from volseg.networks.measuring import context_of
from volseg.networks.unet import UNet, unet3d_2016, unet_2015

__all__ = ["UNet", "context_of", "unet3d_2016", "unet_2015"]
