"""The baselines: painted voxels stay, cut pieces equal the whole, and shapes go on between slices."""

import sys

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import random_walker

from volseg.annotation import keep_slices
from volseg.densification import baselines as interpolation
from volseg.densification.baselines import interpolate, random_walk
from volseg.errors import InputError, ResourceError
from volseg.labels import IGNORE_INDEX


def ball(size: tuple[int, ...]) -> np.ndarray:
    """A ball of class 1 in the middle, with class 2 in its core."""
    middle = [(n - 1) / 2 for n in size]
    distance = np.sqrt(sum((i - m) ** 2 for i, m in zip(np.indices(size), middle, strict=True)))
    return (distance < 0.38 * min(size)).astype(np.uint8) + (distance < 0.16 * min(size))


@pytest.fixture(params=[(20, 22, 18), (26, 30)], ids=["3d", "2d"])
def case(request):
    """Image, truth and painted slices."""
    truth = ball(request.param)
    rng = np.random.default_rng(0)
    image = (truth * 0.8 + rng.normal(0, 0.15, truth.shape))[None].astype(np.float32)
    return image, truth, keep_slices(truth, (3,) * truth.ndim)


def check(found, labels, classes: int) -> None:
    painted = labels != IGNORE_INDEX
    np.testing.assert_array_equal(found.labels[painted], labels[painted])
    assert found.labels.dtype == np.uint8
    assert found.probabilities.shape == (classes, *labels.shape)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=0.02)
    np.testing.assert_array_equal(found.probabilities.argmax(0)[~painted], found.labels[~painted])


def test_the_walker_finds_what_the_image_shows(case):
    image, truth, labels = case
    found = random_walk(image, labels, 3)
    check(found, labels, 3)
    assert np.mean(found.labels == truth) > 0.93


def test_pieces_cut_out_by_paint_give_what_the_whole_volume_gives(case):
    image, _, labels = case
    found = random_walk(image, labels, 3).probabilities
    standard = (image[0] - image.mean()) / image.std()
    seeds = np.where(labels == IGNORE_INDEX, 0, labels.astype(int) + 1)
    whole = random_walker(
        standard, seeds, beta=100 * standard.std(), mode="bf", return_full_prob=True, prob_tol=1
    )
    assert np.abs(found - whole).max() < 0.02


def test_a_step_along_longer_voxels_is_harder_by_the_square_of_their_length():
    image = np.zeros((1, 9, 9, 9), np.float32)
    labels = np.full((9, 9, 9), IGNORE_INDEX, np.uint8)
    labels[3:6, 3:6, 0] = 1
    labels[0], labels[-1], labels[:, 0], labels[:, -1] = 0, 0, 0, 0
    lengths = (1.0, 1.0, 3.0)
    found = random_walk(image + np.arange(9), labels, 2, spacing=lengths).probabilities[1]
    # The same by relaxation: each voxel is the mean of its neighbours, weighted.
    expected = (labels == 1).astype(float)
    standard = (np.arange(9) - 4) / np.arange(9).std()
    steep = np.exp(-10 * (standard[1] - standard[0]) ** 2)
    weights = [(0, 1.0), (1, 1.0), (2, steep / 9)]
    for _ in range(3000):
        total, norm = np.zeros_like(expected), np.zeros_like(expected)
        for axis, weight in weights:
            n = expected.shape[axis]
            for step in (-1, 1):
                inside = np.arange(n)[max(0, -step) : n - max(0, step)]
                here = (*[slice(None)] * axis, inside)
                total[here] += weight * np.take(expected, inside + step, axis)
                norm[here] += weight
        expected = np.where(labels == IGNORE_INDEX, total / norm, labels == 1)
    assert np.abs(found - expected).max() < 0.02
    assert expected[4, 4, 1] > 0.01


def test_every_channel_counts_and_its_brightness_does_not():
    truth = ball((24, 22))
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 24, 22))
    image = np.stack([1000 * (noise[0] + (truth > 0)), noise[1] + (truth > 1)])
    labels = keep_slices(truth, (1, 1))

    def right(channels: np.ndarray) -> float:
        """The mean probability of the true class."""
        probabilities = random_walk(channels, labels, 3).probabilities
        return float(np.take_along_axis(probabilities, truth[None].astype(int), 0).mean())

    assert right(image) > max(right(image[:1]), right(image[1:]))
    assert right(image * [[[0.001]], [[50]]] + 7) == pytest.approx(right(image), abs=1e-3)


def test_a_piece_that_is_too_large_is_solved_coarsely_and_says_so(case, caplog):
    image, _, labels = case
    fine = random_walk(image, labels, 3)
    assert not caplog.records
    coarse = random_walk(image, labels, 3, largest=60)
    assert "voxels 2 x 2" in caplog.text
    check(coarse, labels, 3)
    assert np.mean(coarse.labels == fine.labels) > 0.8


def test_an_image_without_contrast_is_no_trouble(case):
    image, _, labels = case
    check(random_walk(np.zeros_like(image), labels, 3), labels, 3)


def test_a_piece_that_touches_one_class_has_it_altogether():
    labels = np.full((12, 12), IGNORE_INDEX, np.uint8)
    labels[4] = 1
    found = random_walk(np.random.default_rng(0).random((1, 12, 12)), labels, 2)
    assert (found.labels == 1).all()


