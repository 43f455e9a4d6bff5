"""Rare classes and narrow gaps count more, exactly as the formula says."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from volseg.errors import InputError
from volseg.losses import SparseCrossEntropy
from volseg.weightmaps import border_weight_map, class_balance
from volseg.weightmaps.nearest import two_nearest

# --- classes


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_the_average_annotated_voxel_has_weight_one(power):
    counts = torch.tensor([900, 90, 0, 10])
    weights = class_balance(counts, power=power)
    assert weights.dtype == torch.float32
    assert (counts * weights).sum() / counts.sum() == pytest.approx(1)
    assert weights[2] == 0
    assert weights[1] / weights[0] == pytest.approx(10**power)
    assert weights[3] / weights[1] == pytest.approx(9**power)


def test_balanced_classes_have_the_same_say():
    counts = np.array([2**40, 12345, 1])
    np.testing.assert_allclose(counts * class_balance(counts).double().numpy(), counts.sum() / 3, rtol=1e-6)


def test_equal_classes_have_weight_one():
    assert class_balance([7, 7]).tolist() == [1, 1]
    assert class_balance([0, 5, 0]).tolist() == [0, 1, 0]


def test_balance_fits_the_loss():
    logits = torch.zeros(1, 2, 5, 5)
    target = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    target[..., 0, 0] = 1
    logits[:, 0] = 5.0  # always class 0: one class right, one wrong
    wrong, right = math.log(1 + math.exp(5)), math.log(1 + math.exp(-5))
    loss = SparseCrossEntropy(class_balance([24, 1]))(logits, target)
    assert loss.item() == pytest.approx((wrong + right) / 2, rel=1e-5)


def test_without_annotation_there_is_nothing_to_balance():
    with pytest.raises(InputError, match="There is no annotated voxel in any of the 2 classes"):
        class_balance([0, 0])


@pytest.mark.parametrize("bad", [[-1, 2], [[1, 2]], [math.nan, 1], 5])
def test_counts_are_counts(bad):
    with pytest.raises(ValueError, match="is not a list of one number of voxels per class"):
        class_balance(bad)


def test_power_is_finite():
    with pytest.raises(ValueError, match="power = inf is not a finite number"):
        class_balance([1, 2], power=math.inf)


# --- borders


def slow_border_weight_map(instances, w0=10.0, sigma=5.0, class_weight=(1, 1), spacing=None, ignore=None):
    """One distance transform of the whole array per object, all of them sorted."""
    unlabelled = (instances < 0) | (False if ignore is None else instances == ignore)
    ids = np.unique(instances[~unlabelled & (instances != 0)])
    weight = np.where(np.isin(instances, ids), class_weight[1], class_weight[0]).astype(float)
    if len(ids) >= 2:
        distances = np.sort([distance_transform_edt(instances != i, sampling=spacing) for i in ids], axis=0)
        weight += w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    weight[unlabelled] = 0
    return weight


def blobs(shape, objects, seed=0):
    """Objects grown around random seeds, touching where they meet; scattered in pieces by noise."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros(shape, np.int64)
    seeds.flat[rng.choice(seeds.size, objects, replace=False)] = np.arange(1, objects + 1)
    distance, nearest = distance_transform_edt(seeds == 0, return_indices=True)
    return np.where((distance < 5) & (rng.random(shape) > 0.02), seeds[tuple(nearest)], 0)


@pytest.fixture(params=[(70, 61), (24, 21, 19)], ids=["2d", "3d"])
def instances(request):
    return blobs(request.param, 14)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"w0": 50.0, "sigma": 6.0},
        {"sigma": 0.8},
        {"class_weight": (0.3, 2.0)},
        {"class_weight": (0.0, 1.0), "w0": 3.0},
        {"w0": 0.0},
        {"w0": 1e-9},
        {"ignore": 3},
    ],
    ids=str,
)
def test_the_map_is_that_of_one_distance_transform_per_object(instances, options):
    weight = border_weight_map(instances, **options)
    assert weight.dtype == np.float32
    assert weight.shape == instances.shape
    np.testing.assert_allclose(weight, slow_border_weight_map(instances, **options), rtol=2e-6, atol=1e-6)


