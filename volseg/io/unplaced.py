"""Paint that lies on another grid than its image, or over an image without one, brought onto it.

TIFF, PNG, JPEG and OME-Zarr without a translation say how large a voxel is and not where the image lies.
ITK-SNAP, SimpleITK and 3D Slicer put such an image at the origin, its axes pointing left, posterior and
superior, with voxels of size 1 as often as not, and write that into the label. So the label is compared in
voxels: of the image's size, it lies where its voxels say. A part of the image begins as many voxels from
the origin as its position says; that is believed where the voxel sizes make sense, and always where it was
asked for (``volseg convert`` with ``like``). Everything that was concluded is said.

ITK reads the pages of a TIFF with several channels as slices. A label with a slice for every page is put
together, all channels of a slice being the same voxels.

A label laid onto the grid of its image: turned, put in its place, cut to the image.

Programs that paint save what is painted and not always more: a segmentation of 3D Slicer covers a part of
the image, or reaches beyond it. Here a map from voxels of the label to voxels of the image says where it
belongs; nothing is interpolated, voxels have to lie on voxels.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.arguments import conversion
from volseg.errors import InputError
from volseg.io import nrrd
from volseg.io.grid import is_bare
from volseg.io.tiff import TiffHeader
from volseg.io.volume import Notes, Volume

__all__ = [
    "TOLERANCE",
    "Affine",
    "Laid",
    "has_position",
    "is_bare",
    "lay",
    "like_command",
    "onto_image",
    "refuse_lost",
    "signed_steps",
    "sizes_agree",
    "sizes_in_words",
]

TOLERANCE = 0.01  # of a voxel, at every corner

Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Laid:
    """A label on the grid of an image.

    Attributes:
        array: ``(C, *spatial)`` of the image.
        start: the voxel of the image at which the label begins, below 0 if it reaches beyond.
        size: of the label, its axes in the order of the image's.
        turned: its axes run in another order or direction.
        lost: voxels of paint beyond the image; see :func:`refuse_lost`.
        lost_at: the first of them, as a voxel of the label's file.
    """

    array: NDArray[Any]
    start: tuple[int, ...]
    size: tuple[int, ...]
    turned: bool
    lost: int
    lost_at: tuple[int, ...] | None

    @property
    def covers_all(self) -> bool:
        """Whether label and image are the same grid."""
        return not any(self.start) and self.size == self.array.shape[1:]


def lay(array: NDArray[Any], to_image: Affine, shape: tuple[int, ...], fill: int = 0) -> Laid | None:
    """A label ``(C, *spatial)`` on a grid of this shape; ``None`` if its voxels do not lie on voxels of it.

    Args:
        to_image: voxel index of the label to voxel index of the image, ``(d+1, d+1)``.
        fill: for voxels of the image that the label does not cover; what equals it is not paint.
    """
    dims = len(shape)
    steps = signed_steps(to_image)
    if steps is None:
        return None
    offset = np.rint(to_image[:dims, dims])
    corners = np.indices((2,) * dims).reshape(dims, -1) * (np.array(array.shape[1:]) - 1)[:, None]
    exact = to_image[:dims, :dims] @ corners + to_image[:dims, dims:]
    placed = steps @ corners + offset[:, None]
    if np.abs(exact - placed).max() > TOLERANCE:
        return None
    low, high = placed.min(1).astype(int), placed.max(1).astype(int) + 1
    order = np.abs(steps).argmax(1)  # which axis of the label runs along each axis of the image
    backward = tuple(1 + i for i in range(dims) if steps[i, order[i]] < 0)
    source = np.flip(array.transpose(0, *(order + 1)), backward)
    inside = tuple(slice(max(0, a), max(0, min(b, n))) for a, b, n in zip(low, high, shape, strict=True))
    taken = tuple(slice(i.start - a, i.stop - a) for i, a in zip(inside, low, strict=True))
    if any(part.stop <= part.start for part in inside):
        return None
    whole = source.shape[1:] == shape and not low.any()
    dtype = np.result_type(array.dtype, np.min_scalar_type(fill))
    out = source if whole else np.full((len(array), *shape), fill, dtype)
    lost, lost_at = 0, None
    if not whole:
        out[(slice(None), *inside)] = source[(slice(None), *taken)]
        if any(part.stop - part.start < n for part, n in zip(taken, source.shape[1:], strict=True)):
            beyond = source != fill
            beyond[(slice(None), *taken)] = False
            lost = int(np.count_nonzero(beyond))
            if lost:
                beyond = np.flip(beyond, backward).transpose(0, *(np.argsort(order) + 1))
                lost_at = tuple(int(i) for i in np.argwhere(beyond)[0][1:])
    turned = bool(backward) or list(order) != list(range(dims))
    start, size = tuple(int(a) for a in low), tuple(int(b - a) for a, b in zip(low, high, strict=True))
    return Laid(np.ascontiguousarray(out), start, size, turned, lost, lost_at)


def signed_steps(to_image: Affine) -> NDArray[np.float64] | None:
    """The axes of one grid along those of another, as 1, -1 and 0; ``None`` if it takes more to say it."""
    dims = len(to_image) - 1
    steps = np.rint(to_image[:dims, :dims])
    return steps if np.array_equal(np.abs(steps) @ np.abs(steps).T, np.eye(dims)) else None


def refuse_lost(laid: Laid, image: str, label: str) -> None:
    """Refuse a label with paint beyond the image.

    Args:
        image: its name, as ``label``, for the message.
    """
    if laid.lost:
        raise InputError(
            f"{laid.lost} painted voxel(s) of {label} lie beyond the image {image}, the first at voxel "
            f"{laid.lost_at} of the label (counted from 0): they do not lie on one grid. Erase them, pair "
            "the label with the image that it was painted on, or export the label again on the image's grid."
        )


_WITHOUT = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".zarr")
_FRAMES = ((-1.0, -1.0, 1.0), (1.0, 1.0, 1.0))  # which way axes without a position point: ITK's, and plain
_UNITS = (1.0, 1e-3, 1e3)  # of one voxel size by the other, where a program took the unit for another
_ALIKE = 1e-3
_BETWEEN = "Its voxels lie between those of the image, or nowhere on it."
_MAY_BEGIN_THERE = "It begins at the image's first voxel; it may be a part of it, or belong to another image."
_SLICES_ARE_PAGES = (
    "The image has several channels, whose pages ITK takes for slices, so it is unclear which slices these "
    "are. Save the label uncropped."
)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A label laid onto the image, and by which map of voxels."""

    laid: Laid
    to_image: Affine

    def as_volume(self, label: Volume) -> Volume:
        """The label as it lies now, in the world of the program that wrote it."""
        affine = label.affine @ np.linalg.inv(self.to_image)
        return nrrd.on_grid(label, self.laid.array, affine, label.unit)


