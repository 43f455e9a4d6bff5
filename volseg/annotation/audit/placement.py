"""What is wrong with where an annotation is: its slices, and paint where there is nothing to paint."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.annotation.numbering import PLANES, numbered, summarise
from volseg.annotation.paint import Paint
from volseg.annotation.slices import on_slices, project
from volseg.annotation.strokes import are_strokes
from volseg.findings import Finding
from volseg.labels import IGNORE_INDEX

__all__ = ["check_padding", "check_placement"]

_STRAY = 0.01  # share of the labelled voxels: what lies outside of all slices beyond it is not a slip
_SCORED = 3  # slices without which none can be held out
_BUNCHED = 0.35  # of the extent that evenly spread slices would have
_MIN_SLICES = 12  # along an axis, below which slices cannot be far from each other
_ISOTROPIC = 1.5  # largest by smallest spacing up to which directions are equally good to see
_SHORT = 2.0  # how much shorter, or coarser, an axis has to be to stand out
_BLOCK = 1.5  # how many times thicker than wide a painted block may be for its direction to be unclear
_PADDING = 5  # voxels painted beside the image's content that are not a slip of the brush


def check_placement(paint: Paint, spacing: Sequence[float]) -> Iterator[Finding]:
    """Findings about the slices and the axes, for which no image is needed."""
    shape = paint.labels.shape
    yield from _axis_order(shape, spacing)
    if not any(paint.slices) or all(len(found) == n for found, n in zip(paint.slices, shape, strict=True)):
        return
    if are_strokes(paint.labels):
        return  # slices are not what was painted
    yield from _few(paint)
    yield from _stray(paint)
    unclear = list(_unclear(paint))
    yield from unclear
    for axis, indices in enumerate(paint.slices):
        n, k = shape[axis], len(indices)
        if k < 2 or n < _MIN_SLICES or unclear:
            continue
        extent, even = indices[-1] - indices[0], n * (k - 1) / k
        if extent < _BUNCHED * even:
            yield Finding(
                "bunched",
                "warning",
                f"The {k} {PLANES[axis]} slices lie between {numbered('xyz'[axis], indices[0], n)} and "
                f"{numbered('xyz'[axis], indices[-1], n)}",
                "Neighbours show nearly the same, and the rest of the volume is not seen",
                f"Spread them: the next one at {numbered('xyz'[axis], _furthest(indices, n), n)}",
                slices=tuple(("xyz"[axis], i) for i in indices),
            )
    directions = [axis for axis, indices in enumerate(paint.slices) if indices]
    if len(directions) == 1 and max(spacing) <= _ISOTROPIC * min(spacing) and 2 * min(shape) > max(shape):
        (axis,) = directions
        others = " or ".join(plane for plane in PLANES if plane != PLANES[axis])
        yield Finding(
            "one_direction",
            "note",
            f"All painted slices are {PLANES[axis]} slices",
            "The voxel is as fine in the other directions, in which shapes look different and nothing tests "
            "the result",
            f"Paint one {others} slice instead of another {PLANES[axis]} one",
            slices=tuple(("xyz"[axis], i) for i in paint.slices[axis]),
        )


def check_padding(paint: Paint, image: npt.NDArray[Any]) -> Iterator[Finding]:
    """Paint where the image is the same value all over, at its sides."""
    padding = _padding(image)
    labels = paint.labels[padding]
    labels = labels[labels != IGNORE_INDEX]
    if not labels.size:
        return
    counts = np.bincount(labels, minlength=len(paint.values))
    if 0 in paint.values:
        background = paint.values.index(0)
    else:
        background = -1 if paint.rule == "painted" else int(np.argmax(counts))
    foreground = padding & (paint.labels != IGNORE_INDEX) & (paint.labels != background)
    n = int(np.count_nonzero(foreground))
    if n < _PADDING:
        return
    voxel = tuple(int(axis[0]) for axis in np.nonzero(foreground))
    slices = [(axis, i) for axis, found in enumerate(paint.slices) for i in found if voxel[axis] == i]
    yield Finding(
        "outside",
        "warning",
        f"{n} voxels are painted where the image is empty (one value up to its side), the first at voxel "
        f"{voxel}{' on ' + summarise(slices) if slices else ''}",
        "Nothing can be learnt there but a wrong rule",
        "Erase them; if they should lie on the object, the labels are shifted",
        slices=tuple(("xyz"[axis], i) for axis, i in slices),
        voxel=voxel,
    )


def _few(paint: Paint) -> Iterator[Finding]:
    """So few slices that none can be held out."""
    slices = [(axis, index) for axis, found in enumerate(paint.slices) for index in found]
    if len(slices) >= _SCORED:
        return
    axis, index = slices[0]
    n = paint.labels.shape[axis]
    free = [numbered("xyz"[axis], i, n) for i in (n // 4, n // 2, 3 * n // 4) if abs(i - index) > n // 8]
    what = "Only one slice is" if len(slices) == 1 else "Only two slices are"
    yield Finding(
        "few_slices",
        "warning",
        f"{what} painted ({summarise(slices)})",
        "None can be held out, so there will be no score, and hardly more than that is learnt",
        f"Paint at least three, some slices apart, such as {', '.join(free)}",
        slices=tuple(("xyz"[a], i) for a, i in slices),
    )


def _axis_order(shape: Sequence[int], spacing: Sequence[float]) -> Iterator[Finding]:
    """A volume whose short axis is not its coarse one, as if one of them were in another order."""
    coarse = _outstanding([1 / s for s in spacing])
    short = _outstanding(shape)
    if len(shape) == 3 and coarse is not None and short is not None and coarse != short:
        x = "xyz"
        yield Finding(
            "axis_order",
            "warning",
            f"The volume has few slices along {x[short]} ({shape[short]} of {max(shape)}), but its voxels "
            f"are long along {x[coarse]} ({spacing[coarse]:g} to {min(spacing):g})",
            "Stacks have few slices where these are far apart: spacing or axes are probably in another order",
            "Check both in the program that wrote the file",
        )


def _outstanding(sizes: Sequence[float]) -> int | None:
    """The axis that is much smaller than the others, which are alike."""
    order = np.argsort(sizes)
    smallest, second, largest = (sizes[i] for i in (order[0], order[1], order[-1]))
    return int(order[0]) if _SHORT * smallest <= second and largest <= _ISOTROPIC * second else None


def _stray(paint: Paint) -> Iterator[Finding]:
    labelled = paint.labels != IGNORE_INDEX
    stray = labelled & ~on_slices(labelled.shape, paint.slices)
    n = int(np.count_nonzero(stray))
    if n == 0 or (paint.rule != "slices" and n > _STRAY * np.count_nonzero(labelled)):
        return  # where 0 is not background, scribbles in space are a way to annotate
    voxel = tuple(int(axis[0]) for axis in np.nonzero(stray))
    yield Finding(
        "stray",
        "warning",
        f"{n} voxels are painted outside of the painted slices, the first at voxel {voxel}, "
        f"{summarise([(2, voxel[2])])}",
        "They look like slips of the brush, or a slice that was only begun",
        "Erase them, or finish that slice",
        slices=(("z", voxel[2]),),
        voxel=voxel,
    )


def _unclear(paint: Paint) -> Iterator[Finding]:
    """A block of adjacent slices that is no wider than thick: it may be slices of another direction."""
    directions = [axis for axis, indices in enumerate(paint.slices) if indices]
    if paint.background is None or len(directions) != 1:
        return
    (axis,) = directions
    indices = paint.slices[axis]
    if len(indices) < 2 or indices[-1] - indices[0] >= len(indices):
        return
    painted = (paint.labels != IGNORE_INDEX) & (paint.labels != paint.background)
    widths = {a: int(np.count_nonzero(project(painted, a))) for a in range(3)}
    if any(2 * width > n for width, n in zip(widths.values(), painted.shape, strict=True)):
        return
    narrow = min((a for a in widths if a != axis), key=lambda a: widths[a])
    if widths[narrow] > _BLOCK * len(indices):
        return
    voxel = tuple(int(a[0]) for a in np.nonzero(painted))
    yield Finding(
        "unclear",
        "warning",
        f"The paint is one block, taken for the {PLANES[axis]} slices from "
        f"{numbered('xyz'[axis], indices[0])} to {numbered('xyz'[axis], indices[-1])}; it could "
        f"as well be {widths[narrow]} {PLANES[narrow]} slices, or an object painted in 3D",
        "All other voxels of these slices count as background",
        "If they are not, let only painted voxels count, or mark what is unlabelled with a value",
        slices=tuple(("xyz"[axis], i) for i in indices),
        voxel=voxel,
    )


def _furthest(indices: Sequence[int], n: int) -> int:
    """The slice that is furthest from all painted ones."""
    away = np.abs(np.arange(n)[:, None] - np.asarray(indices)).min(1)
    return int(np.argmax(away))


def _padding(image: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Slices at the sides of the image that hold one value per channel, always the same."""
    mask = np.zeros(image.shape[1:], bool)
    for axis in range(mask.ndim):
        slices, inside = np.moveaxis(image, 1 + axis, 1), np.moveaxis(mask, axis, 0)
        for order in (range(len(inside)), range(len(inside) - 1, -1, -1)):
            corner: Any = (slice(None), order[0], *[slice(0, 1)] * (mask.ndim - 1))
            for index in order:
                if not np.all(slices[:, index] == slices[corner]):
                    break
                inside[index] = True
    return mask
