"""MONAI transforms: grey values, elastic deformation, border weights, patches drawn through one composed map.

A name with a ``d`` at the end is of entries of a dictionary, as in MONAI; without, of an array. Patches come
from a dictionary only: image, label and weight are read together.
"""

from volseg.transforms.deformation import RandDeformedPatchd, annotated_voxels
from volseg.transforms.elastic import RandBSplineDeform, RandBSplineDeformd
from volseg.transforms.intensity import (
    NormalizeGreyValues,
    NormalizeGreyValuesd,
    RandGreyValues,
    RandGreyValuesd,
)
from volseg.transforms.weights import BorderWeightMap, BorderWeightMapd

__all__ = [
    "BorderWeightMap",
    "BorderWeightMapd",
    "NormalizeGreyValues",
    "NormalizeGreyValuesd",
    "RandBSplineDeform",
    "RandBSplineDeformd",
    "RandDeformedPatchd",
    "RandGreyValues",
    "RandGreyValuesd",
    "annotated_voxels",
]