def has_position(volume: Volume) -> bool:
    """Whether the file says where the image lies; a TIFF does not."""
    plain = np.array_equal(volume.affine, np.diag([*volume.spacing, 1.0]))
    if volume.path is None:
        return not is_bare(volume)
    return not (plain and volume.path.name.lower().endswith(_WITHOUT))


def onto_image(
    image: Volume, label: Volume, notes: Notes, *, case: str = "", fill: int = 0, asked: bool = False
) -> Volume:
    """The label on the grid of an image without a position, with what was concluded in ``notes``.

    Args:
        case: before each message.
        fill: what the label holds where it does not cover the image.
        asked: it was said that the label belongs there: its voxel sizes are not compared.

    Raises:
        InputError: if the label covers another grid, or paint lies beyond the image.
    """
    if nrrd.segments_of(label):
        fill = 0  # there, whatever else a file may hold
    if label.spatial_shape == image.spatial_shape and not any(nrrd.extent_offset(label) or ()):
        return _of_same_size(image, label, case, notes)
    stacked = _from_pages(image, label, case, fill, notes)
    if stacked is not None:
        return stacked
    if not has_position(label):
        raise _other_size(image, label, case, _in_other_order(image, label), part=False)
    found = sorted(_candidates(image, label, fill), key=lambda candidate: candidate.laid.lost)
    if not found:
        raise _other_size(image, label, case, _BETWEEN, part=False)
    if _pages_of(image) and not asked:
        raise _other_size(image, label, case, _SLICES_ARE_PAGES)
    return _placed(image, label, found[0], case, asked, notes)


