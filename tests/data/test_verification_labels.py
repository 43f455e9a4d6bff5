"""A data set is warned of what would be learnt wrongly, though each value of its labels is known."""

import nibabel as nib
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from volseg.data import find_cases
from volseg.data.loading import load_case
from volseg.data.verification import Expectations, require_sound, verify
from volseg.errors import InputError
from volseg.instances import InstanceScheme
from volseg.labels import LabelScheme

SHAPES = {"2d": (64, 60), "3d": (40, 36, 32)}
SCHEME = LabelScheme(["background", "cell", "wall"], [0, 1, 2])


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


@pytest.fixture
def dataset(tmp_path, clean_process):
    """A folder of one image and one label, made from arrays."""

    def make(image, label):
        for name, array in (("images", image), ("labels", label)):
            (tmp_path / name).mkdir(exist_ok=True)
            if image.ndim == 3:
                nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name / "a.nii.gz")
            else:
                tifffile.imwrite(tmp_path / name / "a.tif", array.T)
        return tmp_path

    return make


def scene(shape, seed=0):
    """An image, and its dense label: 0 background, 1 and 2 in touching blobs."""
    random = np.random.default_rng(seed)
    what, which = (ndimage.gaussian_filter(random.normal(size=shape), 4) for _ in range(2))
    label = np.where(what > np.quantile(what, 0.65), np.where(which > 0, 1, 2), 0).astype(np.uint8)
    image = ndimage.gaussian_filter(60.0 * label + 40, 0.7) + random.normal(0, 6, shape)
    return image.astype(np.float32), label


def maps(image, label):
    """What is not a label, by what it is."""
    distance = ndimage.distance_transform_edt(label)
    yield "distances", distance.round().astype(np.uint8)
    yield "signed distances", (distance - ndimage.distance_transform_edt(label == 0)).round().astype(np.int16)
    yield "eight grey values", np.digitize(image, np.linspace(image.min(), image.max(), 8)).astype(np.uint8)
    yield "an image of 8 bits", image.clip(0, 255).astype(np.uint8)
    yield "probabilities", (255 / (1 + np.exp((80 - image) / 10))).astype(np.uint8)


def found_in(folder, labels=SCHEME):
    found = verify(folder, expected=Expectations(labels=labels))
    return [(one.severity, one.what) for one in found if "labels" in one.file]


@pytest.mark.parametrize("labels", [None, SCHEME, InstanceScheme()], ids=["no bundle", "classes", "objects"])
def test_an_image_or_a_map_in_the_place_of_a_label_is_an_error(shape, dataset, labels):
    image, label = scene(shape)
    for name, array in maps(image, label):
        ((level, what),) = found_in(dataset(image, array), labels)
        assert level == "error", name
        assert "it looks like an image, a map of distances or probabilities" in what, name


def test_training_stops_at_an_image_in_the_place_of_a_label(shape, dataset):
    image, label = scene(shape)
    folder = dataset(image, dict(maps(image, label))["an image of 8 bits"])
    with pytest.raises(InputError, match="If image and label were exchanged, put each in the other's place"):
        require_sound(find_cases(folder), Expectations(labels=InstanceScheme()))


def test_an_image_that_is_its_own_label_is_an_error(shape, dataset):
    _, label = scene(shape)
    ((level, what),) = found_in(dataset(label, label))
    assert (level, what) == ("error", "every label equals the image's grey value at its voxel")


def test_objects_that_touch_and_dense_classes_are_sound(shape, dataset):
    image, label = scene(shape)
    seeds = np.random.default_rng(0).permutation(label.size)[:60]
    ids = np.zeros(shape, np.int32)
    ids.flat[seeds] = np.arange(1, 61)
    nearest = ndimage.distance_transform_edt(ids == 0, return_distances=False, return_indices=True)
    objects = np.where(label > 0, ids[tuple(nearest)], 0)
    assert found_in(dataset(image, objects), InstanceScheme()) == []
    assert found_in(dataset(image, label)) == []
    assert found_in(dataset(image, label), None) == []


