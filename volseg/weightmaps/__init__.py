"""How much each class and each voxel counts in the loss.

Two ideas of Ronneberger et al. 2015: rare classes count more (:func:`class_balance`), and so does the
narrow gap between two objects that touch (:func:`border_weight_map`), because a network that misses
it merges them. Both feed the losses of :mod:`volseg.losses`, as ``class_weight`` and as ``weight``.
"""

from volseg.weightmaps.border import border_weight_map, class_balance

__all__ = ["border_weight_map", "class_balance"]
