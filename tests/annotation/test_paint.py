"""A painted file is understood: which slices were finished, what is background, what is unlabelled."""

import re

import numpy as np
import pytest
from scipy import ndimage

from volseg.annotation import even_positions, understand_paint
from volseg.annotation.audit import audit
from volseg.errors import InputError
from volseg.io import read_volume
from volseg.labels import IGNORE_INDEX


def blobs(seed, shape, share=0.35):
    """A dense label as a phantom has it: 0 background, 1 and 2 in touching blobs."""
    random = np.random.default_rng(seed)
    what, which = (ndimage.gaussian_filter(random.normal(size=shape), 2.5) for _ in range(2))
    return np.where(what > np.quantile(what, 1 - share), np.where(which > 0, 1, 2), 0).astype(np.uint8)


def on_any(shape, slices):
    """Which voxels lie on a slice."""
    on = np.zeros(shape, bool)
    for place, indices in zip(np.ogrid[tuple(map(slice, shape))], slices, strict=True):
        on |= np.isin(place, list(indices))
    return on


def chosen(seed, shape, counts):
    """Slices at random, that many per axis."""
    random = np.random.default_rng(seed)
    return tuple(
        tuple(sorted(random.choice(n, k, replace=False).tolist())) for n, k in zip(shape, counts, strict=True)
    )


BUDGETS = [(1, 1, 1), (2, 2, 2), (5, 5, 3), (0, 0, 4), (0, 2, 0), (3, 0, 1)]


@pytest.mark.parametrize("counts", BUDGETS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_the_painted_slices_are_found_exactly(seed, counts):
    shape = tuple(np.random.default_rng(seed).integers(24, 40, 3).tolist())
    dense = blobs(seed, shape, share=0.1 + 0.06 * seed)
    slices = chosen(seed, shape, counts)
    on = on_any(shape, slices)
    paint = understand_paint(np.where(on, dense, 0))
    assert paint.slices == slices
    np.testing.assert_array_equal(paint.labels, np.where(on, dense, IGNORE_INDEX))
    assert (paint.values, paint.rule, paint.stray, paint.unknown) == ((0, 1, 2), "slices", 0, {})


@pytest.mark.parametrize(
    ("seed", "slices"),
    [(77, ((12, 20), (11, 33), (11, 12))), (161, ((10, 27), (7, 18), (5, 6)))],
)
def test_a_slice_full_of_crossing_lines_is_dropped_when_others_explain_them(seed, slices):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(24, 40, 3).tolist())
    dense = blobs(seed, shape, share=random.uniform(0.1, 0.6))
    assert understand_paint(np.where(on_any(shape, slices), dense, 0)).slices == slices


