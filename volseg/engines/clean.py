"""Statistics of batch normalisation anew, once a network has learnt.

What a training leaves are running means of what the network was trained on: patches that were deformed,
hence interpolated and smoothed, with contrast and noise changed. Images that are segmented later are none of
that. So the statistics are gathered once more, from blocks of the training images as they are, with the
weights as they are in the end.
"""

from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from torch import Tensor

from volseg.data import TrainingPatches
from volseg.geometry import mirror_indices

__all__ = ["undeformed_blocks"]

_VOXELS = 4_000_000  # that are looked at, in all blocks
_FEWEST, _MOST = 8, 40  # blocks


def undeformed_blocks(dataset: TrainingPatches, seed: int = 0) -> Iterator[Tensor]:
    """Blocks of the training images as they are, ``(1, C, *spatial)``, as large as the patches and drawn as
    they are: first a class, then one of its annotated voxels."""
    size = tuple(dataset[0]["image"].shape[1:])
    random = np.random.default_rng(seed)
    for _ in range(min(max(_VOXELS // prod(size), _FEWEST), _MOST)):
        case = dataset.cases[random.integers(len(dataset.cases))]
        image = torch.as_tensor(case["image"])
        classes = [voxels for voxels in case["label_voxels"] if len(voxels)]
        voxels = classes[random.integers(len(classes))]
        place = np.unravel_index(int(voxels[random.integers(len(voxels))]), image.shape[1:])
        for axis, (at, length, n) in enumerate(zip(place, size, image.shape[1:], strict=True), start=1):
            start = int(at) - int(random.integers(length // 4, length - length // 4))
            start = min(max(start, 0), n - length) if length <= n else (n - length) // 2
            index = torch.from_numpy(mirror_indices(start, start + length, n)).to(image.device)
            image = image.index_select(axis, index)
        yield image[None]
