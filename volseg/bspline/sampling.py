"""Read an array at positions between its voxels: linear, cubic or nearest, mirrored or filled beyond it.

One rule on what lies outside, for every mode: the image goes on as its own mirror image, without
repeating the border voxel (numpy's ``reflect``, as often as needed). If a number is given instead,
it replaces whatever lies more than half a voxel beyond the outermost voxels' centres.

Positions are kept relative to an origin near the patch, so that the rounding of float32 does not
grow with the size of the volume.
"""

from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from volseg.bspline.field import SplineMap, evaluate_spline
from volseg.geometry import mirror_indices, per_axis

__all__ = ["Mode", "Outside", "Part", "check_mode", "check_outside", "sample_map", "sample_maps", "warp"]

Mode = Literal["linear", "cubic", "nearest"]

KERNEL_DTYPES = {
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.int64,
    torch.float32,
    torch.float64,
}
Outside = Literal["mirror"] | float
Limits = tuple[float, float]

FARTHEST = 2.0**23


def warp(
    image: Tensor,
    coordinates: Tensor,
    *,
    mode: Mode = "linear",
    outside: Outside = "mirror",
) -> Tensor:
    """The image's values at the given positions.

    Args:
        mode: ``"cubic"`` is Keys' convolution (a = -1/2); ``"nearest"`` rounds halves upwards.
        outside: ``"mirror"``, or the value of everything beyond the image.

    Shape:
        - image: ``(C, *spatial)``, any dtype.
        - coordinates: ``(spatial_dims, *out)``, floating point, in voxels of the image.
        - output: ``(C, *out)``; image's dtype for ``"nearest"``, else the coordinates' dtype.
    """
    check_mode(mode)
    check_outside(outside, image.dtype if mode == "nearest" else coordinates.dtype)
    _check_image(image, coordinates.shape[0])
    return _warp(image, coordinates, (0,) * coordinates.shape[0], mode, outside)


class Part(NamedTuple):
    """What :func:`sample_maps` is to read: a window of the patch from one array.

    ``image`` is ``(C, *spatial)``, any dtype; the window is ``start`` .. ``start + size``.
    """

    image: Tensor
    start: tuple[int, ...]
    size: tuple[int, ...]
    mode: Mode = "linear"
    outside: Outside = "mirror"


def sample_map(
    image: Tensor,
    mapping: SplineMap,
    start: Sequence[int],
    size: Sequence[int],
    *,
    mode: Mode = "linear",
    outside: Outside = "mirror",
    use_kernel: bool = True,
) -> Tensor:
    """The window ``start`` .. ``start + size`` of the patch that ``mapping`` draws from ``image``.

    Only the part of the image that the window needs is read, so the cost does not grow with the
    volume. Where the map merely crops and flips, voxels are copied. What lies in the processor's
    memory goes through the compiled loop; ``use_kernel=False`` takes the plain torch path instead.

    Shape:
        - image: ``(C, *spatial)``, any dtype.
        - output: ``(C, *size)``; image's dtype for ``"nearest"``, else float32.
    """
    part = Part(image, tuple(start), tuple(size), mode, outside)
    return sample_maps([part], mapping, use_kernel=use_kernel)[0]


def sample_maps(parts: Sequence[Part], mapping: SplineMap, *, use_kernel: bool = True) -> list[Tensor]:
    """:func:`sample_map` for several arrays: an image and its label are read in one loop, in less time."""
    parts = [_checked(part, mapping.spatial_dims) for part in parts]
    lattice = mapping.lattice()
    if lattice is not None:
        return [_copy(part, lattice) for part in parts]
    drawn: dict[int, Tensor] = {}
    compiled = [i for i, part in enumerate(parts) if use_kernel and _fits_kernel(part)]
    compiled.sort(key=lambda i: parts[i].mode != "linear")
    while compiled:
        first = compiled.pop(0)
        along = [i for i in compiled if _reads_along(parts[i], parts[first])][:1]
        compiled = [i for i in compiled if i not in along]
        these = [first, *along]
        drawn.update(zip(these, _in_one_loop([parts[i] for i in these], mapping), strict=True))
    return [drawn[i] if i in drawn else _by_torch(part, mapping) for i, part in enumerate(parts)]


def _checked(part: Part, spatial_dims: int) -> Part:
    check_mode(part.mode)
    check_outside(part.outside, part.image.dtype if part.mode == "nearest" else torch.float32)
    _check_image(part.image, spatial_dims)
    start = per_axis(part.start, spatial_dims, "start", minimum=0)
    return part._replace(start=start, size=per_axis(part.size, spatial_dims, "size"))


def _fits_kernel(part: Part) -> bool:
    return part.mode != "cubic" and part.image.device.type == "cpu" and part.image.dtype in KERNEL_DTYPES


