"""Where results are written, and the result as a volume."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.arguments import option
from volseg.densification.calibration import Calibrator
from volseg.densification.earlier import Earlier
from volseg.densification.inputs import FORMER_METHODS, Inputs
from volseg.errors import InputError, RefusedError, ResourceError
from volseg.io import (
    Segment,
    Volume,
    is_volume,
    output_suffix,
    read_json,
    segments_of,
    suffix_of,
    with_segments,
    write_json,
    write_volume,
)
from volseg.labels import IGNORE_INDEX
from volseg.machine import library_versions
from volseg.report import class_colours
from volseg.runs.claim import PAINT_LOCK, claim, release, require_free
from volseg.runs.replacing import install, settle, stage_of

__all__ = ["Outputs", "classes_of", "outputs_for", "values_of", "write_volumes"]

logger = logging.getLogger(__name__)

_ARGUMENTS = {"suggest": "suggest_next"}  # of densify, where choices have another name

_FIGURES = ("overview.png", "scores.png", "curve.png", "calibration.png")


_AT_WORK: "dict[Path, Outputs]" = {}  # in this process, which may have several threads


@dataclass(frozen=True)
class Outputs:
    """The files of one result.

    Attributes:
        folder: holds everything but the segmentation, if that was given a name of its own.
    """

    folder: Path
    segmentation: Path
    confidence: Path

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def model(self) -> Path:
        return self.folder / "model.pt"

    @property
    def partial(self) -> Path:
        """The final model of a run that was stopped while it learnt."""
        return self.folder / "model_partial.pt"

    @property
    def settings(self) -> Path:
        return self.folder / "settings.json"

    @property
    def scores(self) -> Path:
        return self.folder / "scores.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def fold(self, number: int) -> Path:
        """The model that did not see the slices of this fold, from 1 on."""
        return self.folder / "folds" / f"fold_{number}.pt"

    def all(self) -> list[Path]:
        """Every file that a run may write and that exists."""
        files = [self.segmentation, self.confidence, self.report, self.model, self.partial, self.settings]
        files += [self.scores, self.log, *(self.figures / name for name in _FIGURES)]
        files += sorted((self.folder / "folds").glob("fold_*.pt"))
        return [path for path in files if os.path.lexists(path)]

    @property
    def stage(self) -> "Outputs":
        """The same files, where they are made that are to replace these."""
        folder = stage_of(self.folder)
        names = self.segmentation.name, self.confidence.name
        return Outputs(folder, *(folder / name for name in names))

    def open(self, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> "Outputs":
        """Take the folder, and note what is being asked for: where to write.

        That is the folder itself, or the stage, if a result is to be replaced; see :meth:`close`.

        Raises:
            RefusedError: if a result stands there already and neither was asked for, or another run
                is at work there, or another process paints there.
            InputError: if there is nothing to resume, or it was another request.
        """
        if _AT_WORK.setdefault(self.folder.resolve(), self) is not self:
            raise RefusedError(
                f"{self.folder} is in use: densify is running already there, in this program. Wait for it, "
                f"or choose another {option('output')}."
            )
        try:
            return self._open(settings, resume=resume, overwrite=overwrite)
        except BaseException:
            self.release()
            raise

    def _open(self, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> "Outputs":
        with _explained(self.folder):
            if self.folder.is_dir():
                claim(self.folder, "output")
                require_free(self.folder, "output", lock=PAINT_LOCK)
                settle(self.folder)
        there, stage = self.all(), self.stage
        begun = stage.settings.is_file()
        place = stage if begun or there else self
        if resume:
            place = stage if begun else self
            place.check_same(settings, may_be_whole=begun)
        elif there and not overwrite:
            began = begun or (self.settings.exists() and not self.report.exists())
            remedy = f"go on with {option('resume', True)}, " if began else ""
            raise RefusedError(
                f"{there[0]} exists already. Choose another name ({option('output')}), {remedy}or replace "
                f"what is there with {option('overwrite', True)}."
            )
        for path in there:
            if path.is_dir() and not is_volume(path):
                raise RefusedError(
                    f"{path} is a folder of yours. Move it, or choose another name ({option('output')})."
                )
        with _explained(self.folder):
            if begun and not resume:
                shutil.rmtree(stage.folder)
            for folder in (self.folder, self.segmentation.parent, place.folder):
                folder.mkdir(parents=True, exist_ok=True)
                if folder != self.segmentation.parent:
                    claim(folder, "output")
            write_json(place.settings, settings)
        return place

    def close(self, place: "Outputs") -> None:
        """All is there: if it was made on the stage, it takes the place of the old result now."""
        if place.folder == self.folder:
            return
        replaced = [path.relative_to(self.folder) for path in self.all() if path.is_relative_to(self.folder)]
        inside = self.segmentation.is_relative_to(self.folder)
        install(place.folder, self.folder, replaced, None if inside else self.segmentation)

    def final(self, path: Path, place: "Outputs") -> Path:
        """The name that a file has after :meth:`close`."""
        return (
            self.segmentation if path == place.segmentation else self.folder / path.relative_to(place.folder)
        )

    def release(self) -> None:
        """Another run may have the folder now."""
        for folder in (self.folder, self.stage.folder):
            release(folder)
        _AT_WORK.pop(self.folder.resolve(), None)

    def check_same(self, settings: Mapping[str, Any], *, may_be_whole: bool) -> None:
        """Whether what was begun here is what is asked for now, and not done already."""
        if not self.settings.is_file():
            raise InputError(
                f"{self.folder} holds no settings.json: there is nothing to resume. Leave "
                f"{option('resume')} out."
            )
        if self.report.exists() and not may_be_whole:
            raise RefusedError(
                f"{self.folder} is finished: nothing is left to resume. With more paint, go on into another "
                f"folder with {option('continue_from', self.folder)}."
            )
        before = _read_settings(self.settings)
        for part in ("image", "labels", "choices", "learner", "continued", "applied"):
            now, then = json.loads(json.dumps(settings[part])), before.get(part)
            if part == "choices" and isinstance(then, dict):
                then = {**dict.fromkeys(now), **then}  # an earlier volseg had fewer of them
                then["method"] = FORMER_METHODS.get(then["method"], then["method"])
            elif part == "learner" and part not in before:
                then = now and "pixelwise"  # the only one there was
            if then != now:
                if isinstance(then, dict) and part == "choices":
                    differ = [name for name in now if then.get(name) != now[name]]
                    then, now = (_in_words(each, differ) for each in (then, now))
                raise RefusedError(
                    f"{self.folder} was begun with other {part}: {then} then, {now} now. Repeat "
                    f"the command as it was, or start again with {option('overwrite', True)}."
                )


def _in_words(choices: Mapping[str, Any], names: Sequence[str]) -> str:
    """Some of the choices, as the user writes them."""
    return ", ".join(option(_ARGUMENTS.get(name, name), choices.get(name)) for name in names)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """What the system says of a folder, in the user's words."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot write to {folder}: {error.strerror or error}. Choose another folder "
            f"({option('output')})."
        ) from error


