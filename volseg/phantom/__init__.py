"""Synthetic images with dense ground truth, for tests and for a first run without data.

``kidney`` is a volume of kidney tubules, for the 3D network of 2016; ``membranes``, ``cells`` and
``brain`` are images for the 2D networks. Each has the difficulty of its kind of data, so that no
threshold finds the truth. A figure measured on one of them says nothing about real data.
"""

from volseg.phantom.brain import brain_phantom
from volseg.phantom.cells import cells_phantom, membranes_phantom
from volseg.phantom.kidney import XENOPUS_SIZES, XENOPUS_SPACING, xenopus_phantom

__all__ = [
    "XENOPUS_SIZES",
    "XENOPUS_SPACING",
    "brain_phantom",
    "cells_phantom",
    "membranes_phantom",
    "xenopus_phantom",
]