@pytest.mark.parametrize("labels", [None, SCHEME], ids=["no bundle", "a bundle"])
def test_slices_beside_which_all_is_zero_are_warned_of(dataset, labels):
    """Learnt as it stands, everything that no one painted would be background."""
    image, label = scene(SHAPES["3d"])
    sparse = np.zeros_like(label)
    sparse[..., [6, 15, 24]] = label[..., [6, 15, 24]]
    ((level, what),) = found_in(dataset(image, sparse), labels)
    assert level == "warning"
    assert "it is 0 everywhere but on xy slices 6, 15, 24 (the 7th, 16th, 25th)" in what
    marked = np.full_like(label, 255)
    marked[..., [6, 15, 24]] = label[..., [6, 15, 24]]
    scheme = LabelScheme(SCHEME.names, SCHEME.values, unlabelled=255)
    assert found_in(dataset(image, marked), scheme) == []
    thick = np.zeros_like(label)
    thick[..., 6:15] = label[..., 6:15]  # an object that ends is none
    assert found_in(dataset(image, thick), labels) == []


def test_strokes_in_objects_are_warned_of(shape, dataset):
    image, label = scene(shape)
    inside = ndimage.binary_erosion(label > 0, np.ones((7, 7) if label.ndim == 2 else (7, 7, 1)))
    drawn = np.where(inside, label, 0).astype(np.uint8)
    drawn[::4] = 0
    if label.ndim == 3:
        drawn[..., np.arange(label.shape[2]) % 5 > 0] = 0
    assert ("warning", "the paint looks like strokes, not like finished slices or objects") in found_in(
        dataset(image, drawn)
    )


@pytest.mark.parametrize("mark", [255, -1])
def test_a_usual_value_for_unlabelled_is_named_without_a_bundle(dataset, mark):
    image, label = scene(SHAPES["3d"])
    sparse = np.full(label.shape, mark, np.int16)
    sparse[..., [6, 15, 24]] = label[..., [6, 15, 24]]
    found = verify(dataset(image, sparse))
    assert [one.severity for one in found] == ["warning"]
    assert f"{mark} fills 90.6% of it and looks like the value for unlabelled" in found[0].what
    assert f'"unlabelled": {mark}' in found[0].todo


@pytest.mark.parametrize(("value", "name"), [(0, "cell"), (1, "background")])
def test_classes_that_no_label_holds_are_warned_of(shape, dataset, value, name):
    image, label = scene(shape)
    folder = dataset(image, np.full_like(label, value))
    scheme = LabelScheme(["background", "cell"], [0, 1])
    assert [what for _, what in found_in(folder, scheme)] == [
        f"neither it nor another label holds the class {name!r} ({1 - value})"
    ]
    assert [what for _, what in found_in(folder, None)] == [f"it and all other labels hold {value} only"]


@pytest.mark.parametrize("labels", [SCHEME, InstanceScheme()], ids=["classes", "objects"])
@pytest.mark.parametrize("unlabelled", [None, -3])
def test_nan_in_a_label_is_not_learnt_whatever_the_bundle_says(shape, dataset, labels, unlabelled):
    image, label = scene(shape)
    raw = label.astype(np.float32)
    raw[:9] = np.nan
    folder = dataset(image, raw)
    if isinstance(labels, InstanceScheme):
        scheme = InstanceScheme(unlabelled=unlabelled)
    else:
        scheme = LabelScheme(labels.names, labels.values, unlabelled)
    item = load_case(find_cases(folder)[0], labels=scheme, in_channels=1)
    np.testing.assert_array_equal(item["label"][0] == 255, np.isnan(raw))
    if isinstance(labels, InstanceScheme):
        np.testing.assert_array_equal(item["instances"][0] == -1, np.isnan(raw))
    assert not [what for level, what in found_in(folder, scheme) if level == "error"]
