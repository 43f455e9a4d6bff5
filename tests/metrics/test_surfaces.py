"""Surface Dice is that of a loop over faces and near that of MONAI, and asks nothing of unlabelled voxels."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import SurfaceDiceMetric
from scipy import ndimage

from volseg.labels import IGNORE_INDEX
from volseg.metrics import pooled_surface_dice, surface_dice, surface_faces


@pytest.fixture(params=[(11, 10), (6, 7, 5)], ids=["2d", "3d"])
def shape(request):
    return request.param


@pytest.fixture
def case(shape):
    """Blobs of three classes, and the same somewhat moved; of four classes the last never occurs."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, *[1.2] * len(shape)))
    moved = noise + 0.4 * ndimage.gaussian_filter(rng.normal(size=noise.shape), (0, *[1] * len(shape)))
    return moved.argmax(0).astype(np.uint8), noise.argmax(0).astype(np.uint8)


@pytest.fixture(params=["all", "a slice", "some"])
def labelled(request, shape):
    """Where truth is known."""
    mask = np.random.default_rng(1).random(shape) < 0.93
    if request.param == "a slice":
        mask[:] = False
        mask[..., 2] = True
    return mask | (request.param == "all")


def steps_along(axis, dims):
    return np.eye(dims, dtype=int)[axis]


def slow_faces(prediction, truth, classes, tolerance, spacing):
    """Every face against every other, each looked up voxel by voxel."""
    spacing = np.asarray(spacing)
    reach = tolerance * spacing.min() + 1e-9

    def inside(place):
        return all(0 <= i < n for i, n in zip(place, truth.shape, strict=True))

    def faces(labels, wanted):
        for place in np.ndindex(truth.shape):
            for axis in range(truth.ndim):
                step = steps_along(axis, truth.ndim)
                beside = tuple(place + step)
                if not inside(beside) or IGNORE_INDEX in (truth[place], truth[beside]):
                    continue
                if (labels[place] == wanted) == (labels[beside] == wanted):
                    continue
                cells = [tuple(place + i * step) for i in range(-len(truth), len(truth))]
                near = [c for c in cells if inside(c) and _between(c, place, axis, spacing) <= reach]
                counted = all(truth[c] != IGNORE_INDEX for c in near)
                yield (np.array(place) + step / 2) * spacing, spacing.prod() / spacing[axis], counted

    found = np.zeros((classes, 2))
    for c in range(classes):
        both = list(faces(prediction, c)), list(faces(truth, c))
        for own, other in (both, both[::-1]):
            for centre, area, counted in own:
                if counted:
                    found[c, 0] += area * any(np.linalg.norm(centre - o) <= reach for o, *_ in other)
                    found[c, 1] += area
    return found


def _between(cell, place, axis, spacing):
    """How far a face of a cell would be from that behind ``place``: the nearer of its two."""
    return min(abs(cell[axis] + side - place[axis]) for side in (-1, 0)) * spacing[axis]


@pytest.mark.parametrize("tolerance", [0, 0.75, 1, 2.3])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 0.5, 0.7)])
def test_faces_are_those_of_a_loop(case, labelled, tolerance, spacing):
    prediction, truth = case
    spacing = spacing[: truth.ndim]
    truth = np.where(labelled, truth, IGNORE_INDEX)
    expected = slow_faces(prediction, truth, 4, tolerance, spacing)
    found = surface_faces(prediction, truth, 4, tolerance=tolerance, spacing=spacing)
    assert found.shape == (1, 4, 2)
    np.testing.assert_allclose(found[0], expected)
    scores = surface_dice(prediction, truth, 4, tolerance=tolerance, spacing=spacing)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(scores, expected[:, 0] / expected[:, 1])
    assert math.isnan(scores[3])


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("tolerance", [1, 2])
def test_monai_agrees_as_far_as_it_counts_the_same(tolerance):
    """It counts voxels on the inner side of a border, not faces; and those at the end of the image."""
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(2, 40, 40, 40)), (0, 4, 4, 4), mode="constant")
    truth = (blobs[0] > 0.02).astype(np.uint8)
    prediction = (blobs[0] + 0.15 * blobs[1] > 0.02).astype(np.uint8)
    for labels in (truth, prediction):  # nothing reaches the border of the image
        for axis in range(3):
            np.moveaxis(labels, axis, 0)[[0, -1]] = 0
    ours = surface_dice(prediction, truth, 2, tolerance=tolerance)[1]
    metric = SurfaceDiceMetric([tolerance], include_background=False)
    pair = [torch.from_numpy(np.stack([labels == c for c in (0, 1)])[None]) for labels in (prediction, truth)]
    assert ours == pytest.approx(float(metric(*pair)[0, 0]), abs=0.02)


