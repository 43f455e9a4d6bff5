"""Training patches drawn straight from the volume.

Crop, rotation, scaling, flip and deformation are one map, and the volume is read once, through that
map: a patch has real context instead of black corners, and is smoothed by one interpolation only.

``sample`` draws a map from ``self.R``, ``apply`` reads through it; image, label and weight share one.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple

from volseg.bspline import Part, SplineMap, sample_maps
from volseg.bspline.field import numbers_per_axis
from volseg.bspline.sampling import Mode, check_mode
from volseg.errors import InputError
from volseg.geometry import per_axis
from volseg.labels import IGNORE_INDEX
from volseg.transforms.arrays import entry, plain_tensor, probability
from volseg.transforms.elastic import RandomVectors, Spline

__all__ = ["RandDeformedPatchd", "annotated_voxels"]

COARSE_AXIS = 1.5  # an axis with voxels longer than this times the others' is left out of rotations


def annotated_voxels(
    label: Any, num_classes: int | None = None, *, ignore_index: int = IGNORE_INDEX
) -> list[npt.NDArray[np.int64]]:
    """Flat indices of the annotated voxels of each class, for :class:`RandDeformedPatchd` to draw from.

    Compute it once per volume and hand it on as the sample's ``"label_voxels"``. ``label`` is
    ``(1, *spatial)`` or ``(*spatial)``; without ``num_classes`` the largest class present is the last.
    """
    flat = plain_tensor(label).cpu().numpy().reshape(-1)
    annotated = np.flatnonzero(flat != ignore_index)
    classes = flat[annotated]
    count = num_classes if num_classes is not None else (int(classes.max()) + 1 if classes.size else 0)
    if classes.size and (classes.min() < 0 or classes.max() >= count):
        raise ValueError(
            f"The label holds class {int(classes.max() if classes.max() >= count else classes.min())}, "
            f"but the classes are 0 to {count - 1} and {ignore_index} for unlabelled. Check num_classes."
        )
    return [annotated[classes == index] for index in range(count)]


class RandDeformedPatchd(RandomizableTransform, MapTransform):
    """One training patch, drawn from the volume by a single random map with a single interpolation.

    A class is drawn, then one of its annotated voxels, both uniformly, so every patch has something
    to learn from. That voxel lands, exactly, at a uniformly drawn place of the network's output.
    Around it the map is: B-spline displacement in the patch, flip, scaling, rotation in world units
    (Çiçek et al. 2016, Sec. 3). The image is read over the whole patch; label and weight only where
    an unpadded network has output. Beyond the volume the image mirrors, the label is
    ``ignore_index`` and the weight 0.

    Args:
        keys: of the image ``(C, *spatial)`` and of the label ``(1, *spatial)``; arrays or tensors,
            on any device.
        patch_size: voxels of the image patch per axis.
        context: voxels per side, per axis, that the network consumes; the label patch is
            ``patch_size - 2 * context``. A network's ``context`` attribute fits.
        grid_spacing: voxels between the random vectors of the deformation; 32 if nothing is said.
        grid_points: instead, how many vectors span the patch, the first and last at its ends: 3 is the
            coarse 3 x 3 grid of 2015. One number or one per axis.
        std: standard deviation of those vectors in voxels, one number or one per axis.
        spline: ``"approximating"`` uses the vectors as coefficients, as the authors' code does: a std
            of 4 displaces voxels by 1.3 along each axis in 3D, one of 10 by 4.8 in 2D (rms). With
            ``"interpolating"`` they hold at the grid points: 4 displaces by 3.3, 10 by 8.2.
        max_redraws: how often a deformation that folds is drawn again before the least folded one is
            taken; see :func:`volseg.bspline.smallest_jacobian`. Folds that are left are logged, once
            as a warning, and counted in ``deformation.folded``.
        rotation: largest angle in degrees. One number rotates about every axis, or about the coarse
            axis alone if voxels are more than 1.5 times longer along it; else one per axis of rotation.
        scaling: smallest and largest magnification, drawn log-uniformly.
        flip: probability of a flip, one number or one per axis.
        quarter_turns: exchange axes whose voxels are equally long, in random order. With flips of one half
            this makes all 48 symmetries of a cubic grid (8 of a square one) equally likely. Voxels fall on
            voxels, so nothing is smoothed.
        keep_inside: draw the place of the voxel so that the network's output, before deformation, lies
            in the volume where it fits; otherwise anywhere, and what hangs over the border is ignored.
        prob_deform: probability of a deformation.
        class_ratios: relative frequencies with which classes are drawn; equal without.
        image_mode: ``"linear"`` or ``"cubic"``; labels are always nearest.
        weight_key: a map ``(1, *spatial)`` that goes with the label, read at the same voxels.
        spacing_key: entry with the voxel size per axis; else a MetaTensor's, else ones.
        voxels_key: entry with :func:`annotated_voxels`; without it the label is searched at each
            call. It is not passed on, because its lists cannot be collated.

    Shape:
        - image: float32 ``(C, *patch_size)``.
        - label: ``(1, *output)``, of its own dtype, and so is the weight.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image", "label"),
        *,
        patch_size: Sequence[int],
        context: int | Sequence[int] = 0,
        grid_spacing: float | Sequence[float] | None = None,
        grid_points: int | Sequence[int] | None = None,
        std: float | Sequence[float] = 4.0,
        spline: Spline = "approximating",
        max_redraws: int = 0,
        rotation: float | Sequence[float] = 15.0,
        scaling: Sequence[float] = (0.9, 1.1),
        flip: float | Sequence[float] = 0.0,
        quarter_turns: bool = False,
        keep_inside: bool = True,
        prob_deform: float = 1.0,
        class_ratios: Sequence[float] | None = None,
        image_mode: Mode = "linear",
        weight_key: str | None = None,
        spacing_key: str = "spacing",
        voxels_key: str = "label_voxels",
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        if len(self.keys) != 2:
            raise ValueError(f"keys = {keys!r} must name two entries, the image and the label.")
        self.patch_size = tuple(int(n) for n in ensure_tuple(patch_size))
        dims = len(self.patch_size)
        if dims not in (2, 3):
            raise ValueError(f"patch_size = {patch_size!r} must hold two or three sizes, one per axis.")
        self.patch_size = per_axis(self.patch_size, dims, "patch_size")
        self.context = per_axis(context, dims, "context", minimum=0)
        self.output_size = tuple(n - 2 * c for n, c in zip(self.patch_size, self.context, strict=True))
        if min(self.output_size) < 1:
            raise ValueError(
                f"patch_size = {self.patch_size} leaves no output inside a context of {self.context} voxels "
                f"per side. Take at least {tuple(2 * c + 1 for c in self.context)}."
            )
        self.deformation = RandomVectors(grid_spacing, grid_points, std, spline, max_redraws)
        self.deformation.over(self.patch_size)  # an impossible one is refused here and now
        self.rotation = rotation
        angles = numbers_per_axis(rotation, {2: 1, 3: 3}[dims], "rotation")
        if min(angles) < 0 or max(angles) > 180:
            raise ValueError(f"rotation = {rotation!r} must lie between 0 and 180 degrees.")
        self.scaling = numbers_per_axis(scaling, 2, "scaling")
        if not 0 < self.scaling[0] <= self.scaling[1]:
            raise ValueError(f"scaling = {scaling!r} must be two positive factors, the smaller one first.")
        self.flip = tuple(probability(p, "flip") for p in numbers_per_axis(flip, dims, "flip"))
        self.quarter_turns = quarter_turns
        self.keep_inside = keep_inside
        self.prob_deform = probability(prob_deform, "prob_deform")
        self.class_ratios = None if class_ratios is None else tuple(float(ratio) for ratio in class_ratios)
        if self.class_ratios is not None and not (
            min(self.class_ratios, default=-1) >= 0 < sum(self.class_ratios)
        ):
            raise ValueError(f"class_ratios = {class_ratios!r} must not be negative, and not all zero.")
        check_mode(image_mode)
        if image_mode == "nearest":
            raise ValueError("image_mode = 'nearest' would give a jagged image; choose 'linear' or 'cubic'.")
        self.image_mode = image_mode
        self.weight_key = weight_key
        self.spacing_key = spacing_key
        self.voxels_key = voxels_key
        self.ignore_index = ignore_index

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return self.apply(data, self.sample(data))

    def sample(self, data: Mapping[Hashable, Any]) -> SplineMap:
        """Draw the map from the patch to the volume."""
        image, label = (entry(data, key) for key in self.keys)
        dims, shape = len(self.patch_size), tuple(label.shape[1:])
        if len(shape) != dims or tuple(image.shape[1:]) != shape or label.shape[0] != 1:
            raise ValueError(
                f"{self.keys[0]!r} has shape {tuple(image.shape)} and {self.keys[1]!r} {tuple(label.shape)}; "
                f"for patches of size {self.patch_size} they must be (C, *spatial) and (1, *spatial) "
                f"with the same {dims} spatial axes."
            )
        voxel = self._draw_voxel(data, shape)
        matrix = self._draw_matrix(self._spacing(data, dims))
        place = self._draw_place(voxel, shape, matrix)
        mapping = SplineMap(matrix, np.zeros(dims))
        if self.R.rand() < self.prob_deform:
            mapping = self.deformation.draw(self.R, self.patch_size, matrix)
        return mapping.through(place, voxel)

    def apply(self, data: Mapping[Hashable, Any], mapping: SplineMap) -> dict[Hashable, Any]:
        """Read image, label and weight through the map."""
        out = dict(data)
        out.pop(self.voxels_key, None)
        image_key, label_key = self.keys
        origin = (0,) * len(self.patch_size)
        image = plain_tensor(data[image_key])
        parts = {image_key: Part(image, origin, self.patch_size, self.image_mode)}
        filled = {label_key: self.ignore_index} | ({self.weight_key: 0} if self.weight_key else {})
        for key, outside in filled.items():
            source = plain_tensor(entry(data, key))
            if source.shape != data[label_key].shape:
                raise ValueError(
                    f"{key!r} has shape {tuple(source.shape)}, but {label_key!r} "
                    f"{tuple(data[label_key].shape)}; a weight map needs one value per voxel of the label."
                )
            parts[key] = Part(source, self.context, self.output_size, "nearest", outside)
        out.update(zip(parts, sample_maps(list(parts.values()), mapping), strict=True))
        return out

    def _draw_voxel(self, data: Mapping[Hashable, Any], shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        voxels = data.get(self.voxels_key)
        if voxels is None:
            voxels = annotated_voxels(data[self.keys[1]], ignore_index=self.ignore_index)
        ratios = np.array([float(len(indices) > 0) for indices in voxels])
        if not ratios.any():
            raise InputError(
                f"{self.keys[1]!r} has no annotated voxel, so there is nothing to draw a patch around. "
                "Annotate at least one slice, or leave this volume out."
            )
        if self.class_ratios is not None:
            if len(self.class_ratios) < len(ratios):
                raise ValueError(
                    f"class_ratios holds {len(self.class_ratios)} numbers, but the label has {len(ratios)} "
                    "classes. Give one number per class."
                )
            ratios *= self.class_ratios[: len(ratios)]
            if not ratios.any():
                raise InputError(
                    f"class_ratios = {self.class_ratios} draws only from classes that {self.keys[1]!r} does "
                    "not hold. Give another class a ratio, or leave this volume out."
                )
        cumulative = np.cumsum(ratios)
        drawn = int(np.searchsorted(cumulative, self.R.rand() * cumulative[-1], side="right"))
        indices = voxels[drawn]
        index = int(indices[self.R.randint(len(indices), dtype=np.int64)])
        if not 0 <= index < math.prod(shape):
            raise ValueError(
                f"{self.voxels_key!r} points at voxel {index}, outside a label of shape {shape}. "
                "It belongs to another array; compute it again with annotated_voxels."
            )
        return np.array(np.unravel_index(index, shape), dtype=np.int64)

    def _draw_place(
        self, voxel: npt.NDArray[np.int64], shape: tuple[int, ...], matrix: npt.NDArray[np.float64]
    ) -> list[int]:
        """Where in the patch the voxel comes to lie: in the output, and so that little of it is outside."""
        place = []
        for axis, (context, n) in enumerate(zip(self.context, self.output_size, strict=True)):
            low, high = 0, n - 1
            source = int(np.argmax(np.abs(matrix[:, axis])))
            if self.keep_inside:
                v, size = int(voxel[source]), shape[source]
                if matrix[source, axis] < 0:
                    v = size - 1 - v
                low, high = sorted((max(0, v + n - size), min(n - 1, v)))
            place.append(int(context + low + self.R.randint(high - low + 1)))
        return place

    def _draw_axes(self, spacing: tuple[float, ...]) -> list[int]:
        """A random order of the axes in which only equally long ones change places."""
        axes = list(range(len(spacing)))
        for alike in sorted(
            {tuple(i for i in range(len(spacing)) if _alike(spacing[i], s)) for s in spacing}
        ):
            for axis, other in zip(alike, self.R.permutation(alike), strict=True):
                axes[axis] = int(other)
        return axes

    def _draw_matrix(self, spacing: tuple[float, ...]) -> npt.NDArray[np.float64]:
        """Flip, then scaling, then rotation in world units, as a matrix on voxels."""
        dims = len(spacing)
        matrix = np.diag([-1.0 if self.R.rand() < p else 1.0 for p in self.flip])
        if self.quarter_turns:
            matrix = matrix[:, self._draw_axes(spacing)]
        low, high = self.scaling
        if low != 1 or high != 1:
            matrix /= math.exp(self.R.uniform(math.log(low), math.log(high)))
        rotation = np.eye(dims)
        planes = {2: [(0, 1)], 3: [(1, 2), (2, 0), (0, 1)]}[dims]
        for plane, largest in zip(planes, self._largest_angles(spacing), strict=True):
            angle = math.radians(self.R.uniform(-largest, largest))
            turn = np.eye(dims)
            turn[np.ix_(plane, plane)] = [
                [math.cos(angle), -math.sin(angle)],
                [math.sin(angle), math.cos(angle)],
            ]
            rotation = turn @ rotation
        per_voxel = np.divide.outer(spacing, spacing).T  # exactly one on the diagonal
        return rotation * per_voxel @ matrix

    def _largest_angles(self, spacing: tuple[float, ...]) -> tuple[float, ...]:
        if len(spacing) == 2 or isinstance(self.rotation, (list, tuple)):
            return numbers_per_axis(self.rotation, {2: 1, 3: 3}[len(spacing)], "rotation")
        angle = float(self.rotation)  # type: ignore[arg-type]
        _, middle, longest = sorted(spacing)
        if longest <= COARSE_AXIS * middle:
            return (angle,) * 3
        return tuple(angle if size == longest else 0.0 for size in spacing)

    def _spacing(self, data: Mapping[Hashable, Any], dims: int) -> tuple[float, ...]:
        given = data.get(self.spacing_key)
        if given is None:
            image = data[self.keys[0]]
            given = image.pixdim[:dims] if isinstance(image, MetaTensor) else 1.0
        spacing = numbers_per_axis(given, dims, self.spacing_key)
        if min(spacing) <= 0:
            raise ValueError(f"{self.spacing_key} = {given!r} must be positive: it is the size of a voxel.")
        return spacing


def _alike(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=0.01)
