"""The paint of one volume as records make it: strokes, finished slices, classes, undo and redo.

What a record does depends on nothing but the records before it. So the same records give the same paint, bit
for bit, whether they come from a hand or from a journal.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX
from volseg.session.bricks import BrickLabels
from volseg.session.journal import Record

__all__ = ["BACKGROUND", "ClassInfo", "Painting", "packed_mask", "packed_values", "whole"]

BACKGROUND = 0
_MOST = IGNORE_INDEX - 1  # the largest value of a class

Plane = npt.NDArray[np.uint8]
Block = tuple[slice, ...]


@dataclass(frozen=True)
class ClassInfo:
    """A class as a person knows it.

    Args:
        colour: red, green, blue from 0 to 255.
        locked: nothing paints over voxels of it, or with it.
    """

    name: str
    colour: tuple[int, int, int]
    locked: bool = False


class _Change(NamedTuple):
    """What is undone: a block, what was there, what is there now, and the finished slices before and "
    "after."""

    block: Block
    before: bytes
    after: bytes
    finished: tuple[frozenset[tuple[int, int]], frozenset[tuple[int, int]]]


class Painting:
    """Labels, classes, and what can be undone.

    Args:
        size: voxels per axis, two or three.

    Attributes:
        labels: values as painted, 255 where nothing is.
        finished: slices declared finished, as ``(axis, index)``; of an image, ``(2, 0)``.
        counts: painted voxels per axis and index.
        revision: how often the paint has changed.
    """

    def __init__(self, size: Sequence[int]) -> None:
        self.size = tuple(size)
        self.labels = BrickLabels(size)
        self.classes: dict[int, ClassInfo] = {}
        self.finished: frozenset[tuple[int, int]] = frozenset()
        self.counts = [np.zeros(n, np.int64) for n in size]
        self.of_class = np.zeros(256, np.int64)
        self.revision = 0
        self.known: set[str] = set()  # what clients called the acts that they sent
        self._done: list[_Change] = []
        self._undone: list[_Change] = []

    @property
    def can_undo(self) -> bool:
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        return bool(self._undone)

    def place(self, axis: int | None, index: int) -> tuple[int, int]:
        """A slice, as two numbers: the axis across it, where ``None`` is that of an image, and its index.

        Raises:
            ValueError: if there is no such slice.
        """
        if axis is None and len(self.size) == 3:
            raise ValueError("axis = None is for images in 2D; a volume needs 0 (x), 1 (y) or 2 (z).")
        place = 2 if axis is None else whole("axis", axis), whole("index", index)
        self.plane(*place)
        return place

    def plane(self, axis: int, index: int) -> Block:
        """The block that a slice is.

        Raises:
            ValueError: if there is no such slice.
        """
        if len(self.size) == 2:
            if (axis, index) != (2, 0):
                raise ValueError(f"axis = {axis}, index = {index}: an image has one plane, axis 2, index 0.")
            return tuple(slice(0, n) for n in self.size)
        if axis not in range(3):
            raise ValueError(f"axis = {axis} must be 0 (x), 1 (y) or 2 (z), the axis across the slice.")
        if not 0 <= index < self.size[axis]:
            raise ValueError(
                f"{AXES[axis]} = {index} is outside: slices along {AXES[axis]} count from 0 to "
                f"{self.size[axis] - 1}."
            )
        return tuple(slice(index, index + 1) if a == axis else slice(0, n) for a, n in enumerate(self.size))

    def shape(self, axis: int) -> tuple[int, int]:
        """Voxels of a slice along its two axes."""
        first, second = (n for a, n in enumerate(self.size) if len(self.size) == 2 or a != axis)
        return first, second

    def read(self, axis: int, index: int) -> Plane:
        """A slice of the paint."""
        return self.labels.read(self.plane(axis, index)).reshape(self.shape(axis))

    def apply(self, record: Record) -> bool:
        """Do what a record says; whether the paint has changed.

        Raises:
            InputError: if the record is of no kind that there is.
        """
        kinds = {
            "paint": self._paint,
            "adopt": self._adopt,
            "finish": self._finish,
            "undo": self._undo,
            "redo": self._redo,
            "class": self._class,
        }
        kind = record.get("do")
        if kind not in kinds:
            raise InputError(
                f"a record of painting says {kind!r}, which this volseg does not know. It was written by a "
                "newer "
                "one: use that."
            )
        if isinstance(record.get("id"), str):
            self.known.add(record["id"])
        try:
            changed = kinds[kind](record)
        except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
            raise InputError(f"a record of painting ({kind}) cannot be used: {error}.") from error
        self.revision += changed
        return changed

    def _paint(self, record: Record) -> bool:
        block, shape = self._box(record)
        bits = np.frombuffer(_unpacked(record["bits"], -(-shape[0] * shape[1] // 8)), np.uint8)
        mask = np.unpackbits(bits, count=shape[0] * shape[1]).astype(bool)
        here = self.labels.read(block)
        new = np.where(mask.reshape(here.shape), np.uint8(_value(record["value"])), here)
        return self._write(block, here, new, record)

    def _adopt(self, record: Record) -> bool:
        block, shape = self._box(record)
        values = np.frombuffer(_unpacked(record["values"], shape[0] * shape[1]), np.uint8)
        here = self.labels.read(block)
        values = values.reshape(here.shape)
        return self._write(block, here, np.where(values == IGNORE_INDEX, here, values), record)

    def _finish(self, record: Record) -> bool:
        axis, index = int(record["axis"]), int(record["index"])
        block = self.plane(axis, index)
        here = self.labels.read(block)
        new = np.where(here == IGNORE_INDEX, np.uint8(BACKGROUND), here)
        return self._write(block, here, new, record, self.finished | {(axis, index)})

    def _undo(self, _: Record) -> bool:
        if not self._done:
            return False
        change = self._done.pop()
        self._undone.append(change)
        self._put(change.block, change.before, change.finished[0])
        return True

    def _redo(self, _: Record) -> bool:
        if not self._undone:
            return False
        change = self._undone.pop()
        self._done.append(change)
        self._put(change.block, change.after, change.finished[1])
        return True

    def _class(self, record: Record) -> bool:
        value = _value(record["value"], most=_MOST)
        red, green, blue = (min(max(int(c), 0), 255) for c in record["colour"])
        self.classes[value] = ClassInfo(
            str(record["name"]), (red, green, blue), bool(record.get("locked", False))
        )
        return False

    def _write(
        self,
        block: Block,
        here: npt.NDArray[np.uint8],
        new: npt.NDArray[np.uint8],
        record: Record,
        finished: frozenset[tuple[int, int]] | None = None,
    ) -> bool:
        locked = [value for value, known in self.classes.items() if known.locked]
        new = np.where(np.isin(here, locked), here, new)
        before = self.finished
        after = before if finished is None else finished
        if (new == IGNORE_INDEX).any():  # erasing opens a slice again
            after = frozenset(one for one in after if not self._is_opened(one, block, new))
        if (new == here).all() and after == before:
            return False
        change = _Change(
            block, zlib.compress(here.tobytes(), 1), zlib.compress(new.tobytes(), 1), (before, after)
        )
        self._done.append(change)
        self._undone.clear()
        self._put(block, change.after, after, here)
        return True

    def _is_opened(self, slice_: tuple[int, int], block: Block, new: npt.NDArray[np.uint8]) -> bool:
        """Whether something is unlabelled on a finished slice by what is written to a block."""
        axis, index = slice_
        if len(self.size) == 2:
            return True
        if not block[axis].start <= index < block[axis].stop:
            return False
        return bool((new.take(index - block[axis].start, axis) == IGNORE_INDEX).any())

    def _put(
        self,
        block: Block,
        packed: bytes,
        finished: frozenset[tuple[int, int]],
        here: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        here = self.labels.read(block) if here is None else here
        new = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(here.shape)
        more = (new != IGNORE_INDEX).astype(np.int64) - (here != IGNORE_INDEX)
        for axis, counts in enumerate(self.counts):
            others = tuple(a for a in range(more.ndim) if a != axis)
            counts[block[axis]] += more.sum(others)
        self.of_class += np.bincount(new.ravel(), minlength=256) - np.bincount(here.ravel(), minlength=256)
        self.labels.write(block, new)
        self.finished = finished

    def _box(self, record: Record) -> tuple[Block, tuple[int, int]]:
        """The part of a plane that a record is about, and its shape."""
        axis = int(record["axis"])
        block = list(self.plane(axis, int(record["index"])))
        across = [a for a in range(len(block)) if len(block) == 2 or a != axis]
        for a, (low, high) in zip(across, record["box"], strict=True):
            if not 0 <= low < high <= self.size[a]:
                raise ValueError(f"its box {record['box']} is outside of {self.size}")
            block[a] = slice(int(low), int(high))
        (a, b), (c, d) = record["box"]
        return tuple(block), (b - a, d - c)

    def forget(self) -> bool:
        """What was done before is where it begins: it cannot be undone."""
        self._done.clear()
        self._undone.clear()
        return False


def whole(name: str, value: Any) -> int:
    """A whole number of whatever type.

    Raises:
        ValueError: if it is another number, or none.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise ValueError(f"{name} = {value!r} must be a whole number.")


def packed_mask(mask: npt.NDArray[np.bool_]) -> Mapping[str, Any] | None:
    """A mask of a plane as a record holds it: the box that it fills, and its bits; ``None`` if it is "
    "empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    box = [[int(found[0]), int(found[-1]) + 1] for found in (rows, columns)]
    part = mask[box[0][0] : box[0][1], box[1][0] : box[1][1]]
    return {"box": box, "bits": _packed(np.packbits(part))}


def packed_values(values: Plane) -> Mapping[str, Any] | None:
    """The same of values, 255 for what is left as it is."""
    found = packed_mask(values != IGNORE_INDEX)
    if found is None:
        return None
    (a, b), (c, d) = found["box"]
    return {"box": found["box"], "values": _packed(np.ascontiguousarray(values[a:b, c:d]))}


def _packed(array: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), 6)).decode("ascii")


def _unpacked(text: str, size: int) -> bytes:
    """So many bytes; no more are unpacked, whatever the text says."""
    found = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    if len(found) != size:
        raise ValueError(f"it holds other than {size} bytes")
    return found


def _value(value: Any, most: int = IGNORE_INDEX) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"its value {value!r} must be a whole number from 0 to {most}")
    return value
