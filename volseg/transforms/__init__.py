"""MONAI dictionary transforms: patches drawn through one composed map, and grey values."""

from volseg.transforms.deformation import RandBSplineDeformd, RandDeformedPatchd, annotated_voxels
from volseg.transforms.intensity import RandGreyValuesd

__all__ = ["RandBSplineDeformd", "RandDeformedPatchd", "RandGreyValuesd", "annotated_voxels"]
