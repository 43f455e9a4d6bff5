"""From file to file, a few blocks at a time: the same result as in memory."""

import logging

import numpy as np
import pytest
import torch
from monai.transforms import Compose, NormalizeIntensityd
from torch import nn

from volseg.errors import InputError, RefusedError
from volseg.inferers import OverlapTileInferer, RotationAveragingInferer
from volseg.io import Volume, read_volume, write_volume
from volseg.io.blocks import create_blocks, open_blocks
from volseg.labels import LabelScheme
from volseg.networks import UNet
from volseg.streaming import source as room
from volseg.streaming.request import check
from volseg.streaming.run import predict_streamed

SCHEME = LabelScheme(["a", "b", "c"], [0, 3, 700], 9)
NORMALISE = NormalizeIntensityd(keys="image", channel_wise=True)


def network_for(dims, channels=1):
    torch.manual_seed(0)
    network = UNet(dims, channels, 3, channels=[(4, 6), (6, 8)], norm="batch").eval()
    nn.init.normal_(network.head.bias, 0, 0.1)
    return network


@pytest.fixture(params=[".nii", ".tif", ".nrrd", ".mha", ".zarr"])
def suffix(request):
    return request.param


@pytest.fixture(params=[(37, 29), (23, 19, 14)], ids=["2d", "3d"])
def size(request):
    return request.param


def everything(volume):
    return volume[tuple(slice(0, n) for n in volume.shape)]


def make_image(folder, suffix, size, channels=1, dtype=np.uint8, name="image"):
    """An image that can be read block by block."""
    array = np.random.default_rng(0).integers(0, 200, (channels, *size)).astype(dtype)
    affine = np.diag([0.5, 0.25, 2.0][: len(size)] + [1.0])
    path = folder / f"{name}{suffix}"
    like = Volume(array, affine, "mm" if suffix in (".nii", ".mha") else "um")
    create_blocks(path, array.shape, array.dtype, like)[tuple(slice(0, n) for n in array.shape)] = array
    return path


def in_memory(path, network, inferer, preprocessing=None, *, whole=False):
    image = read_volume(path).array.astype(np.float32)
    if preprocessing is not None:
        image = preprocessing({"image": torch.from_numpy(image)})["image"]
    result = inferer(torch.as_tensor(image)[None], network)
    return result if whole else result[0]


@pytest.mark.parametrize("batch_norm", ["running", "mix"])
def test_the_file_holds_what_the_memory_would(tmp_path, suffix, size, batch_norm):
    image = make_image(tmp_path, suffix, size)
    network = network_for(len(size))
    inferer = OverlapTileInferer(8, batch_norm=batch_norm)
    output = tmp_path / f"out{suffix}"
    predict_streamed(image, output, network=network, inferer=inferer, labels=SCHEME, preprocessing=NORMALISE)
    expected = in_memory(image, network, inferer, NORMALISE)
    found, source = read_volume(output, labels=True), read_volume(image)
    classes = SCHEME.decode(expected.argmax(0).numpy().astype(np.uint8))
    assert found.array.dtype == classes.dtype
    assert (found.array[0] != classes).mean() < 1e-3, "rounding may turn a tie"
    np.testing.assert_allclose(found.affine, source.affine)
    assert found.unit == source.unit
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([image.name, output.name])


def test_probabilities_are_written_as_channels_beside_the_classes(tmp_path, suffix, size):
    image = make_image(tmp_path, suffix, size, channels=2, dtype=np.int16)
    network = network_for(len(size), channels=2)
    classes, maps = tmp_path / f"out{suffix}", tmp_path / f"maps{suffix}"
    predict_streamed(image, classes, network=network, inferer=OverlapTileInferer(8), probabilities=maps)
    source = open_blocks(image)
    logits = OverlapTileInferer(8)(torch.from_numpy(everything(source))[None], network)[0]
    found = create_blocks(maps, logits.shape, np.dtype(np.float32), source.like, fresh=False)
    np.testing.assert_allclose(everything(found), logits.softmax(0), rtol=0, atol=1e-5)
    assert (everything(open_blocks(classes))[0] != logits.argmax(0).numpy()).mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["running", "mix"])
