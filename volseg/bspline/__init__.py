"""Smooth random deformation: coarse grid of vectors → cubic B-spline → warped array, in 2D and 3D.

``field`` holds the mathematics of the spline and of the map from a patch to its source, ``folding``
says whether a deformation turns space over,
``sampling`` reads an array at the places such a map says, ``kernel`` does the same in one
compiled loop for volumes in the processor's memory, with two instructions of ``intrinsics``.
"""

from volseg.bspline.field import (
    SplineMap,
    bspline_displacement,
    control_shape,
    interpolating_coefficients,
    jacobian_bound,
    smallest_jacobian,
)
from volseg.bspline.sampling import Part, sample_map, sample_maps, warp

__all__ = [
    "Part",
    "SplineMap",
    "bspline_displacement",
    "control_shape",
    "interpolating_coefficients",
    "sample_map",
    "sample_maps",
    "jacobian_bound",
    "smallest_jacobian",
    "warp",
]
