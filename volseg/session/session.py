"""One volume, its paint, what learns from it, and what it finds: all that a window shows, without one."""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.densification import densify
from volseg.densification.reporting import Densified
from volseg.errors import RefusedError, ResourceError
from volseg.io import Volume, output_suffix, read_volume, suffix_of
from volseg.labels import IGNORE_INDEX
from volseg.runs.checkpoint import save_checkpoint
from volseg.session.about import same_file
from volseg.session.advice import Place, suggest
from volseg.session.canvas import DENSE
from volseg.session.folder import Folder, write_labels, write_large
from volseg.session.found import Confidence, Found, Plane
from volseg.session.judging import Score, score, score_of_made
from volseg.session.painting import packed_values

__all__ = ["Session"]

logger = logging.getLogger(__name__)


class Session(Found):
    """Paint on a volume and see at once what follows from it.

    Slices are named by the axis across them, 0, 1, 2 for x, y, z, and an index from 0 on; a mask of one has
    the other two axes in the order x, y, z. An image in 2D has the slice ``(2, 0)``. Values are 0 for
    background, 1 to 254 for other classes, 255 for unlabelled.

    Every change is in the journal of the folder before the call returns; the same journal gives the same
    paint.
    Safe to call from several threads.

    Args:
        image: an array ``(C, *spatial)``, a path, several paths with a channel each, or a
            :class:`volseg.Volume`.
        folder: where everything is kept; a session or a result of ``volseg densify`` that lies there is
            continued. ``None`` keeps nothing.
        classes: names by value.
        paint: a file with paint to start from.
        read: how to read it: ``unlabelled``, ``painted_only``, ``finished``, ``names``, ``colours``.
        spacing: voxel size, where the image names none or a wrong one.
        seed: of all random numbers.
        device: of :meth:`densify`, ``"cpu"`` or ``"cuda"``; by itself a GPU if there is one. What is learnt
            while painting is learnt on the CPU.

    Attributes:
        image: the image and where it lies.
        trouble: why what was painted last is not on the disk; empty if it is.

    Raises:
        InputError: if a file cannot be read, or the folder belongs to another image.
        RefusedError: if another process has the folder.
    """

    def __init__(
        self,
        image: Any,
        folder: str | os.PathLike[str] | None = None,
        classes: Mapping[int, str] | None = None,
        *,
        paint: str | os.PathLike[str] | None = None,
        read: Mapping[str, Any] | None = None,
        spacing: str | Sequence[float] | None = None,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        super().__init__(image, folder, classes, paint, read, spacing, seed)
        self._scores: Mapping[str, Any] = {}  # of the whole result
        self.device = device
        if self.folder is not None and self.is_result:
            self._whole = self._read_result()
            self._whole_of, self._scores = self.revision, self.folder.scores()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], **given: Any) -> "Session":
        """Continue what lies in a folder: a session, or a result of ``volseg densify``."""
        files, _ = Folder(Path(folder)).images()
        return cls(files[0] if len(files) == 1 else list(files), folder, **given)

    def _read_result(self) -> tuple[Plane, Confidence] | None:
        """What densify has written here for the paint at hand."""
        assert self.folder is not None
        found = self.folder.result(self.image.name)
        if found is None:
            return None
        values, percent = (read_volume(path, labels=True).array[0] for path in found)
        if values.shape != self.image.size:
            return None
        return values.astype(np.uint8), percent.astype(np.float32) / 100

    def adopt(
        self, axis: int | None, index: int, mask: npt.ArrayLike | None = None, *, id: str | None = None
    ) -> bool:
        """Take the result of a slice as paint, where it is blank; then it can be corrected.

        Args:
            mask: where; everywhere if None.

        Raises:
            RefusedError: if there is no result yet.
        """
        axis, index = self._painting.place(axis, index)
        found = self._found(axis, index).values
        with self._lock:  # what is painted meanwhile stays
            blank = self.paint_slice(axis, index) == IGNORE_INDEX
            where = blank if mask is None else blank & np.asarray(mask, bool)
            locked = [value for value, info in self.classes.items() if info.locked]
            values = np.where(where & ~np.isin(found, locked), found, np.uint8(IGNORE_INDEX))
            packed = packed_values(values)
            if packed is not None:
                return self._do({"do": "adopt", "axis": axis, "index": index, **packed}, id)
            if (blank & (found == IGNORE_INDEX)).any():
                raise RefusedError(self._why_not())
            return False

    def _why_not(self) -> str:
        """Why there is no result of a slice."""
        if not self.can_learn:
            return "There is no result to adopt yet. Paint two classes first."
        if not self._model:
            return "There is no result to adopt yet. Learn first (session.learn)."
        return (
            "There is no result of this slice: it lies outside of the part that is segmented, around where "
            "you look. Look there first."
        )

    def score(self, should_stop: Callable[[], bool] | None = None) -> Score | None:
        """How good the result is, with an interval, or that there is too little paint to tell.

        Four short trainings; ``None`` if ``should_stop`` ended them. Of a volume that densify has made of the
        same paint, what densify reports.
        """
        if self._whole is not None and self._whole_of == self.revision:
            return score_of_made(self._scores, self.classes, self.revision)
        return score(self, should_stop)

    def suggest(self) -> Place | None:
        """Where to paint next: where the result is least sure; ``None`` before anything has been learnt."""
        return suggest(self)

    def densify(
        self, minutes: float | None = None, *, folder: str | os.PathLike[str] | None = None, **choices: Any
    ) -> Densified:
        """The whole volume with an honest score: :func:`volseg.densify` on the paint at hand.

        Args:
            folder: for the result; the session's own if None.
            choices: others of :func:`volseg.densify`, ``on_progress`` and ``should_stop`` among them.

        Raises:
            RefusedError: if the session is closed, or another folder holds a result.
        """
        self._require_open()
        revision = self.revision
        own = None if self.folder is None else self.folder.path
        target = own if folder is None else Path(folder)
        is_own = own is not None and target is not None and target.resolve() == own.resolve()
        is_ours = is_own and self._about is not None and self._about.is_result_replaceable()
        labels, like = self.labels, self.image.like
        if target is None:
            with tempfile.TemporaryDirectory() as temporary:
                done = self._densified(labels, like, Path(temporary) / "result", minutes, choices)
        else:
            done = self._densified(labels, like, target, minutes, {"overwrite": is_ours, **choices})
        if is_own:
            self._note({"do": "densified", "revision": revision})
        with self._learning:
            self._whole = done.labels.astype(np.uint8), done.confidence
            self._whole_of, self._scores = revision, done.scores.get("volseg", {})
            self._planes.clear()
        return done

    def _densified(
        self, labels: Plane, like: Volume, target: Path, minutes: float | None, choices: Mapping[str, Any]
    ) -> Densified:
        names = {value: info.name for value, info in self.classes.items() if (labels == value).any()}
        given: dict[str, Any] = {
            "unlabelled": IGNORE_INDEX,
            "names": names,
            "seed": self.seed,
            "device": self.device,
        }
        paint = Volume(labels[None], like.affine, like.unit)
        return densify(like, paint, target, minutes=minutes, **given | dict(choices))

    def close(self) -> None:
        """Everything is on the disk, paint and model as files, too; another process may have the folder.

        Raises:
            ResourceError: if what was painted is in memory only, and the session stays open: see
                ``trouble``. If the files find no room; then it is closed, and the paint is in the journal.
        """
        if self._journal is None or self._journal.is_over:
            return super().close()
        self._journal.require_written()
        try:
            if self.revision and np.prod(self.size, dtype=float) <= DENSE:
                self.save()
        except ResourceError as error:
            raise ResourceError(f"{error} What was painted is whole, in {self._journal.path}.") from error
        finally:
            super().close()

    def save(self) -> None:
        """Write the paint as a file beside the journal, and what was learnt for densify to continue.

        Where a whole result of densify lies in the folder, its model stays: it knows more. Files of these
        names that the session did not write stay, too.
        """
        if self.folder is None or self._about is None:
            return
        self._require_open()
        name = self.image.name
        stem = name[: len(name) - len(suffix_of(name))]
        suffix = output_suffix(name) if self.image.files else ".nii.gz"
        paint = self._about.free_name(f"{stem}_paint", suffix)
        with self._about.writing(paint):
            write_labels(paint, self.labels, self.image.like, self.classes)
        if self._live is None or not self._model or (self.folder.path / "report.html").exists():
            return
        model_file, settings = (self.folder.path / name for name in ("model.pt", "settings.json"))
        if not all(map(self._about.may_replace, (model_file, settings))):
            logger.info("%s or %s is not of this session, and stays.", model_file, settings.name)
            return
        counts = self.counts()
        names = {value: info.name for value, info in self.classes.items() if counts[value]}
        with self._learning:
            places = {value: i for i, value in enumerate(counts) if i < self._live.classes}
            learnt = sorted(value for value in names if value in places)
            if len(learnt) < 2:
                return
            model = self._live.as_model([places[value] for value in learnt])
        about = {"values": learnt, "names": [names[value] for value in learnt]}
        about |= {"channels": self.image.channels, "images": []}
        with self._about.writing(model_file):
            save_checkpoint(model_file, model.state() | about)
        with self._about.writing(settings):
            self.folder.write_settings(self.image, paint, dict(sorted(names.items())))

    def export(self, path: str | os.PathLike[str], what: str = "result", *, overwrite: bool = False) -> Path:
        """Write the paint or the result of the whole volume, in any format that volseg writes.

        Args:
            what: ``"paint"`` (255 where unlabelled) or ``"result"``.

        Raises:
            RefusedError: if the file exists and is not to be overwritten, or the session reads it.
        """
        own = () if self.folder is None else (self.folder.journal, self.folder.about)
        if same_file(Path(path), self.start_paint, *self.image.files, *own):
            raise RefusedError(f"{path} is read by this session, and would be lost. Choose another name.")
        if what not in ("paint", "result"):
            raise ValueError(f"what = {what!r} must be 'paint' or 'result'.")
        is_large = np.prod(self.size, dtype=float) > DENSE
        if what == "paint" and is_large:
            return write_large(
                path, self._painting.labels, self.image.like, self.classes, overwrite=overwrite
            )
        if what == "paint":
            return write_labels(
                path, self.labels, self.image.like, self.classes, is_paint=True, overwrite=overwrite
            )
        if is_large:
            raise ResourceError(
                f"the result of {' x '.join(map(str, self.size))} voxels is found slice by slice only, "
                "where the person looks. Cut the part that matters out of the image, and paint on that."
            )
        stack = np.empty((*self.size[:2], *self.size[2:], 1)[:3], np.uint8)
        for index in range(stack.shape[2]):
            with self._learning:
                found = self._as_painted(2, index, self._find(2, self._painting.plane(2, index), whole=True))
            if (found.values == IGNORE_INDEX).any():
                raise RefusedError("There is no result to export yet. Paint two classes and learn first.")
            stack[..., index] = found.values
        values = stack.reshape(self.size)
        return write_labels(path, values, self.image.like, self.classes, overwrite=overwrite)