@pytest.mark.parametrize("symmetries", ["square", "mirror"])
def test_turned_versions_are_averaged_tile_by_tile(tmp_path, size, batch_norm, symmetries):
    """Sizes are not multiples of the stride, so mirrored tiles begin elsewhere."""
    image = make_image(tmp_path, ".nii", size)
    network = network_for(len(size))
    inner = OverlapTileInferer(8, batch_norm=batch_norm)
    planes = {"planes": [(0, 1)]} if symmetries == "square" else {}
    inferer = RotationAveragingInferer(inner, symmetries, spread=True, **planes)
    paths = [tmp_path / f"{name}.tif" for name in ("out", "maps", "spread")]
    predict_streamed(
        image, paths[0], network=network, inferer=inferer, probabilities=paths[1], spread=paths[2],
        preprocessing=NORMALISE,
    )  # fmt: skip
    mean, spread = (part[0] for part in in_memory(image, network, inferer, NORMALISE, whole=True))
    like = open_blocks(image).like
    for path, expected in ((paths[1], mean.softmax(0)), (paths[2], spread)):
        found = create_blocks(path, expected.shape, np.dtype(np.float32), like, fresh=False)
        np.testing.assert_allclose(everything(found), expected, rtol=0, atol=2e-5)
    assert spread.max() > 0.01
    assert (read_volume(paths[0]).array[0] != mean.argmax(0).numpy()).mean() < 2e-3


def test_what_is_compressed_is_read_whole_and_that_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    network, inferer = network_for(2), OverlapTileInferer(8)
    like = Volume(np.random.default_rng(0).integers(0, 9, (1, 20, 18)).astype(np.uint8), np.eye(3))
    expected = inferer(torch.from_numpy(like.array)[None], network)[0].argmax(0)
    for name in ("a.nii.gz", "a.tif", "a.nrrd", "a.mha", "a.png"):
        path = tmp_path / name
        write_volume(path, like.array, like)
        output = tmp_path / f"out_{name}".replace(".png", "_png.tif")
        predict_streamed(path, output, network=network, inferer=inferer)
        assert f"{name} is read whole, 0.00 GB: it " in caplog.text
        np.testing.assert_array_equal(read_volume(output).array[0], expected)
        assert not list(tmp_path.glob(".*")), "nothing is left over"


def test_channels_in_files_of_their_own(tmp_path):
    size = (20, 18)
    whole = make_image(tmp_path, ".nii", size, channels=2)
    both = open_blocks(whole)
    parts = []
    for number in range(2):
        parts.append(tmp_path / f"part_000{number}.nii")
        write_volume(parts[-1], everything(both)[number], both.like)
    network = network_for(2, channels=2)
    outputs = [tmp_path / "one.nii", tmp_path / "two.nii"]
    for images, output in ((whole, outputs[0]), (parts, outputs[1])):
        predict_streamed(images, output, network=network, inferer=OverlapTileInferer(8))
    np.testing.assert_array_equal(*(read_volume(path).array for path in outputs))
    with pytest.raises(InputError, match="has 2 channels, but one was expected"):
        open_blocks(whole, parts[0])
    flipped = Volume(everything(both)[:1], np.diag([-0.5, 0.25, 1.0]) + np.eye(3, k=2) * 9.5)
    write_volume(tmp_path / "flipped.nii", flipped.array, flipped)
    with pytest.raises(InputError, match="in another orientation, which cannot be turned block by block"):
        open_blocks(parts[0], tmp_path / "flipped.nii")


def test_an_image_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        predict_streamed(
            tmp_path / "a.nii", tmp_path / "out.nii", network=network_for(2), inferer=OverlapTileInferer(8)
        )


def test_an_image_for_another_network_is_refused(tmp_path):
    image = make_image(tmp_path, ".nii", (20, 18))
    with pytest.raises(InputError, match=r"1 channel\(s\) and 2 spatial axes, but the network takes 2 and 2"):
        predict_streamed(
            image, tmp_path / "out.nii", network=network_for(2, channels=2), inferer=OverlapTileInferer(8)
        )


