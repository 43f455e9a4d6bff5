"""Losses over annotated voxels, and the door through which losses of others come to see only these."""

from volseg.losses.annotated import AnnotatedLoss, over_annotated
from volseg.losses.sparse import SparseCrossEntropy, SparseDice, SparseDiceCE

__all__ = ["AnnotatedLoss", "SparseCrossEntropy", "SparseDice", "SparseDiceCE", "over_annotated"]
