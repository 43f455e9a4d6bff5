"""What is wrong with the values of one file, though it can be read.

A label may be an image in its place, or paint that leaves most open. Grey values may hold one number for all,
fill values, hot voxels, or numbers too large to compute with.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.annotation import intent_of, looks_grey, summarise, understand_paint
from volseg.annotation.audit import check_scribbles
from volseg.findings import Finding
from volseg.greyvalues import GreyScale, measure_grey_values
from volseg.instances import InstanceScheme
from volseg.io import Volume
from volseg.labels import LabelScheme

__all__ = ["odd_labels", "odd_values", "values_of"]

Array = npt.NDArray[np.generic]

_MOST_PAINT = 2**24  # painted voxels of a label that can be one of a few slices
_FAR = 10.0  # widths of the bulk beyond a limit, of hot voxels
_MOST_HOT = 10_000  # voxels that can be hot
_FEW = 0.5  # of the slices of one direction, no more carry paint


def odd_labels(label: Volume, image: Volume, labels: LabelScheme | None, file: str) -> Iterator[Finding]:
    """What would be learnt wrongly from a label, though every value of it is one that is known.

    Args:
        labels: what the bundle says of its values, if there is a bundle.
    """
    array = label.array[0]
    if looks_grey(array):
        yield Finding(
            "grey_values",
            "error",
            "it looks like an image, a map of distances or probabilities, or a label that was interpolated: "
            "neighbours hardly ever have the same of its many values",
            todo="If image and label were exchanged, put each in the other's place; if a label was resampled "
            "or rotated, export it again with nearest neighbours",
            file=file,
        )
        return
    known = array != (labels.unlabelled if labels else None)
    if len(values_of(array)) > 2 and any(np.array_equal(array[known], c[known]) for c in image.array):
        yield Finding(
            "same_as_image",
            "error",
            "every label equals the image's grey value at its voxel",
            todo="The image was probably given as label, too: put the painted file in its place",
            file=file,
        )
        return
    if label.blank is not None or isinstance(labels, InstanceScheme):
        return
    said = list(_unsaid(array, file)) if labels is None else []
    yield from said or _left_open(array, image, labels, file)


def values_of(array: Array) -> list[int]:
    """The values that occur, ascending."""
    if array.dtype.itemsize <= 2:
        low = int(array.min(initial=0))
        found = np.flatnonzero(np.bincount(array.ravel().astype(np.int32) - low)) + low
        return [int(value) for value in found]
    return [int(value) for value in np.unique(array)]


def _unsaid(array: Array, file: str) -> Iterator[Finding]:
    """A value that looks as if it marked what is unlabelled, where no bundle says what values mean."""
    values, n = np.unique(array, return_counts=True)
    counts = Counter({int(value): int(k) for value, k in zip(values, n, strict=True)})
    mark = intent_of(array, counts, None, {}).mark
    if mark is not None:
        yield Finding(
            "unlabelled_value",
            "warning",
            f"{mark} fills {counts[mark] / array.size:.1%} of it and looks like the value for unlabelled",
            todo=f'If it is, give the bundle\'s labels "unlabelled": {mark}; if not, name it as a class',
            file=file,
        )


def _left_open(array: Array, image: Volume, labels: LabelScheme | None, file: str) -> Iterator[Finding]:
    """0 is a class, or it was not said what it is, and it looks as if it meant unlabelled."""
    values = labels.values if labels else (0,)
    if 0 not in values or (labels and labels.unlabelled is not None and np.any(array == labels.unlabelled)):
        return
    if not 0 < np.count_nonzero(array) <= _MOST_PAINT:
        return
    paint = understand_paint(array, classes=labels.values if labels else None)
    named = f" {labels.names[values.index(0)]!r}" if labels else ""
    why = f"If so, 0{named} would be learnt from voxels without paint"
    todo = (
        'Give these a value of their own, such as 255, and the bundle\'s labels "unlabelled": 255; or '
        "segment this one with volseg densify"
    )
    slices = [(axis, index) for axis, found in enumerate(paint.slices) for index in found]
    few = all(len(found) < _FEW * n for found, n in zip(paint.slices, array.shape, strict=False))
    alone = not any((axis, index + 1) in slices for axis, index in slices)
    if slices and few and alone:
        what = f"it is 0 everywhere but on {summarise(slices)}: only these look painted"
        yield Finding("unlabelled_zero", "warning", what, why, todo, file=file)
    if any(check_scribbles(paint, {}, image.array)):
        what = "the paint looks like strokes, not like finished slices or objects"
        yield Finding("scribbles", "warning", what, why, todo, file=file)


def odd_values(image: Array, file: str) -> Iterator[Finding]:
    """What is odd about the grey values of an image ``(C, *spatial)``, as warnings about ``file``."""

    def odd(what: str, todo: str) -> Finding:
        return Finding("values", "warning", what, todo=todo, file=file)

    for number, channel in enumerate(image):
        which = f"channel {number}: " if len(image) > 1 else ""
        if channel.min() == channel.max():
            yield odd(
                f"{which}it is {channel.flat[0]:g} everywhere",
                "Check that the right thing was exported; nothing can be learnt from it. (32-bit floating "
                "point keeps 7 digits: of large numbers it loses small differences.)",
            )
            continue
        if channel.dtype.kind == "b" or not np.isfinite(channel).all():
            continue  # the second is an error of its own
        scale = measure_grey_values(lambda spans, voxels=channel: voxels[spans], channel.shape)  # type: ignore[misc]
        kept = channel.astype(np.float64, copy=False)
        for fill in scale.outside:
            yield odd(
                which + _about_fill(kept, fill, scale),
                "volseg densify, and a bundle that normalises with volseg.NormalizeGreyValuesd, take it "
                "to mark what is outside of the picture. Check that this is so",
            )
        hot = _hot_voxels(kept, scale)
        if len(hot):
            x = ", ".join(str(int(i)) for i in hot[0])
            yield odd(
                f"{which}{len(hot)} voxel(s) stand out from everything around them, the first "
                f"{kept[tuple(hot[0])]:g} at voxel {x} (counted from 0), where most lie between "
                f"{scale.low + scale.width:.4g} and {scale.high - scale.width:.4g}",
                "If they are hot or dead, repair them (in Fiji: Remove Outliers). They do no harm in volseg "
                "densify, and where a bundle normalises with volseg.NormalizeGreyValuesd",
            )
        largest = float(np.abs(kept).max(initial=0))
        with np.errstate(over="ignore"):
            is_too_large = np.isinf(np.float32(largest))
        if is_too_large:
            yield odd(
                f"{which}it holds values up to {largest:g}, too large for 32-bit floating point",
                "Networks compute in it: normalise with volseg.NormalizeGreyValuesd, or divide the image",
            )


def _about_fill(channel: npt.NDArray[np.float64], fill: float, scale: GreyScale) -> str:
    return (
        f"{float(np.mean(channel == fill)):.1%} of the voxels are {fill:g}, far from most others "
        f"({scale.low + scale.width:.4g} to {scale.high - scale.width:.4g})"
    )


def _hot_voxels(channel: npt.NDArray[np.float64], scale: GreyScale) -> npt.NDArray[np.intp]:
    """Where voxels lie far outside and those around them do not, ``(n, dims)``."""
    far = (channel < scale.low - _FAR * scale.width) | (channel > scale.high + _FAR * scale.width)
    for fill in scale.outside:
        far &= channel != fill
    if not 0 < np.count_nonzero(far) <= _MOST_HOT:
        return np.empty((0, channel.ndim), np.intp)
    # No more than a line among the 3 voxels along each axis is far; of a spot, more are.
    crowd = ndimage.uniform_filter(far.astype(np.float32), 3, mode="nearest")
    return np.argwhere(far & (crowd * 3**channel.ndim < 3.5))
