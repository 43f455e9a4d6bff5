"""Grey values that are none: one for all, fill values, hot voxels, numbers too large to compute with."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.greyvalues import GreyScale, measure_grey_values

__all__ = ["odd_values"]

_FAR = 10.0  # widths of the bulk beyond a limit
_MOST = 10_000  # voxels that can be hot


def odd_values(image: npt.NDArray[np.generic]) -> Iterator[tuple[str, str]]:
    """What is odd about the values of an image ``(C, *spatial)``, and what to do, as two texts."""
    for number, channel in enumerate(image):
        which = f"channel {number}: " if len(image) > 1 else ""
        if channel.min() == channel.max():
            yield (
                f"{which}it is {channel.flat[0]:g} everywhere",
                "Check that the right thing was exported; nothing can be learnt from it. (32-bit floating "
                "point keeps 7 digits: of large numbers it loses small differences.)",
            )
            continue
        if channel.dtype.kind == "b" or not np.isfinite(channel).all():
            continue  # the second is an error of its own
        scale = measure_grey_values(lambda spans, voxels=channel: voxels[spans], channel.shape)  # type: ignore[misc]
        kept = channel.astype(np.float64, copy=False)
        for fill in scale.outside:
            yield (
                which + _about_fill(kept, fill, scale),
                (
                    "volseg densify, and a bundle that normalises with volseg.NormalizeGreyValuesd, take it "
                    "to mark what is outside of the picture. Check that this is so."
                ),
            )
        hot = _hot_voxels(kept, scale)
        if len(hot):
            x = ", ".join(str(int(i)) for i in hot[0])
            yield (
                f"{which}{len(hot)} voxel(s) stand out from everything around them, the first "
                f"{kept[tuple(hot[0])]:g} at voxel {x} (counted from 0), where most lie between "
                f"{scale.low + scale.width:.4g} and {scale.high - scale.width:.4g}",
                "If they are hot or dead, repair them (in Fiji: Remove Outliers). They do no harm in volseg "
                "densify, and where a bundle normalises with volseg.NormalizeGreyValuesd.",
            )
        largest = float(np.abs(kept).max(initial=0))
        with np.errstate(over="ignore"):
            is_too_large = np.isinf(np.float32(largest))
        if is_too_large:
            yield (
                f"{which}it holds values up to {largest:g}, too large for 32-bit floating point",
                "Networks compute in it: normalise with volseg.NormalizeGreyValuesd, or divide the image.",
            )


def _about_fill(channel: npt.NDArray[np.float64], fill: float, scale: GreyScale) -> str:
    return (
        f"{float(np.mean(channel == fill)):.1%} of the voxels are {fill:g}, far from most others "
        f"({scale.low + scale.width:.4g} to {scale.high - scale.width:.4g})"
    )


def _hot_voxels(channel: npt.NDArray[np.float64], scale: GreyScale) -> npt.NDArray[np.intp]:
    """Where voxels lie far outside and those around them do not, ``(n, dims)``."""
    far = (channel < scale.low - _FAR * scale.width) | (channel > scale.high + _FAR * scale.width)
    for fill in scale.outside:
        far &= channel != fill
    if not 0 < np.count_nonzero(far) <= _MOST:
        return np.empty((0, channel.ndim), np.intp)
    # No more than a line among the 3 voxels along each axis is far; of a spot, more are.
    crowd = ndimage.uniform_filter(far.astype(np.float32), 3, mode="nearest")
    return np.argwhere(far & (crowd * 3**channel.ndim < 3.5))
