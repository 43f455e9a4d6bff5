"""Losses over annotated voxels, and a wrapper that shows other people's losses only these.

All are called as ``loss(logits, target, weight=None)``: logits ``(B, C, *spatial)``, target ``(B, 1,
*spatial)`` as class indices with 255 where nothing is labelled, and give a scalar.
"""

from volseg.losses.annotated import AnnotatedLoss, over_annotated
from volseg.losses.sparse import SparseCrossEntropy, SparseDice, SparseDiceCE

__all__ = ["AnnotatedLoss", "SparseCrossEntropy", "SparseDice", "SparseDiceCE", "over_annotated"]
