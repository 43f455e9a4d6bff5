"""The checks of one case, what a bundle expects of it, and the facts that are compared with other cases'."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from volseg.annotation import hold_out
from volseg.data.cases import Case
from volseg.data.loading import classes_of
from volseg.data.verification.contents import odd_labels, odd_values, values_of
from volseg.errors import InputError, VolsegError
from volseg.findings import Finding, Severity
from volseg.instances import InstanceScheme
from volseg.io import Note, Notes, Volume, check_alignment, digest, read_channels, read_volume
from volseg.labels import IGNORE_INDEX, LabelScheme

__all__ = ["Expectations", "Facts", "check_case", "expectations", "files_of", "reported", "sha256"]


@dataclass(frozen=True)
class Expectations:
    """``None`` where nothing in particular is expected."""

    labels: LabelScheme | None = None
    in_channels: int | None = None
    spatial_dims: int | None = None


def expectations(config: Mapping[str, Any]) -> Expectations:
    """What the entries ``labels``, ``in_channels`` and ``network_def`` of a merged bundle say.

    Raises:
        InputError: if ``labels`` cannot be read without evaluating something.
    """
    scheme = _plain(config, config.get("labels"))
    labels: LabelScheme | None = None
    if isinstance(scheme, Mapping):
        arguments = {k: _plain(config, v) for k, v in scheme.items() if not k.startswith("_")}
        kind = InstanceScheme if scheme.get("_target_") == "volseg.InstanceScheme" else LabelScheme
        try:
            labels = kind(**arguments)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"The bundle's entry 'labels' cannot be read ({error}). Give names, values and unlabelled as "
                "plain text and numbers."
            ) from error
    network = config.get("network_def")
    dims = _plain(config, network.get("spatial_dims")) if isinstance(network, Mapping) else None
    channels = _plain(config, config.get("in_channels"))
    return Expectations(
        labels,
        channels if isinstance(channels, int) else None,
        dims if isinstance(dims, int) else None,
    )


def _plain(config: Mapping[str, Any], value: Any) -> Any:
    """The value that a chain of references leads to."""
    for _ in config:
        if not (isinstance(value, str) and value.startswith("@")):
            break
        found: Any = config
        for part in value[1:].replace("#", "::").split("::"):
            found = found.get(part) if isinstance(found, Mapping) else None
        value = found
    return value


class Facts(TypedDict, total=False):
    """What the cases of a data set should have in common; empty where the image could not be read."""

    channels: int
    spatial_dims: int
    spacing: list[float]
    unit: str
    shape: list[int]
    values: list[int]


def check_case(case: Case, expected: Expectations) -> tuple[list[Finding], Facts]:
    """What is wrong with the files of one case, and its facts."""
    found: list[Finding] = []
    image = _read_image(case, found)
    if image is None:
        for path in (case.label, case.truth):
            if path is not None:
                _read_labels(case, path, found)
        return found, {}
    found += _image_findings(image, case.image, expected)
    facts: Facts = {
        "channels": image.channels,
        "spatial_dims": image.spatial_dims,
        "spacing": list(image.spacing),
        "unit": image.unit,
        "shape": list(image.spatial_shape),
        "values": [],
    }
    for path in (case.label, case.truth):
        if path is not None:
            found += _label_findings(path, image, case, expected, facts)
    return found, facts


def files_of(case: Case) -> list[Path]:
    """The files of a case."""
    return [path for path in (*case.images, case.label, case.truth) if path is not None]


def sha256(path: Path) -> str:
    """The hash of a file's content; ``""`` if it cannot be read."""
    try:
        return digest(path)
    except OSError:
        return ""


def _read_image(case: Case, found: list[Finding]) -> Volume | None:
    """The image, or ``None``; what the reader said goes to ``found``."""
    return _read(
        lambda notes: read_channels(case.images, spacing=case.spacing, notes=notes), case.images, found
    )


def _read_labels(case: Case, path: Path, found: list[Finding]) -> Volume | None:
    """The labels, or ``None``; what the reader said goes to ``found``."""

    def read(notes: Notes) -> Volume:
        return read_volume(path, labels=True, spacing=case.spacing, colours=case.colours, notes=notes)

    return _read(read, (path,), found)


def _read(read: Callable[[Notes], Volume], paths: tuple[Path, ...], found: list[Finding]) -> Volume | None:
    notes = Notes()
    volume = None
    try:
        volume = read(notes)
    except VolsegError as error:
        found.append(reported("unreadable", "error", _named(paths, str(error)), str(error)))
    found += _warnings(notes, paths)
    return volume


def _warnings(notes: Iterable[Note], paths: tuple[Path, ...]) -> list[Finding]:
    """What readers noticed, as far as it may be wrong."""
    texts = [note.text for note in notes if note.level >= logging.WARNING]
    return [reported("reading", "warning", _named(paths, text), text) for text in texts]


def reported(kind: str, severity: Severity, file: Path, message: str) -> Finding:
    """A message about a file as a finding, which shows the file apart from the rest."""
    what = f"it{message.removeprefix(str(file))}" if message.startswith(f"{file} ") else message
    return Finding(kind, severity, what.removeprefix(f"{file}: "), file=str(file))


def _named(paths: tuple[Path, ...], message: str) -> Path:
    """The file that a message is about: of several the one that it names."""
    return next((path for path in paths if str(path) in message), paths[0])


def _image_findings(image: Volume, path: Path, expected: Expectations) -> Iterator[Finding]:
    if expected.in_channels not in (None, image.channels):
        yield Finding(
            "channels",
            "error",
            f"it has {image.channels} channel(s), but the bundle expects {expected.in_channels}",
            todo="Set in_channels in the bundle to what the images have",
            file=str(path),
        )
    if expected.spatial_dims not in (None, image.spatial_dims):
        yield Finding(
            "dimensions",
            "error",
            f"it is {image.spatial_dims}D, the bundle's network is {expected.spatial_dims}D",
            todo="Use a bundle for such images; a volume of one slice counts as an image",
            file=str(path),
        )
    yield from odd_values(image.array, str(path))


def _label_findings(
    path: Path, image: Volume, case: Case, expected: Expectations, facts: Facts
) -> list[Finding]:
    """What is wrong with a label; the values of the one to learn from go to ``facts``."""
    found: list[Finding] = []
    label = _read_labels(case, path, found)
    if label is None:
        return found
    notes = Notes()
    fill = (expected.labels and expected.labels.unlabelled) or 0
    try:
        label = check_alignment(image, label, fill=fill, notes=notes)
        found += _warnings(notes, (path,))
        odd = list(odd_labels(label, image, expected.labels, str(path)))
        found += odd
        if path == case.label and not odd:
            facts["values"] = [value for value in values_of(label.array[0]) if value != label.blank]
        if expected.labels is None or any(one.severity == "error" for one in odd):
            return found
        classes = classes_of(label, expected.labels, str(path))
        if path == case.label and case.held_out is not None and case.held_out != "all":
            _require_slices(classes, case.held_out)
    except ValueError as error:
        return [*found, reported("unusable", "error", path, str(error))]
    if not np.any(classes != IGNORE_INDEX):
        found.append(
            Finding(
                "empty",
                "warning",
                "no voxel is annotated",
                todo="Paint some slices, or leave the case out",
                file=str(path),
            )
        )
    return found


def _require_slices(classes: NDArray[np.uint8], slices: Mapping[str, Sequence[int]]) -> None:
    try:
        hold_out(classes, slices)
    except ValueError as error:
        raise InputError(f"the slices that dataset.json holds out do not fit: {error}") from error
