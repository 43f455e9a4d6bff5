"""Painted slices that do not agree with each other: contradictory, unfinished, or copied.

Real structures have straight ends and thin lines of their own. So a slice is compared with its neighbours,
and a line with the other lines of its slice.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.annotation.audit.planes import AnnotatedSlice, Labels, Mask
from volseg.annotation.numbering import numbered, summarise
from volseg.annotation.paint import Paint
from volseg.arguments import option
from volseg.findings import Finding
from volseg.labels import IGNORE_INDEX

__all__ = ["check_agreement"]

_MIN_PAINT = 12  # voxels of paint without which a slice or part of it says nothing
_LINE_SHARE = 0.12  # of a line that disagrees with both sides, at least
_LINE = 8  # voxels of a line that disagree with both sides, at least
_CUT = 0.2  # of its extent that an unfinished slice lacks at least
_WIDE = 0.15  # of that line's length that is painted where it is cut off
_SHOWN = 8  # voxels of that line at least, where the image has to show that it is not a border
_FAINT = 0.4  # of the image's edge at other borders of the paint, that at the line has less
_STRAIGHT = 0.75  # of the paint in the rows before it that goes on in the last row of a slice cut off
_COPIED = 40  # border voxels two slices share if one was copied from the other
_COPIES = 0.05  # of its slices, a label that was copied by hand has no more copies: others were resampled


def check_agreement(
    paint: Paint, planes: Sequence[AnnotatedSlice], image: npt.NDArray[Any] | None
) -> Iterator[Finding]:
    """Findings about slices that fit badly to others; ``image`` is ``(C, *spatial)``."""
    dense = not np.any(paint.labels == IGNORE_INDEX)
    unfinished = [] if dense or paint.finished else list(_unfinished(planes, paint.background, image))
    yield from unfinished
    known = {found for finding in unfinished for found in finding.slices}
    yield from _contradictions([plane for plane in planes if not known & set(plane.slices)], known)
    yield from _copied(planes, image)


def _unfinished(
    planes: Sequence[AnnotatedSlice], background: int | None, image: npt.NDArray[Any] | None
) -> Iterator[Finding]:
    """Slices whose paint ends at a straight line, where that of the others or the image goes on."""
    by_axis: dict[int, list[tuple[AnnotatedSlice, Mask, tuple[npt.NDArray[np.intp], ...]]]] = {}
    for plane in planes:
        labels, kept = plane.without_crossings()
        painted = labels != IGNORE_INDEX
        if background is not None:
            painted &= labels != background
        by_axis.setdefault(plane.axis, []).append((plane, painted, kept))
    counts = " and counts as background" if background is not None else ""
    for same in by_axis.values():
        for plane, painted, kept in same:
            picture = None
            if image is not None:
                cut = image if plane.axis < 0 else np.take(image, plane.index, axis=1 + plane.axis)
                picture = cut[:, kept[0]][:, :, kept[1]]
            found = _cut(painted, [other for p, other, _ in same if p is not plane], picture)
            if found is None:
                continue
            side, last, place = found
            letter = "".join("xyz"[a] for a in range(3) if a != plane.axis)[side]
            at = int(kept[side][last])
            voxel = plane.voxel([kept[0][place[0]], kept[1][place[1]]])
            yield Finding(
                "unfinished",
                "warning",
                f"The paint on {plane.name} ends along a straight line at {numbered(letter, at)}, "
                f"voxel {voxel}, and that of its neighbours, or what the image shows, goes on",
                f"The rest looks as if it had not been painted yet{counts}",
                "Finish the slice, or erase it; if only painted voxels shall count, say "
                f"{option('painted_only', True)}",
                slices=plane.slices,
                voxel=voxel,
            )


def _cut(
    painted: Mask, others: Sequence[Mask], picture: npt.NDArray[Any] | None
) -> tuple[int, int, tuple[int, ...]] | None:
    """The axis and row at which paint ends though the others' or the image does not, and a voxel.

    Args:
        picture: the image under ``painted``, ``(C, X, Y)``.
    """
    for side in (0, 1):
        for backwards in (False, True):
            turn = np.s_[::-1] if backwards else np.s_[:]
            lines = np.moveaxis(painted, side, 0)[turn]
            rows = lines.sum(1)
            filled = np.flatnonzero(rows)
            if rows.sum() < _MIN_PAINT or len(filled) < 5:
                continue
            last = int(filled[-1])
            gap = len(rows) - 1 - last
            if gap < _CUT * len(rows):
                continue
            row = len(rows) - 1 - last if backwards else last
            place = int(np.flatnonzero(lines[last])[0])
            found = side, row, (row, place) if side == 0 else (place, row)
            goes_on = min(np.count_nonzero(lines[last] & lines[r]) for r in range(last - 3, last))
            straight = goes_on >= _STRAIGHT * rows[last - 3 : last].max()
            wide = goes_on >= _WIDE * lines.shape[1]
            beyond = [other.sum(1 - side)[turn][last + 1 :].sum() for other in others]
            least = [max(_MIN_PAINT, 0.4 * gap / len(rows) * other.sum()) for other in others]
            usual = bool(others) and np.mean(np.array(beyond) >= np.array(least)) > 0.7
            if straight and wide and usual:
                return found
            region = bool(others) and max(beyond) < _MIN_PAINT  # all end here: a region of interest
            if picture is None or region or goes_on < max(_SHOWN, 0.7 * rows[last]):
                continue
            shown = np.moveaxis(picture, 1 + side, 1)[:, turn]
            if _no_edge(shown, lines, last):
                return found
    return None


def _no_edge(picture: npt.NDArray[Any], lines: Mask, last: int) -> bool:
    """Whether the image goes on where paint ends after a row, and has edges at its other borders."""
    cut = lines[last] & lines[last - 1] & lines[last - 2]
    border = lines ^ ndimage.binary_erosion(lines, border_value=1)
    border[max(0, last - 3) :] = False
    border[:2] = border[:, :2] = border[:, -2:] = False
    if np.count_nonzero(border) < _MIN_PAINT or last + 2 >= len(lines):
        return False
    at_cut, elsewhere = 0.0, 0.0
    for channel in picture:
        smooth = ndimage.gaussian_filter(channel.astype(np.float32), 1.0)
        edges = ndimage.gaussian_gradient_magnitude(channel.astype(np.float32), 1.0)
        at_cut += float(np.abs(smooth[last + 2] - smooth[last - 1])[cut].mean()) / 3
        elsewhere += float(edges[border].mean())
    return at_cut < _FAINT * elsewhere


def _contradictions(planes: Sequence[AnnotatedSlice], known: set[tuple[str, int]]) -> Iterator[Finding]:
    """Lines on a slice, where another crosses, that disagree with both sides."""
    pairs: dict[tuple[tuple[int, int], tuple[int, int]], tuple[int, int, tuple[int, ...]]] = {}
    for plane in planes:
        for side in (0, 1):
            labels = plane.labels if side == 0 else plane.labels.T
            odd, known_rows = _odd(labels)
            crossed = np.asarray(plane.crossed[side], int)
            usual = np.setdiff1d(np.arange(len(labels)), [*crossed, *(crossed - 1), *(crossed + 1)])
            share = odd.sum(1) / np.maximum(1, known_rows.sum(1))
            limit = max(_LINE_SHARE, 2 * float(share[usual].max(initial=0)))
            others = [a for a in range(3) if a != plane.axis]
            for row in crossed:
                line = ("xyz"[others[side]], int(row))
                if line in known or odd[row].sum() < _LINE or share[row] < limit:
                    continue
                column = int(np.flatnonzero(odd[row])[0])
                voxel = plane.voxel((row, column) if side == 0 else (column, row))
                key = ((plane.axis, plane.index), (others[side], int(row)))
                pairs[key] = (int(odd[row].sum()), int(known_rows[row].sum()), voxel)
    while pairs:
        involved = Counter(slice_ for pair in pairs for slice_ in pair)
        weight = Counter[tuple[int, int]]()
        for pair, (n, _, _) in pairs.items():
            for slice_ in pair:
                weight[slice_] += n
        culprit = max(involved, key=lambda slice_: (involved[slice_], weight[slice_], slice_))
        its = {pair: found for pair, found in pairs.items() if culprit in pair}
        pairs = {pair: found for pair, found in pairs.items() if culprit not in pair}
        others_ = sorted({slice_ for pair in its for slice_ in pair} - {culprit})
        odd_, of, voxel = max(its.values())
        yield Finding(
            "contradiction",
            "error" if len(its) > 1 else "warning",
            f"{summarise([culprit])} contradicts {summarise(others_)}: along the line where they cross, "
            f"{odd_} of {of} voxels differ from both sides, the first at voxel {voxel}",
            "The same place has two classes, and both are learnt",
            f"Look at {summarise([culprit])} beside them, and correct whichever is wrong",
            slices=tuple(("xyz"[axis], i) for axis, i in (culprit, *others_)),
            voxel=voxel,
        )


def _odd(labels: Labels) -> tuple[Mask, Mask]:
    """Voxels between two rows that agree with each other and not with them; and voxels that could be odd."""
    odd, could = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    before, here, after = labels[:-2], labels[1:-1], labels[2:]
    could[1:-1] = (before == after) & (before != IGNORE_INDEX) & (here != IGNORE_INDEX)
    odd[1:-1] = could[1:-1] & (here != before)
    return odd, could


def _copied(planes: Sequence[AnnotatedSlice], image: npt.NDArray[Any] | None) -> Iterator[Finding]:
    """Slices with the very labels of another one, though the image differs."""
    seen: dict[tuple[int, bytes], AnnotatedSlice] = {}
    copies: list[tuple[AnnotatedSlice, AnnotatedSlice]] = []
    for plane in planes:
        labels, _ = plane.without_crossings()
        steps = np.count_nonzero(np.diff(labels, axis=0)) + np.count_nonzero(np.diff(labels, axis=1))
        if steps < _COPIED:
            continue
        first = seen.setdefault((plane.axis, labels.tobytes()), plane)
        if first is not plane and not _same_image(first, plane, image):
            copies.append((first, plane))
    if len(copies) > max(1, _COPIES * len(planes)):
        return
    for first, plane in copies:
        voxel = plane.voxel(np.argwhere(plane.labels != IGNORE_INDEX)[0])
        yield Finding(
            "copied",
            "warning",
            f"{plane.name} has exactly the labels of {first.name}, from voxel {voxel} on, though the image "
            "differs",
            "It looks copied and not corrected, so that borders are wrong, and a test on one with training "
            "on the other is too good",
            "Correct it, or erase it",
            slices=(*first.slices, *plane.slices),
            voxel=voxel,
        )


def _same_image(one: AnnotatedSlice, other: AnnotatedSlice, image: npt.NDArray[Any] | None) -> bool:
    if image is None:
        return False
    a, b = (np.take(image, plane.index, axis=1 + plane.axis) for plane in (one, other))
    return bool(np.array_equal(a, b))
