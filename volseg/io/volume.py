"""What every reader returns, and the checks on voxel values that every format shares.

Inside volseg an image is ``(C, X, Y)`` or ``(C, X, Y, Z)``: contiguous, in the byte order of this
machine, with an affine from voxel indices to world coordinates (RAS, in ``unit``). Whatever a file
does otherwise is undone on reading and redone on writing.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from volseg.arguments import by_door, conversion, option
from volseg.errors import InputError
from volseg.io.colours import several_channels
from volseg.labels import as_integers

__all__ = [
    "Note",
    "Notes",
    "Volume",
    "as_labels",
    "blank_in",
    "blank_words",
    "contiguous",
    "noticing",
    "number_for_nan",
    "replace_nonfinite",
    "require_finite",
]

logger = logging.getLogger(__name__)

UNLABELLED = 255  # what NaN in a label becomes
_BLANK = re.compile(r"volseg: (-?[0-9]{1,10}) is unlabelled")


class Note(NamedTuple):
    """What a reader noticed about a file that can be used all the same; ``level`` is one of `logging`."""

    level: int
    text: str


class Notes(list[Note]):
    """What readers notice, in that order; each hands it to whatever it calls that may notice something."""

    def info(self, text: str, *values: object) -> None:
        """What was concluded, as expected; ``text`` is formatted as by `logging`."""
        self.append(Note(logging.INFO, text % values if values else text))

    def warning(self, text: str, *values: object) -> None:
        """What may be wrong with the file."""
        self.append(Note(logging.WARNING, text % values if values else text))


_Key = tuple[Note, tuple[tuple[str, int, int], ...]]
_logged: set[_Key] = set()


@contextmanager
def noticing(notes: Notes | None, *paths: Path | None) -> Iterator[Notes]:
    """A place for notes, which go to ``notes`` in the end, or to the log where they are not collected.

    A process logs the same of the same files once, as long as they do not change.

    Args:
        paths: the files that the notes are about, ``None`` for what lies in memory.
    """
    own = Notes()
    try:
        yield own
    finally:
        if notes is not None:
            notes += own
        else:
            files = tuple(file for path in paths for file in _state(path))
            for note in own:
                if len(files) < len(paths) or (note, files) not in _logged:
                    _logged.add((note, files))
                    logger.log(note.level, "%s", note.text)


def _state(path: Path | None) -> Iterator[tuple[str, int, int]]:
    """What changes when a file does; nothing where there is none."""
    with suppress(OSError):
        if path is not None:
            found = path.stat()
            yield str(path), found.st_mtime_ns, found.st_size


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or a label volume and where it lies in the world.

    Args:
        array: ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        affine: voxel index to world position, ``(d+1, d+1)``, in ``unit``; RAS where the file says so,
            a plain scaling where it does not (TIFF).
        unit: ``"mm"``, ``"um"``, ``"m"``, or ``""`` where the file names none.
        path: the file it came from.
        header: what the format needs to write a file like this one; opaque to everybody else.
        blank: of a label, the number that means unlabelled: it stands for NaN, or the file says so. What is
            written like this volume says so, too, in a format that has a place for words.
        notes: what was noticed when it was read.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    unit: str = ""
    path: Path | None = None
    header: object = None
    blank: int | None = None
    notes: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4):
            raise ValueError(
                f"a volume's array is (C, X, Y) or (C, X, Y, Z), but this one has shape {self.array.shape}. "
                "Add the channel axis with array[None]."
            )
        if self.affine.shape != (self.array.ndim, self.array.ndim):
            raise ValueError(
                f"affine has shape {self.affine.shape}, but an array with {self.spatial_dims} spatial axes "
                f"needs {(self.array.ndim, self.array.ndim)}."
            )

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.array.ndim - 1

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Size in voxels, in the order x, y, z."""
        return self.array.shape[1:]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.array.shape[0]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along each axis, in ``unit``."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def name(self) -> str:
        """The file's path for messages."""
        return str(self.path) if self.path is not None else "volume in memory"


def blank_words(volume: Volume) -> str:
    """What a file says of the number that means unlabelled; empty if none does."""
    return "" if volume.blank is None else f"volseg: {volume.blank} is unlabelled"