def test_nothing_is_overwritten_unasked(tmp_path):
    image = make_image(tmp_path, ".nii", (20, 18))
    options = {"network": network_for(2), "inferer": OverlapTileInferer(8)}
    output = tmp_path / "out.nii"
    predict_streamed(image, output, **options)
    before = output.read_bytes()
    with pytest.raises(RefusedError, match="exists already"):
        predict_streamed(image, output, **options)
    with pytest.raises(RefusedError, match="exists already"):
        predict_streamed(image, image, overwrite=True, **options)
    predict_streamed(image, output, overwrite=True, **options)
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        (Compose([]), "is a Compose, which may need the whole image"),
        (NormalizeIntensityd(keys="image", nonzero=True), "works without nonzero"),
    ],
)
def test_preprocessing_that_needs_the_whole_image_is_refused(tmp_path, preprocessing, message):
    image = make_image(tmp_path, ".nii", (20, 18))
    with pytest.raises(InputError, match=message):
        predict_streamed(
            image,
            tmp_path / "out.nii",
            network=network_for(2),
            inferer=OverlapTileInferer(8),
            preprocessing=preprocessing,
        )


def test_values_that_are_not_finite_are_found_while_the_image_is_measured(tmp_path):
    path = tmp_path / "image.nii"
    like = Volume(np.zeros((1, 20, 18), np.float32), np.eye(3))
    mapped = create_blocks(path, like.array.shape, like.array.dtype, like)
    mapped[(slice(0, 1), slice(0, 20), slice(0, 18))] = np.full((1, 20, 18), np.nan, np.float32)
    with pytest.raises(InputError, match="holds NaN or infinite voxels"):
        predict_streamed(
            path,
            tmp_path / "out.nii",
            network=network_for(2),
            inferer=OverlapTileInferer(8),
            preprocessing=NORMALISE,
        )


@pytest.mark.parametrize("channel_wise", [True, False])
def test_grey_values_are_normalised_as_monai_does(tmp_path, channel_wise, monkeypatch):
    monkeypatch.setattr(room, "_AT_ONCE", 100)
    image = make_image(tmp_path, ".tif", (23, 19, 14), channels=2, dtype=np.uint16)
    normalise = NormalizeIntensityd(keys="image", channel_wise=channel_wise)
    source = open_blocks(image)
    found = room.Blocks(source, room.normalisation(source, normalise))
    index = tuple(slice(0, n) for n in source.shape)
    expected = normalise({"image": torch.from_numpy(source[index].astype(np.float32))})["image"]
    torch.testing.assert_close(found[index], torch.as_tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output": None}, ValueError, "No output is named"),
        ({"spread": "spread.nii"}, ValueError, "A spread is that of several versions"),
        ({"output": "out.png"}, InputError, "out.png cannot be written block by block"),
        ({"network": nn.Identity()}, InputError, "The network is a Identity and the inferer"),
        ({"cluster": "local"}, InputError, "A cluster works on images in OME-Zarr"),
    ],
)
def test_what_cannot_be_done_block_by_block_is_refused(tmp_path, options, error, message):
    image = make_image(tmp_path, ".nii", (20, 18))
    given = {"output": "out.nii", "network": network_for(2), "inferer": OverlapTileInferer(8)} | options
    for kind in ("output", "spread"):
        if given.get(kind):
            given[kind] = tmp_path / given[kind]
    with pytest.raises(error, match=message):
        predict_streamed(image, **given)


def test_hooks_and_statistics_of_versions_do_not_go_together(tmp_path):
    image = make_image(tmp_path, ".nii", (20, 18))
    network = network_for(2)
    network.bottom.register_forward_hook(lambda *_: None)
    inferer = RotationAveragingInferer(OverlapTileInferer(8, batch_norm="volume"), "mirror")
    with pytest.raises(InputError, match="the network may have no hooks"):
        predict_streamed(image, tmp_path / "out.nii", network=network, inferer=inferer)


def test_what_was_begun_with_another_voxel_size_is_not_resumed(tmp_path):
    """What is written can hold it: results of a TIFF whose own cannot be used."""
    image = make_image(tmp_path, ".tif", (23, 19, 14))
    settings = {"network": network_for(3), "inferer": OverlapTileInferer(8), "labels": None}
    settings |= {"preprocessing": None, "overwrite": False, "cluster": None}
    prints = {
        spacing: check((image,), {"classes": tmp_path / "out.tif"}, spacing=spacing, **settings).fingerprint()
        for spacing in (None, "1,1,2um", "1,1,3um")
    }
    assert len(set(prints.values())) == 3
