"""What is unlabelled where nobody said it: concluded where it is plain, asked where it is not.

Programs write 0 where nothing was painted, scripts write 255, -1 or NaN. Read by the wrong rule, everything
that nobody painted becomes a class, and that class is learnt. Two signs are plain enough to act on, and what
was done is said: a class that is *called* background although 0 occurs as well, and a usual value for
unlabelled that fills everything beside a few full slices. What looks like it, but not beyond doubt, is
asked about: an error that spells out the option for each answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from volseg.annotation.slices import annotated_slices, on_slices
from volseg.labels import IGNORE_INDEX, background_of

__all__ = ["Doubt", "Intent", "intent_of", "looks_grey"]

_MARKS = (-1, 255, 254, 65535, 2**31 - 1, 2**32 - 1)  # usual values for unlabelled
_MOST = 0.5  # of the voxels, what is unlabelled fills at least
_FULL = 0.9  # of a slice that was labelled and not scribbled on
_STRAY = 0.01  # of the labelled voxels may lie beside full slices
_GREY_VALUES = 6  # fewer are no grey values, and no distances either
_GREY_PAIRS = 20  # of neighbouring voxels, without which nothing can be told
_GREY_STEPS = 0.3  # of neighbouring voxels differ in an image; in labels those at borders do
_SOME = 2**22  # voxels that are looked at


class Doubt(NamedTuple):
    """What was concluded about an annotation, or has to be asked; its words as of a finding."""

    kind: str
    severity: Literal["error", "warning", "note"]
    message: str


class Intent(NamedTuple):
    """How to read an array: the value for unlabelled, or that 0 is unlabelled everywhere; and why.

    ``mark`` is the value in doubt, whether it was taken for unlabelled or has to be asked about.
    """

    unlabelled: int | None = None
    painted_only: bool = False
    doubt: Doubt | None = None
    mark: int | None = None


def intent_of(
    array: npt.NDArray[Any],
    counts: Mapping[int, int],
    classes: Sequence[int] | None,
    names: Mapping[int, str],
) -> Intent:
    """What is unlabelled in an array of values, where nobody said it.

    Args:
        counts: every value and how many voxels hold it.
        classes: values that are classes; all but unlabelled if None.
        names: of the classes, by value.
    """
    known = {*names, *(classes or ())}
    background = background_of(list(names.values()))
    if background is not None and 0 in counts and 0 not in known:
        value, name = list(names.items())[background]
        return Intent(painted_only=True, doubt=_named_background(value, name))
    marks = [value for value in counts if value in _MARKS or value < 0]
    for mark in sorted(marks, key=lambda value: -counts[value]):
        others = [value for value in counts if value != mark]
        if mark in known:
            continue
        share = counts[mark] / max(1, array.size)
        if not others or (share >= _MOST and (mark < 0 or known or _beside_full_slices(array, mark))):
            return Intent(mark, doubt=_taken(mark, share), mark=mark)
        if mark < 0 or (share >= _MOST and others != [0]):
            return Intent(doubt=_asked(mark, share), mark=mark)
    return Intent()


def looks_grey(array: npt.NDArray[Any]) -> bool:
    """Whether values are those of an image, or of a map of distances, and not labels: neighbours differ."""
    step = max(1, array.size // _SOME)
    part = array if step == 1 or array.ndim < 3 else array[..., ::step]
    pairs = (part[1:] != 0) & (part[:-1] != 0)  # small objects on nothing are labels all the same
    n = int(np.count_nonzero(pairs))
    if n < _GREY_PAIRS or np.count_nonzero(pairs & (part[1:] != part[:-1])) < _GREY_STEPS * n:
        return False
    return len(np.unique(part)) >= _GREY_VALUES


def _beside_full_slices(array: npt.NDArray[Any], mark: int) -> bool:
    """Whether a value fills all but a few slices that hold other values everywhere."""
    if array.ndim != 3:
        return False
    labelled = array != mark
    slices = annotated_slices(np.where(labelled, np.uint8(0), np.uint8(IGNORE_INDEX)), min_fraction=_FULL)
    if not any(slices) or any(len(found) == n for found, n in zip(slices, array.shape, strict=True)):
        return False
    return bool(
        np.count_nonzero(labelled & ~on_slices(array.shape, slices)) <= _STRAY * np.count_nonzero(labelled)
    )


def _named_background(value: int, name: str) -> Doubt:
    return Doubt(
        "unlabelled_zero",
        "note",
        f"The class {value} is named {name!r}, and 0 occurs as well and has no name. So 0 was taken as "
        "unlabelled everywhere, as with --painted-only (painted_only=True in Python). If 0 is a class of its "
        f"own, name it, too: --names 0=NAME {value}={name} ...",
    )


def _taken(mark: int, share: float) -> Doubt:
    return Doubt(
        "unlabelled_value",
        "warning",
        f"{mark} fills {share:.1%} of the voxels and is no class that was named: it was taken as unlabelled, "
        f"as with --unlabelled {mark} (unlabelled={mark} in Python). If it is a class, name it: --names "
        f"{mark}=NAME and all others.",
    )


def _asked(mark: int, share: float) -> Doubt:
    return Doubt(
        "unlabelled_value",
        "error",
        f"{mark} fills {share:.1%} of the voxels. Is it the value for unlabelled, or a class? If it is taken "
        f"for the wrong one, everything that is unlabelled is learnt as a class. Say --unlabelled {mark} "
        f"(unlabelled={mark} in Python), or name it as a class with all others: --names {mark}=NAME ...",
    )
