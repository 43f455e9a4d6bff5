"""Objects told apart: ids to classes, with a gap where objects touch, and back."""

import numpy as np
import pytest
import tifffile

from volseg.errors import InputError
from volseg.instances import InstanceScheme, separate_touching
from volseg.labels import IGNORE_INDEX
from volseg.metrics import instance_scores
from volseg.phantom import cells_phantom


@pytest.fixture(params=[(40, 36), (14, 15, 12)], ids=["2d", "3d"])
def instances(request):
    """Round objects, some of which touch, some alone, of one id in ten thousand."""
    shape = request.param
    random = np.random.default_rng(3)
    centres = random.uniform(0, shape, (12, len(shape)))
    far = np.moveaxis(np.indices(shape), 0, -1)[..., None, :] - centres
    distance = np.sqrt((far**2).sum(-1))
    nearest = distance.argmin(-1)
    return np.where(distance.min(-1) < 5, 10_000 * (nearest + 1), 0)


# --- gaps


def slow_separate_touching(instances):
    out = instances.copy()
    for voxel in np.ndindex(*instances.shape):
        around = instances[tuple(slice(max(0, i - 1), i + 2) for i in voxel)]
        if instances[voxel] > 0 and ((around > 0) & (around != instances[voxel])).any():
            out[voxel] = 0
    return out


def test_a_gap_opens_where_objects_touch_and_nowhere_else(instances):
    for dtype in (np.int32, np.uint64):
        separated = separate_touching(instances.astype(dtype))
        assert separated.dtype == dtype
        np.testing.assert_array_equal(separated, slow_separate_touching(instances))
    np.testing.assert_array_equal(separate_touching(separated), separated)
    assert (separated == 0).sum() > (instances == 0).sum()


def test_unlabelled_voxels_touch_nobody():
    instances = np.array([[1, 1, -1, -1, 2, 2, 3, 0, 4]])
    np.testing.assert_array_equal(separate_touching(instances), [[1, 1, -1, -1, 2, 0, 0, 0, 4]])
    assert separate_touching(np.zeros((0, 4), np.int32)).shape == (0, 4)


# --- ids in files, classes for the network


def test_classes_are_those_of_the_objects_with_gaps(instances):
    scheme = InstanceScheme(("background", "cell"), unlabelled=-1)
    ids = instances.copy()
    ids[:3] = -1
    classes = scheme.encode(ids)
    assert classes.dtype == np.uint8
    assert (classes[:3] == IGNORE_INDEX).all()
    np.testing.assert_array_equal(classes[3:], slow_separate_touching(ids)[3:] > 0)
    found = scheme.instances(ids)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, ids)


def test_ids_that_32_bits_do_not_hold_are_renumbered():
    ids = np.array([[0, 2**40, 2**40, 0, 2**41, -1]])
    found = InstanceScheme(unlabelled=-1).instances(ids)
    np.testing.assert_array_equal(found, [[0, 1, 1, 0, 2, -1]])


def test_decoding_gives_back_the_objects_that_were_encoded(instances):
    ids = InstanceScheme().decode(InstanceScheme().encode(instances))
    assert ids.dtype == np.uint8
    assert sorted(np.unique(ids)) == list(range(ids.max() + 1))
    apart = separate_touching(instances)
    for number in range(1, ids.max() + 1):
        piece = apart[(ids == number) & (apart > 0)]
        assert len(np.unique(piece)) == 1  # a piece is of one object
    assert (ids[apart > 0] > 0).all()
    grown = (ids > 0) & (apart == 0)
    assert (instances[grown] > 0).mean() > 0.7  # into the gap, little beyond the ends of it
    assert grown.sum() > 0.6 * ((instances > 0) & (apart == 0)).sum()


def test_touching_cells_come_back_whole():
    _, truth = cells_phantom(0, (256, 256))
    scheme = InstanceScheme(min_size=10)
    scores = instance_scores(scheme.decode(scheme.encode(truth)), truth)
    assert scores["merged"] == 0
    assert scores["seg"] > 0.95
    bare = instance_scores(separate_touching(truth), truth)
    assert bare["seg"] < scores["seg"] - 0.05  # growing back over the gap is what did it


def test_specks_are_no_objects():
    classes = np.zeros((9, 9), np.uint8)
    classes[1, 1:4], classes[5:8, 5:8] = 1, 1
    assert InstanceScheme(min_size=3).decode(classes).max() == 2
    ids = InstanceScheme(min_size=4).decode(classes)
    np.testing.assert_array_equal(ids > 0, np.pad(np.ones((3, 3), bool), ((5, 1), (5, 1))))
    assert not InstanceScheme(min_size=10).decode(classes).any()
    assert InstanceScheme().decode(np.zeros((0, 3), np.uint8)).shape == (0, 3)


def test_many_objects_need_a_wider_type():
    classes = np.zeros((80, 80), np.uint8)
    classes[::4, ::4] = 1
    ids = InstanceScheme().decode(classes)
    assert (ids.dtype, ids.max()) == (np.uint16, 400)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([[0, -3, 1]], {}, "a.tif holds -3, which is not an id: objects are 1 and up"),
        ([[0, -3, -1]], {"unlabelled": -1}, "a.tif holds -3, .* unlabelled is -1"),
        ([[0.5, 1.0]], {}, "a.tif holds 1 fractional label .* such as 0.5"),
    ],
)
def test_what_is_no_id_is_refused(values, settings, message):
    with pytest.raises(InputError, match=message):
        InstanceScheme(**settings).encode(np.array(values), source="a.tif")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ["cell"]}, "must hold two names"),
        ({"unlabelled": 255}, "255 could be the id of an object"),
        ({"min_size": 0}, "min_size = 0 must be 1 or more"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        InstanceScheme(**settings)


@pytest.mark.parametrize("classes", [np.array([[0, 2]]), np.array([[0, IGNORE_INDEX]]), np.array([[0.0]])])
def test_only_background_and_objects_are_decoded(classes):
    with pytest.raises(ValueError, match="indices must hold 0 for background and 1"):
        InstanceScheme().decode(classes)


def test_real_nuclei_come_back_whole(shared_data):
    scheme = InstanceScheme()
    for file in sorted((shared_data / "dsb2018_nuclei_2d" / "labels").glob("fluo*.tif"))[:8]:
        truth = tifffile.imread(file).astype(np.int32)
        scores = instance_scores(scheme.decode(scheme.encode(truth)), truth)
        assert scores["merged"] == 0
        assert scores["seg"] > 0.9, file.name
