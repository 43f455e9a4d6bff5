"""The membranes phantom looks like nerve cord to a threshold too: it finds the wrong membranes."""

import numpy as np
import pytest
from scipy import ndimage

from volseg.phantom import membranes_phantom
from volseg.phantom.cells import _cells

MEMBRANE, INSIDE = 0, 1
SMALL = (192, 160)


@pytest.fixture(scope="module", params=range(4))
def section(request):
    return membranes_phantom(request.param, SMALL)


def best_pixel_f1(grey, truth):
    """The best F1 of membrane pixels that calling everything below some grey value membrane can reach."""
    right = np.bincount(grey[truth == MEMBRANE], minlength=256).cumsum()
    wrong = np.bincount(grey[truth == INSIDE], minlength=256).cumsum()
    return (2 * right / (right + wrong + right[-1])).max()


def test_the_threshold_score_sees_an_easy_image():
    truth = np.repeat(np.array([[MEMBRANE, INSIDE]], np.uint8), 10, 0)
    assert best_pixel_f1(np.where(truth == MEMBRANE, 60, 140), truth) == 1
    assert best_pixel_f1(np.where(truth == MEMBRANE, 140, 60), truth) == pytest.approx(2 / 3)


def test_no_threshold_finds_the_membranes_though_they_are_darker(section):
    image, truth = section
    assert best_pixel_f1(image[0], truth) < 0.7
    assert best_pixel_f1(ndimage.gaussian_filter(image[0], 1), truth) < 0.8
    assert image[0][truth == INSIDE].mean() > image[0][truth == MEMBRANE].mean() + 25


def test_image_and_truth_are_as_large_as_wished_and_of_the_scale_of_the_challenge(section):
    image, truth = section
    assert image.shape == (1, *SMALL)
    assert truth.shape == SMALL
    assert image.dtype == truth.dtype == np.uint8
    assert set(np.unique(truth)) == {MEMBRANE, INSIDE}
    assert 0.12 < (truth == MEMBRANE).mean() < 0.28
    assert 25 < image.std() < 60


def test_membranes_are_two_to_five_pixels_wide(section):
    _, truth = section
    depth = ndimage.distance_transform_edt(truth == MEMBRANE)  # of the middle: half the width
    middle = (depth == ndimage.maximum_filter(depth, 3)) & (truth == MEMBRANE)
    assert np.percentile(depth[middle], 90) < 3.1
    assert 1.0 < np.median(depth[middle]) < 2.6
    thick = ndimage.binary_opening(truth == MEMBRANE, np.ones((2, 2)))
    assert thick.sum() > 0.995 * (truth == MEMBRANE).sum()


@pytest.mark.parametrize("seed", range(4))
def test_any_two_cells_are_apart_even_across_corners(seed):
    cells = _cells(np.random.default_rng([2012, seed]), SMALL)
    _, truth = membranes_phantom(seed, SMALL)
    joined = ndimage.label(truth == INSIDE, np.ones((3, 3)))[0]
    pairs = np.unique(np.stack([joined, cells])[:, truth == INSIDE], axis=1)
    np.testing.assert_array_equal(np.unique(pairs[0], return_counts=True)[1], 1)  # one cell per piece


def test_membranes_part_a_full_section_into_cells_of_very_different_size():
    image, truth = membranes_phantom(0)
    assert image.shape == (1, 512, 512)
    cells, number = ndimage.label(truth == INSIDE)
    sizes = np.bincount(cells.ravel())[1:]
    assert number > 120
    assert sizes.max() < 0.1 * truth.size
    assert np.percentile(sizes, 90) > 4 * np.percentile(sizes, 30)


def test_some_of_what_lies_inside_cells_is_as_dark_as_membrane(section):
    image, truth = section
    seen = ndimage.gaussian_filter(image[0].astype(float), 1)
    deep = ndimage.distance_transform_edt(truth == INSIDE) > 4
    assert (seen[deep] < np.median(seen[truth == MEMBRANE])).mean() > 0.01


def test_some_membranes_nearly_fade_away(section):
    image, truth = section
    seen = ndimage.gaussian_filter(image[0].astype(float), 1)
    assert (seen[truth == MEMBRANE] > np.median(seen[truth == INSIDE])).mean() > 0.02


@pytest.mark.parametrize("seed", range(10))
def test_the_smallest_section_is_one_too(seed):
    image, truth = membranes_phantom(seed, (16, 17))
    assert image.shape == (1, 16, 17)
    assert set(np.unique(truth)) <= {MEMBRANE, INSIDE}
