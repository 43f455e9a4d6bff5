"""What is probably wrong with an annotation, said before anything is trained on it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.annotation.audit.agreement import check_agreement
from volseg.annotation.audit.classes import check_classes
from volseg.annotation.audit.misfit import check_overlay
from volseg.annotation.audit.placement import check_padding, check_placement
from volseg.annotation.audit.planes import Names, planes
from volseg.annotation.audit.strokes import check_coverage, check_scribbles, check_strokes
from volseg.annotation.paint import Paint
from volseg.annotation.strokes import are_strokes, strokes_of
from volseg.findings import Finding
from volseg.labels import IGNORE_INDEX

__all__ = ["audit"]


def audit(
    image_shape: Sequence[int],
    spacing: Sequence[float],
    paint: Paint,
    image: npt.NDArray[Any] | None = None,
    names: Names | None = None,
) -> list[Finding]:
    """Everything that looks wrong with an annotation, errors first.

    What is looked for is listed in ``docs/annotation.md``. Nothing is said of a clean annotation; a real one
    may be right and still get a warning, which is why each names the place to look at.

    Args:
        image_shape: of the image, ``(*spatial)``.
        spacing: voxel size per axis, in any unit.
        paint: see :func:`understand_paint`.
        image: ``(C, *spatial)``; without it, no check compares labels with image.
        names: of the classes that are expected, by their values in the file.
    """
    shape = paint.labels.shape
    if len(spacing) != len(shape) or not all(0 < s < math.inf for s in spacing):
        raise ValueError(
            f"spacing = {tuple(spacing)} is not one positive voxel size for each of the {len(shape)} axes."
        )
    if image is not None and image.shape[1:] != tuple(image_shape):
        raise ValueError(
            f"image has the shape {image.shape}, which is not (channels, *{tuple(image_shape)}) as "
            "image_shape says."
        )
    found = list(_findings(tuple(image_shape), tuple(spacing), paint, image, names or {}))
    return sorted(found, key=lambda finding: finding.rank)


def _findings(
    image_shape: tuple[int, ...],
    spacing: tuple[float, ...],
    paint: Paint,
    image: npt.NDArray[Any] | None,
    names: Names,
) -> Iterator[Finding]:
    if paint.labels.shape != image_shape:
        yield _other_shape(paint.labels.shape, image_shape)
        image = None
    yield from paint.doubts
    if image is not None:
        yield from _same_as_image(paint, image)
    if any(finding.kind == "grey_values" for finding in paint.doubts):
        return
    looked_at = planes(paint)
    in_classes = list(check_classes(paint, looked_at, names))
    yield from in_classes
    if any(finding.kind in ("empty", "interpolated", "one_class") for finding in in_classes):
        return
    if are_strokes(paint.labels):
        yield from check_coverage(paint, strokes_of(paint.labels, spacing), names, image)
    yield from check_placement(paint, spacing)
    if image is not None:
        yield from check_padding(paint, image)
        misplaced = list(check_overlay(image, looked_at))
        yield from misplaced
        if not misplaced:
            yield from check_scribbles(paint, names, image)
        image = None if misplaced else image  # then it says nothing about single voxels
    else:
        yield from check_scribbles(paint, names, None)
    yield from check_agreement(paint, looked_at, image)
    yield from check_strokes(paint, looked_at, names, image)


def _same_as_image(paint: Paint, image: npt.NDArray[Any]) -> Iterator[Finding]:
    """The image given as its own label: each class is one grey value."""
    values = np.array([*paint.values, 0, 0])[np.minimum(paint.labels, len(paint.values))]
    known = paint.labels != IGNORE_INDEX
    if not known.any() or len(paint.values) < 3:
        return
    for channel in image:
        if np.array_equal(values[known], channel[known]):
            yield Finding(
                "same_as_image",
                "error",
                "Every label equals the image's grey value at its voxel: the image was probably given as "
                "label, too",
                "Nothing can be learnt from that",
                "Give the image first and the painted file second",
            )
            return


def _other_shape(labels: tuple[int, ...], image: tuple[int, ...]) -> Finding:
    if sorted(labels) == sorted(image):
        remedy = "These are the same sizes in another order: reorder the axes of the label file"
    else:
        remedy = "Export the labels on the grid of the image, neither cropped nor resampled"
    return Finding(
        "shape",
        "error",
        f"The labels have the shape {labels}, the image {image}",
        "No voxel of one can be matched with one of the other",
        remedy,
    )
