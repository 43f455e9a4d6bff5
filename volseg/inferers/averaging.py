"""Mean over turned and mirrored versions of an image, as at test time in 2015.

A network that has learnt well should say the same about an image and about its mirror image. Where it
does not, the mean of its answers is better than any of them, and their spread shows how unsure it is
(Ronneberger et al. 2015, Sec. 4: "averaged over 7 rotated versions of the input data").

A :class:`volseg.geometry.Symmetry` maps the voxel grid onto itself, so nothing is interpolated: mirror
images always exist, quarter turns only between axes along which voxels are equally long.

What a network says about a turned volume, turned back, can be had tile by tile as well: the voxels of the
tile are looked up in the turned volume, and the tile is widened there until it starts on a multiple of the
stride. So nothing but the tile is ever in memory, and the numbers are those of the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer
from torch import Tensor, nn

from volseg.geometry import Symmetry, Tile, check_planes, grid_symmetries, tile_writing
from volseg.inferers.blocks import BlockRunner, Requirements, Source, unwrapped
from volseg.inferers.overlap_tile import process_tiles

__all__ = [
    "RotationAveragingInferer",
    "Turned",
    "average_tile",
    "check_symmetric",
    "fold_in",
    "reads_of",
    "turn",
    "turn_back",
]

Symmetries = Literal["rotations7", "square", "grid", "rotations", "mirror"]
AxisPair = Sequence[int]

_SAME_SPACING = 0.01  # voxel sizes that differ by less, relatively, are the same


def turn(symmetry: Symmetry, x: Tensor) -> Tensor:
    """The turned version of ``(B, C, *spatial)``."""
    return x.permute(0, 1, *(axis + 2 for axis in symmetry.axes)).flip(_mirrored(symmetry))


def turn_back(symmetry: Symmetry, x: Tensor) -> Tensor:
    """What :func:`turn` was given."""
    order = sorted(range(len(symmetry.axes)), key=lambda axis: symmetry.axes[axis])
    return x.flip(_mirrored(symmetry)).permute(0, 1, *(axis + 2 for axis in order))


def _mirrored(symmetry: Symmetry) -> tuple[int, ...]:
    return tuple(axis + 2 for axis, flipped in enumerate(symmetry.flipped) if flipped)


class RotationAveragingInferer(Inferer):
    """Mean of the probabilities over turned and mirrored versions, as ``inferer(x, network)``.

    Each version goes through ``inferer``, its logits are turned back, and the probabilities (softmax
    over classes) are averaged. What comes out is the logarithm of the mean, which serves as logits: its
    argmax and softmax are those of the mean. Only sums are kept, so memory does not grow with the
    number of versions; time does.

    Args:
        inferer: any MONAI inferer, such as :class:`volseg.inferers.OverlapTileInferer`.
        symmetries: which versions. ``"grid"``: everything the grid allows, 8 for an image, 48 for a
            volume of cubic voxels, 16 where voxels are longer along one axis. ``"rotations"``: half of
            these, without mirror images. ``"mirror"``: mirror images along the axes alone, 4 or 8.
            ``"square"``: the 8 symmetries of one plane, also in a volume. ``"rotations7"``: the paper
            does not say which 7 versions it used; taken here are the 7 that the square has beside the
            image itself. Or :class:`volseg.geometry.Symmetry` objects.
        spacing: voxel size per axis. Quarter turns are made in planes whose two axes have the same
            one, within 1 %.
        planes: these planes themselves, such as ``[(0, 1)]``. Without both, the spacing is that of a
            ``MetaTensor``; failing that, x and y are taken to be alike, and z to be another matter.
        spread: return also how far the versions disagree.

    Shape:
        - x: ``(B, C, *spatial)``.
        - output: ``(B, classes, *spatial)``, float32; with ``spread`` a pair of it and the standard
          deviation of the probabilities over the versions, of the same shape.
    """

    def __init__(
        self,
        inferer: Inferer,
        symmetries: Symmetries | Sequence[Symmetry] = "grid",
        *,
        spacing: Sequence[float] | None = None,
        planes: Sequence[AxisPair] | None = None,
        spread: bool = False,
    ) -> None:
        if isinstance(symmetries, str):
            if symmetries not in get_args(Symmetries):
                names = ", ".join(f'"{name}"' for name in get_args(Symmetries))
                raise ValueError(f"symmetries = {symmetries!r} is unknown. Use one of {names}.")
        elif not symmetries:
            raise ValueError("symmetries is empty: there must be a version to average over.")
        if spacing is not None and planes is not None:
            raise ValueError(
                "spacing and planes both say where quarter turns are possible. Give one of them."
            )
        if spacing is not None and not all(isfinite(size) and size > 0 for size in spacing):
            raise ValueError(f"spacing = {tuple(spacing)} must hold voxel sizes above 0.")
        self.inferer = inferer
        self.symmetries: str | tuple[Symmetry, ...] = (
            symmetries if isinstance(symmetries, str) else tuple(Symmetry(*each) for each in symmetries)
        )
        self.spacing = None if spacing is None else tuple(spacing)
        self.planes = None if planes is None else tuple(tuple(plane) for plane in planes)
        self.spread = spread

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """``args`` and ``kwargs`` go to the inferer with every version."""
        versions = self.versions(inputs)
        check_symmetric(network, versions)
        x = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        mean: Tensor | None = None
        squares: Tensor | None = None
        for count, version in enumerate(versions, start=1):
            logits = turn_back(version, self._logits(turn(version, x), network, *args, **kwargs))
            if mean is None:
                mean = logits.new_zeros(logits.shape, dtype=torch.float32)
                squares = torch.zeros_like(mean) if self.spread else None
            elif logits.shape != mean.shape:
                raise ValueError(
                    f"One version came back as {tuple(mean.shape)}, another as {tuple(logits.shape)}. "
                    "Use an inferer that returns logits of the size of its input, such as OverlapTileInferer."
                )
            for item, values in enumerate(logits):
                fold_in(values, count, mean[item], None if squares is None else squares[item])
        assert mean is not None
        # A probability that float32 took for 0 must not become an infinite logit.
        output = mean.clamp_(min=torch.finfo(torch.float32).tiny).log_()
        if squares is None:
            return _with_meta(output, inputs)
        deviation = squares.div_(len(versions)).clamp_(min=0).sqrt_()
        return _with_meta(output, inputs), _with_meta(deviation, inputs)

    def versions(self, x: Tensor) -> tuple[Symmetry, ...]:
        """The versions of an input ``(B, C, *spatial)`` that are averaged over."""
        dims = x.ndim - 2
        if dims < 1:
            raise ValueError(
                f"The input has the shape {tuple(x.shape)}, but (batch, channels, *spatial) is needed."
            )
        spacing: Sequence[float] | None = None
        if isinstance(x, MetaTensor):
            # A batch of one; MONAI collates the affines of a batch into one array.
            affine = torch.as_tensor(x.affine).reshape(-1, *x.affine.shape[-2:])
            sizes = affine[:, :dims, :dims].double().square().sum(1).sqrt()
            spacing = sizes[0].tolist() if torch.allclose(sizes, sizes[:1], rtol=_SAME_SPACING) else None
        return self.versions_for(dims, spacing)

    def versions_for(self, dims: int, spacing: Sequence[float] | None = None) -> tuple[Symmetry, ...]:
        """The versions of an image of so many axes; ``spacing`` counts where the inferer was given none."""
        if not isinstance(self.symmetries, str):
            for each in self.symmetries:
                if sorted(each.axes) != list(range(dims)) or len(each.flipped) != dims:
                    raise ValueError(f"{each} is not a symmetry of an input with {dims} spatial axes.")
            return self.symmetries
        if self.symmetries == "mirror":
            return grid_symmetries(dims, ())
        planes = self._planes(dims, spacing)
        if self.symmetries in ("square", "rotations7"):
            if not planes:
                raise ValueError(
                    f'symmetries = "{self.symmetries}" turns a plane by 90 degrees, but no two axes have the '
                    'same spacing. Use "mirror".'
                )
            plane = (0, 1) if (0, 1) in planes else planes[0]
            others = [axis for axis in range(dims) if axis not in plane]
            square = tuple(
                each
                for each in grid_symmetries(dims, [plane])
                if not any(each.flipped[axis] for axis in others)
            )
            return square[1:] if self.symmetries == "rotations7" else square
        everything = grid_symmetries(dims, planes)
        if self.symmetries == "rotations":
            return tuple(each for each in everything if each.is_rotation)
        return everything

    def _planes(self, dims: int, found: Sequence[float] | None) -> tuple[tuple[int, int], ...]:
        """The planes in which quarter turns are possible."""
        if self.planes is not None:
            return check_planes(self.planes, dims)
        spacing = found if self.spacing is None else self.spacing
        if spacing is None:
            return ((0, 1),) if dims > 1 else ()
        if len(spacing) != dims:
            raise ValueError(f"spacing = {spacing} must hold one voxel size for each of the {dims} axes.")
        return tuple(
            (i, j)
            for i in range(dims)
            for j in range(i + 1, dims)
            if abs(spacing[i] - spacing[j]) <= _SAME_SPACING * max(spacing[i], spacing[j])
        )

    def _logits(self, x: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        logits = self.inferer(x, network, *args, **kwargs)
        if not isinstance(logits, Tensor) or logits.ndim != x.ndim or logits.shape[1] < 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"The inferer returned {found} for an input of {tuple(x.shape)}. Averaging needs logits of "
                "two or more classes, (batch, classes, *spatial)."
            )
        return logits.as_tensor() if isinstance(logits, MetaTensor) else logits


def fold_in(logits: Tensor, count: int, mean: Tensor, squares: Tensor | None) -> None:
    """Update the mean of probabilities, and the sum of squares about it, with version number ``count``."""
    probabilities = logits.float().softmax(0)
    change = probabilities - mean
    mean.add_(change, alpha=1 / count)
    if squares is not None:  # Welford's sum, which does not cancel as a sum of squares would
        squares.addcmul_(change, probabilities.sub_(mean))


def check_symmetric(network: nn.Module, versions: Sequence[Symmetry]) -> None:
    """Refuse quarter turns between axes that the network treats differently."""
    described = unwrapped(network)
    for version in versions:
        for name in ("context", "receptive_radius", "stride"):
            values = getattr(described, name, None)
            if values is None:
                continue
            for place, axis in enumerate(version.axes):
                if values[place] != values[axis]:
                    first, second = sorted((place, axis))
                    raise ValueError(
                        f"The network's {name} is {tuple(values)}: it is not built alike along the axes "
                        f"{first} and {second}, so a quarter turn would show it voxels of another shape. "
                        'Name the planes in which turns are right (planes), or use symmetries="mirror".'
                    )


def _with_meta(result: Tensor, inputs: Tensor) -> Tensor:
    return MetaTensor(result).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else result


@dataclass(frozen=True)
class Turned:
    """A volume ``(C, *spatial)`` as one symmetry shows it; blocks are turned when they are read."""

    volume: Source
    version: Symmetry

    @property
    def shape(self) -> Sequence[int]:
        channels, *size = self.volume.shape
        return (channels, *(size[axis] for axis in self.version.axes))

    def __getitem__(self, index: tuple[slice, ...]) -> Tensor:
        channels, *places = index
        block = self.volume[(channels, *_back(places, self.version, self.shape[1:]))]
        return turn(self.version, block[None])[0]


def average_tile(
    volume: Source,
    runners: Sequence[BlockRunner],
    versions: Sequence[Symmetry],
    tile: Tile,
    *,
    spread: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Mean and standard deviation of the probabilities of a tile, ``(classes, *written)``.

    Args:
        works: one per version, or one for all.
    """
    size = [part.stop - part.start for part in tile.write]
    mean: Tensor | None = None
    squares: Tensor | None = None
    for count, version in enumerate(versions, start=1):
        runner = runners[(count - 1) % len(runners)]
        turned, inner = _turned(tile, version, runner.required, volume.shape[1:])
        logits: Tensor | None = None
        for _, where, piece in process_tiles(Turned(volume, version), runner, [turned]):
            if logits is None:
                logits = piece.new_empty((len(piece), *(p.stop - p.start for p in turned.write)))
            place = (
                slice(p.start - w.start, p.stop - w.start) for p, w in zip(where, turned.write, strict=True)
            )
            logits[(slice(None), *place)] = piece
        assert logits is not None
        upright = turn_back(version, logits[(slice(None), *inner)][None])[0]
        if mean is None:
            mean = torch.zeros((len(upright), *size), device=upright.device)
            squares = torch.zeros_like(mean) if spread else None
        fold_in(upright, count, mean, squares)
    assert mean is not None
    return mean, None if squares is None else squares.div_(len(versions)).clamp_(min=0).sqrt_()


