"""Where a training patch lies and which way round: window kept inside, axes exchanged and mirrored."""

import numpy as np
import pytest
import torch

from volseg.labels import IGNORE_INDEX
from volseg.transforms import RandDeformedPatchd

STILL = {"std": 0, "rotation": 0, "scaling": (1, 1)}


@pytest.fixture(params=[(25, 19), (17, 14, 21)], ids=["2d", "3d"])
def shape(request):
    return request.param


def coordinate_volume(shape):
    """Channels hold each voxel's own position; the label numbers the voxels."""
    image = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).astype(np.float32)
    return {"image": image, "label": np.arange(np.prod(shape)).reshape(1, *shape)}


def patches(shape, seed=0, **options):
    """Patches that are cut out, turned and mirrored, but never resampled."""
    transform = RandDeformedPatchd(patch_size=(9, 11, 10)[: len(shape)], **STILL | options)
    return transform.set_random_state(seed)


def inner(patch, context):
    return patch[(slice(None), *(slice(context, -context or None),) * (patch.ndim - 1))]


def test_flips_follow_their_probability_per_axis():
    data = coordinate_volume((9, 9, 9))
    transform = patches((0, 0, 0), flip=(0, 1, 0.5))
    signs = np.array([np.diag(transform.sample(data).matrix) for _ in range(200)])
    assert (signs[:, 0] == 1).all()
    assert (signs[:, 1] == -1).all()
    assert 70 < (signs[:, 2] == 1).sum() < 130


@pytest.mark.parametrize(
    ("spacing", "count"), [((1, 1), 8), ((1, 2), 4), ((1, 1, 1), 48), ((1, 1, 3), 16), ((3, 1, 1.005), 16)]
)
def test_quarter_turns_and_flips_make_every_symmetry_of_the_grid(spacing, count):
    dims = len(spacing)
    blank = np.zeros((1, *(9, 9, 9)[:dims]), np.uint8)
    data = {"image": blank, "label": blank, "spacing": spacing, "label_voxels": [np.array([0])]}
    transform = patches((0,) * dims, flip=0.5, quarter_turns=True)
    matrices = [np.rint(transform.sample(data).matrix).astype(int) for _ in range(20 * count)]
    found, times = np.unique([matrix.ravel() for matrix in matrices], axis=0, return_counts=True)
    assert len(found) == count
    assert 4 < times.min() <= times.max() < 45
    assert (np.abs(np.linalg.det(matrices)).round(6) == 1).all()


def test_a_quarter_turn_reads_voxels_as_they_are(shape):
    data = coordinate_volume(shape)
    for seed in range(6):
        image = patches(shape, seed, flip=0.5, quarter_turns=True)(data)["image"]
        np.testing.assert_allclose(image, image.round(), atol=1e-5)


def test_the_output_stays_inside_where_it_fits(shape):
    """Whatever the turn, a dense label leaves nothing to ignore; nor is any place of it left out."""
    label = np.zeros((1, *shape), np.uint8)
    seen = np.zeros(shape, bool)
    for seed in range(120):
        size = (9, 11, 10)[: len(shape)]
        transform = patches(shape, seed, context=2, flip=0.5, quarter_turns=True)
        mapping = transform.sample({"image": label, "label": label})
        out = transform.apply(coordinate_volume(shape), mapping)
        places = inner(out["image"], 2).reshape(len(shape), -1).round().long()
        assert places.shape[1] == np.prod([n - 4 for n in size])
        assert (transform.apply({"image": label, "label": label}, mapping)["label"] == 0).all()
        seen[tuple(places)] = True
    assert seen.mean() > 0.9  # corners are rare


def test_an_output_larger_than_the_volume_holds_all_of_it():
    label = np.zeros((1, 5, 4), np.uint8)
    for seed in range(10):
        out = patches((0, 0), seed, flip=0.5, quarter_turns=True)({"image": label, "label": label})
        assert (out["label"] == 0).sum() == 20


def test_a_window_may_hang_over_the_border_if_it_need_not_stay_inside(shape):
    label = np.zeros((1, *shape), np.uint8)
    data = {"image": label, "label": label}
    transform = patches(shape, flip=0.5, keep_inside=False)
    outside = [(transform(data)["label"] == IGNORE_INDEX).float().mean() for _ in range(60)]
    assert np.mean(outside) > 0.1


def test_every_place_of_the_window_is_reached(shape):
    """The drawn voxel may lie anywhere in the output that keeps the window inside."""
    dims = len(shape)
    label = np.full((1, *shape), IGNORE_INDEX, np.uint8)
    label[(0, *[7] * dims)] = 1
    transform = RandDeformedPatchd(patch_size=(9,) * dims, context=2, **STILL).set_random_state(0)
    data = {"image": label, "label": label}
    places = {
        tuple(int(i) for i in (transform(data)["label"][0] == 1).nonzero()[0])
        for _ in range(200 if dims == 2 else 1500)
    }
    assert len(places) == 5**dims


def test_image_and_label_are_turned_together(shape):
    transform = patches(shape, flip=0.5, quarter_turns=True, context=2)
    data = coordinate_volume(shape)
    for _ in range(30):
        patch = transform(data)
        places = inner(patch["image"], 2).round().long()
        torch.testing.assert_close(patch["label"][0], torch.from_numpy(data["label"][0])[tuple(places)])