def _of_same_size(image: Volume, label: Volume, case: str, notes: Notes) -> Volume:
    """A label of the image's size: turned if its position says so, else voxel by voxel."""
    if not has_position(label):
        different = not np.allclose(image.spacing, label.spacing, rtol=_ALIKE)
        sizes = (
            f" Their voxel sizes differ: {sizes_in_words(image)} and {sizes_in_words(label)}."
            if different
            else ""
        )
        notes.info(
            "%s%s and %s have the same size and no position; they are taken voxel by voxel.%s",
            case, image.name, label.name, sizes,
        )  # fmt: skip
        return label
    found = [candidate for candidate in _candidates(image, label, 0) if candidate.laid.covers_all]
    if any(not candidate.laid.turned for candidate in found):
        notes.info(
            "%s%s has no position; %s, which has its size, is taken voxel by voxel.",
            case, image.name, label.name,
        )  # fmt: skip
        return label
    for candidate in found:
        notes.warning(
            "%s%s stores the grid of %s in another orientation; it was turned to fit.",
            case, label.name, image.name,
        )  # fmt: skip
        return candidate.as_volume(label)
    notes.warning(
        "%s%s has no position, and that of %s fits none that programs give to such an image. It has the "
        "image's size and is taken voxel by voxel: see that it is not mirrored.",
        case, image.name, label.name,
    )  # fmt: skip
    return label


def _candidates(image: Volume, label: Volume, fill: int) -> list[_Candidate]:
    """The label where its position puts it, for each way that an image without a position may lie."""
    found = []
    begin = nrrd.extent_offset(label)
    for signs in _FRAMES:
        to_image = _in_voxels(label, np.array(signs[: image.spatial_dims]))
        if to_image is None:
            continue
        if begin and any(begin) and np.array_equal(to_image[:-1, :-1], np.eye(len(begin))):
            to_image[:-1, -1] = begin  # said in voxels: it does not matter where Slicer put the image
        laid = lay(label.array, to_image, image.spatial_shape, fill)
        if laid is not None:
            found.append(_Candidate(laid, to_image))
    return found


def _in_voxels(label: Volume, signs: NDArray[np.float64]) -> Affine | None:
    """Label index to steps of one voxel from the world's origin, along world axes of these signs."""
    dims = label.spatial_dims
    directions = label.affine[:-1, :-1] / np.array(label.spacing)
    out = np.eye(dims + 1)
    out[:-1, :-1] = signs[:, None] * directions
    steps = signed_steps(out)
    if steps is None or np.abs(out[:-1, :-1] - steps).max() > _ALIKE:
        return None
    out[:-1, :-1] = steps
    out[:-1, -1] = signs * label.affine[:-1, -1] / np.array(label.spacing)[np.abs(steps).argmax(1)]
    return out


def _placed(image: Volume, label: Volume, found: _Candidate, case: str, asked: bool, notes: Notes) -> Volume:
    """A label that covers another box than the image does, if that is believable."""
    laid = found.laid
    equal = sum(a == n for a, n in zip(laid.size, image.spatial_shape, strict=True))
    if not asked and not any(laid.start) and equal < image.spatial_dims - 1:
        raise _other_size(image, label, case, _MAY_BEGIN_THERE)
    if not asked and not sizes_agree(image, label):
        ours, theirs = sizes_in_words(image), sizes_in_words(label)
        sizes = f"Its voxels are {theirs}, the image's {ours}: they may not be the same ones."
        raise _other_size(image, label, case, sizes)
    refuse_lost(laid, image.name, f"{case}{label.name}")
    within = all(
        a >= 0 and a + n <= m for a, n, m in zip(laid.start, laid.size, image.spatial_shape, strict=True)
    )
    notes.info(
        "%s%s has no position. %s covers %s, from voxel %s on (counted from 0): it was put in its place.",
        case, image.name, label.name, "a part of it" if within else "more than it", laid.start,
    )  # fmt: skip
    return found.as_volume(label)


