"""Where a training patch lies and which way round: window kept inside, axes exchanged."""

import numpy as np
import pytest
import torch

from volseg.labels import IGNORE_INDEX
from volseg.transforms import RandDeformedPatchd


@pytest.fixture(params=[(14, 20), (13, 20, 15)], ids=["2d", "3d"])
def sample(request):
    """An image whose channels are the coordinates, and a label with one annotated slice per axis."""
    shape = request.param
    coordinates = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).astype(np.float32)
    label = np.full((1, *shape), IGNORE_INDEX, np.uint8)
    for axis, n in enumerate(shape):
        label[(0, *[slice(None)] * axis, n // 3)] = axis % 2
    return {"image": coordinates, "label": label, "spacing": (1.0,) * len(shape)}


def exact(patch_size, **settings) -> RandDeformedPatchd:
    """Patches that are cut out, turned and mirrored, but never resampled."""
    given = {"context": 2, "std": 0.0, "rotation": 0.0, "scaling": (1.0, 1.0)} | settings
    return RandDeformedPatchd(patch_size=patch_size, **given).set_random_state(0)


def test_quarter_turns_and_flips_reach_every_symmetry_of_the_grid_and_nothing_else(sample):
    dims = len(sample["spacing"])
    transform = exact((9,) * dims, flip=0.5, quarter_turns=True)
    seen = set()
    for _ in range(80 if dims == 2 else 700):
        image = transform(sample)["image"].numpy()
        centre = image[(slice(None), *[slice(4, 6)] * dims)]
        steps = [np.take(centre, 1, axis + 1) - np.take(centre, 0, axis + 1) for axis in range(dims)]
        matrix = np.stack([step.reshape(dims, -1)[:, 0] for step in steps], axis=1)
        matrix = np.rint(matrix)
        if np.abs(matrix).sum() == dims:  # else the centre is mirrored at the border
            seen.add(tuple(matrix.ravel().astype(int)))
    assert len(seen) == {2: 8, 3: 48}[dims]


def test_axes_of_other_spacing_keep_their_place(sample):
    dims = len(sample["spacing"])
    coarse = sample | {"spacing": (*[1.0] * (dims - 1), 2.0)}
    transform = exact((9,) * dims, quarter_turns=True)
    for _ in range(30):
        image = transform(coarse)["image"].numpy()
        along_last = np.take(image, 5, dims) - np.take(image, 4, dims)
        np.testing.assert_allclose(along_last[: dims - 1], 0, atol=1e-4)


def test_image_and_label_are_turned_together(sample):
    dims = len(sample["spacing"])
    transform = exact((9,) * dims, flip=0.5, quarter_turns=True)
    for _ in range(30):
        patch = transform(sample)
        inner = patch["image"][(slice(None), *[slice(2, -2)] * dims)].round().long().numpy()
        known = patch["label"][0].numpy() != IGNORE_INDEX
        source = sample["label"][0][tuple(inner)]
        np.testing.assert_array_equal(patch["label"][0].numpy()[known], source[known])


def outside(transform: RandDeformedPatchd, sample) -> float:
    """The fraction of the output window that lies beyond the volume."""
    full = sample | {"label": np.zeros_like(sample["label"])}
    return float(np.mean([(transform(full)["label"] == IGNORE_INDEX).float().mean() for _ in range(60)]))


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_a_window_that_fits_stays_inside_the_volume(sample, flip):
    size = (12,) * len(sample["spacing"])
    assert outside(exact(size, flip=flip, quarter_turns=True), sample) == 0.0
    assert outside(exact(size, flip=flip, quarter_turns=True, keep_inside=False), sample) > 0.1


def test_a_window_larger_than_the_volume_covers_all_of_it(sample):
    size = tuple(n + 4 + 3 for n in sample["label"].shape[1:])
    annotated = int((sample["label"] != IGNORE_INDEX).sum())
    transform = exact(size, flip=0.5)
    for _ in range(20):
        assert int((transform(sample)["label"] != IGNORE_INDEX).sum()) == annotated


def test_every_place_of_the_window_is_reached(sample):
    """The drawn voxel may lie anywhere in the output that keeps the window inside."""
    dims = len(sample["spacing"])
    only = np.full_like(sample["label"], IGNORE_INDEX)
    only[(0, *[7] * dims)] = 1
    transform = exact((9,) * dims)
    places = {
        tuple(int(i) for i in (transform(sample | {"label": only})["label"][0] == 1).nonzero()[0])
        for _ in range(200 if dims == 2 else 1500)
    }
    assert len(places) == 5**dims


def test_placement_is_reproducible(sample):
    size = (9,) * len(sample["spacing"])
    first, second = (exact(size, flip=0.5, quarter_turns=True)(sample)["image"] for _ in range(2))
    torch.testing.assert_close(first, second)
