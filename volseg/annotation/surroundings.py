"""What the image shows around paint: whether paint ends where the image has edges, and what lies beyond.

The borders of finished slices lie on edges of the image, and what lies beside them looks different. Strokes
end anywhere within an object, and just beside them the image looks as below them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.annotation.audit.planes import AnnotatedSlice, Mask

__all__ = ["Surroundings", "surroundings_of"]

_MOST = 24  # planes that are looked at
_DEEP = 20  # voxels at least, without which there is no inside
_NEAR, _FAR = (2.0, 5.0), 7.0  # voxels from the paint
_USUAL = (0.05, 0.95)  # quantiles of what lies below the paint


class Surroundings(NamedTuple):
    """Means over planes; of the first three, how strong edges at borders of the paint are in terms of others.

    Attributes:
        on_average: of those of the whole planes.
        beside: of those a few voxels beside the paint.
        inside: of those deep inside; NaN where the paint has no inside.
        alike_near, alike_far: shares of the voxels a few voxels beside, and far off, that look as those below
            the paint usually do; NaN where there are none.
    """

    on_average: float
    beside: float
    inside: float
    alike_near: float
    alike_far: float


def surroundings_of(drawn: Sequence[tuple[AnnotatedSlice, Mask]], image: npt.NDArray[Any]) -> Surroundings:
    """What ``image``, ``(C, *spatial)``, shows around the paint of planes, each with where it is painted."""
    drawn = drawn[:: -(-len(drawn) // _MOST)]
    edges: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("all", "border", "near", "deep")}
    looks: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("painted", "near", "far")}
    for plane, mask in drawn:
        labels = np.where(mask, plane.labels, np.uint8(255))
        away = ndimage.distance_transform_edt(~mask) - 0.5
        cross = ndimage.generate_binary_structure(2, 1)
        where = {
            "all": np.ones_like(mask),
            "border": ndimage.maximum_filter(labels, footprint=cross)
            != ndimage.minimum_filter(labels, footprint=cross),
            "near": beside if (beside := (away >= _NEAR[0]) & (away <= _NEAR[1])).any() else away > 0,
            "deep": mask & (ndimage.maximum_filter(labels, 5) == ndimage.minimum_filter(labels, 5)),
            "far": away > _FAR,
            "painted": mask,
        }
        cut = image if plane.axis < 0 else np.take(image, plane.index, axis=1 + plane.axis)
        steps, seen = np.zeros(mask.shape, np.float32), []
        for channel in cut.astype(np.float32):
            steps += ndimage.gaussian_gradient_magnitude(channel, 1.0)
            smooth = ndimage.gaussian_filter(channel, 1.0)
            seen += [smooth, ndimage.gaussian_filter(np.abs(channel - smooth), 1.5)]
        for name, found in edges.items():
            found.append(steps[where[name]])
        for name, found in looks.items():
            found.append(np.stack(seen)[:, where[name]])
    mean = {name: float(np.mean(part)) if (part := np.concatenate(found)).size else np.nan
            for name, found in edges.items()}  # fmt: skip
    look = {name: np.concatenate(found, 1) for name, found in looks.items()}
    low, high = np.quantile(look["painted"], _USUAL, axis=1)[..., None]

    def alike(name: str) -> float:
        found = look[name]
        return float(np.mean(np.all((found >= low) & (found <= high), 0))) if found.size else np.nan

    deep = mean["deep"] if sum(map(len, edges["deep"])) >= _DEEP else np.nan
    return Surroundings(
        _ratio(mean["border"], mean["all"]),
        _ratio(mean["border"], mean["near"]),
        _ratio(mean["border"], deep),
        alike("near"),
        alike("far"),
    )


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("inf") if a else 1.0