def reads_of(
    tile: Tile, versions: Sequence[Symmetry], required: Requirements, size: Sequence[int]
) -> list[slice]:
    """What of the volume all versions of a tile read, beyond its border too."""
    spans: list[list[slice]] = [[] for _ in size]
    for version in versions:
        turned, _ = _turned(tile, version, required, size)
        shape = [size[axis] for axis in version.axes]
        for span, part in zip(spans, _back(turned.read, version, shape), strict=True):
            span.append(part)
    return [slice(min(part.start for part in span), max(part.stop for part in span)) for span in spans]


def _turned(
    tile: Tile, version: Symmetry, required: Requirements, size: Sequence[int]
) -> tuple[Tile, tuple[slice, ...]]:
    """The tile of the turned volume that holds this one, and where inside it."""
    write, inner = [], []
    for axis, flipped, step in zip(version.axes, version.flipped, required.stride, strict=True):
        part = tile.write[axis]
        if flipped:
            part = slice(size[axis] - part.stop, size[axis] - part.start)
        before = part.start % step
        write.append(slice(part.start - before, part.stop))
        inner.append(slice(before, before + part.stop - part.start))
    return tile_writing(tuple(write), required.halo, required.stride, required.remainder), tuple(inner)


def _back(places: Sequence[slice], version: Symmetry, shape: Sequence[int]) -> list[slice]:
    """Places in the turned volume, of this shape, as places in the volume itself."""
    found = list(places)
    for part, axis, flipped, n in zip(places, version.axes, version.flipped, shape, strict=True):
        found[axis] = slice(n - part.stop, n - part.start) if flipped else part
    return found
