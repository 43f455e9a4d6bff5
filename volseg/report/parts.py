"""What a report shows, as plain values, so that any workflow can fill it in.

Arrays are as everywhere: an image ``(C, *spatial)``, class indices ``(*spatial)`` with 255 for
unlabelled, axes x, y, z. A slice is named by the axis it is perpendicular to and its index from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.annotation import numbered
from volseg.findings import Finding
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.metrics import Headline

__all__ = [
    "AXES",
    "Amount",
    "Calibration",
    "CaseRow",
    "ClassScore",
    "LearningCurve",
    "MethodScores",
    "Report",
    "Suggestion",
    "readable",
]

_ROUNDING = 1e-6  # how far a confidence may lie beyond 0 and 1


def readable(text: str) -> str:
    """A text of which every letter can be drawn: names of files may be no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class ClassScore:
    """How well one class was found; ``None`` where it cannot be known.

    Args:
        interval: lower and upper end of the confidence interval of the IoU over slices.
        surface: surface Dice at a tolerance of one voxel.
    """

    iou: float | None
    dice: float | None = None
    interval: tuple[float, float] | None = None
    surface: float | None = None


@dataclass(frozen=True)
class CaseRow:
    """One case of several: a row of the index.

    Args:
        figures: IoU, Dice and surface Dice of the headline, then the IoU of each class; ``None`` where there
            is none.
        what: such as ``"worst"``; empty for most.
        link: the page of the case beside this one; empty if it has none.
    """

    name: str
    figures: Sequence[float | None]
    what: str = ""
    link: str = ""


@dataclass(frozen=True)
class MethodScores:
    """One way to segment the volume, and its score per class, in the order of the classes.

    Args:
        mean: of all classes; ``None`` to leave it out.
        headline: of the classes that :attr:`Report.headline` names.
    """

    method: str
    classes: Sequence[ClassScore]
    mean: ClassScore | None = None
    headline: ClassScore | None = None


@dataclass(frozen=True)
class LearningCurve:
    """Loss over iterations; the validation score may be measured at other iterations.

    Args:
        name: of what was trained, where there are several.
        breaks: points before which something new began, so that no line leads there.
    """

    iterations: Sequence[float]
    loss: Sequence[float]
    validation_iterations: Sequence[float] = ()
    validation: Sequence[float] = ()
    validation_name: str = "mean IoU, held out"
    name: str = ""
    breaks: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name, xs, ys in (
            ("loss", self.iterations, self.loss),
            ("validation", self.validation_iterations, self.validation),
        ):
            if len(xs) != len(ys):
                raise ValueError(
                    f"{name} has {len(ys)} values for {len(xs)} iterations: one for each is needed."
                )


@dataclass(frozen=True)
class Suggestion:
    """The slice, or the place, to paint next.

    Args:
        axis: across the slice; empty for an image.
        gain: most that the mean IoU of all classes is expected to rise; ``None`` where no one knows.
        todo: in which file to paint it, and what to do then.
        command: to continue with.
        point: the voxel, where a place is meant and not a whole slice.
        classes: names of the two that are taken for each other there.
    """

    axis: str
    index: int
    gain: float | None = None
    text: str = ""
    todo: str = ""
    command: str = ""
    point: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    def in_words(self, size: Sequence[int]) -> str:
        """``z = 15 (16 of 51)``, or ``x = 40, y = 12 on slice z = 15 (16 of 51): lumen or tubule?``."""
        slice_ = numbered(self.axis, self.index, size[AXES.index(self.axis)]) if self.axis else ""
        if not self.point:
            return slice_
        where = [f"{a} = {i}" for a, i in zip(AXES, self.point, strict=False) if a != self.axis]
        on = f" on slice {slice_}" if slice_ else ""
        return f"{', '.join(where)}{on}: {' or '.join(self.classes)}?"


@dataclass(frozen=True)
class Calibration:
    """Whether voxels of confidence p are right with frequency p, before and after calibration.

    Args:
        edges: of the bins of confidence, ``n + 1`` of them.
        before: frequency of right voxels per bin; ``None`` for an empty bin.
        error_before: expected calibration error.
    """

    edges: Sequence[float]
    before: Sequence[float | None]
    after: Sequence[float | None]
    error_before: float
    error_after: float

    def __post_init__(self) -> None:
        for name, values in (("before", self.before), ("after", self.after)):
            if len(values) != len(self.edges) - 1:
                raise ValueError(
                    f"{name} has {len(values)} values, but {len(self.edges)} edges "
                    f"make {len(self.edges) - 1} bins."
                )


@dataclass(frozen=True)
class Amount:
    """How much of a class there is.

    Args:
        size: its volume, or the area in an image, in ``unit``; ``None`` where the voxel size is unknown.
        unit: such as ``"um^3"``, as files have it.
    """

    name: str
    voxels: int
    size: float | None = None
    unit: str = ""

    @property
    def unit_in_words(self) -> str:
        """The unit as people write it: ``µm³``."""
        return self.unit.replace("um", "µm").replace("^2", "²").replace("^3", "³")


