"""Objects that are kept apart: ids in files, a class per voxel for the network, ids again in results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import expand_labels

from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX, LabelScheme, as_integers, checked_ids, compact_ids

__all__ = ["InstanceScheme", "separate_touching"]

_DTYPES = (np.uint8, np.uint16, np.uint32)


def separate_touching(instances: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same objects with background between those that touched, also diagonally.

    In a class label, objects that touch are one, and no network can learn to part them. As in the
    2015 training data, where a border was drawn between cells, every voxel with a voxel of another object
    among its neighbours becomes background. Negative ids (unlabelled) stay and are no one's neighbour.
    """
    instances = checked_ids(instances)
    if instances.size == 0:
        return instances.copy()
    objects = compact_ids(np.where(instances > 0, instances, np.zeros((), instances.dtype)))
    others = np.where(objects > 0, objects, objects.max() + 1)
    largest, smallest = ndimage.maximum_filter(objects, 3), ndimage.minimum_filter(others, 3)
    touching = (objects > 0) & (smallest != largest)
    return np.where(touching, np.zeros((), instances.dtype), instances)


@dataclass(frozen=True, init=False)
class InstanceScheme(LabelScheme):
    """A :class:`volseg.labels.LabelScheme` for files that hold an id per object, 0 for background.

    The network learns two classes, background and object, with a gap of background cut between objects
    that touch (Ronneberger et al. 2015, Sec. 3.1). ``decode`` goes back: every connected piece is an
    object, and pieces close to each other grow back over the gap.

    Args:
        names: of background and object.
        unlabelled: the integer that marks unannotated voxels in files; ``None`` if there are none.
        min_size: pieces with fewer voxels are not objects.
    """

    min_size: int

    def __init__(
        self,
        names: Sequence[str] = ("background", "object"),
        unlabelled: int | None = None,
        *,
        min_size: int = 1,
    ) -> None:
        if len(names) != 2:
            raise ValueError(f"names = {names!r} must hold two names, of the background and of an object.")
        if min_size < 1:
            raise ValueError(f"min_size = {min_size} must be 1 or more; 1 keeps every piece.")
        object.__setattr__(self, "min_size", int(min_size))
        super().__init__(names, (0, 1), unlabelled)

    def _check(self) -> None:
        if self.unlabelled is not None and self.unlabelled >= 0:
            raise ValueError(
                f"unlabelled = {self.unlabelled} could be the id of an object. Mark what is unlabelled "
                "with a negative number, in a signed file."
            )

    def instances(self, array: npt.ArrayLike, source: str = "") -> npt.NDArray[np.int32]:
        """The ids of a file, checked: 0 for background, -1 for unlabelled."""
        values = as_integers(np.asarray(array), source)
        if np.any((values < 0) & (values != self._unlabelled)):
            wrong = int(values[(values < 0) & (values != self._unlabelled)][0])
            raise InputError(
                f"{source or 'The label array'} holds {wrong}, which is not an id: objects are 1 and up, "
                f"background is 0, unlabelled is {self.unlabelled}."
            )
        if values.size and values.max() > np.iinfo(np.int32).max:
            values = np.where(values < 0, -1, compact_ids(np.maximum(values, 0)))
        ids = values.astype(np.int32)
        ids[values < 0] = -1
        return ids

    def encode(self, array: npt.ArrayLike, source: str = "") -> npt.NDArray[np.uint8]:
        """Class indices for an array of ids, with a gap where objects touch."""
        ids = self.instances(array, source)
        encoded = (separate_touching(ids) > 0).astype(np.uint8)
        encoded[ids < 0] = IGNORE_INDEX
        return encoded

    def decode(self, indices: npt.ArrayLike) -> npt.NDArray[Any]:
        """Ids 1..n for an array of class indices, in the smallest type that holds them.

        Pieces are connected through faces. A voxel of the gap goes to the nearest piece, if it touches
        one and another is no more than two voxels away, which undoes ``encode``.
        """
        classes = np.asarray(indices)
        if classes.dtype.kind not in "iu" or (classes.size and not 0 <= classes.min() <= classes.max() <= 1):
            raise ValueError(
                "indices must hold 0 for background and 1 for objects, nothing else: unlabelled voxels "
                "belong to no object."
            )
        ids, number = ndimage.label(classes)
        large = np.bincount(ids.ravel(), minlength=number + 1) >= self.min_size
        large[0] = False
        ids = (np.cumsum(large) * large)[ids]
        if large.any():
            ids = np.where(_between(ids), expand_labels(ids, np.sqrt(classes.ndim)), ids)
        dtype = next(dtype for dtype in _DTYPES if large.sum() <= np.iinfo(dtype).max)
        return ids.astype(dtype)

    @property
    def _unlabelled(self) -> int:
        return 0 if self.unlabelled is None else self.unlabelled


def _between(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Background with two different objects in the 5 voxels around it, along each axis."""
    others = np.where(ids > 0, ids, ids.max() + 1)
    largest, smallest = ndimage.maximum_filter(ids, 5), ndimage.minimum_filter(others, 5)
    return (ids == 0) & (largest > 0) & (largest != smallest)
