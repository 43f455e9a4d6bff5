"""3D Slicer's segmentations: names and colours, layers, and grids cropped to what is painted.

The files are written by SimpleITK, with the keys that Slicer 5 writes.
"""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - what everybody calls it

from volseg.cli import main
from volseg.errors import InputError
from volseg.io import (
    Segment,
    Volume,
    check_alignment,
    class_names,
    read_volume,
    segments_of,
    with_segments,
    write_volume,
)

SIZE = (7, 6, 5)
KEYS = {
    "Segment0_ID": "Segment_1",
    "Segment0_Name": "tubule wall",
    "Segment0_LabelValue": "1",
    "Segment0_Layer": "0",
    "Segment0_Color": "1 0.5 0",
    "Segment0_Tags": "TerminologyEntry:Tissue~SCT^85756007|",
    "Segment0_Extent": "0 3 0 2 0 2",
    "Segment1_ID": "Segment_2",
    "Segment1_Name": "lumen",
    "Segment1_LabelValue": "2",
    "Segment1_Layer": "0",
    "Segment1_Color": "0 0 1",
    "Segmentation_ReferenceImageExtentOffset": "2 1 1",
}


@pytest.fixture
def painted():
    """A painted label on a grid of its own, x, y, z."""
    return np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    """Writes layers ``(*spatial)`` as Slicer would, cropped to a box if asked to."""

    def write(*layers, keys, box=None, name="a.seg.nrrd"):
        images = []
        for layer in layers:
            image = sitk.GetImageFromArray(layer.transpose(2, 1, 0))
            image.SetSpacing((0.5, 0.75, 2.0))
            image.SetOrigin((10.0, -4.0, 3.0))
            images.append(image if box is None else image[box])
        image = images[0] if len(images) == 1 else sitk.Compose(images)
        for key, text in keys.items():
            image.SetMetaData(key, text)
        sitk.WriteImage(image, str(tmp_path / name), useCompression=True)
        return tmp_path / name

    return write


def metadata(path):
    image = sitk.ReadImage(str(path))
    return {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.startswith(("Seg", "Pat"))}


def test_a_segmentation_keeps_its_segments_and_nothing_else(save, painted, tmp_path):
    volume = read_volume(save(painted, keys=KEYS | {"PatientName": "Jane Doe"}), labels=True)
    wall = Segment(1, "tubule wall", (1.0, 0.5, 0.0), 0, {"ID": "Segment_1", "Tags": KEYS["Segment0_Tags"]})
    assert segments_of(volume) == (wall, Segment(2, "lumen", (0.0, 0.0, 1.0), 0, {"ID": "Segment_2"}))
    write_volume(tmp_path / "o.seg.nrrd", volume.array, volume)
    write_volume(tmp_path / "o.nrrd", volume.array, volume)
    whole = {f"Segment{i}_Extent": "0 6 0 5 0 4" for i in range(2)}
    kept = {key: text for key, text in KEYS.items() if not key.startswith("Segmentation_")} | whole
    written = metadata(tmp_path / "o.seg.nrrd")
    assert {key: text for key, text in written.items() if not key.startswith("Segmentation_")} == kept
    assert written["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"  # not where the painted part was
    assert metadata(tmp_path / "o.nrrd") == {}
    assert segments_of(read_volume(tmp_path / "o.seg.nrrd")) == segments_of(volume)
    assert segments_of(read_volume(tmp_path / "o.nrrd")) == ()


def test_a_result_takes_the_segments_along_and_the_place_of_the_image(tmp_path, painted):
    image = Volume(np.zeros((1, *SIZE), np.float32), np.diag([0.5, 0.75, 2.0, 1.0]), "mm")
    like = with_segments(image, [Segment(2, "a\nb", (0.25, 0.5, 1.0))])
    write_volume(tmp_path / "o.seg.nrrd", painted, like)
    back = read_volume(tmp_path / "o.seg.nrrd", labels=True)
    np.testing.assert_array_equal(back.array[0], painted)
    np.testing.assert_allclose(back.affine, image.affine)
    assert segments_of(back) == (Segment(2, "a b", (0.25, 0.5, 1.0), 0, {"ID": "Segment_1"}),)


def test_layers_become_one_with_a_value_for_each_segment(save, painted):
    """Each in a layer of its own, both with the value 1: then they are numbered."""
    keys = KEYS | {"Segment1_LabelValue": "1", "Segment1_Layer": "1"}
    path = save((painted == 1).astype(np.uint8), (painted == 2).astype(np.uint8), keys=keys)
    volume = read_volume(path, labels=True)
    np.testing.assert_array_equal(volume.array[0], painted)
    assert [(s.value, s.name, s.layer) for s in segments_of(volume)] == [
        (1, "tubule wall", 0),
        (2, "lumen", 0),
    ]


def test_slicer_before_4_11_had_a_layer_for_each_segment_and_no_values(save, painted):
    keys = {"Segment0_Name": "wall", "Segment1_ID": "lumen"}
    path = save((painted == 1).astype(np.uint8), (painted == 2).astype(np.uint8), keys=keys)
    volume = read_volume(path, labels=True)
    np.testing.assert_array_equal(volume.array[0], painted)
    assert [s.name for s in segments_of(volume)] == ["wall", "lumen"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"Segment1_Layer": "1"}, r"'tubule wall' and 'lumen' share 1 voxel\(s\), the first at \(1, 2, 3\)"),
        ({"Segment1_Layer": "2"}, "'lumen' lies in a layer that the file does not have"),
        ({"Segment1_LabelValue": "x"}, "LabelValue = 'x' of a segment is not a number"),
        ({"Segment1_Color": "1 2 0"}, "'2' in the colour of a segment is not between 0 and 1"),
        ({"Segment1_Color": "1 a 0"}, "'a' in the colour of a segment is not between 0 and 1"),
    ],
)
def test_segments_that_make_no_classes_are_refused(save, changed, message):
    first, second = np.zeros((2, *SIZE), np.uint8)
    first[1, 2, 3], second[1, 2, 3] = 1, 2
    with pytest.raises(InputError, match=message):
        read_volume(save(first, second, keys=KEYS | changed), labels=True)