def test_the_walker_refuses_what_it_cannot_start_from():
    image, labels = np.zeros((1, 4, 5)), np.full((4, 5), IGNORE_INDEX, np.uint8)
    with pytest.raises(InputError, match="no random walker can start"):
        random_walk(image, labels, 2)
    with pytest.raises(ValueError, match="image has the shape"):
        random_walk(image[0], labels, 2)
    labels[0] = 1
    with pytest.raises(ValueError, match="a positive voxel size for each of 2 axes"):
        random_walk(image, labels, 2, spacing=(1.0, 0.0))


@pytest.fixture
def itk():
    """ITK's module, which is an extra."""
    pytest.importorskip("itk", reason="interpolation needs ITK, which .ci/run installs")


@pytest.mark.slow  # ITK takes seconds to load
@pytest.mark.usefixtures("itk")
class TestInterpolation:
    def test_a_slanted_shape_goes_on_between_slices(self, case):
        _, truth, labels = case
        check(interpolate(labels, 3), labels, 3)
        where = np.indices((*truth.shape[:-1], 25))
        middle = 7 + where[-1] / 4
        radius = np.sqrt(((where[:-1] - middle) ** 2).sum(0))
        slanted = (radius < 6).astype(np.uint8)
        labels = keep_slices(slanted, (*[0] * (truth.ndim - 1), 2))
        found = interpolate(labels, 3).labels[..., 6:19]
        nearest = ndimage.distance_transform_edt(labels == IGNORE_INDEX, return_indices=True)[1]
        without = labels[tuple(nearest)][..., 6:19]
        true = slanted[..., 6:19]
        assert np.mean(found != true) < 0.75 * np.mean(without != true)

    def test_between_two_equal_slices_all_are_equal_and_beyond_the_last_it_goes_on(self):
        one = ball((17, 15))
        labels = np.full((17, 15, 14), IGNORE_INDEX, np.uint8)
        labels[..., 3] = labels[..., 10] = one
        found = interpolate(labels, 3).labels
        np.testing.assert_array_equal(found, np.broadcast_to(one[..., None], found.shape))

    def test_a_shape_moves_and_changes_its_size_step_by_step(self):
        labels = np.full((11, 40), IGNORE_INDEX, np.uint8)
        labels[0] = labels[10] = 0
        labels[0, 5:25], labels[10, 15:25] = 1, 1
        found = interpolate(labels, 2).labels
        sizes = found.sum(1)
        assert (np.diff(sizes.astype(int)) <= 0).all()
        assert 12 <= sizes[5] <= 18

    def test_a_class_on_one_of_two_slices_tapers_off(self):
        labels = np.full((25, 25, 9), IGNORE_INDEX, np.uint8)
        labels[..., 0], labels[..., 8] = ball((25, 25)) > 0, 0
        sizes = (interpolate(labels, 2).labels == 1).sum((0, 1))
        assert (np.diff(sizes.astype(int)) <= 0).all()
        assert 0.15 * sizes[0] < sizes[4] < 0.6 * sizes[0]
        assert sizes[8] == 0

    def test_shapes_that_touch_have_no_gap_between_them(self):
        where = np.indices((30, 30))
        disc = np.hypot(*(where - 14.5)) < 11
        labels = np.full((30, 30, 14), IGNORE_INDEX, np.uint8)
        labels[..., 0] = np.where(where[0] < where[1], 1, 2) * disc
        labels[..., 13] = np.where(where[0] + where[1] < 22, 1, 2) * disc
        found = interpolate(labels, 3).labels
        assert found[disc].all()

    def test_a_slice_of_background_alone_ends_what_lies_on_both_sides(self):
        labels = np.full((20, 20, 9), IGNORE_INDEX, np.uint8)
        labels[..., 0] = labels[..., 8] = ball((20, 20)) > 0
        labels[..., 4] = 0
        found = interpolate(labels, 2).labels
        assert not found[..., 4].any()
        assert found[..., 3].sum() < 0.2 * found[..., 0].sum()

    def test_of_several_directions_the_nearer_slice_decides(self):
        labels = np.full((21, 21, 21), IGNORE_INDEX, np.uint8)
        labels[0] = labels[20] = 1
        labels[..., 0] = labels[..., 20] = 2
        found = interpolate(labels, 3, background=0).labels
        assert found[1, 10, 10] == 1
        assert found[10, 10, 1] == 2
        longer = interpolate(labels, 3, spacing=(1.0, 1.0, 5.0)).labels
        assert longer[4, 10, 3] == 1
        assert found[4, 10, 3] == 2

    def test_what_no_slice_tells_is_what_the_nearest_paint_is(self):
        labels = np.full((12, 12, 12), IGNORE_INDEX, np.uint8)
        labels[:5, :5, 3], labels[7:, 7:, 3] = 0, 1
        found = interpolate(labels, 2).labels
        assert found[10, 10, 11] == 1
        assert found[1, 1, 11] == 0


def test_without_itk_the_extra_is_named(monkeypatch):
    interpolation._itk.cache_clear()
    monkeypatch.setitem(sys.modules, "itk", None)
    labels = np.full((8, 8, 8), IGNORE_INDEX, np.uint8)
    labels[..., 1] = labels[..., 6] = ball((8, 8))
    with pytest.raises(ResourceError, match="pip install itk-morphologicalcontourinterpolation"):
        interpolate(labels, 3)


def test_interpolation_refuses_what_it_cannot_use():
    labels = np.full((4, 5, 6), IGNORE_INDEX, np.uint8)
    with pytest.raises(InputError, match="nothing to interpolate"):
        interpolate(labels, 2)
    labels[0] = 1
    with pytest.raises(ValueError, match="a voxel size for each of 3 axes"):
        interpolate(labels, 2, spacing=(1.0, 1.0))