def test_the_border_term_can_be_left_out_inside_objects(instances):
    options = {"class_weight": (0.5, 2.0), "sigma": 3.0}
    weight, everywhere = (
        border_weight_map(instances, background_only=only, **options) for only in (True, False)
    )
    np.testing.assert_array_equal(weight[instances > 0], 2.0)
    np.testing.assert_array_equal(weight[instances <= 0], everywhere[instances <= 0])
    assert (everywhere[instances > 0] > 2.5).any()


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_spacing_turns_distances_into_world_units(instances, sigma):
    spacing = (0.2, 0.5, 1.7)[: instances.ndim]
    weight = border_weight_map(instances, spacing=spacing, sigma=sigma)
    expected = slow_border_weight_map(instances, spacing=spacing, sigma=sigma)
    np.testing.assert_allclose(weight, expected, rtol=2e-6, atol=1e-6)
    scaled = border_weight_map(instances, spacing=[3 * s for s in spacing], sigma=3 * sigma)
    np.testing.assert_allclose(scaled, weight, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_cutting_off_far_objects_changes_nothing(seed):
    instances = np.zeros((150, 120), np.int64)
    rng = np.random.default_rng(seed)
    for i in range(1, 7):
        x, y = rng.integers(0, 100, 2)
        instances[x : x + rng.integers(1, 12), y : y + rng.integers(1, 12)] = i
    np.testing.assert_allclose(
        border_weight_map(instances), slow_border_weight_map(instances), rtol=2e-6, atol=2.0**-23
    )


@pytest.mark.parametrize("shape", [(17, 1), (1, 17), (1, 1, 9), (5, 40, 3), (2, 3, 4), (23,), (6, 5, 4, 3)])
def test_the_two_nearest_objects_are_found_in_any_shape(shape):
    rng = np.random.default_rng(0)
    spacing = rng.uniform(0.3, 3, len(shape))
    for density in (0.02, 0.3, 1.0):
        objects = rng.integers(1, 6, shape, dtype=np.int32) * (rng.random(shape) < density)
        distances = [
            distance_transform_edt(objects != i, sampling=spacing)
            if (objects == i).any()
            else np.full(shape, np.inf)
            for i in range(1, 6)
        ]
        expected = np.sort(distances, axis=0)[:2]
        near = expected.sum(0) <= 8
        found = np.stack(two_nearest(objects.astype(np.int32), 8.0, spacing))
        np.testing.assert_allclose(found[:, near], expected[:, near], rtol=1e-5)
        assert (found.sum(0)[~near] >= 8 * (1 - 1e-6)).all()


def test_threads_change_nothing():
    instances = blobs((90, 40, 30), 20)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = border_weight_map(instances)
        torch.set_num_threads(3)
        np.testing.assert_array_equal(border_weight_map(instances), expected)
    finally:
        torch.set_num_threads(before)


def test_the_formula_holds_between_two_walls():
    instances = np.zeros((9, 4), np.uint8)
    instances[0], instances[8] = 1, 2
    weight = border_weight_map(instances, w0=10, sigma=5)
    np.testing.assert_allclose(weight, 1 + 10 * math.exp(-(8**2) / 50), rtol=1e-6)
    instances[8] = 0
    instances[1] = 2  # they touch: d1 = 0, d2 = 1 inside
    weight = border_weight_map(instances, w0=10, sigma=5)
    np.testing.assert_allclose(weight[:2], 1 + 10 * math.exp(-1 / 50), rtol=1e-6)


def test_fewer_than_two_objects_have_no_border():
    one = np.zeros((8, 7, 6), bool)
    one[2:4, 2:5] = True
    assert (border_weight_map(one) == 1).all()
    assert (border_weight_map(np.zeros((5, 5), int)) == 1).all()
    np.testing.assert_array_equal(border_weight_map(one, class_weight=(2, 3)), np.where(one, 3, 2))
    assert border_weight_map(np.zeros((0, 5), int)).shape == (0, 5)
    assert (border_weight_map(np.full((3, 3), -1)) == 0).all()


def test_ids_are_only_names(instances):
    expected = border_weight_map(instances)
    names = np.random.default_rng(0).permutation(2**63 - 1 - np.arange(15) * 10**15)
    names[0] = 0
    np.testing.assert_array_equal(border_weight_map(names[instances]), expected)
    np.testing.assert_array_equal(border_weight_map(instances.astype(np.uint8)), expected)
    np.testing.assert_array_equal(border_weight_map(instances.astype(np.uint64)), expected)
    np.testing.assert_array_equal(border_weight_map(np.asfortranarray(instances)), expected)


def test_huge_ids_without_background_are_objects_too():
    instances = np.full((6, 6), 10**12)
    instances[3:] = 2 * 10**12
    np.testing.assert_allclose(border_weight_map(instances), slow_border_weight_map(instances), rtol=1e-6)


def test_unlabelled_voxels_weigh_nothing_and_are_no_object(instances):
    blanked = np.where(instances == 3, 0, instances)
    expected = np.where(instances == 3, 0, border_weight_map(blanked))
    np.testing.assert_array_equal(border_weight_map(instances, ignore=3), expected)
    np.testing.assert_array_equal(border_weight_map(np.where(instances == 3, -7, instances)), expected)


def test_the_instances_are_not_changed(instances):
    before = instances.copy()
    border_weight_map(instances, ignore=1)
    np.testing.assert_array_equal(instances, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w0": -1}, "w0 = -1 must be a finite number, 0 or more"),
        ({"w0": math.nan}, "w0 = nan must be a finite number, 0 or more"),
        ({"sigma": 0}, "sigma = 0 must be a finite number above 0"),
        ({"sigma": math.inf}, "sigma = inf must be a finite number above 0"),
        ({"class_weight": (1, 2, 3)}, r"class_weight = \[1.0, 2.0, 3.0\] is not the pair"),
        ({"class_weight": (1, -2)}, r"class_weight = \[1.0, -2.0\] is not the pair"),
        (
            {"spacing": (1, 1, 1)},
            r"spacing = \(1.0, 1.0, 1.0\) is not one voxel size above 0 for each of the 2 axes",
        ),
        ({"spacing": (1, 0)}, "is not one voxel size above 0"),
    ],
)
def test_the_arguments_make_sense(options, message):
    with pytest.raises(ValueError, match=message):
        border_weight_map(np.zeros((4, 4), int), **options)


def test_instances_are_integers():
    with pytest.raises(ValueError, match="instances are of type float64"):
        border_weight_map(np.zeros((4, 4)))


# --- real cells


def test_real_touching_nuclei_get_their_borders(shared_data):
    tifffile = pytest.importorskip("tifffile")
    files = sorted((shared_data / "dsb2018_nuclei_2d").glob("*/fluo*.tif"))
    files = [file for file in files if "image" not in file.parent.name][:2]
    assert files, "dsb2018_nuclei_2d has no folder of instance labels"
    for file in files:
        instances = tifffile.imread(file)[:200, :200]
        np.testing.assert_allclose(
            border_weight_map(instances), slow_border_weight_map(instances), rtol=2e-6, atol=2.0**-23
        )
