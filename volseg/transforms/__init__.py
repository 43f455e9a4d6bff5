"""MONAI dictionary transforms: patches drawn through one composed map, grey values, border weights."""

from volseg.transforms.deformation import RandBSplineDeformd, RandDeformedPatchd, annotated_voxels
from volseg.transforms.intensity import NormalizeGreyValuesd, RandGreyValuesd
from volseg.transforms.weights import BorderWeightMapd

__all__ = [
    "BorderWeightMapd",
    "NormalizeGreyValuesd",
    "RandBSplineDeformd",
    "RandDeformedPatchd",
    "RandGreyValuesd",
    "annotated_voxels",
]
