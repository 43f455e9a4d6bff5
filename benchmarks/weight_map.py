"""How much faster border_weight_map is than one distance transform per object, and how exact.

    python benchmarks/weight_map.py

Medians of interleaved runs, as a Markdown table. Processor time of all threads, so that what else runs
on the machine matters little. Compiling is done before and not counted.
"""

import argparse
from collections.abc import Sequence
from statistics import median
from time import process_time

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt

from volseg import border_weight_map

CASES = (
    ("150 objects in 512 x 512", (512, 512), 150, 12.0, None),
    ("200 objects in 128 x 128 x 128", (128, 128, 128), 200, 8.0, None),
    ("200 objects in 128 x 128 x 128, z four times coarser", (128, 128, 128), 200, 8.0, (1.0, 1.0, 4.0)),
)


def blobs(shape: Sequence[int], objects: int, radius: float) -> npt.NDArray[np.int32]:
    """Balls around random places, parted where they meet."""
    rng = np.random.default_rng(0)
    seeds = np.zeros(shape, np.int32)
    seeds.flat[rng.choice(seeds.size, objects, replace=False)] = np.arange(1, objects + 1)
    distance, nearest = distance_transform_edt(seeds == 0, return_indices=True)
    return np.where(distance < radius, seeds[tuple(nearest)], 0)


def naive(instances: npt.NDArray[np.int32], spacing: Sequence[float] | None) -> npt.NDArray[np.float64]:
    """Eq. 2 of Ronneberger et al. 2015 as it is written: one distance transform per object."""
    nearest = np.full(instances.shape, np.inf)
    second = nearest.copy()
    for index in np.unique(instances[instances > 0]):
        distance = distance_transform_edt(instances != index, sampling=spacing)
        np.minimum(second, np.maximum(distance, nearest), out=second)
        np.minimum(nearest, distance, out=nearest)
    return 1 + 10 * np.exp(-((nearest + second) ** 2) / 50)


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of the slow one (3); the fast one has 5 each"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| case | one transform per object | border_weight_map | ratio | largest difference |")
    print("|---|---|---|---|---|")
    for name, shape, objects, radius, spacing in CASES:
        instances = blobs(shape, objects, radius)
        weight = border_weight_map(instances, spacing=spacing)
        slow, fast = [], []
        for _ in range(given.repeats):
            start = process_time()
            expected = naive(instances, spacing)
            slow.append(process_time() - start)
            for _ in range(5):
                start = process_time()
                border_weight_map(instances, spacing=spacing)
                fast.append(process_time() - start)
        difference = np.abs(weight - expected).max()
        print(
            f"| {name} | {median(slow):.2f} s | {1000 * median(fast):.0f} ms "
            f"| {median(slow) / median(fast):.0f} x | {difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
