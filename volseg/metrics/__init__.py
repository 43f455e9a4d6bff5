"""How good a segmentation is: class by class, as membranes between cells, and object by object.

``segmentation`` compares classes over annotated voxels, ``surfaces`` their borders. ``membranes`` scores
probability maps of electron microscopy as the ISBI 2012 challenge did, with its topological measure in
``warping``, and ``instances`` counts cells. ``headline`` says which classes the one figure is the mean of.
"""

from volseg.metrics.instances import (
    MergesAndSplits,
    average_precision,
    instance_scores,
    matched_iou,
    merges_and_splits,
    object_precision,
    seg_score,
)
from volseg.metrics.membranes import (
    THRESHOLDS,
    Best,
    ThinnedScores,
    membrane_scores,
    pixel_error,
    rand_error,
    thinned_scores,
    warping_error,
)
from volseg.metrics.segmentation import Headline, boundary_f1, confusion_matrix, dice, iou, mean_score
from volseg.metrics.surfaces import TOLERANCE, pooled_surface_dice, surface_dice, surface_faces
from volseg.metrics.warping import Warping, homotopic_warp

__all__ = [
    "THRESHOLDS",
    "TOLERANCE",
    "Best",
    "Headline",
    "MergesAndSplits",
    "ThinnedScores",
    "Warping",
    "average_precision",
    "boundary_f1",
    "confusion_matrix",
    "dice",
    "homotopic_warp",
    "instance_scores",
    "iou",
    "matched_iou",
    "mean_score",
    "membrane_scores",
    "merges_and_splits",
    "object_precision",
    "pixel_error",
    "pooled_surface_dice",
    "rand_error",
    "seg_score",
    "surface_dice",
    "surface_faces",
    "thinned_scores",
    "warping_error",
]
