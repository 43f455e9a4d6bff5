"""U-Nets for images and volumes: the class, and the two published plans."""

from volseg.networks.plans import unet3d_2016, unet_2015
from volseg.networks.unet import UNet

__all__ = ["UNet", "unet3d_2016", "unet_2015"]