def test_what_equals_the_truth_is_perfect(case):
    _, truth = case
    for tolerance in (0, 1):
        np.testing.assert_array_equal(surface_dice(truth, truth, 3, tolerance=tolerance), [1, 1, 1])


def test_prediction_and_truth_can_be_exchanged(case, labelled):
    """Where the same voxels of both are known."""
    one, other = (np.where(labelled, labels, IGNORE_INDEX) for labels in case)
    for tolerance in (0, 1):
        found = surface_faces(one, other, 3, tolerance=tolerance)
        np.testing.assert_array_equal(found, surface_faces(other, one, 3, tolerance=tolerance))
        assert tolerance or np.nanmin(pooled_surface_dice(found[0])) < 1


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_plane_moved_by_one_voxel_costs_nothing_and_by_three_everything(dims, axis):
    truth = np.zeros((12,) * dims, np.uint8)
    np.moveaxis(truth, axis, 0)[4:] = 1
    for moved, expected in ((1, 1), (-1, 1), (3, 0), (-3, 0)):
        prediction = np.zeros_like(truth)
        np.moveaxis(prediction, axis, 0)[4 + moved :] = 1
        np.testing.assert_array_equal(surface_dice(prediction, truth, 2), [expected] * 2)
    np.testing.assert_array_equal(surface_dice(prediction, truth, 2, tolerance=3), [1, 1])


def test_the_tolerance_is_a_voxel_of_the_finest_axis():
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[:, :, 4:] = 1
    moved = np.roll(truth, 1, 2)
    moved[:, :, 0] = 0
    assert surface_dice(moved, truth, 2, spacing=(1, 1, 1))[1] == 1
    assert surface_dice(moved, truth, 2, spacing=(5, 5, 5))[1] == 1
    assert surface_dice(moved, truth, 2, spacing=(1, 1, 5))[1] == 0
    assert surface_dice(moved, truth, 2, spacing=(5, 1, 1))[1] == 1
    assert surface_dice(moved, truth, 2, spacing=(1, 1, 5), tolerance=5)[1] == 1


def test_a_face_counts_as_its_area():
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[2:, :, :] = 1
    assert surface_faces(truth, truth, 2, spacing=(1, 2, 3))[0, 1, 1] == 2 * 16 * 6


def test_neither_the_border_of_what_is_labelled_nor_what_lies_beyond_is_a_surface(case):
    prediction, truth = case
    within = surface_faces(prediction[2:], truth[2:], 3, tolerance=0)
    blank = truth.copy()
    blank[:2] = IGNORE_INDEX
    np.testing.assert_array_equal(surface_faces(prediction, blank, 3, tolerance=0), within)
    prediction[:2] = 99
    np.testing.assert_array_equal(surface_faces(prediction, blank, 3, tolerance=0), within)
    assert np.isnan(surface_dice(prediction, np.full_like(truth, IGNORE_INDEX), 3)).all()


