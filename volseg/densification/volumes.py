"""The result as a volume: paint put back, values as in the painted file, names and colours kept."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.densification.calibration import Calibrator
from volseg.densification.inputs import Inputs
from volseg.densification.outputs import Outputs
from volseg.io import Segment, Volume, segments_of, with_segments, write_volume
from volseg.labels import IGNORE_INDEX
from volseg.report import class_colours

__all__ = ["classes_of", "values_of", "write_volumes"]


def classes_of(
    inputs: Inputs, scores: npt.NDArray[np.float32], calibrator: Calibrator, *, keep_painted: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Class index and confidence of every voxel; what was painted is as painted, and certain."""
    classes = scores.argmax(0).astype(np.uint8)
    confidence = calibrator.confidence(scores)
    if keep_painted:
        labels = inputs.paint.labels
        classes[labels != IGNORE_INDEX] = labels[labels != IGNORE_INDEX]
        confidence[inputs.painted] = 1
    return classes, confidence


def values_of(inputs: Inputs, classes: npt.NDArray[np.uint8], *, keep_painted: bool) -> npt.NDArray[Any]:
    """Values as in the painted file, in the smallest type that holds them."""
    values = inputs.scheme.decode(classes)
    unknown = inputs.paint.unknown
    if keep_painted and unknown:  # somebody insisted although these are no classes
        numbers = [*inputs.scheme.values, *unknown]
        values = values.astype(np.result_type(*(np.min_scalar_type(n) for n in numbers)))
        values[inputs.painted] = inputs.label.array[0][inputs.painted]
    return values


def write_volumes(
    outputs: Outputs, inputs: Inputs, values: npt.NDArray[Any], confidence: npt.NDArray[np.float32]
) -> list[Path]:
    """The segmentation, and how sure it is in percent."""
    write_volume(outputs.segmentation, values, _like(inputs, outputs.segmentation), overwrite=True)
    percent = np.rint(100 * confidence).astype(np.uint8)
    write_volume(outputs.confidence, percent, inputs.image, overwrite=True)
    return [outputs.segmentation, outputs.confidence]


def _like(inputs: Inputs, path: Path) -> Volume:
    """The image; for 3D Slicer with the names and colours of the classes, and where Slicer has the image."""
    if not path.name.lower().endswith(".seg.nrrd"):
        return inputs.image
    known = {segment.value: segment for segment in segments_of(inputs.label)}
    segments = []
    for index, (value, name) in enumerate(zip(inputs.scheme.values, inputs.scheme.names, strict=True)):
        red, green, blue = class_colours(len(inputs.scheme))[index] / 255
        if value != 0:  # which is no segment there
            segments.append(known.get(value, Segment(value, name, (float(red), float(green), float(blue)))))
    painted_there = segments_of(inputs.label) and inputs.label.spatial_shape == inputs.image.spatial_shape
    return with_segments(inputs.label if painted_there else inputs.image, segments)
