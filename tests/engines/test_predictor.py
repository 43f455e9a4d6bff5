"""Whole images segmented from file to file, in memory or block by block: the same files come out."""

import logging
from importlib import import_module

import numpy as np
import pytest
import tifffile
import torch
from monai.transforms import Compose, NormalizeIntensityd

from volseg.bundle import check_bundle
from volseg.data import WholeVolumes, find_images
from volseg.engines import predictor
from volseg.errors import InputError
from volseg.inferers import OverlapTileInferer, RotationAveragingInferer
from volseg.io import Volume, read_volume, write_volume
from volseg.labels import LabelScheme
from volseg.networks import UNet
from volseg.runs.checkpoint import save_checkpoint

SCHEME = LabelScheme(["a", "b", "c"], [10, 20, 30], 3)
NORMALISE = NormalizeIntensityd(keys="image", channel_wise=True)


@pytest.fixture
def segment(tmp_path):
    """Segments what lies in the folder ``images``; gives the folder of the results."""
    torch.manual_seed(0)
    network = UNet(3, 1, 3, channels=[(3, 4), (4, 5)], norm="batch")
    save_checkpoint(tmp_path / "model.pt", {"model": network.state_dict(), "iteration": 1})
    (tmp_path / "images").mkdir()

    def run(name, inferer=None, preprocessing=NORMALISE, spacing=None, **options):
        cases = find_images(tmp_path / "images", spacing=spacing)
        dataset = WholeVolumes(cases, labels=SCHEME, in_channels=1, preprocessing=preprocessing)
        predictor(
            device="cpu", dataset=dataset, network=network,
            inferer=inferer or OverlapTileInferer(8, batch_norm="volume"),
            checkpoint=tmp_path / "model.pt", output_dir=tmp_path / name, **options,
        ).run()  # fmt: skip
        return tmp_path / name

    return run


def put_image(folder, name):
    array = np.random.default_rng(0).integers(0, 200, (1, 21, 17, 12)).astype(np.uint8)
    volume = Volume(array, np.diag([0.5, 0.5, 2.0, 1.0]), "mm" if ".nii" in name else "um")
    write_volume(folder / "images" / name, array, volume)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.tif", "a.ome.zarr"])
def test_block_by_block_the_same_files_come_out(tmp_path, segment, name, monkeypatch):
    if "zarr" in name:
        pytest.importorskip("zarr")
    put_image(tmp_path, name)
    whole = segment("whole", probabilities=True)
    room = import_module("volseg.engines.predictor")  # beside it there is the function
    monkeypatch.setattr(room, "_LARGE", 21 * 17 * 12)
    monkeypatch.setattr(room, "segment", None)  # it is not segmented as a whole
    parts = segment("parts", probabilities=True)
    assert sorted(p.name for p in parts.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert len(list(parts.iterdir())) == 2
    for path in whole.iterdir():
        first, second = read_volume(path), read_volume(parts / path.name)
        np.testing.assert_allclose(second.affine, first.affine)
        assert (second.unit, second.array.dtype) == (first.unit, first.array.dtype)
        if "probabilities" in path.name:
            np.testing.assert_allclose(second.array, first.array, rtol=0, atol=1e-4)
        else:
            assert (second.array != first.array).mean() < 2e-3
            assert set(np.unique(second.array)) <= {10, 20, 30}


@pytest.mark.parametrize("blockwise", [False, True])
def test_how_far_turned_versions_disagree_is_written_too(tmp_path, segment, blockwise):
    put_image(tmp_path, "a.tif")
    inferer = RotationAveragingInferer(OverlapTileInferer(8), "mirror", spread=True)
    folder = segment("out", inferer, blockwise=blockwise)
    assert sorted(p.name for p in folder.iterdir()) == ["a.tif", "a_spread.tif"]
    spread = read_volume(folder / "a_spread.tif").array
    assert spread.shape == (3, 21, 17, 12)
    assert 0.005 < spread.max() < 0.5


def test_a_voxel_size_that_is_given_counts_block_by_block_too(tmp_path, segment):
    """The file's own cannot be used; which planes may be turned follows from it."""
    array = np.random.default_rng(0).integers(0, 200, (12, 21, 17)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "images/a.tif", array, imagej=True, metadata={"axes": "ZYX", "spacing": 0.0})
    inferer = RotationAveragingInferer(OverlapTileInferer(8), "square", spread=True)
    with pytest.raises(InputError, match="voxel size .* is not positive"):
        segment("none", inferer, blockwise=True)
    whole, parts = (
        read_volume(segment(name, inferer, spacing="1,2,2um", blockwise=name == "parts") / "a_spread.tif")
        for name in ("whole", "parts")
    )
    np.testing.assert_allclose(parts.array, whole.array, rtol=0, atol=1e-4)
    np.testing.assert_allclose(parts.affine, whole.affine)


def test_what_cannot_be_done_block_by_block_is_done_in_memory_and_said(tmp_path, segment, caplog):
    caplog.set_level(logging.INFO)
    put_image(tmp_path, "a.tif")
    folder = segment("out", preprocessing=Compose([NORMALISE]), blockwise=True)
    assert "a.tif is segmented as a whole, in memory: The preprocessing is a Compose" in caplog.text
    assert (folder / "a.tif").exists()


def test_a_cluster_is_for_zarr(tmp_path, segment):
    put_image(tmp_path, "a.tif")
    with pytest.raises(InputError, match="A cluster works on images in OME-Zarr"):
        segment("out", cluster="local")


def test_no_scheduler_is_told(tmp_path, segment, monkeypatch):
    pytest.importorskip("distributed")
    pytest.importorskip("zarr")
    put_image(tmp_path, "a.zarr")

    class Deaf:
        def __init__(self, *_, **__):
            raise OSError("Timed out")

    monkeypatch.setattr("distributed.Client", Deaf)
    with pytest.raises(InputError, match="No Dask scheduler answers at tcp://nowhere:8786"):
        segment("out", cluster="tcp://nowhere:8786")
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'zarr>=3\.1' distributed"):
        segment("out", cluster="tcp://nowhere:8786")


def test_the_overlay_for_a_cluster_fits_the_bundles(root):
    for bundle in ("xenopus.json", "hippocampus.json"):
        assert check_bundle([root / "bundles" / bundle, root / "configs" / "cluster.json"]) == []


def test_an_image_of_other_axes_is_refused_before_the_network_sees_it(tmp_path, segment):
    (tmp_path / "images").mkdir(exist_ok=True)
    like = Volume(np.zeros((1, 21, 17), np.uint8), np.eye(3), "um")
    write_volume(tmp_path / "images/flat.tif", like.array, like)
    for inferer in (None, RotationAveragingInferer(OverlapTileInferer(8), "mirror")):
        with pytest.raises(InputError, match="flat.tif is 2D, and the network is for 3D"):
            segment("out", inferer)