def outputs_for(output: str | os.PathLike[str], inputs: Inputs) -> Outputs:
    """The files that belong to ``output``: a folder, or the name of the segmentation.

    A segmentation in a folder is named after the image and has its format; 3D Slicer's own if the paint has.

    Raises:
        RefusedError: if the result would replace what it is made from, or ``output`` is not a folder.
    """
    path = Path(output)
    if not os.fspath(output):  # as from a variable of the shell that was never set
        raise RefusedError(f"{option('output')} is empty. Name a folder for the result.")
    if path.name in ("", ".."):  # "." and the like have a name only when it is looked up
        path = path.resolve()
    if not path.name:
        raise RefusedError(f"{path} is a whole disk. Name a folder on it ({option('output')}).")
    image, label = inputs.image, inputs.label
    name = image.path.name if image.path else "image.nii.gz"
    stem = name[: len(name) - len(suffix_of(name))]
    given = suffix_of(path)
    if given:
        written = output_suffix(path)
        if written != given:
            raise ValueError(
                f"{path} cannot be written: {given} is read only. Write {path.name[: -len(given)]}{written} "
                "instead."
            )
        folder, segmentation = path.with_name(path.name[: -len(given)]), path
        stem = folder.name
    else:
        of_slicer = label.path is not None and label.path.name.lower().endswith(".seg.nrrd")
        suffix = ".seg.nrrd" if of_slicer else output_suffix(name)
        folder, segmentation = path, path / f"{stem}_segmentation{suffix}"
    if os.path.lexists(folder) and not folder.is_dir():
        raise RefusedError(
            f"{folder} is a file, but a folder of that name is needed. Choose another {option('output')}."
        )
    outputs = Outputs(folder, segmentation, folder / f"{stem}_confidence{output_suffix(name)}")
    known = [volume.path for volume in (image, label) if volume.path is not None]
    for source in (*known, *inputs.image_files):
        for target in (outputs.segmentation, outputs.confidence):
            if target.exists() and source.exists() and target.samefile(source):
                raise RefusedError(
                    f"{target} is what the result is made from. Choose another name ({option('output')})."
                )
    return outputs


def settings_of(
    inputs: Inputs,
    choices: Mapping[str, Any],
    command: str,
    *,
    learner: str | None,
    earlier: Earlier | None,
    continued: Path | None,
    applied: Path | None,
) -> dict[str, Any]:
    """What ``settings.json`` holds: everything that the result depends on."""
    return {
        "image": _content(inputs.image, inputs.image_files, inputs.digests),
        "labels": _content(inputs.label, inputs.label_files, inputs.digests),
        "choices": dict(choices),
        "unlabelled": None if earlier is None else earlier.choices.get("unlabelled"),
        "found_unlabelled": inputs.paint.unlabelled,
        "learner": learner,
        "continued": None if continued is None else str(continued),
        "applied": None if applied is None else str(applied),
        "command": command,
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": library_versions(),
    }


def _read_settings(path: Path) -> dict[str, Any]:
    """What a run wrote there."""
    try:
        content = read_json(path, constant=float)
    except (OSError, InputError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). Start again with {option('overwrite', True)}."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} is not what volseg wrote there. Start again with {option('overwrite', True)}."
        )
    return content


def _content(volume: Volume, files: Sequence[Path], digests: Mapping[Path, str]) -> list[dict[str, str]]:
    """What a resumed run has to go on with: the same files by their content, or the same numbers."""
    if not files:
        return [{"sha256": hashlib.sha256(np.ascontiguousarray(volume.array).data).hexdigest()}]
    return [{"path": str(path), "sha256": digests[path]} for path in files]


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
    if keep_painted and unknown:  # insisted on, although these are not classes
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
        if value != 0:  # which is not a segment there
            segments.append(known.get(value, Segment(value, name, (float(red), float(green), float(blue)))))
    painted_there = segments_of(inputs.label) and inputs.label.spatial_shape == inputs.image.spatial_shape
    return with_segments(inputs.label if painted_there else inputs.image, segments)
