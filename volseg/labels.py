"""What the numbers in a label file mean.

Three vocabularies meet here: the *value* in a file (whatever the annotator's program wrote), the
*class index* that a network is trained on (0 .. C-1, in the order of ``names``), and the *name* a
person reads. "Not looked at" is ``unlabelled`` in files and ``IGNORE_INDEX`` in arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index as as_integer
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError

__all__ = ["IGNORE_INDEX", "LabelScheme", "as_integers", "background_of", "checked_ids", "compact_ids"]

IGNORE_INDEX = 255
"""Class index of unlabelled voxels, in arrays and tensors."""

_BACKGROUND = ("background", "bg")
_UNKNOWN = 254  # free for internal use: at most 254 classes take the indices 0 .. 253
_MAX_CLASSES = 254
_LOOKUP_SPAN = 2**20  # value ranges up to this go through one table, wider ones class by class
_GREY = 20  # values that no scheme knows are hardly forgotten classes
_ROUNDING = 1e-3  # a float this close to an integer was meant as that integer
_DTYPES = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64)

_DENSE_IDS = 4  # ids up to this many times the number of voxels are used as they are


@dataclass(frozen=True, init=False)
class LabelScheme:
    """Names and file values of the classes, in the order of the class indices.

    Args:
        names: one name per class.
        values: the integer that stands for each class in label files.
        unlabelled: the integer that marks unannotated voxels in files; ``None`` if every voxel
            of every file is annotated.

    ``len(scheme)`` is the number of classes.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    unlabelled: int | None

    def __init__(self, names: Sequence[str], values: Sequence[int], unlabelled: int | None = None) -> None:
        if isinstance(names, str):
            raise ValueError(f"names = {names!r} is one string; a list with one name per class is needed.")
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "values", tuple(_checked_integer(value, "values") for value in values))
        object.__setattr__(
            self, "unlabelled", None if unlabelled is None else _checked_integer(unlabelled, "unlabelled")
        )
        self._check()

    def _check(self) -> None:
        if len(self.names) != len(self.values):
            raise ValueError(
                f"There are {len(self.names)} names but {len(self.values)} values: "
                "each class needs one of both."
            )
        if not 1 <= len(self.names) <= _MAX_CLASSES:
            raise ValueError(
                f"There are {len(self.names)} classes; between 1 and {_MAX_CLASSES} are possible."
            )
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"names holds {name!r}: every class needs a name that can be read.")
        for what, items in (("names", self.names), ("values", self.values)):
            repeated = sorted({item for item in items if items.count(item) > 1})
            if repeated:
                raise ValueError(
                    f"{what} holds {repeated[0]!r} more than once: classes could not be distinguished."
                )
        if self.unlabelled in self.values:
            name = self.names[self.values.index(self.unlabelled)]
            raise ValueError(
                f"unlabelled = {self.unlabelled} is also the value of the class {name!r}. "
                "Give unannotated voxels a value of their own, or set unlabelled=None."
            )
        self.dtype  # noqa: B018 - refuses values that fit no integer type

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Smallest integer type that holds every file value, ``unlabelled`` included."""
        numbers = [*self.values, *([] if self.unlabelled is None else [self.unlabelled])]
        for dtype in _DTYPES:
            if np.iinfo(dtype).min <= min(numbers) and max(numbers) <= np.iinfo(dtype).max:
                return np.dtype(dtype)
        raise ValueError(f"values from {min(numbers)} to {max(numbers)} fit no 64-bit integer type.")

    def encode(self, array: npt.ArrayLike, source: str = "") -> npt.NDArray[np.uint8]:
        """Class indices for an array of file values; unannotated voxels become ``IGNORE_INDEX``.

        Floats are taken as the integer they stand next to (closer than 0.001) and refused
        otherwise. A value that the scheme does not know is an ``InputError``, never a guess:
        ``source`` is the file to name in it.
        """
        values = as_integers(np.asarray(array), source)
        encoded = self._look_up(values)
        unknown = encoded == _UNKNOWN
        if unknown.any():
            raise InputError(self._unknown_values_message(values, unknown, source))
        return encoded

    def decode(self, indices: npt.ArrayLike) -> npt.NDArray[Any]:
        """File values for an array of class indices, in the type ``dtype``, whatever the array holds."""
        array = np.asarray(indices)
        if array.dtype.kind == "b":
            array = array.view(np.uint8)
        if array.dtype.kind not in "iu":
            raise ValueError(f"indices are of type {array.dtype}; class indices are integers.")
        if array.size == 0:
            return np.zeros(array.shape, self.dtype)
        low, high = int(array.min()), int(array.max())
        if low < 0 or (high >= len(self) and np.any((array >= len(self)) & (array != IGNORE_INDEX))):
            wrong = low if low < 0 else int(array[(array >= len(self)) & (array != IGNORE_INDEX)][0])
            raise ValueError(
                f"indices hold {wrong}; class indices are 0 to {len(self) - 1}, "
                f"and {IGNORE_INDEX} for unlabelled."
            )
        table = np.zeros(IGNORE_INDEX + 1, self.dtype)
        table[: len(self)] = self.values
        if self.unlabelled is not None:
            table[IGNORE_INDEX] = self.unlabelled
        elif high == IGNORE_INDEX:
            raise ValueError(
                f"indices hold {IGNORE_INDEX} (unlabelled), but this scheme has no value for it in files. "
                "Give the scheme one: LabelScheme(..., unlabelled=255)."
            )
        decoded: npt.NDArray[Any] = table[array]
        return decoded

    def _look_up(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Class index per voxel, ``_UNKNOWN`` where the scheme has none."""
        pairs = [(value, index) for index, value in enumerate(self.values)]
        if self.unlabelled is not None:
            pairs.append((self.unlabelled, IGNORE_INDEX))
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if high - low < _LOOKUP_SPAN:
            table = np.full(high - low + 1, _UNKNOWN, np.uint8)
            for value, index in pairs:
                if low <= value <= high:
                    table[value - low] = index
            if low == 0:
                return table[values]
            wide = values.astype(np.int64) if values.dtype.itemsize < 4 else values
            return table[wide - wide.dtype.type(low)]
        encoded = np.full(values.shape, _UNKNOWN, np.uint8)
        for value, index in pairs:
            if low <= value <= high:
                encoded[values == value] = index
        return encoded

    def _unknown_values_message(
        self, values: npt.NDArray[Any], unknown: npt.NDArray[Any], source: str
    ) -> str:
        found, counts = np.unique(values[unknown], return_counts=True)
        shown = [f"{v} ({n} voxel{'s' if n > 1 else ''})" for v, n in zip(found[:5], counts[:5], strict=True)]
        left = len(found) - 5
        more = f" and {left} more value{'s' * (left > 1)}" if left > 0 else ""
        first = tuple(int(axis[0]) for axis in np.nonzero(unknown))
        known = ", ".join(f"{value} = {name}" for name, value in zip(self.names, self.values, strict=True))
        if self.unlabelled is not None:
            known += f", {self.unlabelled} = unlabelled"
        if len(found) > _GREY:
            remedy = (
                "Labels have one value for each class: if this is an image, or a map of distances or "
                "probabilities, put the label in its place."
            )
        elif self.unlabelled is not None:
            remedy = "Correct the file, or add a class with that value to the label scheme."
        else:
            remedy = (
                "Correct the file, add a class with that value to the label scheme, "
                f"or, if it marks what is unlabelled, set unlabelled={found[0]}."
            )
        return (
            f"{_named(source)} holds {', '.join(shown)}{more}, the first at voxel {first}; "
            f"the label scheme knows {known}. {remedy}"
        )


