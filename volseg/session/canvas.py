"""Paint on one volume, and the folder that it is kept in: every act is on the disk when it is done."""

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from volseg.arguments import option
from volseg.errors import RefusedError, ResourceError
from volseg.geometry import AXES
from volseg.io.slabs import Slabs
from volseg.labels import IGNORE_INDEX
from volseg.runs.claim import PAINT_LOCK, release
from volseg.session.about import About
from volseg.session.classes import changed, named, with_background
from volseg.session.folder import Folder, Image, Start, open_image, read_start
from volseg.session.journal import Journal, Record, read_journal, taken
from volseg.session.painting import ClassInfo, Painting, packed_mask, packed_values
from volseg.session.shapes import brush, flooded, outline

__all__ = ["DENSE", "Canvas"]

DENSE = 2**28  # voxels up to which a whole array of labels is given

Plane = npt.NDArray[np.uint8]
_Path = str | os.PathLike[str]


class Canvas:
    """The painting half of :class:`volseg.Session`, which says what its arguments are."""

    def __init__(
        self,
        image: Any,
        folder: _Path | None,
        classes: Mapping[int, str] | None,
        paint: _Path | None,
        read: Mapping[str, Any] | None,
        spacing: str | Sequence[float] | None,
    ) -> None:
        self.folder = None if folder is None else Folder(Path(folder))
        if spacing is None and self.folder is not None:
            spacing = About(self.folder).spacing
        self.image: Image = open_image(image, spacing)
        self._slabs = Slabs(self.image.voxels)
        self._painting = Painting(self.image.size)
        self._lock = threading.RLock()
        self._journal: Journal | None = None
        self._about: About | None = None
        self._is_closed = False
        self.is_result = False  # what densify has written in the folder, if it has, is of the paint at hand
        self.start_paint = None if paint is None else Path(paint)
        with ExitStack() as stack:
            if self.folder is not None:
                self.folder.make()
                stack.enter_context(taken(self.folder.path, self.folder.journal))
            begun = self._open(self.folder, spacing) if self.folder is not None else False
            if not begun:
                self._begin(self._start(paint, read or {}, spacing), classes or {})
            elif paint is not None:
                raise RefusedError(
                    f"{folder} holds a session already, which has its own paint. Choose another folder "
                    f"({option('output')}) to start from {paint}, or leave {paint} out."
                )
            else:
                self._change({value: {"name": name} for value, name in named(classes or {}).items()})

    def _open(self, folder: Folder, spacing: str | Sequence[float] | None) -> bool:
        """Replay the journal of a folder; whether there was one."""
        about = About(folder)
        about.check(self.image)
        self._about = about
        number, begun = 0, False
        for record in read_journal(folder.journal):
            number, begun = record["n"] + 1, begun or record.get("do") == "begin"
            self._replay(record)
        if begun or self.start_paint is None:
            self.start_paint = about.paint
        if not begun and self.start_paint is None:
            self.start_paint = (folder.labels_of_result() or (None,))[0]
        about.note(self.image, spacing, self.start_paint)
        self._journal = Journal(
            folder.journal, number, lambda: about.note(self.image, spacing, self.start_paint)
        )
        if number and not begun:  # a kill while the paint to start from was taken over
            self._replay({"do": "restart"})
            self._note({"do": "restart"})
        return begun

    def _replay(self, record: Record) -> None:
        match record.get("do"):
            case "begin":
                self._painting.forget()
            case "restart":
                self._painting = Painting(self.image.size)
            case "densified":
                self.is_result = record.get("revision") == self._painting.revision
            case kind:
                if kind != "learn" and self._painting.apply(record):  # what was learnt is learnt again
                    self.is_result = False

    def _start(
        self,
        paint: _Path | None,
        read: Mapping[str, Any],
        spacing: str | Sequence[float] | None,
    ) -> Start | None:
        self.is_result = False
        if paint is None and self.folder is not None:
            found = self.folder.labels_of_result()
            if found is not None:
                self.is_result = True
                path, choices = found
                return read_start(path, self.image, **{**choices, "spacing": spacing})
        return None if paint is None else read_start(paint, self.image, spacing=spacing, **read)

    def _begin(self, start: Start | None, classes: Mapping[int, str]) -> None:
        """The first records: classes, and the paint that there was before."""
        names = with_background(dict(start.names if start else {}) | named(classes))
        colours = start.colours if start else {}
        self._change({value: {"name": name, "colour": colours.get(value)} for value, name in names.items()})
        if start is not None:
            stack = start.labels.reshape(*self.size[:2], -1)
            for index in range(stack.shape[2]):
                packed = packed_values(stack[..., index])
                if packed is not None:
                    self._do({"do": "adopt", "axis": 2, "index": index, **packed})
            for axis, index in start.finished:
                self._do({"do": "finish", "axis": axis, "index": index})
        self._do({"do": "begin"})
        if self.is_result:
            self._note({"do": "densified", "revision": self.revision})

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return self.image.size

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size per axis, in ``unit``."""
        return self.image.like.spacing

    @property
    def labels(self) -> Plane:
        """The paint ``(*spatial)``: values, 255 where unlabelled. A copy.

        Raises:
            ResourceError: for a volume too large for an array; :meth:`paint_slice` gives a slice of it.
        """
        if np.prod(self.size, dtype=float) > DENSE:
            raise ResourceError(
                f"the paint of {' x '.join(map(str, self.size))} voxels is not held as an array. Ask for "
                "slices of it (paint_slice), or cut the part that matters out of the image and paint on that."
            )
        with self._lock:
            return self._painting.labels.dense()

    @property
    def classes(self) -> dict[int, ClassInfo]:
        """Classes by value, in the order in which they were added."""
        with self._lock:
            return dict(self._painting.classes)

    @property
    def revision(self) -> int:
        """How often the paint has changed."""
        return self._painting.revision

    @property
    def finished(self) -> frozenset[tuple[int, int]]:
        """Slices that were declared finished, as ``(axis, index)``."""
        return self._painting.finished

    @property
    def can_undo(self) -> bool:
        return self._painting.can_undo

    @property
    def can_redo(self) -> bool:
        return self._painting.can_redo

    @property
    def trouble(self) -> str:
        """Why records wait in memory, if they do."""
        return "" if self._journal is None else self._journal.trouble

    def painted(self) -> list[list[int]]:
        """Per axis, the indices of slices that carry paint."""
        with self._lock:
            return [np.flatnonzero(counts).tolist() for counts in self._painting.counts]

    def counts(self) -> dict[int, int]:
        """Painted voxels by value."""
        with self._lock:
            return {value: int(self._painting.of_class[value]) for value in self._painting.classes}

    def paint(
        self, axis: int | None, index: int, mask: npt.ArrayLike, value: int, *, id: str | None = None
    ) -> bool:
        """Give the voxels of a slice where ``mask`` is true a value; 255 erases.

        Args:
            mask: boolean, of the slice's shape.
            id: what the caller calls this act; the same act sent twice is done once.

        Returns:
            whether the paint has changed.

        Raises:
            ValueError: if there is no such slice, the mask has another shape, or the value is not a class.
            RefusedError: if the class is locked.
        """
        axis, index = self._painting.place(axis, index)
        self._check_value(value)
        shape = self._painting.shape(axis)
        where = np.asarray(mask)
        if where.shape != shape or where.dtype.kind not in "bui":
            raise ValueError(
                f"mask has the shape {where.shape} and the type {where.dtype}: slices across "
                f"{AXES[axis]} are {shape}, and a boolean mask is needed."
            )
        packed = packed_mask(where.astype(bool))
        if packed is None:
            return False
        return self._do({"do": "paint", "axis": axis, "index": index, **packed, "value": int(value)}, id)

    def stroke(
        self,
        axis: int | None,
        index: int,
        points: npt.ArrayLike,
        radius: float,
        value: int,
        *,
        id: str | None = None,
    ) -> bool:
        """Draw with a round brush along a line; see :func:`volseg.session.shapes.brush`.

        Args:
            points: ``(n, 2)`` in voxels of the slice.
            radius: in the unit of the spacing.
        """
        axis, index = self._painting.place(axis, index)
        steps = tuple(s for a, s in enumerate(self.spacing) if len(self.size) == 2 or a != axis)
        mask = brush(self._painting.shape(axis), points, radius, steps)
        return self.paint(axis, index, mask, value, id=id)

    def polygon(
        self, axis: int | None, index: int, points: npt.ArrayLike, value: int, *, id: str | None = None
    ) -> bool:
        """Fill a closed outline ``(n, 2)``, in voxels of the slice."""
        axis, index = self._painting.place(axis, index)
        return self.paint(axis, index, outline(self._painting.shape(axis), points), value, id=id)

    def fill(
        self,
        axis: int | None,
        index: int,
        point: Sequence[int],
        value: int,
        tolerance: float,
        *,
        id: str | None = None,
    ) -> bool:
        """Fill what is connected with a voxel of the slice and differs from it by at most ``tolerance`` in
        every channel of the image."""
        axis, index = self._painting.place(axis, index)
        shape, place = self._painting.shape(axis), [round(float(p)) for p in point]
        if len(place) != 2 or not all(0 <= p < n for p, n in zip(place, shape, strict=True)):
            raise ValueError(f"point = {tuple(point)} is outside of the slice, which has {shape} voxels.")
        mask = flooded(self.image_slice(axis, index), place, float(tolerance))
        return self.paint(axis, index, mask, value, id=id)

    def erase(self, axis: int | None, index: int, mask: npt.ArrayLike, *, id: str | None = None) -> bool:
        """Take the paint away where ``mask`` is true; of locked classes it stays."""
        return self.paint(axis, index, mask, IGNORE_INDEX, id=id)

    def finish_slice(self, axis: int | None, index: int, *, id: str | None = None) -> bool:
        """Declare a slice finished: what is blank on it is background from now on."""
        axis, index = self._painting.place(axis, index)
        return self._do({"do": "finish", "axis": axis, "index": index}, id)

    def undo(self, *, id: str | None = None) -> bool:
        """Take the last act back, of a class that was locked since, too; whether there was one."""
        return self._painting.can_undo and self._do({"do": "undo"}, id)

    def redo(self, *, id: str | None = None) -> bool:
        """Do again what was taken back last."""
        return self._painting.can_redo and self._do({"do": "redo"}, id)

    def set_class(
        self,
        value: int,
        *,
        name: str | None = None,
        colour: Sequence[int] | None = None,
        locked: bool | None = None,
    ) -> None:
        """Add a class, or change its name, colour, or whether it is locked.

        Raises:
            ValueError: if it cannot have that value, or another class has the name.
        """
        self._change({value: {"name": name, "colour": colour, "locked": locked}})

    def _change(self, changes: Mapping[int, Mapping[str, Any]]) -> None:
        with self._lock:
            for value, info in changed(self._painting.classes, changes).items():
                self._do({"do": "class", "value": value} | vars(info) | {"colour": list(info.colour)})

    def image_slice(self, axis: int | None, index: int) -> npt.NDArray[Any]:
        """Grey values of a slice, ``(C, *plane)``."""
        axis, index = self._painting.place(axis, index)
        block = self._painting.plane(axis, index)
        found = self._slabs[(slice(0, self.image.channels), *block)]
        return found.reshape(self.image.channels, *self._painting.shape(axis))

    def paint_slice(self, axis: int | None, index: int) -> Plane:
        """Paint of a slice: values, 255 where unlabelled."""
        with self._lock:
            return self._painting.read(*self._painting.place(axis, index))

    def close(self) -> None:
        """Everything is on the disk; another process may have the folder.

        Raises:
            ResourceError: if records wait in memory: it stays open.
        """
        with self._lock:
            if self._journal is not None:
                self._journal.require_written()
                was_ours = not self._journal.is_over
                self._journal.close()
                self._journal = None
                if self.folder is not None and was_ours:
                    release(self.folder.path, lock=PAINT_LOCK)
            self._is_closed = self.folder is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self) -> bool:
        """Try again to write what waits in memory; whether all is on the disk."""
        with self._lock:
            if self._journal is not None:
                self._journal.flush()
            return not self.trouble

    def _do(self, record: Record, id: str | None = None) -> bool:
        """Apply a record and note it."""
        with self._lock, nullcontext() if self._journal is None else self._journal.lock:
            if id is not None:
                if id in self._painting.known:
                    return False
                record = {**record, "id": id}
            self._require_open()
            changed = self._painting.apply(record) if record["do"] != "begin" else self._painting.forget()
            self._note(record)
            return changed

    def _require_open(self) -> None:
        if self._is_closed or (self._journal is not None and self._journal.is_over):
            raise RefusedError(
                "This session is closed, or its folder was opened again in this program: what is painted "
                "here would not be kept. Open the folder again, and paint there."
            )

    def _note(self, record: Record) -> None:
        with self._lock:
            if self._journal is not None:
                self._journal.append(record)

    def _check_value(self, value: int) -> None:
        if value == IGNORE_INDEX:
            return
        known = self.classes.get(value)
        if known is None:
            raise ValueError(
                f"value = {value} is not a class; there are {sorted(self.classes)}. Add it with set_class."
            )
        if known.locked:
            raise RefusedError(f"{known.name} is locked. Unlock it to paint with it.")