@dataclass(frozen=True, eq=False)
class Report:
    """All that a page shows; what is ``None`` or empty is left out.

    Args:
        image: ``(C, *spatial)``, 2D or 3D; of more than three channels the first three are shown.
        result: class indices ``(*spatial)``, as are ``paint`` and ``truth``; 255 is unlabelled. ``None`` on a
            page about paint alone.
        spacing: voxel size along each axis, in ``unit``.
        orientation: where each axis points to, such as ``"RAS"``: the head is then up, the patient's
            left on the right. Empty: x to the right and y, z downwards, as microscopes and pictures have it.
        background: the class that the headline leaves out, if not the one that is named so.
        paint: what a person annotated.
        painted: the slices that a person worked on, per axis; found in ``paint`` if None.
        understood: what the paint was understood to say, in sentences, to stand beside its pictures.
        confidence: probability that ``result`` is right, ``(*spatial)``, 0 to 1.
        scores: the first is that of ``result``, the others are to compare with.
        scores_note: on which voxels the scores were measured, and how far they can be trusted.
        cases: all cases of an evaluation, the worst first.
        findings: of the audit; ``()`` says that it found nothing, ``None`` that there was none.
        amounts: of each class in ``result``.
        changes: what is new since an earlier result, a sentence each.
        figures: paths of pictures beside the page, relative to it.
        facts: a few short figures to stand at the top, such as ``{"mean IoU": "0.81"}``.
        command: what to type for the same result.
        methods: a sentence for the methods section of a paper.
        sources: the works that it cites.
    """

    title: str
    image: NDArray[Any]
    labels: LabelScheme
    result: NDArray[Any] | None
    _: KW_ONLY
    spacing: Sequence[float] | None = None
    unit: str = ""
    orientation: str = ""
    background: int | None = None
    paint: NDArray[Any] | None = None
    painted: Sequence[Sequence[int]] | None = None
    understood: Sequence[str] = ()
    confidence: NDArray[Any] | None = None
    truth: NDArray[Any] | None = None
    scores: Sequence[MethodScores] = ()
    scores_note: str = ""
    cases: Sequence[CaseRow] = ()
    curves: Sequence[LearningCurve] = ()
    findings: Sequence[Finding] | None = None
    suggestion: Suggestion | None = None
    calibration: Calibration | None = None
    amounts: Sequence[Amount] = ()
    changes: Sequence[str] = ()
    figures: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    methods: str = ""
    sources: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.image.ndim not in (3, 4):
            raise ValueError(
                f"image has shape {self.image.shape}; (C, X, Y) or (C, X, Y, Z) is needed. "
                "Add the channel axis with image[None]."
            )
        self._check_arrays()
        self._check_axes()
        for scores in self.scores:
            if len(scores.classes) != len(self.labels):
                raise ValueError(
                    f"scores of {scores.method!r} are for {len(scores.classes)} classes, "
                    f"but there are {len(self.labels)}."
                )

    def score_rows(self) -> tuple[list[str], list[MethodScores]]:
        """Names and scores of the classes, without one that has no score because it was never painted."""
        known = (
            set(np.unique(self.paint).tolist()) if self.paint is not None else set(range(len(self.labels)))
        )
        rows = [
            i
            for i in range(len(self.labels))
            if i in known or any(m.classes[i].iou is not None for m in self.scores)
        ]
        names = [self.labels.names[i] for i in rows]
        return names, [replace(method, classes=[method.classes[i] for i in rows]) for method in self.scores]

    def _check_arrays(self) -> None:
        for name in ("result", "paint", "truth", "confidence"):
            array = getattr(self, name)
            if array is None:
                continue
            if array.shape != self.size:
                raise ValueError(
                    f"{name} has shape {array.shape}, but the image has {self.size}: "
                    "they would not lie over each other."
                )
            if name == "confidence":
                if not (array.min() >= -_ROUNDING and array.max() <= 1 + _ROUNDING):  # NaN, too
                    raise ValueError(
                        f"confidence goes from {array.min()} to {array.max()}; it is a probability, 0 to 1."
                    )
                continue
            if array.dtype.kind not in "iu":
                raise ValueError(f"{name} is of type {array.dtype}; class indices are integers.")
            wrong = (array < 0) | ((array >= len(self.labels)) & (array != IGNORE_INDEX))
            if wrong.any():
                raise ValueError(
                    f"{name} holds {array[wrong][0]}; class indices are 0 to {len(self.labels) - 1}, "
                    f"and {IGNORE_INDEX} for unlabelled."
                )

    def _check_axes(self) -> None:
        dims = len(self.size)
        if self.spacing is not None and (
            len(self.spacing) != dims or not all(0 < s < np.inf for s in self.spacing)
        ):
            raise ValueError(
                f"spacing = {tuple(self.spacing)}; a positive voxel size for each of {dims} axes is needed."
            )
        if self.orientation:
            pairs = {letter: pair for pair in ("LR", "AP", "SI") for letter in pair}
            known = [pairs[letter] for letter in self.orientation if letter in pairs]
            if len(self.orientation) != dims or len(set(known)) != dims:
                raise ValueError(
                    f"orientation = {self.orientation!r}; one letter of L or R, A or P, S or I "
                    f"for each of {dims} axes is needed, such as {'RAS'[:dims]!r}."
                )
        voxels = [finding.voxel for finding in self.findings or ()]
        voxels += [self.suggestion.point or None] if self.suggestion is not None else []
        for voxel in voxels:
            if voxel is not None and not (
                len(voxel) == dims and all(0 <= i < n for i, n in zip(voxel, self.size, strict=True))
            ):
                raise ValueError(f"there is no voxel {voxel} in an image of {self.size} voxels (from 0 on).")
        for axis, index in self._slices():
            if axis not in AXES[:dims] or not 0 <= index < self.size[AXES.index(axis)]:
                raise ValueError(
                    f"there is no slice {axis} = {index} in an image of {self.size} voxels (from 0 on)."
                )

    def _slices(self) -> list[tuple[str, int]]:
        """The slices that findings and suggestion name."""
        named = [where for finding in self.findings or () for where in finding.slices]
        if self.suggestion is not None and self.suggestion.axis:
            named.append((self.suggestion.axis, self.suggestion.index))
        return named

    @property
    def headline(self) -> Headline:
        """Which classes the one figure is the mean of."""
        return Headline(self.labels.names, self.background)

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along x, y[, z]."""
        return self.image.shape[1:]
