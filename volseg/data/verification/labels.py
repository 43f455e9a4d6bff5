"""What is wrong with a label beside its image: an image in its place, or paint that leaves most open."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from volseg.annotation import intent_of, looks_grey, summarise, understand_paint
from volseg.annotation.audit import check_scribbles
from volseg.data.verification.expectations import Finding
from volseg.instances import InstanceScheme
from volseg.io import Volume
from volseg.labels import LabelScheme

__all__ = ["odd_labels", "values_of"]

Array = npt.NDArray[np.generic]

_MOST_PAINT = 2**24  # painted voxels of a label that can be one of a few slices
_FEW = 0.5  # of the slices of one direction, no more carry paint


def odd_labels(label: Volume, image: Volume, labels: LabelScheme | None, file: str) -> Iterator[Finding]:
    """What would be learnt wrongly from a label, though every value of it is one that is known.

    Args:
        labels: what the bundle says of its values, if there is a bundle.
    """
    array = label.array[0]
    if looks_grey(array):
        yield Finding(
            "error",
            file,
            "it looks like an image, a map of distances or probabilities, or a label that was interpolated: "
            "neighbours hardly ever have the same of its many values",
            "If image and label were exchanged, put each in the other's place; if a label was resampled or "
            "rotated, export it again with nearest neighbours.",
        )
        return
    known = array != (labels.unlabelled if labels else None)
    if len(values_of(array)) > 2 and any(np.array_equal(array[known], c[known]) for c in image.array):
        yield Finding(
            "error",
            file,
            "every label equals the image's grey value at its voxel",
            "The image was probably given as label, too: put the painted file in its place.",
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
            "warning",
            file,
            f"{mark} fills {counts[mark] / array.size:.1%} of it and looks like the value for unlabelled",
            f'If it is, give the bundle\'s labels "unlabelled": {mark}; if not, name it as a class.',
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
    todo = (
        f"If so, 0{named} would be learnt from voxels without paint. Give these a value of their own, "
        'such as 255, and the bundle\'s labels "unlabelled": 255; or segment this one with volseg densify.'
    )
    slices = [(axis, index) for axis, found in enumerate(paint.slices) for index in found]
    few = all(len(found) < _FEW * n for found, n in zip(paint.slices, array.shape, strict=False))
    alone = not any((axis, index + 1) in slices for axis, index in slices)
    if slices and few and alone:
        what = f"it is 0 everywhere but on {summarise(slices)}: only these look painted"
        yield Finding("warning", file, what, todo)
    if any(check_scribbles(paint, {}, image.array)):
        what = "the paint looks like strokes, not like finished slices or objects"
        yield Finding("warning", file, what, todo)