def test_a_border_whose_counterpart_may_be_unlabelled_is_not_counted():
    truth = np.full(12, IGNORE_INDEX, np.uint8)
    truth[:8] = [0, 0, 0, 0, 0, 0, 0, 1]
    prediction = np.zeros(12, np.uint8)
    assert math.isnan(surface_dice(prediction, truth, 2)[1])  # moved by one, it would be out of sight
    truth[8] = 1
    assert surface_dice(prediction, truth, 2)[1] == 0


def test_a_labelled_slice_of_a_volume_is_scored_in_its_plane():
    rng = np.random.default_rng(0)
    flat, guess = (ndimage.gaussian_filter(rng.normal(size=(2, 20, 20)), (0, 3, 3)) > 0).astype(np.uint8)
    truth = np.full((20, 20, 5), IGNORE_INDEX, np.uint8)
    truth[..., 2] = flat
    prediction = np.repeat(guess[..., None], 5, 2)
    np.testing.assert_array_equal(surface_dice(prediction, truth, 2), surface_dice(guess, flat, 2))


def test_areas_add_up_over_volumes_and_over_bins(case):
    prediction, truth = case
    faces = surface_faces(prediction, truth, 3)
    bins = np.indices(truth.shape)[0] % 3
    apart = surface_faces(prediction, truth, 3, bins=bins.astype(np.uint8), num_bins=4)
    assert apart[:3].any((1, 2)).all()
    assert not apart[3].any()
    np.testing.assert_allclose(apart.sum(0), faces[0])
    twice = faces[0] + surface_faces(truth, truth, 3)[0]
    scores = pooled_surface_dice(twice)
    alone = surface_dice(prediction, truth, 3)
    assert alone.min() < scores.min() < 1


def test_a_class_of_one_only_scores_nothing_and_one_of_neither_is_unknown():
    truth = np.zeros((6, 6), np.uint8)
    truth[2:4, 2:4] = 1
    np.testing.assert_array_equal(surface_dice(np.zeros_like(truth), truth, 3), [0, 0, math.nan])
    np.testing.assert_array_equal(surface_dice(truth, np.zeros_like(truth), 3), [0, 0, math.nan])


def test_tensors_and_any_kind_of_number_are_welcome(case):
    prediction, truth = case
    expected = surface_dice(prediction, truth, 3)
    for kind in (np.float32, ">i4", np.int64):
        np.testing.assert_array_equal(surface_dice(prediction.astype(kind), truth.astype(kind), 3), expected)
    pair = torch.from_numpy(prediction), torch.from_numpy(truth).long()
    np.testing.assert_array_equal(surface_dice(*pair, 3), expected)
    other = np.where(truth == 0, -7, truth.astype(int))
    blank = np.where(truth == 0, IGNORE_INDEX, truth)
    np.testing.assert_array_equal(
        surface_dice(prediction, other, 3, ignore_index=-7), surface_dice(prediction, blank, 3)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": np.zeros((5, 4))}, r"prediction has the shape \(5, 4\), truth \(4, 4\): they have"),
        ({"bins": np.zeros((5, 4), int)}, r"bins has the shape \(5, 4\), truth \(4, 4\): they have"),
        ({"tolerance": -1}, "tolerance = -1 must be 0 or more, in voxels"),
        ({"tolerance": math.nan}, "tolerance = nan must be 0 or more, in voxels"),
        ({"spacing": (1, 1, 1)}, r"spacing = \(1, 1, 1\) must be a positive voxel size for each of 2 axes"),
        ({"spacing": (1, 0)}, r"spacing = \(1, 0\) must be a positive voxel size"),
        ({"prediction": np.full((4, 4), 2)}, "prediction holds 2 at an annotated voxel; class .* 0 to 1"),
        ({"truth": np.full((4, 4), 0.5)}, "truth holds 0.5 at an annotated voxel"),
        ({"truth": np.full((4, 4), math.nan)}, "truth holds nan at an annotated voxel"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(changes, message):
    given = {"prediction": np.zeros((4, 4)), "truth": np.zeros((4, 4)), "num_classes": 2} | changes
    with pytest.raises(ValueError, match=message):
        surface_faces(**given)