@pytest.mark.parametrize("shape", [(24, 30), (20, 24, 28)], ids=["2d", "3d"])
class TestValues:
    """What each value is taken for, in images and volumes."""

    @pytest.fixture
    def dense(self, shape):
        return blobs(0, shape)

    def test_a_dense_label_is_labelled_everywhere(self, dense):
        paint = understand_paint(dense)
        np.testing.assert_array_equal(paint.labels, dense)
        assert paint.slices == (() if dense.ndim == 2 else tuple(tuple(range(n)) for n in dense.shape))

    def test_only_painted_voxels_count_if_that_is_said(self, dense):
        paint = understand_paint(dense, painted_only=True)
        np.testing.assert_array_equal(paint.labels, np.where(dense > 0, dense - 1, IGNORE_INDEX))
        assert (paint.values, paint.background) == ((1, 2), None)
        assert understand_paint(dense, classes=[0, 2], painted_only=True).values == (2,)

    def test_a_value_for_unlabelled_leaves_the_others_as_classes(self, dense):
        paint = understand_paint(np.where(dense == 1, -5, dense.astype(int)), unlabelled=2)
        np.testing.assert_array_equal(paint.labels, np.choose(dense, [1, 0, IGNORE_INDEX]))
        assert (paint.values, paint.background) == ((-5, 0), None)

    def test_values_that_are_no_class_count_as_unlabelled_and_are_told(self, dense):
        paint = understand_paint(dense, classes=[1])
        np.testing.assert_array_equal(paint.labels, np.choose(dense, [0, 1, IGNORE_INDEX]))
        assert paint.unknown == {2: int((dense == 2).sum())}

    def test_classes_keep_the_order_they_are_given_in(self, dense):
        paint = understand_paint(dense, classes=[2, 0, 1])
        np.testing.assert_array_equal(paint.labels, np.choose(dense, [1, 2, 0]))
        assert paint.values == (2, 0, 1)
        assert paint.counts == {value: int((dense == value).sum()) for value in (2, 0, 1)}

    def test_values_far_apart_are_classes_as_well(self, dense):
        paint = understand_paint(np.where(dense == 2, 2**40, dense.astype(np.int64)))
        np.testing.assert_array_equal(paint.labels, dense)
        assert paint.values == (0, 1, 2**40)

    def test_nothing_painted_is_nothing_labelled(self, dense):
        paint = understand_paint(np.zeros_like(dense))
        assert np.all(paint.labels == IGNORE_INDEX)
        assert (paint.values, any(paint.slices)) == ((), False)

    def test_the_array_is_not_changed(self, dense):
        before = dense.copy()
        understand_paint(dense, classes=[1])
        np.testing.assert_array_equal(dense, before)

    def test_zero_is_not_two_things(self, dense):
        with pytest.raises(ValueError, match="unlabelled=3 and painted_only=True both say what"):
            understand_paint(dense, unlabelled=3, painted_only=True)

    def test_a_class_is_not_unlabelled(self, dense):
        with pytest.raises(ValueError, match=r"unlabelled=2 is also among the classes \(1, 2\)"):
            understand_paint(dense, classes=(1, 2), unlabelled=2)

    def test_ids_are_no_classes(self, dense):
        with pytest.raises(InputError, match="ids.tif holds 599 different values, 254 classes are possible"):
            understand_paint(np.arange(dense.size).reshape(dense.shape) % 600, source="ids.tif", unlabelled=0)

    def test_fractions_are_no_classes(self, dense):
        with pytest.raises(InputError, match="fractional labels .the first at voxel .*such as 0.5"):
            understand_paint(dense / 2)


def test_a_channel_axis_is_refused():
    with pytest.raises(ValueError, match="without a channel axis"):
        understand_paint(np.zeros((1, 4, 4, 4), np.uint8))


# --- paint that could be read in two ways


@pytest.fixture
def ball():
    """A ball of radius 8 painted in 3D."""
    x, y, z = np.ogrid[:60, :60, :60]
    return ((x - 30) ** 2 + (y - 25) ** 2 + (z - 33) ** 2 < 64).astype(np.uint8)


def test_a_ball_is_slices_of_the_last_axis(ball):
    assert understand_paint(ball).slices == ((), (), tuple(range(26, 41)))


@pytest.mark.parametrize("axis", range(3))
def test_a_flat_piece_is_slices_of_its_flat_axis(ball, axis):
    flat = np.zeros_like(ball)
    middle = [30, 25, 33][axis]
    part = (*[slice(None)] * axis, slice(middle, middle + 4))
    flat[part] = ball[part]
    expected = tuple(tuple(range(middle, middle + 4)) if a == axis else () for a in range(3))
    assert understand_paint(flat).slices == expected


@pytest.mark.parametrize("axis", range(3))
def test_a_slab_of_adjacent_slices_is_these_slices(axis):
    dense = np.moveaxis(blobs(3, (44, 44, 44)), 0, axis)
    slab = np.where(on_any(dense.shape, [range(20, 30) if a == axis else () for a in range(3)]), dense, 0)
    assert understand_paint(slab).slices[axis] == tuple(range(20, 30))


def test_a_corner_of_a_slice_makes_the_whole_slice_background():
    dense = blobs(0, (40, 40, 40))
    corner = np.zeros_like(dense)
    corner[:15, :15, [5, 30]] = dense[:15, :15, [5, 30]]
    paint = understand_paint(corner)
    assert paint.slices == ((), (), (5, 30))
    assert np.all(paint.labels[20:, 20:, [5, 30]] == 0)


