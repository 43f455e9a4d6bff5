"""How a slice is named in words: by its index from 0, and by its number from 1.

Arrays, JSON files and volseg's options count slices and voxels from 0, as napari and 3D Slicer's Data Probe
do. Fiji and ITK-SNAP count from 1. Whoever reads ``z = 15`` in one program and paints slice 15 in another
paints the slice before. So every place that prints a slice gives both: ``z = 15 (16 of 51)``, or
``xy slices 3, 7 (the 4th, 8th)``; and once on each page or in each log it is said what the two are.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

__all__ = ["COUNTED", "PLANES", "numbered", "numbered_slices", "ordinal", "ranges", "summarise"]

PLANES = ("yz", "xz", "xy")
"""What slices perpendicular to x, y and z are called."""

COUNTED = "Slices and voxels are counted from 0; numbers in brackets count from 1, as Fiji and ITK-SNAP do."
"""What a page or a log says once."""


def numbered(axis: str, index: int, size: int | None = None) -> str:
    """One slice both ways: ``z = 15 (16 of 51)``, or ``z = 15 (the 16th)`` without the size of the axis."""
    return f"{axis} = {index} ({f'the {ordinal(index + 1)}' if size is None else f'{index + 1} of {size}'})"


def numbered_slices(slices: Mapping[str, Sequence[int]]) -> str:
    """Slices of several axes both ways: ``x = 12 (the 13th); z = 3, 9 (the 4th, 10th)``."""
    return "; ".join(
        f"{axis} = {', '.join(map(str, indices))} (the {', '.join(ordinal(i + 1) for i in indices)})"
        for axis, indices in sorted(slices.items())
        if len(indices)
    )


def summarise(slices: Sequence[tuple[int, int]], most: int = 4) -> str:
    """``xy slices 3, 7 (the 4th, 8th) and yz slice 12 (the 13th)``, the first few of many.

    Args:
        slices: axis and index of each; the axis is -1 for an image, which is one slice only.
    """
    parts = []
    for axis in sorted({axis for axis, _ in slices}, reverse=True):
        if axis < 0:
            return "the image"
        indices = sorted(index for a, index in slices if a == axis)
        shown = ", ".join(map(str, indices[:most]))
        counted = ", ".join(ordinal(i + 1) for i in indices[:most])
        more = f" and {len(indices) - most} more" if len(indices) > most else ""
        parts.append(f"{PLANES[axis]} slice{'s' * (len(indices) > 1)} {shown} (the {counted}){more}")
    return " and ".join(parts)


def ranges(indices: Sequence[int], size: int, first: int = 0) -> str:
    """``0, 4-9, 12``, with a dash for three neighbours or more.

    Args:
        size: number of slices along the axis; ``all 51`` if it is as many.
        first: what the first slice is called, 0 or 1.
    """
    if not indices:
        return "none"
    if len(indices) == size:
        return f"all {size}"
    parts: list[str] = []
    for _, run in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        numbers = [index + first for _, index in run]
        parts += [f"{numbers[0]}-{numbers[-1]}"] if len(numbers) > 2 else map(str, numbers)
    return ", ".join(parts)


def ordinal(n: int) -> str:
    """``1st``, ``2nd``, ``13th``."""
    last = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{last}"
