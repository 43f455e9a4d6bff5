"""The brain phantom has one tumour, of every sort, and brightness alone does not find it."""

import numpy as np
import pytest
from scipy import ndimage

from volseg.phantom import brain_phantom

TUMOUR = 1
SEEDS = range(16)
SIZE = (128, 112)


@pytest.fixture(scope="module")
def slices():
    return [brain_phantom(seed, SIZE) for seed in SEEDS]


def best_iou(grey, mask):
    """The best IoU that calling everything above, or below, some grey value tumour can reach."""
    tumour = np.bincount(grey[mask == TUMOUR], minlength=256)
    other = np.bincount(grey[mask != TUMOUR], minlength=256)
    ways = ((tumour, other), (tumour[::-1], other[::-1]))
    return max((t.cumsum() / (tumour.sum() + o.cumsum())).max() for t, o in ways)


def contrast(image, mask):
    """How much brighter the tumour is than what surrounds it, in grey values."""
    around = ndimage.binary_dilation(mask, iterations=4) & (mask != TUMOUR)
    return image[0][mask == TUMOUR].mean() - image[0][around].mean()


def head(image):
    """All that is not air outside."""
    return ndimage.binary_fill_holes(ndimage.gaussian_filter(image[0].astype(float), 1) > 60)


def test_the_threshold_score_sees_an_easy_image():
    mask = np.zeros((10, 10), np.uint8)
    mask[2:4] = TUMOUR
    assert best_iou(np.where(mask, 200, 90), mask) == 1
    assert best_iou(np.where(mask, 20, 90), mask) == 1
    assert best_iou(np.full((10, 10), 90), mask) == pytest.approx(0.2)


def test_no_threshold_finds_the_tumour(slices):
    scores = [best_iou(image[0], mask) for image, mask in slices]
    assert max(scores) < 0.4
    assert np.mean(scores) < 0.25


def test_image_and_mask_are_as_large_as_wished_and_the_tumour_one_to_five_percent(slices):
    for image, mask in slices:
        assert image.shape == (1, *SIZE)
        assert mask.shape == SIZE
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, TUMOUR}
        assert 0.01 < mask.mean() < 0.06


def test_tumours_differ_in_place_size_and_brightness(slices):
    middles = np.array([ndimage.center_of_mass(mask) for _, mask in slices])
    assert (np.ptp(middles, axis=0) > 0.4 * np.array(SIZE)).all()
    sizes = [mask.sum() for _, mask in slices]
    assert max(sizes) > 2 * min(sizes)
    contrasts = np.array([contrast(*one) for one in slices])
    assert contrasts.min() < 8 < 30 < contrasts.max()


def test_a_tumour_is_in_one_piece_and_inside_the_head(slices):
    for image, mask in slices:
        assert ndimage.label(mask)[1] == 1
        under_skin = ndimage.binary_erosion(head(image), iterations=4)
        assert under_skin[mask == TUMOUR].all()


def test_from_outside_in_there_is_dark_air_bright_skin_dark_bone_and_the_brain(slices):
    for image, mask in slices:
        seen = image[0].astype(float)
        inside = head(image)
        depth = np.rint(ndimage.distance_transform_edt(inside)).astype(int)
        profile = ndimage.mean(seen, depth, np.arange(21))
        skin, bone, brain = profile[1:5].max(), profile[4:9].min(), np.median(profile[13:])
        assert seen[~ndimage.binary_dilation(inside, iterations=3)].mean() < 0.15 * brain
        assert skin > 1.1 * brain
        assert bone < 0.7 * brain
        deep = seen[(depth > 12) & (mask != TUMOUR)]
        assert np.percentile(deep, 2) < 0.6 * np.median(deep)  # fluid in ventricles and furrows


def test_the_noise_of_air_is_rician():
    air = np.stack([brain_phantom(seed, (64, 64))[0][0, :6, :6].ravel() for seed in range(6)])
    assert (air.mean(1) > 1.2 * air.std(1)).all()  # Rayleigh's: 1.9; of a Gaussian cut off at 0: 0.7
    assert (air.std(1) > 1).all()


@pytest.mark.parametrize("seed", range(10))
def test_even_the_smallest_head_has_a_tumour(seed):
    image, mask = brain_phantom(seed, (16, 17))
    assert image.shape == (1, 16, 17)
    assert 0.01 <= mask.mean() < 0.06