def blank_in(words: str | bytes) -> int | None:
    """The number that means unlabelled by the words in a file."""
    found = _BLANK.search(words.decode("latin-1") if isinstance(words, bytes) else words)
    return int(found[1]) if found else None


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The array in C order, native byte order, and a dtype that torch and numba know.

    Files keep x fastest, so this transposes; blocks keep both sides in the cache (2 to 3 times as fast).
    """
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    elif dtype == np.float16:
        dtype = np.dtype(np.float32)
    if (
        array.flags.c_contiguous and array.flags.writeable and array.dtype == dtype
    ) or array.nbytes < 1 << 20:
        return np.require(array, dtype, ["C", "W"])
    out = np.empty(array.shape, dtype)
    for c in range(array.shape[0]):
        for x in range(0, array.shape[1], 64):
            for y in range(0, array.shape[2], 16):
                block = c, slice(x, x + 64), slice(y, y + 16)
                out[block] = array[block]
    return out


def as_labels(array: NDArray[Any], source: str, notes: Notes) -> NDArray[Any]:
    """Class ids ``(1, *spatial)``, exactly as stored; anything that is not a class id is refused.

    Three equal channels are one, NaN is unlabelled; see :func:`volseg.labels.as_integers` for the rest.
    """
    if array.shape[0] > 1:
        if array.shape[0] != 3 or (array != array[:1]).any():
            raise several_channels(array, source)
        notes.warning("%s is a grey RGB image: its three equal channels are read as one.", source)
        array = array[:1]
    if array.dtype.kind == "f":
        array = _without_nan(array, source, notes)
    whole = as_integers(array[0], source)[None]
    if array.dtype.kind == "f" and (whole != array).any():
        notes.warning("%s holds labels up to 0.001 away from an integer; they are rounded.", source)
    return whole


def number_for_nan(array: NDArray[Any]) -> int | None:
    """What NaN in a label becomes: 255, or -1 where 255 is a class; ``None`` if there is none."""
    if array.dtype.kind != "f" or not np.isnan(array).any():
        return None
    return -1 if (array == UNLABELLED).any() else UNLABELLED


def _without_nan(array: NDArray[Any], source: str, notes: Notes) -> NDArray[Any]:
    """NaN in a label means unlabelled: it becomes 255, or -1 where 255 is a class."""
    blank = np.isnan(array)
    if not blank.any():
        return array
    number = number_for_nan(array)
    if (array == number).any():
        raise InputError(
            f"{source} holds {_count(blank, 'NaN label')}, which would be unlabelled, but 255 and -1, the "
            "numbers for that, are used in it. Give blank voxels a number of their own."
        )
    notes.warning(
        "%s: %s taken as unlabelled, with the number %d.", source, _count(blank, "NaN label"), number
    )
    return np.where(blank, array.dtype.type(number), array)


def require_finite(array: NDArray[Any], source: str) -> None:
    """Refuse NaN and infinity: one such voxel turns every statistic of the image into NaN."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    what = _count(~np.isfinite(array), "NaN or infinite voxel")
    typed = f"'{conversion(source, nonfinite='replace')}'"
    raise InputError(
        f"{source} holds {what}. One of them is enough to make every normalised voxel NaN. "
        "Repair the file, or put the image's smallest value there: "
        f"{by_door(option('nonfinite', 'replace') + ', or ', '')}{typed}."
    )


def replace_nonfinite(array: NDArray[Any], source: str, notes: Notes) -> NDArray[Any]:
    """The array with each channel's smallest finite value where it holds NaN or infinity.

    Where the other values are few whole numbers, it may be a label, and a class would be invented; that is
    said.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array
    out = array.copy()
    for channel in out:
        finite = np.isfinite(channel)
        channel[~finite] = channel[finite].min() if finite.any() else 0
    notes.warning("%s: %s replaced.", source, _count(~np.isfinite(array), "NaN or infinite voxel"))
    if np.array_equal(out, np.rint(out)) and len(np.unique(out.ravel()[:: max(1, out.size // 10000)])) <= 20:
        notes.warning(
            "%s holds few whole numbers: if it is a label, read it as one (%s), and NaN means "
            "unlabelled instead of the smallest class.", source, option("labels", True),
        )  # fmt: skip
    return out


def _count(where: NDArray[Any], noun: str) -> str:
    """Say ``3 fractional labels (the first at voxel 5, 5, 5)``."""
    n = int(np.count_nonzero(where))
    first: Sequence[int] = np.unravel_index(int(np.argmax(where)), where.shape)[1:]  # type: ignore[assignment]
    return f"{n} {noun}{'' if n == 1 else 's'} (the first at voxel {', '.join(str(int(i)) for i in first)})"