def _reads_along(part: Part, image: Part) -> bool:
    """Whether a part can be read in the loop that reads the image, at positions that it needs anyway."""
    ends = [[s + n for s, n in zip(p.start, p.size, strict=True)] for p in (part, image)]
    return (
        (image.mode, part.mode) == ("linear", "nearest")
        and image.image.shape[1:] == part.image.shape[1:]
        and all(s >= t for s, t in zip(part.start, image.start, strict=True))
        and all(s <= t for s, t in zip(*ends, strict=True))
    )


def _in_one_loop(parts: Sequence[Part], mapping: SplineMap) -> list[Tensor]:
    """One part, or an image and its label."""
    from volseg.bspline import kernel

    local, origin, spacing = _positions(mapping, parts[0])
    linear = parts[0] if parts[0].mode == "linear" else None
    nearest = parts[-1] if parts[-1].mode == "nearest" else None
    return kernel.sample(local, origin, spacing, linear, nearest)


def _by_torch(part: Part, mapping: SplineMap) -> Tensor:
    local, origin, spacing = _positions(mapping, part)
    on_device = torch.from_numpy(local).to(part.image.device, non_blocking=True)
    coordinates = evaluate_spline(on_device, part.start, part.size, spacing)
    limits = None if part.image.device.type == "cpu" else _hull(local)
    return _warp(part.image, coordinates, origin.tolist(), part.mode, part.outside, limits)


def _positions(
    mapping: SplineMap, part: Part
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], tuple[float, ...]]:
    """Coefficients of a window's positions relative to an origin near them; the origin; the grid spacing."""
    control, spacing = mapping.composed_control(part.start, part.size)
    spatial_axes = tuple(range(1, control.ndim))
    origin = np.rint((control.min(axis=spatial_axes) + control.max(axis=spatial_axes)) / 2).astype(np.int64)
    if np.abs(control).max() > FARTHEST:
        raise ValueError(
            f"The map reaches {np.abs(control).max():.3g} voxels far, where float32 no longer "
            "distinguishes voxels. Check its matrix, its shift and the standard deviation of displacement."
        )
    local = control - origin.reshape(-1, *(1,) * len(spatial_axes))
    return local.astype(np.float32), origin, spacing


def check_mode(mode: str) -> None:
    """Refuse an interpolation that does not exist."""
    if mode not in get_args(Mode):
        raise ValueError(
            f"mode = {mode!r} is not an interpolation; the modes are {', '.join(get_args(Mode))}."
        )


def check_outside(outside: Outside, dtype: torch.dtype) -> None:
    """Refuse a fill value that is not a number or that the dtype cannot hold."""
    if outside == "mirror":
        return
    if not isinstance(outside, (int, float)):
        raise ValueError(f"outside = {outside!r} is neither 'mirror' nor a number.")
    if dtype == torch.bool or dtype.is_floating_point:
        fits = dtype != torch.bool or outside in (0, 1)
    else:
        limits = torch.iinfo(dtype)
        fits = float(outside).is_integer() and limits.min <= outside <= limits.max
    if not fits:
        raise ValueError(
            f"The value {outside:g} for what lies beyond the volume does not fit into {dtype}. "
            "Choose another value, or convert the array first."
        )


def _check_image(image: Tensor, spatial_dims: int) -> None:
    if image.ndim != spatial_dims + 1 or 0 in image.shape:
        raise ValueError(
            f"The array has shape {tuple(image.shape)}; with {spatial_dims} spatial axes it must be "
            "(channels, *spatial) and not empty."
        )


