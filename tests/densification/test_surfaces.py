"""Surface Dice of held-out slices: in the plane of each, pooled, weighted as the other scores are."""

import numpy as np
import pytest
from scipy import ndimage

from volseg.annotation import hold_out
from volseg.densification import scoring
from volseg.densification.folds import Fold
from volseg.densification.intervals import SliceConfusion, estimate
from volseg.labels import IGNORE_INDEX
from volseg.metrics import Headline, pooled_surface_dice, surface_faces

SPACING = (0.5, 0.7, 2.0)
SIZES = pytest.mark.parametrize("size", [(24, 20), (16, 18, 12)], ids=["2d", "3d"])


def blobs(size, seed=0):
    """Three classes, and the same with errors."""
    noise = np.random.default_rng(seed).normal(size=(2, 3, *size))
    smooth = ndimage.gaussian_filter(noise, (0, 0, *[2] * len(size)))
    return (smooth[0] + 0.4 * smooth[1]).argmax(0).astype(np.uint8), smooth[0].argmax(0).astype(np.uint8)


def one_bin(prediction, test, slices):
    sizes = SPACING[: test.ndim]
    bins = np.zeros(test.shape, np.uint8)
    return scoring.slice_surfaces(prediction, test, slices, 3, spacing=sizes, bins=bins, num_bins=1)[0]


def test_slices_of_a_volume_are_planes_of_their_own():
    prediction, truth = blobs((16, 18, 12))
    slices = {"x": [3, 4], "z": [1, 6, 7]}
    expected = np.zeros((3, 2))
    for index in slices["x"]:
        expected += surface_faces(prediction[index], truth[index], 3, spacing=(0.7, 2.0))[0]
    for index in slices["z"]:
        expected += surface_faces(prediction[..., index], truth[..., index], 3, spacing=(0.5, 0.7))[0]
    assert (pooled_surface_dice(expected) > 0).all()
    assert (pooled_surface_dice(expected) < 1).all()
    test = hold_out(truth, slices)[1]
    np.testing.assert_allclose(one_bin(prediction, test, slices), expected)


def test_lines_of_an_image_lie_in_one_plane():
    prediction, truth = blobs((24, 20))
    test = hold_out(truth, {"y": [4, 5, 6, 7, 15]})[1]
    expected = surface_faces(prediction, test, 3, spacing=SPACING[:2])[0]
    np.testing.assert_allclose(one_bin(prediction, test, {"y": [4, 5, 6, 7, 15]}), expected)
    across = sum(surface_faces(prediction[:, [i]], test[:, [i]], 3, spacing=SPACING[:2])[0] for i in (4, 5))
    assert (expected > across).any()  # borders between the lines count, too


def confusion(index=0):
    """Two bins of distance, all of it right."""
    return SliceConfusion("z", (index,), np.stack([np.diag([30, 30, 30]), np.diag([10, 10, 10])]))


def test_borders_of_each_bin_count_as_its_share():
    surfaces = np.array([[[2, 10], [9, 10], [0, 0]], [[10, 10], [1, 10], [0, 0]]], float)
    for shares in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        slices = [confusion(i) for i in range(4)]
        found = estimate(slices, 3, shares=shares, surfaces=surfaces, foreground=[1, 2])
        weights = np.array(shares) / (90, 30)
        near, far = weights / weights.sum()
        expected = [near * 0.2 + far * 1, near * 0.9 + far * 0.1]
        assert [score.value for score in found.surface[:2]] == pytest.approx(expected)
        assert found.surface[2].value is None
        assert found.surface[2].reason == "No border of it was held out."
        assert found.mean_surface.value == pytest.approx(np.mean(expected))
        assert found.foreground_surface.value == pytest.approx(expected[1])
        for score in (*found.surface[:2], found.mean_surface, found.foreground_surface):
            assert (score.low, score.high) == (None, None)
            assert score.reason == "No interval is computed for surface Dice."


def test_without_an_iou_there_is_no_surface_dice_either():
    lonely = [SliceConfusion("z", (i,), np.diag([9, 9 * (i == 0), 9])[None]) for i in range(4)]
    surfaces = np.ones((1, 3, 2))
    found = estimate(lonely, 3, surfaces=surfaces)
    assert found.surface[1].value is None
    assert found.surface[1].reason == found.iou[1].reason != ""
    assert found.surface[0].value == found.mean_surface.value == 1
    assert estimate(lonely, 3).mean_surface.value is None  # of who compared no borders


@SIZES
def test_all_folds_are_pooled_holes_too(size):
    prediction, truth = blobs(size)
    axis = "xyz"[len(size) - 1]
    slices, holes = [2, 6, 10], [3, 4, 5, 6, 7]
    labels = hold_out(truth, {axis: slices})[1]
    folds = [
        Fold({axis: [i]}, others={axis: [j for j in slices if j != i]}, holes={"x": holes}) for i in slices
    ]
    scores = np.log(np.eye(3)[prediction] + 1e-3).transpose(-1, *range(len(size)))
    parts = [scoring.tested(fold, fold.split(labels)[1], scores) for fold in folds]
    found, _ = scoring.Scorer(labels, SPACING[: len(size)], Headline(["a", "b", "c"])).estimate(parts)
    for one in (found.surface, found.iou):
        assert all(0 < score.value < 1 for score in one)
    for wrong_in in ("nothing", "holes", "slices"):
        for part in parts:
            told = part.test[part.where]
            in_hole = hold_out(part.test, part.fold.slices)[1][part.where] == IGNORE_INDEX
            assert 0 < np.mean(in_hole) < 1
            wrong = {"nothing": in_hole & False, "holes": in_hole, "slices": ~in_hole}[wrong_in]
            part.scores[:] = np.eye(3)[np.where(wrong, 0, told)].T
        found, _ = scoring.Scorer(labels, SPACING[: len(size)], Headline(["a", "b", "c"])).estimate(parts)
        values = [score.value for score in found.surface]
        assert values == [1, 1, 1] if wrong_in == "nothing" else min(values) < 1
