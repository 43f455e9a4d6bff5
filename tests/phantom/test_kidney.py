"""The phantoms are what they say: anatomy that holds together, and too hard for a threshold."""

from itertools import permutations

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from volseg.phantom import XENOPUS_SIZES, XENOPUS_SPACING, cells_phantom, xenopus_phantom

LUMEN, WALL, BACKGROUND = 0, 1, 2
SMALL = (72, 64, 40)


@pytest.fixture(scope="module", params=[3, 4, 5])
def kidney(request):
    return xenopus_phantom(request.param, size=SMALL)


@pytest.fixture(scope="module", params=[0, 1])
def sample(request):
    return xenopus_phantom(request.param)


def mean_iou(counts, names):
    """Mean over the three classes; ``counts[bin, class]``, bin ``i`` being called class ``names[i]``."""
    score = 0.0
    for row, name in zip(counts, names, strict=True):
        score += row[name] / max(1, row.sum() + counts[:, name].sum() - row[name])
    return score / 3


def best_threshold(grey, truth):
    """Best mean IoU of any single threshold, whichever two classes its sides are called."""
    values = np.stack([np.bincount(grey[truth == c], minlength=256) for c in range(3)], 1)
    below = values.cumsum(0)
    splits = [np.stack([low, below[-1] - low]) for low in below]
    return max(mean_iou(counts, names) for counts in splits for names in permutations(range(3), 2))


def best_multi_otsu(grey, truth):
    """Mean IoU of three Otsu bins, with the best of the six ways to call them."""
    bins = np.digitize(grey, threshold_multiotsu(grey, 3), right=True)
    counts = np.bincount((3 * bins + truth).ravel(), minlength=9).reshape(3, 3)
    return max(mean_iou(counts, names) for names in permutations(range(3)))


def assert_no_threshold_does_it(image, truth):
    mean = np.rint(image.mean(0)).astype(np.uint8)
    brightest = image.max(0)
    for grey in (*image, mean, brightest):
        assert best_threshold(grey, truth) < 0.5
        assert best_multi_otsu(grey, truth) < 0.5


def test_the_threshold_scores_see_an_easy_volume():
    truth = np.repeat(np.arange(3, dtype=np.uint8), 50).reshape(5, 5, 6)
    grey = (200 - 90 * truth + np.arange(150).reshape(truth.shape) % 7).astype(np.uint8)
    assert best_multi_otsu(grey, truth) == 1
    assert best_threshold(np.where(truth == WALL, 200, 20), truth) == pytest.approx((1 + 0.5) / 3)


def test_no_threshold_finds_the_tubules(kidney):
    assert_no_threshold_does_it(*kidney)


def test_lumina_are_wrapped_in_a_wall_several_voxels_thick(kidney):
    _, truth = kidney
    steps_from_lumen = ndimage.distance_transform_edt(truth != LUMEN, np.array(XENOPUS_SPACING) / 1.76)
    assert steps_from_lumen[truth == BACKGROUND].min() > 3
    thickness = steps_from_lumen[ndimage.binary_dilation(truth == BACKGROUND) & (truth == WALL)]
    assert np.percentile(thickness, 10) > 3.5


def test_every_lumen_is_wide_enough_to_be_seen(kidney):
    _, truth = kidney
    inside = ndimage.distance_transform_edt(truth == LUMEN, np.array(XENOPUS_SPACING) / 1.76)
    pieces, _ = ndimage.label(truth == LUMEN)
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    assert 2.5 < inside[largest].max() < 9


def test_stains_go_where_they_belong(kidney):
    (lectin, dapi, beta), truth = (kidney[0].astype(float), kidney[1])
    off_lumen = ndimage.distance_transform_edt(truth != LUMEN)
    apical, outer_wall = (off_lumen > 0) & (off_lumen < 2), (truth == WALL) & (off_lumen > 2.5)
    lumen = ndimage.binary_erosion(truth == LUMEN)
    assert lectin[apical].mean() > 1.3 * lectin[lumen].mean()
    assert lectin[apical].mean() > 1.3 * lectin[outer_wall].mean()
    assert dapi[truth == WALL].mean() > 1.8 * dapi[lumen].mean()
    assert beta[truth == WALL].mean() > 1.8 * beta[lumen].mean()