def _copy(part: Part, lattice: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> Tensor:
    """Crop and flip by whole voxels."""
    image, start, size, mode, outside = part
    out = image
    outer = torch.zeros((1,) * image.ndim, dtype=torch.bool, device=image.device)
    for axis, (first, step, offset, n) in enumerate(zip(*lattice, start, size, strict=True), start=1):
        length = image.shape[axis]
        ends = sorted((first + step * offset, first + step * (offset + n - 1)))
        index = mirror_indices(int(ends[0]), int(ends[1]) + 1, length)
        places = np.arange(ends[0], ends[1] + 1)
        flip = slice(None, None, int(step))
        out = out.index_select(axis, torch.from_numpy(index[flip].copy()).to(image.device, non_blocking=True))
        beyond = torch.from_numpy(((places < 0) | (places >= length))[flip].copy())
        beyond = beyond.to(image.device, non_blocking=True)
        outer = outer | beyond.reshape(-1, *(1,) * (image.ndim - 1 - axis))
    if mode != "nearest":
        out = out.to(torch.float32)
    return out if outside == "mirror" else _fill(out, outer, outside)


def _hull(control: npt.NDArray[np.float32]) -> list[Limits]:
    """Between which numbers a spline stays: those of its coefficients. Known without asking the device."""
    return [(float(axis.min()), float(axis.max())) for axis in control]


def _warp(
    image: Tensor,
    coordinates: Tensor,
    origin: Sequence[int],
    mode: Mode,
    outside: Outside,
    limits: Sequence[Limits] | None = None,
) -> Tensor:
    """:func:`warp` with positions counted from ``origin``.

    Args:
        limits: per axis, numbers that the positions lie between; looked for if not given, which on a GPU
            waits for it.
    """
    lower = [-o for o in origin]
    upper = [n - 1 - o for n, o in zip(image.shape[1:], origin, strict=True)]
    inside = None
    axes, folded = [], []
    for axis, (x, lo, hi) in enumerate(zip(coordinates, lower, upper, strict=True)):
        reach = _limits(x) if limits is None else limits[axis]
        if outside != "mirror":
            within = (x >= lo - 0.5) & (x < hi + 0.5)
            inside = within if inside is None else inside & within
        axes.append(_mirror(x, lo, hi, reach))
        folded.append(_limits(axes[-1]) if limits is None else _mirror_limits(reach, lo, hi))
    if mode == "nearest":
        out = _take(image, [(torch.floor(x + 0.5) - lo).long() for x, lo in zip(axes, lower, strict=True)])
    elif mode == "linear":
        out = _linear(image, axes, origin, folded)
    else:
        out = _cubic(image, axes, lower)
    return out if inside is None or outside == "mirror" else _fill(out, ~inside, outside)


def _fill(out: Tensor, where: Tensor, value: float) -> Tensor:
    return torch.where(where, torch.full((), value, dtype=out.dtype, device=out.device), out)


def _limits(x: Tensor) -> Limits:
    smallest, largest = torch.aminmax(x)
    return float(smallest), float(largest)


def _mirror_limits(limits: Limits, lo: int, hi: int) -> Limits:
    """Between which numbers positions lie after :func:`_mirror`."""
    smallest, largest = limits
    if lo - smallest > hi - lo or largest - hi > hi - lo:
        return lo, hi
    ends = [min(max(end, lo), hi) for end in (smallest, largest)]
    ends += [min(2 * lo - smallest, hi), lo] if smallest < lo else []
    ends += [max(2 * hi - largest, lo), hi] if largest > hi else []
    return min(ends), max(ends)


def _mirror(x: Tensor, lo: int, hi: int, limits: Limits) -> Tensor:
    """Fold positions into ``lo`` .. ``hi`` by reflection at both ends."""
    if lo == hi:
        return torch.full_like(x, lo)
    smallest, largest = limits
    if (
        lo - smallest > hi - lo or largest - hi > hi - lo
    ):  # more than once: the array is smaller than the patch
        x = lo + (hi - lo) - (torch.remainder(x - lo, 2 * (hi - lo)) - (hi - lo)).abs()
    else:
        if smallest < lo:
            x = torch.where(x < lo, 2 * lo - x, x)
        if largest > hi:
            x = torch.where(x > hi, 2 * hi - x, x)
    return x.clamp(lo, hi)


def _take(image: Tensor, index: Sequence[Tensor]) -> Tensor:
    every: tuple[slice | Tensor, ...] = (slice(None), *index)
    return image[every]


def _linear(image: Tensor, axes: Sequence[Tensor], origin: Sequence[int], limits: Sequence[Limits]) -> Tensor:
    """Linear interpolation by ``grid_sample`` on the block of the image that is needed."""
    block, grid = image, []
    for axis, (x, o, (smallest, largest)) in enumerate(zip(axes, origin, limits, strict=True), start=1):
        first = int(np.floor(smallest)) + o
        last = min(int(np.ceil(largest)) + o, image.shape[axis] - 1)
        block = block.narrow(axis, first, last - first + 1)
        grid.append((x - (first - o)) * (2 / max(last - first, 1)) - 1)
    flow = torch.stack(grid[::-1], dim=-1)[None]
    with torch.autocast(image.device.type, enabled=False):
        return F.grid_sample(
            block.to(flow.dtype)[None],
            flow,
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )[0]


def _cubic(image: Tensor, axes: Sequence[Tensor], lower: Sequence[int]) -> Tensor:
    """Keys' cubic convolution, a sum over the 4^spatial_dims voxels around each position."""
    firsts, weights = [], []
    for x, lo in zip(axes, lower, strict=True):
        floor = torch.floor(x)
        t = x - floor
        firsts.append((floor - lo).long() - 1)
        weights.append(
            (
                ((2 - t) * t - 1) * t / 2,
                ((3 * t - 5) * t * t + 2) / 2,
                ((4 - 3 * t) * t + 1) * t / 2,
                (t - 1) * t * t / 2,
            )
        )
    out = torch.zeros((), dtype=axes[0].dtype, device=image.device)
    for taps in product(range(4), repeat=len(axes)):
        index = [
            _mirror_index(first + k, n) for first, k, n in zip(firsts, taps, image.shape[1:], strict=True)
        ]
        weight = weights[0][taps[0]]
        for axis in range(1, len(axes)):
            weight = weight * weights[axis][taps[axis]]
        out = out + weight * _take(image, index)
    return out


def _mirror_index(index: Tensor, size: int) -> Tensor:
    if size == 1:
        return torch.zeros_like(index)
    return size - 1 - (torch.remainder(index, 2 * (size - 1)) - (size - 1)).abs()
