"""The layers of a session: paint, which goes both ways, and result and doubt, which are only shown.

Where the paint of the layer differs from what the session is known to hold, it becomes acts of the session,
slice by slice; so it does not matter whether a brush, a fill, an undo or a script has changed the layer.
"""

from collections.abc import Callable

import numpy as np
from napari.layers import Image, Labels

from volseg.errors import RefusedError
from volseg.labels import IGNORE_INDEX
from volseg.napari.layers import CLASSES, across, colours_of, placement, turned
from volseg.session import Session

__all__ = ["PaintLayer", "ResultLayers"]

Slices = list[tuple[int, int]]


def _part(axis: int, index: int, dims: int) -> tuple[slice | int, ...]:
    """Where a slice of the session is in a layer."""
    if dims == 2:
        return (slice(None), slice(None))
    return tuple(index if a == across(axis, dims) else slice(None) for a in range(dims))


class PaintLayer:
    """A Labels layer and the paint of a session.

    Args:
        on_paint: called with the slices, as ``(axis, index)`` of the session, on which the paint has changed.
        on_refused: called with the reason why something could not be painted; the layer shows it no longer.

    Attributes:
        layer: values as in files, 255 where nothing is painted.
    """

    def __init__(
        self, session: Session, on_paint: Callable[[Slices], object], on_refused: Callable[[str], object]
    ) -> None:
        self._session, self._on_paint, self._on_refused = session, on_paint, on_refused
        self._known = np.ascontiguousarray(turned(session.labels))
        self.layer = Labels(
            self._known.copy(),
            name="paint",
            opacity=0.6,
            colormap=colours_of(session.classes),
            **placement(session.image.like),
        )
        self.layer.brush_size = 5
        self.show_classes()
        self._expected = False  # a stroke was announced that is not in the data yet
        self.layer.events.paint.connect(self._announced)
        self.layer.events.labels_update.connect(self._drawn)
        self.layer.events.set_data.connect(self.take)  # undo and redo say no more than this

    def release(self) -> None:
        """From now on it is a layer like any other."""
        self.layer.events.paint.disconnect(self._announced)
        self.layer.events.labels_update.disconnect(self._drawn)
        self.layer.events.set_data.disconnect(self.take)

    def show_classes(self) -> None:
        """Colours and names, after a class was added."""
        self.layer.colormap = colours_of(self._session.classes)
        self.layer.metadata[CLASSES] = self._session.classes

    def _announced(self, _: object) -> None:
        """A stroke of the mouse has ended; one by a script is about to change the data."""
        self._expected = not self.take()

    def _drawn(self, _: object) -> None:
        if self._expected:
            self._expected = not self.take()

    def take(self, _: object = None) -> bool:
        """Do in the session what was done in the layer; whether anything was."""
        data, dims = self.layer.data, self._known.ndim
        changed = data != self._known
        if not changed.any():
            return False
        slices: Slices = [(2, 0)]
        if dims == 3:
            found = [np.flatnonzero(changed.any(tuple(b for b in range(3) if b != a))) for a in range(3)]
            axis = min(range(3), key=lambda a: len(found[a]))
            slices = [(across(axis, dims), int(index)) for index in found[axis]]
        for one in slices:
            part = _part(*one, dims)
            where, values = changed[part], data[part]
            for value in np.unique(values[where]):
                self._paint(one, where & (values == value), int(value))
        self.show(slices)
        self._on_paint(slices)
        return True

    def _paint(self, where: tuple[int, int], mask: np.ndarray, value: int) -> None:
        session = self._session
        if value != IGNORE_INDEX and value not in session.classes:
            session.set_class(value)
            self.show_classes()
        try:
            session.paint(*where, turned(mask), value)
        except RefusedError as error:
            self._on_refused(str(error))

    def show(self, slices: Slices) -> None:
        """Bring the layer to what the session holds, which has changed or refused something."""
        differs = False
        for axis, index in slices:
            part = _part(axis, index, self._known.ndim)
            paint = turned(self._session.paint_slice(axis, index))
            differs |= bool((self.layer.data[part] != paint).any())
            self.layer.data[part] = self._known[part] = paint
        if differs:
            self.layer.refresh()


class ResultLayers:
    """The result in the colours of its classes, background clear, and how doubtful it is, in percent.

    Slices that were not looked at since the last round of learning show what was found before.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._dims = len(session.size)
        shape, place = session.size[::-1], placement(session.image.like)
        blank = np.full(shape, IGNORE_INDEX, np.uint8)
        self.result = Labels(blank, name="result", opacity=0.35, **place)
        self.result.editable = False
        self.doubt = Image(
            np.zeros(shape, np.uint8), name="doubt", colormap="inferno", blending="additive",
            contrast_limits=(0, 50), opacity=0.7, visible=False, **place,
        )  # fmt: skip
        self.show_classes()
        self.show_known()

    def show_classes(self) -> None:
        """Colours and names, after a class was added."""
        self.result.colormap = colours_of(self._session.classes, hidden=(0,))
        self.result.metadata[CLASSES] = self._session.classes

    def show(self, slices: Slices) -> None:
        """Slices whose result or paint has changed; what is painted is as painted, and certain."""
        for axis, index in slices:
            part = _part(axis, index, self._dims)
            found = self._session.known_slice(axis, index)
            if found is not None:
                self.result.data[part] = turned(found.values)
                known = found.values != IGNORE_INDEX
                self.doubt.data[part] = turned(np.rint(100 * (1 - found.confidence) * known).astype(np.uint8))
                continue
            paint = turned(self._session.paint_slice(axis, index))
            on = paint != IGNORE_INDEX
            self.result.data[part] = np.where(on, paint, self.result.data[part])
            self.doubt.data[part] = np.where(on, 0, self.doubt.data[part])
        self.result.refresh()
        self.doubt.refresh()

    def show_known(self) -> None:
        """Whatever is at hand, such as all that ``densify`` has written."""
        count = self._session.size[2] if self._dims == 3 else 1
        known = [(2, index) for index in range(count)]
        self.show([one for one in known if self._session.known_slice(*one) is not None])
