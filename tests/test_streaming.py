"""From file to file, a few blocks at a time: the same result as in memory, also after a kill."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.transforms import Compose, NormalizeIntensityd
from torch import nn

from volseg.engines import streaming
from volseg.engines.journal import Journal
from volseg.engines.streaming import can_stream, predict_streamed
from volseg.errors import InputError, RefusedError, ResourceError
from volseg.inferers import OverlapTileInferer
from volseg.io import Volume, read_volume, write_volume
from volseg.io.mapped import create_mapped, map_volume
from volseg.labels import LabelScheme
from volseg.networks import UNet

SCHEME = LabelScheme(["a", "b", "c"], [0, 3, 700], 9)
NORMALISE = NormalizeIntensityd(keys="image", channel_wise=True)


def network_for(dims, channels=1):
    torch.manual_seed(0)
    network = UNet(dims, channels, 3, channels=[(4, 6), (6, 8)], norm="batch").eval()
    nn.init.normal_(network.head.bias, 0, 0.1)
    return network


@pytest.fixture(params=[".nii", ".tif"])
def suffix(request):
    return request.param


@pytest.fixture(params=[(37, 29), (23, 19, 14)], ids=["2d", "3d"])
def size(request):
    return request.param


def make_image(folder, suffix, size, channels=1, dtype=np.uint8):
    array = np.random.default_rng(0).integers(0, 200, (channels, *size)).astype(dtype)
    affine = np.diag([0.5, 0.25, 2.0][: len(size)] + [1.0])
    path = folder / f"image{suffix}"
    like = Volume(array, affine, "mm" if suffix == ".nii" else "um")
    if suffix == ".nii":
        write_volume(path, array, like)
    else:
        create_mapped(path, array.shape, array.dtype, like)[(slice(None),) * array.ndim] = array
    return path


def in_memory(path, network, inferer, preprocessing=None):
    image = read_volume(path).array.astype(np.float32)
    if preprocessing is not None:
        image = preprocessing({"image": torch.from_numpy(image)})["image"]
    return inferer(torch.as_tensor(image)[None], network)[0]


@pytest.mark.parametrize("batch_norm", ["running", "volume"])
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


def test_probabilities_are_written_as_channels(tmp_path, suffix, size):
    image = make_image(tmp_path, suffix, size, channels=2, dtype=np.int16)
    network = network_for(len(size), channels=2)
    output = tmp_path / f"out{suffix}"
    predict_streamed(image, output, network=network, inferer=OverlapTileInferer(8), probabilities=True)
    array = map_volume(image)[(slice(None),) * (len(size) + 1)]
    expected = OverlapTileInferer(8)(torch.from_numpy(array)[None], network)[0].softmax(0)
    found = create_mapped(output, expected.shape, np.dtype(np.float32), map_volume(image).like, anew=False)
    np.testing.assert_allclose(found[(slice(None),) * (len(size) + 1)], expected, rtol=0, atol=1e-5)


def test_what_cannot_be_read_block_by_block_is_refused(tmp_path):
    network, inferer = network_for(2), OverlapTileInferer(8)
    like = Volume(np.zeros((1, 20, 18), np.uint8), np.eye(3))
    for name, message in (
        ("packed.nii.gz", "cannot be read block by block"),
        ("packed.tif", "is compressed or scattered"),
        ("missing.nii", "there is no file"),
    ):
        path = tmp_path / name
        if "packed" in name:
            write_volume(path, like.array, like)
        assert not can_stream(path)
        with pytest.raises(InputError, match=message):
            predict_streamed(path, tmp_path / "out.nii", network=network, inferer=inferer)


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
    mapped = create_mapped(path, like.array.shape, like.array.dtype, like)
    mapped[(slice(None),) * 3] = np.full((1, 20, 18), np.nan, np.float32)
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
    monkeypatch.setattr(streaming, "_AT_ONCE", 100)
    image = make_image(tmp_path, ".tif", (23, 19, 14), channels=2, dtype=np.uint16)
    normalise = NormalizeIntensityd(keys="image", channel_wise=channel_wise)
    source = map_volume(image)
    everything = (slice(None),) * 4
    found = streaming._Blocks(source, streaming._normalisation(source, normalise))
    index = tuple(slice(0, n) for n in source.shape)
    expected = normalise({"image": torch.from_numpy(source[everything].astype(np.float32))})["image"]
    torch.testing.assert_close(found[index], torch.as_tensor(expected), rtol=0, atol=1e-5)


def test_other_settings_start_anew_and_a_second_process_is_refused(tmp_path, caplog):
    target = tmp_path / "out.nii"
    first = Journal(target, "one")
    first.open(lambda: {"tile": [8]}, lambda path: path.write_bytes(b"x"))
    first.note(3)
    with pytest.raises(RefusedError, match="another process is writing"):
        Journal(target, "one").open(dict, lambda _: None)
    first.close()
    with first.path.open("a") as file:
        file.write("4")  # cut off by a kill: not certain
    again = Journal(target, "one")
    again.open(dict, lambda _: pytest.fail("nothing to make"))
    assert (again.plan, again.done) == ({"tile": [8]}, {3})
    again.note(5)
    again.close()
    assert again.path.read_text().splitlines()[1:] == ["3", "5"]
    other = Journal(target, "two")
    other.open(lambda: {"tile": [16]}, lambda path: path.write_bytes(b"y"))
    other.close()
    assert (other.plan, other.done) == ({"tile": [16]}, set())
    assert "starts anew" in caplog.text


def test_a_full_disk_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    like = Volume(np.zeros((1, 20, 18), np.uint8), np.eye(3))
    with pytest.raises(ResourceError, match=r"cannot make .* needs 0\.0 GB: No space left"):
        create_mapped(tmp_path / "out.nii", (1, 20, 18), np.dtype(np.uint8), like)


def test_large_tiff_files_are_big_tiff(tmp_path, monkeypatch):
    monkeypatch.setattr("volseg.io.tiff._BIG", 100)
    path = make_image(tmp_path, ".tif", (23, 19, 14))
    assert path.read_bytes()[2:4] == b"+\0"
    assert map_volume(path).shape == (1, 23, 19, 14)


KILLED = """
import os, random, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from test_streaming import *
torch.set_num_threads(1)
folder = Path(sys.argv[1])
image = make_image(folder, ".tif", (24, 20, 16))
inferer = OverlapTileInferer(8, batch_norm="volume")
options = dict(network=network_for(3), inferer=inferer, preprocessing=NORMALISE)
predict_streamed(image, folder / "whole.tif", **options)
whole = (folder / "whole.tif").read_bytes()
draw = random.Random(0)
note = Journal.note

def in_child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1]

for round in range(10):
    target = folder / f"out{round}.tif"
    at, noted = draw.randrange(18), draw.random() < 0.5

    def dying(self, tile):
        if noted:
            note(self, tile)
        if len(self.done) >= at:
            os.kill(os.getpid(), signal.SIGKILL)
        if not noted:
            note(self, tile)

    def begin():
        Journal.note = dying
        predict_streamed(image, target, **options)

    assert in_child(begin) == signal.SIGKILL
    assert not target.exists()
    assert len(Journal(target, "").path.read_text().splitlines()) > at
    assert in_child(lambda: predict_streamed(image, target, **options)) == 0
    assert target.read_bytes() == whole
print("10 of 10")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed after a fork")
def test_after_kill_9_the_run_goes_on_and_ends_with_the_same_bytes(tmp_path):
    here = os.path.dirname(__file__)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), here]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "10 of 10", done.stderr