def test_specks_are_no_slice_but_keep_their_class():
    dense = blobs(1, (40, 40, 40), share=0.08)
    raw = np.where(on_any(dense.shape, [(), (), (10, 20, 30)]), dense, 0)
    raw[5, 5, 2], raw[30, 30:34, 25] = 1, 2
    paint = understand_paint(raw)
    assert paint.slices == ((), (), (10, 20, 30))
    assert paint.stray == 5
    assert (paint.labels[5, 5, 2], paint.labels[30, 30, 25], paint.labels[6, 5, 2]) == (1, 2, IGNORE_INDEX)


def test_specks_are_slices_if_they_are_all_there_is():
    raw = np.zeros((20, 20, 20), np.uint8)
    raw[5, 5:8, 4] = 1
    paint = understand_paint(raw)
    assert sum(map(len, paint.slices)) == 1
    assert paint.stray == 0


def test_little_paint_on_far_slices_is_found_beside_much():
    raw = np.zeros((40, 40, 40), np.uint8)
    raw[10:30, 10:30, 20] = 1
    raw[19:22, 19:22, [3, 8, 33, 37]] = 1  # small pieces in one column: no yz slices
    raw[5, 10:30, 10:30] = 1
    assert understand_paint(raw).slices == ((5,), (), (3, 8, 20, 33, 37))


# --- in words


def test_what_was_understood_is_one_line():
    dense = blobs(0, (100, 90, 60))
    raw = np.where(on_any(dense.shape, [(), (80,), (12, 30, 51)]), dense, 0)
    said = understand_paint(raw).describe({1: "tubule", 2: "lumen"})
    assert said == "xy: 12, 30, 51 · xz: 80 · yz: none; classes 1 'tubule', 2 'lumen'"


@pytest.mark.parametrize(
    ("options", "said", "explained"),
    [
        ({}, "xy: 4-7, 20, 21 · xz: none · yz: none; class 1", "0 on these slices is background; .* 80.0%"),
        (
            {"painted_only": True},
            "xy: 4-7, 20, 21 · xz: none · yz: none; class 1",
            "Only painted voxels count",
        ),
        ({"unlabelled": 7}, "xy: all 30 · xz: all 24 · yz: all 24; classes 0, 1", "One value marks .* 0.0%"),
    ],
)
def test_each_rule_is_said_in_words(options, said, explained):
    dense = np.minimum(blobs(0, (24, 24, 30)), 1)
    paint = understand_paint(
        np.where(on_any(dense.shape, [(), (), (4, 5, 6, 7, 20, 21)]), dense, 0), **options
    )
    assert paint.describe() == said
    assert re.search(explained, paint.explain())


def test_an_image_has_no_slices_to_name():
    image = np.minimum(blobs(0, (24, 24)), 1)
    assert understand_paint(image).describe({1: "cell"}) == "image: painted; class 1 'cell'"
    assert understand_paint(0 * image).describe() == "image: none; classes none"
    assert understand_paint(image).explain() == "0 is background, everywhere on the image."


# --- a real label


@pytest.mark.slow
def test_a_real_label_reduced_to_slices_is_understood_exactly(shared_data):
    path = shared_data / "medulla_fibsem_3d" / "labels_boundary.tif"
    dense = read_volume(path, labels=True).array[0]
    slices = tuple(tuple(even_positions(n, 4)) for n in dense.shape)
    on = on_any(dense.shape, slices)
    paint = understand_paint(np.where(on, dense, 0))
    assert paint.slices == slices
    np.testing.assert_array_equal(paint.labels != IGNORE_INDEX, on)


def test_slices_that_are_painted_throughout_have_no_class_0_to_complain_of():
    """Someone gave the background a class of its own and painted every voxel of some slices."""
    raw = np.zeros((9, 8, 12), np.uint8)
    raw[..., [2, 6, 9]] = 3
    raw[2:5, 2:6, [2, 6, 9]] = 1
    paint = understand_paint(raw)
    assert paint.explain() == (
        "These slices are painted throughout; everything without paint is unlabelled, 75.0% of the voxels."
    )
    found = [finding.message for finding in audit(raw.shape, (1, 1, 1), paint)]
    assert not [message for message in found if "class 0" in message]
    named = [finding.message for finding in audit(raw.shape, (1, 1, 1), paint, names={0: "rest"})]
    assert [message for message in named if "The class 0 'rest' is painted nowhere" in message]
