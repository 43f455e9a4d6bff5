"""napari opens and saves by volseg: nothing of a file is lost on the way through a layer."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from volseg.io import SUFFIXES, Segment, Volume, read_volume, with_segments, write_volume
from volseg.session import ClassInfo

pytest.importorskip(
    "napari", reason="napari is an extra, which .ci/run installs: pip install 'volseg[napari]'"
)
from napari.components import ViewerModel
from npe2 import PluginManifest

from volseg.napari.layers import (
    CLASSES,
    KEY,
    colours_of,
    kidney,
    membranes,
    placement,
    reader,
    volume_of,
    write,
)

MIRRORED = np.diag([-0.5, -0.25, 2.0, 1.0])
MIRRORED[:3, 3] = (9, -7, 3)
OBLIQUE = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, 3, 4], [0, 0, 0, 1.0]])


def ramp(size, channels=1, dtype=np.uint8):
    """An image in which no two axes can be taken for each other."""
    return np.arange(channels * np.prod(size), dtype=dtype).reshape(channels, *size)


def opened(path):
    """The layers of a file in a viewer."""
    viewer = ViewerModel()
    for data in reader(str(path))(str(path)):
        viewer._add_layer_from_data(*data)
    return list(viewer.layers)


def saved(layer, path):
    """What is in the file after napari has saved a layer."""
    data, about, _ = layer.as_layer_data_tuple()
    assert write(str(path), data, about) == [str(path)]
    return read_volume(path, labels=True)


def test_the_manifest_is_valid_and_names_every_format():
    subprocess.run([sys.executable, "-m", "npe2", "validate", "volseg"], check=True, capture_output=True)
    parts = PluginManifest.from_distribution("volseg").contributions
    assert set(parts.readers[0].filename_patterns) == {f"*{suffix}" for suffix in SUFFIXES}
    writable = {
        ".nii",
        ".nii.gz",
        ".tif",
        ".tiff",
        ".nrrd",
        ".seg.nrrd",
        ".mha",
        ".png",
        ".zarr",
        ".ome.zarr",
    }
    assert set(parts.writers[0].filename_extensions) == writable
    for command in parts.commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("suffix", [".nii.gz", ".tif", ".nrrd", ".mha", ".ome.zarr"])
def test_an_image_lies_in_napari_where_its_file_says_and_labels_are_saved_there(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    affine = MIRRORED if suffix in (".nii.gz", ".nrrd", ".mha") else np.diag([0.5, 0.25, 2.0, 1.0])
    write_volume(
        path, ramp((4, 5, 6)), Volume(ramp((4, 5, 6)), affine, "mm" if suffix == ".nii.gz" else "um")
    )
    volume = read_volume(path)
    (layer,) = opened(path)
    assert layer._type_string == "image"
    np.testing.assert_array_equal(layer.data, volume.array[0].T)
    for voxel in ((0, 0, 0), (3, 1, 5)):
        world = volume.affine @ (*voxel, 1)
        np.testing.assert_allclose(layer.data_to_world(voxel[::-1]), world[2::-1], atol=1e-5)
    unit = {"um": "micrometer", "mm": "millimeter"}[volume.unit]
    assert {str(one) for one in layer.units} == {unit}

    labels = ViewerModel().add_labels(
        (layer.data % 3).astype(np.int32), scale=layer.scale, translate=layer.translate, units=layer.units
    )
    for metadata in ({}, layer.metadata):
        labels.metadata = metadata
        back = saved(labels, path.with_name(f"b_labels{suffix}"))
        np.testing.assert_array_equal(back.array[0], volume.array[0] % 3)
        np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)
        assert back.unit == volume.unit
        (again,) = opened(tmp_path / f"b_labels{suffix}")
        assert again._type_string == "labels"
        np.testing.assert_array_equal(again.data, labels.data)
        np.testing.assert_allclose(again.scale, layer.scale, atol=1e-5)


def test_an_oblique_volume_is_shown_in_its_voxel_size_and_saved_where_it_lies(tmp_path):
    volume = Volume(ramp((4, 5, 6)), OBLIQUE, "mm")
    about = placement(volume)
    np.testing.assert_allclose(about["scale"], [3, 1, 1])
    assert about["translate"] == [0, 0, 0]
    labels = ViewerModel().add_labels(volume.array[0].T % 2, **about)
    np.testing.assert_allclose(saved(labels, tmp_path / "a.nii.gz").affine, OBLIQUE, atol=1e-5)


def test_an_affine_of_napari_is_where_the_volume_lies():
    about = {
        "scale": [2, 3, 4],
        "translate": [1, 2, 3],
        "affine": np.diag([1, 1, 5, 1]),
        "units": ("nm",) * 3,
    }
    volume = volume_of(np.zeros((6, 5, 4), np.uint8), about | {"units": ("nm",) * 3})
    assert volume.spatial_shape == (4, 5, 6)
    expected = np.diag([20, 3, 2, 1000.0])
    expected[:3, 3] = 15, 2, 1
    np.testing.assert_allclose(volume.affine, expected / 1000)
    assert volume.unit == "um"


def test_channels_are_layers_and_a_picture_in_colour_is_one(tmp_path):
    write_volume(
        tmp_path / "a.tif", ramp((4, 5, 6), 2, np.uint16), Volume(ramp((4, 5, 6), 2), np.eye(4), "um")
    )
    first, second = opened(tmp_path / "a.tif")
    np.testing.assert_array_equal(second.data, ramp((4, 5, 6), 2, np.uint16)[1].T)
    assert first.metadata[KEY].channels == 2
    picture = ramp((4, 5), 3)
    write_volume(tmp_path / "a.png", picture, Volume(picture, np.eye(3)))
    (layer,) = opened(tmp_path / "a.png")
    assert layer.rgb
    np.testing.assert_array_equal(layer.data, picture.transpose(2, 1, 0))
    data, about, _ = layer.as_layer_data_tuple()
    for metadata in (about["metadata"], {}):
        volume = volume_of(data, about | {"metadata": metadata, "rgb": True})
        np.testing.assert_array_equal(volume.array, picture)


def test_segments_keep_their_names_and_colours(tmp_path):
    like = Volume(ramp((4, 5, 6)), np.eye(4), "mm")
    segments = [Segment(1, "wall", (1.0, 0.0, 0.0)), Segment(2, "lumen", (0.0, 0.0, 1.0))]
    write_volume(tmp_path / "a.seg.nrrd", ramp((4, 5, 6)) % 3, with_segments(like, segments))
    (layer,) = opened(tmp_path / "a.seg.nrrd")
    assert list(layer.features["class"]) == ["wall", "lumen"]
    np.testing.assert_allclose(layer.colormap.map(2), [0, 0, 1, 1])
    back = saved(layer, tmp_path / "b.seg.nrrd")
    assert [(s.value, s.name, s.colour) for s in back.header.segments] == [
        (s.value, s.name, s.colour) for s in segments
    ]


def test_classes_of_the_widget_are_segments(tmp_path):
    classes = {0: ClassInfo("background", (150, 150, 150)), 3: ClassInfo("wall", (255, 0, 0))}
    data = np.full((6, 5, 4), 255, np.uint8)
    data[2, 3, 1] = 3
    layer = ViewerModel().add_labels(data, metadata={CLASSES: classes}, colormap=colours_of(classes))
    back = saved(layer, tmp_path / "a.seg.nrrd")
    assert back.array[0, 1, 3, 2] == 3
    assert "wall" in [s.name for s in back.header.segments]
    np.testing.assert_allclose(layer.colormap.map(np.array([255, 3, 9])), [[0] * 4, [1, 0, 0, 1], [0] * 4])


def test_what_is_no_volume_is_left_to_other_readers(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert reader(str(tmp_path / "a.txt")) is None
    assert reader(str(tmp_path / "missing.tif")) is None
    assert reader([str(tmp_path / "a.tif")]) is None


def test_a_layer_of_four_axes_is_refused():
    with pytest.raises(ValueError, match="the layer has 4 axes: .* cut out one time point"):
        volume_of(np.zeros((2, 3, 4, 5)), {})


@pytest.mark.parametrize("sample", [kidney, membranes])
def test_samples_open(sample):
    viewer = ViewerModel()
    ((data, about, kind),) = sample()
    layers = viewer._add_layer_from_data(data, about, kind)
    assert layers[0].metadata[KEY].spatial_shape == layers[0].data.shape[::-1]
    assert len(layers) == layers[0].metadata[KEY].channels