def test_a_lumen_is_as_dark_as_the_gaps_outside(kidney):
    image, truth = kidney
    for channel in image:
        low, high = np.percentile(channel[truth == BACKGROUND], [3, 90])
        assert low <= np.median(channel[truth == LUMEN]) <= high


def test_light_fades_with_depth_violet_most():
    kidneys = [xenopus_phantom(seed, size=(40, 40, 64))[0] for seed in range(10)]
    along_z = np.mean(kidneys, (0, 2, 3)) - 6  # less the offset of the detector
    left = along_z[:, -16:].mean(1) / along_z[:, :16].mean(1)
    assert (left < 0.85).all()
    assert left.argmin() == 1


def test_sharpness_is_worse_along_z(kidney):
    image, _ = kidney
    across, along = (np.diff(image.astype(float), axis=axis).var() for axis in (1, 3))
    assert along < across


@pytest.mark.parametrize("seed", range(10))
def test_even_the_smallest_volume_holds_all_classes(seed):
    image, truth = xenopus_phantom(seed, size=(16, 17, 16))
    assert image.shape == (3, 16, 17, 16)
    assert set(np.unique(truth)) == {LUMEN, WALL, BACKGROUND}


@pytest.mark.slow
def test_samples_are_those_of_the_paper_in_size_and_make_up(sample):
    image, truth = sample
    assert image.shape == (3, *truth.shape)
    assert truth.shape in XENOPUS_SIZES
    assert image.dtype == truth.dtype == np.uint8
    lumen, wall, _ = np.bincount(truth.ravel()) / truth.size
    assert 0.05 < lumen < 0.10
    assert 0.20 < wall < 0.30
    assert all((channel == 255).mean() < 0.02 for channel in image)
    assert all(np.percentile(channel, 99) > 90 for channel in image)


@pytest.mark.slow
def test_tubules_are_long_and_convoluted(sample):
    _, truth = sample
    pieces, _ = ndimage.label(truth == LUMEN)
    voxels = np.bincount(pieces.ravel())[1:]
    assert voxels.max() / (np.pi * 6**2) > 150  # long even if it were wide everywhere
    assert len(voxels) < 60


@pytest.mark.slow
def test_no_threshold_finds_the_tubules_of_a_full_sample(sample):
    assert_no_threshold_does_it(*sample)


@pytest.mark.parametrize("seed", range(4))
def test_cells_are_connected_numbered_without_gaps_and_touch(seed):
    image, instances = cells_phantom(seed, (160, 128))
    assert image.shape == (1, 160, 128)
    assert image.dtype == np.uint8
    assert instances.dtype == np.int32
    ids = np.unique(instances)
    np.testing.assert_array_equal(ids, np.arange(len(ids)))
    assert all(ndimage.label(instances == i)[1] == 1 for i in ids[1:])
    left, right = instances[:-1], instances[1:]
    borders = np.unique(np.stack([left, right])[:, (left != right) & (left > 0) & (right > 0)], axis=1)
    assert borders.shape[1] > 0.3 * len(ids)
    assert 0.1 < (instances > 0).mean() < 0.7


@pytest.mark.parametrize("seed", [12, 41, 85])
def test_a_cell_that_the_warp_tears_keeps_one_piece(seed):
    _, instances = cells_phantom(seed, (96, 96))
    assert all(ndimage.label(instances == i)[1] == 1 for i in range(1, instances.max() + 1))


def test_cells_are_brighter_than_background_but_differ_in_contrast():
    image, instances = cells_phantom(1)
    ids = np.arange(1, instances.max() + 1)
    brightness = ndimage.mean(image[0], instances, ids)
    background = image[0][instances == 0].mean()
    assert (brightness > background).mean() > 0.95
    contrast = np.sort(brightness - background)
    assert contrast[-len(ids) // 10] > 2.5 * contrast[len(ids) // 10]