def background_of(names: Sequence[str]) -> int | None:
    """The class that is named background, whatever the case; ``None`` if none is."""
    return next((i for i, name in enumerate(names) if name.casefold().strip() in _BACKGROUND), None)


def _named(source: str) -> str:
    return source or "The label array"


def _checked_integer(value: object, argument: str) -> int:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return as_integer(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{argument} holds {value!r}: what label files hold are integers.") from None


def as_integers(array: npt.NDArray[Any], source: str) -> npt.NDArray[Any]:
    """The array in a native integer type, as stored; floats become the integer they are within 0.001 of.

    A larger fraction means that the label was interpolated, and rounding it would invent classes.

    Args:
        source: the file, for messages.

    Raises:
        InputError: if a float is not meant as an integer, or lies beyond 2**53, where floats are not exact.
    """
    kind = array.dtype.kind
    if kind == "b":
        return array.view(np.uint8)
    if kind in "iu":
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if kind != "f":
        raise InputError(f"{_named(source)} has values of type {array.dtype}; labels are integers.")
    with np.errstate(invalid="ignore"):
        rounded = np.rint(array)
        wrong = ~(np.abs(array - rounded) <= _ROUNDING)  # true for NaN and infinities, too
    if wrong.any():
        first = tuple(int(axis[0]) for axis in np.nonzero(wrong))
        n, value = int(np.count_nonzero(wrong)), float(array[first])
        noun = "NaN" if np.isnan(value) else "infinite" if np.isinf(value) else "fractional"
        raise InputError(
            f"{_named(source)} holds {n} {noun} label{'s' * (n > 1)} (the first at voxel "
            f"{', '.join(map(str, first))}), such as {value:g}. If this is an image, or a map of "
            "probabilities or distances, give the painted file in its place: are image and label exchanged? "
            "If it is a label, it was resampled with linear interpolation, or blank voxels have no number of "
            "their own: export it again with nearest neighbour, as integers."
        )
    most = float(np.abs(rounded).max(initial=0))
    if most >= 2.0**53:
        raise InputError(
            f"{_named(source)} holds class numbers of 2**53 or more, which floating point cannot "
            "distinguish. Save the labels as integers."
        )
    return rounded.astype(np.int32 if most < 2**31 else np.int64)


def checked_ids(instances: npt.ArrayLike) -> npt.NDArray[Any]:
    """The array, if it can hold ids."""
    ids = np.asarray(instances)
    if ids.dtype.kind not in "iub":
        raise ValueError(f"instances are of type {ids.dtype}; ids of objects are integers.")
    return ids


def compact_ids(instances: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Small positive ids for the same objects; 0 stays 0."""
    if instances.size == 0 or int(instances.max()) <= max(_DENSE_IDS * instances.size, 255):
        return instances.astype(np.int32 if instances.size < 2**28 else np.int64)
    ids, order = np.unique(instances, return_inverse=True)
    return order.reshape(instances.shape) + (ids[0] != 0)
