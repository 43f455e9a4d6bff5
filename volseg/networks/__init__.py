"""U-Nets for images and volumes: the class, and the two published plans; any network's sizes, measured."""

from volseg.networks.measuring import context_of
from volseg.networks.unet import UNet, unet3d_2016, unet_2015

__all__ = ["UNet", "context_of", "unet3d_2016", "unet_2015"]
