"""Cases on disk, and the two datasets made of them.

A `Case` names the files of one image; :func:`load_case` reads it: the image ``(C, *spatial)`` float32, the
label ``(1, *spatial)`` as class indices with 255 where nothing is labelled. `TrainingPatches` gives patches
of the annotated part of cases, `WholeVolumes` cases as they are, for scoring and segmentation.
"""

from volseg.annotation.record import Record, annotation_of, is_record, learnt_of
from volseg.data.cases import Case, find_cases, find_images, join_channels, listed, output_of, stem
from volseg.data.datasets import Cases, TrainingPatches, WholeVolumes
from volseg.data.loader import PatchLoader
from volseg.data.loading import LoadedCase, load_case
from volseg.data.phantoms import KINDS, write_phantom

__all__ = [
    "KINDS",
    "Case",
    "Cases",
    "LoadedCase",
    "PatchLoader",
    "Record",
    "TrainingPatches",
    "WholeVolumes",
    "annotation_of",
    "find_cases",
    "find_images",
    "is_record",
    "join_channels",
    "learnt_of",
    "listed",
    "load_case",
    "output_of",
    "stem",
    "write_phantom",
]
