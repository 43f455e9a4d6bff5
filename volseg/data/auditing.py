"""A painted file beside its image: what was understood, and what looks wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib

from volseg.annotation import Paint, understand_paint
from volseg.annotation.audit import audit
from volseg.annotation.strokes import are_strokes, strokes_of
from volseg.arguments import option
from volseg.data.verification import odd_values
from volseg.findings import Finding, Severity
from volseg.greyvalues import normalised
from volseg.io import Volume, check_alignment, class_names, read_volume, segments_of

__all__ = [
    "Audited",
    "audit_all",
    "lines",
    "look_at",
    "names_from",
    "orientation_of",
    "paint_on",
    "understood",
]

_WITH_ORIENTATION = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True, eq=False)
class Audited:
    """A painted file beside its image, as it was understood, and what looks wrong; names by value."""

    image: Volume
    paint: Paint
    findings: list[Finding]
    names: Mapping[int, str]


def look_at(
    image: Path,
    labels: Path,
    *,
    unlabelled: int | None = None,
    painted_only: bool = False,
    finished: bool = False,
    names: Mapping[int, str] | None = None,
    spacing: str | None = None,
    colours: str | None = None,
) -> Audited:
    """Image and label file, what it was understood to say, and the auditor's findings.

    Args:
        unlabelled: the value of voxels no one looked at; see :func:`volseg.annotation.understand_paint`.
        painted_only: 0 is unlabelled everywhere.
        finished: 0 on painted slices is background, whatever the paint looks like.
        names: of the classes, by value; then other values are not classes. Those of a ``.seg.nrrd`` if None.
        spacing, colours: how the files are to be read; see `volseg.io.read_volume`.
    """
    volume = read_volume(image, spacing=spacing)
    painted = read_volume(labels, labels=True, spacing=spacing, colours=colours)
    names = names or class_names(segments_of(painted))
    _, paint = paint_on(
        volume, painted, names,
        unlabelled=unlabelled, painted_only=painted_only, finished=finished, source=str(labels),
    )  # fmt: skip
    return Audited(volume, paint, audit_all(volume, paint, names), names)


def paint_on(
    image: Volume,
    label: Volume,
    names: Mapping[int, str],
    *,
    unlabelled: int | None = None,
    painted_only: bool = False,
    finished: bool = False,
    source: str = "",
) -> tuple[Volume, Paint]:
    """A label file's values on the image's grid, and what they were understood to say.

    Args:
        names: of the classes, by value; all values are classes if there are none.
        unlabelled, painted_only, finished: see :func:`volseg.annotation.understand_paint`.
        source: the file to name in messages; the label's own name if empty.

    Raises:
        InputError: if the label does not lie on that grid, or says two different things.
    """
    label = check_alignment(image, label, fill=(label.blank if unlabelled is None else unlabelled) or 0)
    paint = understand_paint(
        label.array[0],
        classes=list(names) or None,
        names=names,
        unlabelled=unlabelled,
        painted_only=painted_only,
        finished=finished,
        blank=label.blank,
        source=source or label.name,
    )
    return label, paint


def audit_all(image: Volume, paint: Paint, names: Mapping[int, str]) -> list[Finding]:
    """What looks wrong with the paint, and what is odd about the grey values of the image below it."""
    odd = list(odd_values(image.array, image.name))
    seen = normalised(image.array).numpy() if odd else image.array  # else they decide what an edge is
    findings = audit(image.spatial_shape, image.spacing, paint, seen, names)
    same = all(channel.min() == channel.max() for channel in image.array)
    severity: Severity = "error" if same else "warning"  # an hour would be for nothing
    return findings + [replace(finding, severity=severity) for finding in odd]


def understood(
    paint: Paint, names: Mapping[int, str] | None = None, spacing: Sequence[float] | None = None
) -> list[str]:
    """What paint was understood to say, in sentences.

    Args:
        spacing: voxel size per axis, which says how far strokes are from each other.
    """
    found = [paint.describe(names)]
    if are_strokes(paint.labels):
        found.append(f"{strokes_of(paint.labels, spacing).in_words(paint.scheme(names or {}).names)}.")
    return [text for text in (*found, paint.explain(), paint.counted()) if text]


def lines(
    paint: Paint,
    findings: Sequence[Finding],
    names: Mapping[int, str] | None = None,
    spacing: Sequence[float] | None = None,
) -> Iterator[str]:
    """What ``volseg audit`` prints."""
    yield from understood(paint, names, spacing)
    for finding in findings:
        yield f"{finding.severity} ({finding.kind}): {finding.message}"
    if not findings:
        yield "Nothing wrong found."


def names_from(words: Sequence[str]) -> dict[int, str]:
    """``["1=tubule", "2=lumen"]`` as a dictionary."""
    names: dict[int, str] = {}
    key: int | None
    for word in words:
        value, _, name = word.partition("=")
        try:
            key = int(value)
        except ValueError:
            key = None
        if key is None or not name or key in names:
            raise ValueError(
                f"{option('names')} holds {word!r}: give each class once, as VALUE=NAME such as 1=tubule."
            )
        names[key] = name
    return names


def orientation_of(image: Volume) -> str:
    """Where the axes point to, of a patient; what is measured in micrometres is none."""
    known = image.path is not None and image.path.name.lower().endswith(_WITH_ORIENTATION)
    if not known or image.spatial_dims != 3 or image.unit == "um":
        return ""
    return "".join(nib.aff2axcodes(image.affine))
