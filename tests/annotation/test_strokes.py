"""Strokes: when paint is that, what belongs together, and what they do not show."""

import numpy as np
import pytest

from volseg.annotation import keep_slices, understand_paint
from volseg.annotation.audit import audit
from volseg.annotation.strokes import TOUCHING, are_strokes, strokes_of
from volseg.cli import main
from volseg.data.auditing import understood
from volseg.io import Volume, write_volume
from volseg.labels import IGNORE_INDEX

SHAPES = [(96, 90), (40, 96, 90)]


def drawn(shape, places, *, length=8, gap=1, index=5, classes=2):
    """At every place one line of each class, side by side; in a volume on slice x = index."""
    labels = np.full(shape, IGNORE_INDEX, np.uint8)
    on = labels if len(shape) == 2 else labels[index]
    for row, column in places:
        for c in range(classes):
            on[row + c * (1 + gap), column : column + length] = c
    return labels


PLACES = [(5, 5), (5, 60), (45, 30), (80, 5), (80, 70)]


@pytest.fixture(params=SHAPES, ids=["2d", "3d"])
def labels(request):
    return drawn(request.param, PLACES)


def test_strokes_side_by_side_are_one_place_and_far_ones_are_others(labels):
    found = strokes_of(labels)
    assert found.count == 2 * len(PLACES)
    assert found.places == len(PLACES)
    assert found.per_class() == {0: (5, 5), 1: (5, 5)}
    voxels = tuple(found.voxels.T)
    np.testing.assert_array_equal(labels[voxels], found.classes)
    for number in range(found.count):
        assert len(set(found.place[found.stroke == number])) == 1  # no stroke is cut
    assert (found.map()[voxels] == found.place).all()
    assert (found.map() >= 0).sum() == (labels != IGNORE_INDEX).sum()


def test_what_touches_is_a_stroke_across_corners_but_not_across_classes():
    labels = np.full((20, 20), IGNORE_INDEX, np.uint8)
    labels[[3, 4, 5], [3, 4, 5]] = 0
    labels[6, 6] = 1
    assert strokes_of(labels).count == 2


def test_places_are_told_apart_in_world_units(labels):
    if labels.ndim == 3:
        other = drawn(labels.shape, PLACES, index=7)  # two slices further
        both = np.minimum(labels, other)
        assert strokes_of(both, (1, 1, 1)).places == len(PLACES)
        assert strokes_of(both, (9, 1, 1)).places == 2 * len(PLACES)


def test_a_place_holds_no_more_than_its_share_of_dense_paint():
    rng = np.random.default_rng(0)
    labels = np.full((60, 60), IGNORE_INDEX, np.uint8)
    for row in range(1, 60, 4):
        for column in range(1, 50, 12):
            labels[row, column : column + 9] = rng.integers(2)
    found = strokes_of(labels)
    assert 8 <= found.places < found.count
    assert np.bincount(found.place).max() <= len(found.place) / 5


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_lines_and_spots_are_strokes_and_slices_are_not(shape):
    dense = np.random.default_rng(1).integers(0, 2, shape).astype(np.uint8)
    assert are_strokes(drawn(shape, PLACES))
    assert not are_strokes(np.full(shape, IGNORE_INDEX, np.uint8))
    assert not are_strokes(dense)
    for axis in range(len(shape)):
        slices = keep_slices(dense, [2 * (a == axis) for a in range(len(shape))])
        assert not are_strokes(slices)
        half = slices.copy()
        half[(slice(None),) * ((axis + 1) % len(shape)) + (slice(shape[(axis + 1) % len(shape)] // 2),)] = 255
        assert not are_strokes(half)
    crossing = keep_slices(dense, (1,) * len(shape))
    assert not are_strokes(crossing)


def test_strokes_beside_a_finished_slice_do_not_make_it_strokes():
    labels = drawn(SHAPES[1], PLACES)
    labels[20] = 0
    assert not are_strokes(labels)


def test_a_region_that_was_painted_throughout_is_slices():
    labels = np.full((40, 96, 90), IGNORE_INDEX, np.uint8)
    labels[[10, 20, 30], 30:60, 20:50] = 1
    assert not are_strokes(labels)


def test_the_words_count_strokes_places_and_slices(labels):
    said = strokes_of(labels).in_words(["lumen", "tubule"])
    on = "" if labels.ndim == 2 else " on 1 yz slice"
    assert said == f"10 strokes at 5 places{on}: lumen 5 at 5, tubule 5 at 5"


def audited(labels, image=None, names=None):
    raw = np.where(labels == IGNORE_INDEX, 0, labels + 1).astype(np.uint8)
    paint = understand_paint(raw, painted_only=True)
    return paint, audit(labels.shape, (1.0,) * labels.ndim, paint, image, names)


def test_what_strokes_lack_is_warned_of(labels):
    _, findings = audited(labels)
    expected = ["one_plane"] if labels.ndim == 3 else []
    assert [finding.kind for finding in findings] == expected
    labels[np.isin(strokes_of(labels).map(), [1, 2, 3, 4]) & (labels == 1)] = IGNORE_INDEX
    (few,) = [finding for finding in audited(labels)[1] if finding.kind == "few_places"]
    assert "The class 2 is 1 stroke at 1 place, the first at voxel" in few.what
    assert "2 more places" in few.todo
    assert labels[few.voxel] == 1


def test_strokes_on_objects_alone_are_warned_of_by_what_they_leave_unshown(labels):
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (1, *labels.shape))
    image[0][labels != IGNORE_INDEX] += 10
    kinds = {finding.kind: finding for finding in audited(labels, image)[1]}
    assert "of the image is darker or brighter than all paint" in kinds["no_background"].what
    image[0][labels == 0] -= 10
    assert "no_background" not in {finding.kind for finding in audited(labels, image)[1]}


def test_audit_says_what_was_drawn_in_words_and_on_the_page(labels, tmp_path, capsys):
    paint, _ = audited(labels)
    assert f"10 strokes at 5 places{' on 1 yz slice' * (labels.ndim == 3)}" in understood(paint)[1]
    image = np.random.default_rng(0).normal(100, 9, (1, *labels.shape)).astype(np.float32)
    raw = np.where(labels == IGNORE_INDEX, 0, labels + 1).astype(np.uint8)
    for name, array in (("image", image), ("paint", raw[None])):
        write_volume(tmp_path / f"{name}.tif", array[0], Volume(array, np.eye(array.ndim)))
    page = tmp_path / "page.html"
    words = ["audit", f"{tmp_path}/image.tif", f"{tmp_path}/paint.tif", "--painted-only", "-o", str(page)]
    assert main(words) == 0
    assert "10 strokes at 5 places" in capsys.readouterr().out
    assert "10 strokes at 5 places" in page.read_text()


def test_a_voxel_size_is_needed_for_every_axis(labels):
    with pytest.raises(ValueError, match="a voxel size for each of"):
        strokes_of(labels, (1.0,))


def test_nothing_painted_is_no_stroke():
    found = strokes_of(np.full((9, 9), IGNORE_INDEX, np.uint8))
    assert (found.count, found.places, found.per_class()) == (0, 0, {})
    assert TOUCHING > 0
