"""Whole images and volumes through a network, tile by tile, so that no seam is seen.

Overlap-tile (Ronneberger et al. 2015, Fig. 2): tiles of output stand side by side, each is
computed from a larger block of input, and the image is mirrored where a block reaches beyond it.
Tiles start on multiples of the network's stride, so every voxel comes out as if the whole volume
had gone through at once.

A ``tile`` is the step between the origins of two blocks of output, in voxels.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, get_args

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer, SlidingWindowInferer
from torch import Tensor, nn
from tqdm import tqdm

from volseg.errors import ResourceError
from volseg.geometry import Tile, choose_tile, halve_tile, per_axis, plan_tiles
from volseg.inferers.blocks import BlockRunner, Source, says_its_sizes, window_of
from volseg.inferers.planning import make_plan
from volseg.inferers.statistics import BatchNorm, as_for_inference, freeze_volume_statistics, needs_image
from volseg.machine import free_memory
from volseg.networks.measuring import first_output

__all__ = ["OverlapTileInferer", "process_tiles"]

_log = logging.getLogger(__name__)

_SHARE_OF_FREE_MEMORY = 0.5
_USUAL_VOXELS = 2**21  # of a block, where what it needs cannot be estimated; a tile too large is halved
# Not every shortage of memory has a class of its own.
_SHORTAGE = ("out of memory", "not enough memory", "can't allocate memory", "could not allocate")


class OverlapTileInferer(Inferer):
    """Logits for every voxel of an input of any size, as ``inferer(x, network)``.

    Serves unpadded networks, and padded ones as well: these get a border as wide as they look,
    so the zeros they pad with never reach the output. The result does not depend on the tiles,
    unless normalisation does: instance and group norm, and ``batch_norm="tile"``, take
    statistics from the tile. What a network of others does to sizes is measured, and said in the log;
    one of which a voxel depends on the whole input, such as a transformer, or on more than a few times
    the image, goes through MONAI's sliding window with half overlapping windows.

    A :class:`volseg.UNet` is computed from a copy with batch normalisation folded into its
    convolutions, a few rows at a time if that allows larger tiles. Where a tile runs out of memory
    all the same, it is halved.

    Args:
        tile: a multiple of the network's stride, one number or one per axis; ``None`` takes
            the tiles that need the fewest operations within ``max_memory``, the whole volume if it fits.
        max_memory: bytes the network may use for one tile; ``None`` for half of what is free.
        batch_norm: whose statistics batch normalisation uses. ``"running"``: those of the
            training. ``"tile"``: those of the tile at hand (Çiçek et al. 2016, Sec. 3).
            ``"volume"``: those of the volume at hand, gathered over a few blocks spread over it,
            the same ones whatever the tile, then frozen. ``"mix"``: ``share`` of these and the rest of the
            training's, which is safe where images are alike and only their content differs.
        share: of the volume's statistics in a mixture, between 0 and 1.
        amp: compute in 16 bits where the network can.
        progress: show a bar, with the time left.

    Shape:
        - x: ``(B, C, *spatial)``, any spatial size from 1 voxel on, any real dtype. Each item of
          the batch goes through by itself.
        - output: ``(B, classes, *spatial)``, float32, where ``x`` is; the network may be elsewhere.
    """

    def __init__(
        self,
        tile: int | Sequence[int] | None = None,
        max_memory: int | None = None,
        *,
        batch_norm: BatchNorm = "running",
        share: float = 0.5,
        amp: bool = False,
        progress: bool = False,
    ) -> None:
        if batch_norm not in get_args(BatchNorm):
            raise ValueError(
                f'batch_norm = {batch_norm!r} is unknown. Use "running", "tile", "volume" or "mix".'
            )
        if not 0 <= share <= 1:
            raise ValueError(f"share = {share} of the volume's statistics must be between 0 and 1.")
        if tile is not None:
            per_axis(tile, len(tile) if isinstance(tile, Sequence) else 1, "tile")
        if max_memory is not None and max_memory <= 0:
            raise ValueError(f"max_memory = {max_memory} bytes must be positive.")
        self.tile = tile
        self.max_memory = max_memory
        self.batch_norm = batch_norm
        self.share = share if batch_norm == "mix" else 1.0
        self.amp = amp
        self.progress = progress

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """``args`` and ``kwargs`` go to the network with every block."""
        if (window := window_of(network, inputs.shape[2:])) is not None:
            return self._in_windows(inputs, network, window, args, kwargs)
        runner = BlockRunner(network, amp=self.amp, args=args, kwargs=kwargs)
        x = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        dims = len(runner.required.stride)
        if x.ndim != dims + 2 or 0 in x.shape:
            raise ValueError(
                f"The input has the shape {tuple(x.shape)}, but (batch, channels, *spatial) with "
                f"{dims} spatial axes and at least one voxel is needed."
            )
        size = tuple(x.shape[2:])
        output: Tensor | None = None
        total = len(x) * prod(size)
        with (
            as_for_inference(network, self.batch_norm),
            tqdm(total=total, unit="voxel", unit_scale=True, disable=not self.progress) as bar,
        ):
            for item, volume in enumerate(x):
                for _, where, logits in self.pieces(volume, runner):
                    if output is None:
                        output = x.new_empty((len(x), len(logits), *size), dtype=torch.float32)
                    output[item][:, *where] = logits.to(output.device)
                    bar.update(prod(logits.shape[1:]))
        assert output is not None
        return MetaTensor(output).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else output

    def _in_windows(
        self, inputs: Tensor, network: nn.Module, window: tuple[int, ...], args: Any, kwargs: Any
    ) -> Tensor:
        if inputs.ndim != len(window) + 2:
            raise ValueError(
                f"The input has the shape {tuple(inputs.shape)}, but (batch, channels, *spatial) with "
                f"{len(window)} spatial axes is needed."
            )
        if self.tile is not None:
            window = per_axis(self.tile, len(window), "tile")
        parameter = next(network.parameters())
        slide = SlidingWindowInferer(
            window, overlap=0.5, mode="gaussian", padding_mode="replicate", sw_device=parameter.device,
            device=inputs.device, progress=self.progress,
        )  # fmt: skip

        def one(block: Tensor) -> Tensor:
            with torch.autocast(block.device.type, dtype=torch.bfloat16, enabled=self.amp):
                return first_output(network(block, *args, **kwargs), len(window)).float()

        with as_for_inference(network, self.batch_norm):
            logits: Tensor = slide(inputs.to(parameter.dtype), one)
        return logits

    def pieces(self, volume: Source, runner: BlockRunner) -> Iterator[tuple[Tile, tuple[slice, ...], Tensor]]:
        """Logits of a volume ``(C, *spatial)`` piece by piece: their tile, their place, and they.

        A place can come twice, when a tile runs out of memory half way.
        """
        yield from process_tiles(volume, runner, self.tiles(volume, runner))

    def tiles(self, volume: Source, runner: BlockRunner) -> list[Tile]:
        """The tiles of a volume, after whatever must be known about it before the first of them."""
        if needs_image(self.batch_norm):
            freeze_volume_statistics(volume, runner, self.memory(runner), share=self.share)
        runner.prepare()
        size = tuple(volume.shape[1:])
        required = runner.required
        if self.tile is not None:
            tile = per_axis(self.tile, len(size), "tile")
            tiles = plan_tiles(size, tile, required.halo, required.stride, required.remainder)
        else:
            runner.by_rows, tile, tiles = self._planned(runner, volume.shape[0], size)
        _log.debug("%s voxels in %d tiles of %s", size, len(tiles), tile)
        return tiles

    def _planned(
        self, runner: BlockRunner, channels: int, size: tuple[int, ...]
    ) -> tuple[bool, tuple[int, ...], list[Tile]]:
        try:
            plan = make_plan(runner, channels, size, self.memory(runner))
        except ResourceError:
            raise
        except ValueError:  # a network of others that does not run on the meta device
            if says_its_sizes(runner.network):
                raise
            required = runner.required
            tile = choose_tile(size, required.halo, required.stride, _USUAL_VOXELS, required.remainder)
            tile = tile or required.stride
            return False, tile, plan_tiles(size, tile, required.halo, required.stride, required.remainder)
        return plan.by_rows, plan.tile, plan.tiles

    def memory(self, runner: BlockRunner) -> int:
        """Bytes that may be used."""
        if self.max_memory is not None:
            return self.max_memory
        return int(free_memory(runner.device) * _SHARE_OF_FREE_MEMORY)


def process_tiles(
    volume: Source, runner: BlockRunner, tiles: Sequence[Tile]
) -> Iterator[tuple[Tile, tuple[slice, ...], Tensor]]:
    """The logits of all tiles; one that runs out of memory is halved, and so are all as large as it."""
    left = deque(tiles)
    too_large: int | None = None
    while left:
        tile = left.popleft()
        if too_large is not None and _area(tile, runner) >= too_large:
            left.extendleft(reversed(_smaller(tile, runner)))
            continue
        try:
            for where, logits in runner.pieces(volume, tile):
                yield tile, where, logits
            continue
        except (RuntimeError, MemoryError) as error:
            if not _is_shortage(error):
                raise
            if runner.quick is not None and not runner.by_rows:
                runner.by_rows = True
                _log.warning("Memory ran out at a tile of %s; going on by rows.", _size(tile))
                left.appendleft(tile)
            elif len(_smaller(tile, runner)) < 2:
                raise ResourceError(
                    f"Memory ran out at the smallest possible tile, {_size(tile)} voxels. Free memory, or "
                    "use a narrower network."
                ) from error
            else:
                too_large = _area(tile, runner)
                _log.warning("Memory ran out at a tile of %s; it is halved.", _size(tile))
                left.appendleft(tile)
        if runner.device.type == "cuda":
            torch.cuda.empty_cache()


def _smaller(tile: Tile, runner: BlockRunner) -> list[Tile]:
    """Its halves; by rows only a cut across them helps."""
    required = runner.required
    axes = range(1, len(tile.write)) if runner.by_rows else None
    return halve_tile(tile, required.halo, required.stride, required.remainder, axes=axes)


def _area(tile: Tile, runner: BlockRunner) -> int:
    """What memory goes with: the voxels of a block, or by rows those of one row."""
    return prod(part.stop - part.start for part in tile.read[int(runner.by_rows) :])


def _size(tile: Tile) -> str:
    return " x ".join(str(part.stop - part.start) for part in tile.write)


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in _SHORTAGE)