def sizes_agree(image: Volume, label: Volume) -> bool:
    """Whether voxels are as large as the image's, or as ITK makes them that does not know their size."""
    ours, theirs = np.array(image.spacing), np.array(label.spacing)
    if np.allclose(theirs, 1, rtol=_ALIKE):
        return True
    if np.allclose(theirs[:2], theirs[0], rtol=_ALIKE) and np.allclose(theirs[2:], 1, rtol=_ALIKE):
        return True  # resolution of a picture's dots, which are square
    return any(np.allclose(theirs, unit * ours, rtol=_ALIKE) for unit in _UNITS)


def _pages_of(image: Volume) -> bool:
    """Whether ITK sees channels of this image as slices."""
    header = image.header
    return image.channels > 1 and isinstance(header, TiffHeader) and not header.meaning.endswith("C")


def _from_pages(image: Volume, label: Volume, case: str, fill: int, notes: Notes) -> Volume | None:
    """A label with a slice for each page of a TIFF of several channels, its pages put together."""
    header = image.header
    if not isinstance(header, TiffHeader) or not _pages_of(image) or label.spatial_dims != 3:
        return None
    x, y, *depth = image.spatial_shape
    z = depth[0] if depth else 1
    if label.spatial_shape != (x, y, z * image.channels):
        return None
    first = header.meaning.replace("X", "").replace("Y", "").startswith("C")
    pages = label.array.reshape((len(label.array), x, y, *((-1, z) if first else (z, -1))))
    pages = np.moveaxis(pages, 3 if first else 4, 0)
    merged = np.full(pages[0].shape, fill, np.result_type(pages.dtype, np.min_scalar_type(fill)))
    for page in pages:
        clash = (page != fill) & (merged != fill) & (page != merged)
        if clash.any():
            voxel = tuple(int(i) for i in np.argwhere(clash)[0][1:])
            raise InputError(
                f"{case}{label.name} has a slice for each channel of {image.name}, and they contradict "
                f"each other at voxel {voxel} (counted from 0). A voxel has one class, whatever its channel: "
                "paint on one channel only."
            )
        merged = np.where(page != fill, page, merged)
    notes.info(
        "%s%s has a slice for each of the %d channels of %s; those of one slice were put together.",
        case, label.name, image.channels, image.name,
    )  # fmt: skip
    merged = merged if depth else merged[..., 0]
    return replace(
        label, array=np.ascontiguousarray(merged), affine=image.affine, unit=image.unit, header=None
    )


def _in_other_order(image: Volume, label: Volume) -> str:
    """What to do with a label without a position whose size is another."""
    if label.spatial_shape == image.spatial_shape[::-1] and label.path is not None:
        axes = "XYZ"[: image.spatial_dims]
        return (
            "These are the same numbers in reverse. If its axes were stored in reverse, say so: "
            f"'{conversion(label.name, axes=axes)}'."
        )
    return "It has no position, either, that says which part of the image it is."


def _other_size(image: Volume, label: Volume, case: str, why: str, *, part: bool = True) -> InputError:
    """What is wrong with a label of another size; ``part``: it may be put where its position says."""
    line = like_command(image, label)
    asked = f"; if it is a part of this image, {line} puts it where its position says, in voxels"
    return InputError(
        f"{case}the image {image.name} has {_times(image)} voxels, the label {label.name} has "
        f"{_times(label)}. {why} If it was painted on other voxels, export the label again on the image's "
        f"grid (in 3D Slicer: with the image as reference volume){asked if part else ''}."
    )


def like_command(image: Volume, label: Volume) -> str:
    """What to type to lay a label onto an image's grid, in quotation marks."""
    return f"'{conversion(label.name, like=image.name)}'"


def _times(volume: Volume) -> str:
    return " x ".join(str(n) for n in volume.spatial_shape)


def sizes_in_words(volume: Volume) -> str:
    """The voxel size for messages: ``0.5 x 0.5 x 2 um``."""
    return " x ".join(f"{size:.4g}" for size in volume.spacing) + (f" {volume.unit}" if volume.unit else "")