def test_layers_without_segments_are_no_label(save, painted):
    with pytest.raises(InputError, match="has 2 channels, but a label holds one number per voxel"):
        read_volume(save(painted, painted, keys={}), labels=True)


BOX = (slice(2, 6), slice(1, 4), slice(1, 4))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=["same axes", "other axes"])
@pytest.mark.parametrize("flipped", [(), (0,), (0, 2)], ids=["same", "x backwards", "x and z backwards"])
def test_a_cropped_segmentation_lands_where_it_was_painted(save, painted, order, flipped):
    whole = read_volume(save(painted, keys=KEYS, name="whole.seg.nrrd"), labels=True)
    part = read_volume(save(painted, keys=KEYS, box=BOX), labels=True)
    expected = np.zeros_like(painted)
    expected[BOX] = painted[BOX]
    # the image's grid is the whole one with its axes in another order and direction
    matrix = np.eye(4)
    for axis in flipped:
        matrix[axis, axis], matrix[axis, 3] = -1, SIZE[axis] - 1
    permutation = np.eye(4)[[*order, 3]].T
    array = np.flip(expected, flipped).transpose(order)
    image = Volume(np.zeros((1, *array.shape), np.float32), whole.affine @ matrix @ permutation, whole.unit)
    placed = check_alignment(image, part)
    np.testing.assert_array_equal(placed.array[0], array)
    assert segments_of(placed) == segments_of(part)


@pytest.mark.parametrize(
    "affine",
    [np.diag([1.0, 1.0, 1.0, 1.0]), None, "outside"],
    ids=["other spacing", "between voxels", "beyond the image"],
)
def test_a_segmentation_that_is_no_part_of_the_grid_is_refused(save, painted, affine):
    part = read_volume(save(painted, keys=KEYS, box=BOX), labels=True)
    if affine is None or isinstance(affine, str):
        shift = np.eye(4)
        shift[0, 3] = 0.3 if affine is None else 1.0
        affine = part.affine @ shift
    image = Volume(np.zeros((1, *SIZE), np.float32), affine, part.unit)
    with pytest.raises(InputError, match="export the label again on the image's grid"):
        check_alignment(image, part)


def test_a_cropped_label_of_another_kind_is_not_guessed_at(save, painted):
    whole = read_volume(save(painted, keys=KEYS, name="whole.seg.nrrd"), labels=True)
    part = read_volume(save(painted, keys=KEYS, box=BOX, name="part.nrrd"), labels=True)
    with pytest.raises(InputError, match="has 7 x 6 x 5 voxels, the label .* has 4 x 3 x 3"):
        check_alignment(whole, part)


def test_two_segments_of_one_name_are_told_apart():
    segments = [Segment(1, "cell"), Segment(2, "cell"), Segment(3, "wall")]
    assert class_names(segments) == {1: "cell", 2: "cell (2)", 3: "wall"}


def test_the_audit_calls_classes_by_the_names_of_their_segments(save, painted, tmp_path, capsys):
    whole = read_volume(save(painted, keys=KEYS), labels=True)
    write_volume(tmp_path / "image.nrrd", painted * 50, whole)
    main(["audit", str(tmp_path / "image.nrrd"), str(tmp_path / "a.seg.nrrd")])
    assert "classes 1 'tubule wall', 2 'lumen'" in capsys.readouterr().out
