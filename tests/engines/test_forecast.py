"""``volseg plan``: what segmenting a volume will take."""

import re

import numpy as np
import pytest
import torch

from volseg.cli import main
from volseg.engines import forecast as room
from volseg.engines.forecast import forecast
from volseg.errors import InputError
from volseg.inferers import OverlapTileInferer
from volseg.inferers.planning import operations
from volseg.io import Volume, write_volume
from volseg.networks import UNet


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.nii"
    like = Volume(np.zeros((1, 50, 40, 30), np.uint8), np.eye(4))
    write_volume(path, like.array, like)
    return path


@pytest.fixture(autouse=True)
def short_probe(monkeypatch):
    monkeypatch.setattr(room, "_PROBE_VOXELS", 1000)


@pytest.mark.slow
def test_tiles_operations_memory_and_time_are_told(image):
    torch.manual_seed(0)
    network = UNet(3, 1, 2, channels=[(4, 6), (6, 8)], norm="batch")
    whole, tiled = (forecast(image, network, OverlapTileInferer(None, limit)) for limit in (10**9, 4 * 10**5))
    assert "50 x 40 x 30 voxels, 1 channel(s)" in whole[0]
    assert re.search(r"tiles +1 of 50 x 40 x 30", whole[1])
    count = operations(network, network.input_size((50, 40, 30)))
    assert f"{count / 1e6:.3g} million multiplications" in whole[2]
    assert "of 1.00 GB for a tile" in whole[3]
    assert re.search(r"time +about \d+ s on cpu", whole[4])
    assert re.search(r"streamed +1 tiles of 50 x 40 x 30", whole[5])
    assert int(re.search(r"tiles +(\d+) of 50 x .*, by rows", tiled[1])[1]) > 1


def test_an_image_for_another_network_is_refused(image):
    with pytest.raises(InputError, match="but the network takes 3 and 3 spatial axes"):
        forecast(image, UNet(3, 3, 2, channels=[(4, 6)]), OverlapTileInferer())


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_told_in_the_unit_people_use(seconds, text):
    assert room._duration(seconds) == text


def test_numbers_are_told_in_words():
    assert [room._short(n) for n in (12, 3.4e6, 2e9, 5.55e15)] == [
        "12",
        "3.4 million",
        "2 billion",
        "5,550.0 trillion",
    ]


@pytest.mark.slow
def test_the_command_plans_for_a_bundle(tmp_path, root, capsys, clean_process):
    path = tmp_path / "image.tif"
    like = Volume(np.zeros((3, 60, 60, 40), np.uint8), np.eye(4))
    write_volume(path, like.array, like)
    assert main(["plan", str(path), str(root / "bundles" / "xenopus.json"), "--max-memory", "3e8"]) == 0
    said = capsys.readouterr().out
    assert "60 x 60 x 40 voxels, 3 channel(s)" in said
    assert "of 0.30 GB for a tile" in said
    assert "streamed" not in said, "the file is compressed"


def test_the_command_is_for_networks_and_inferers_of_volseg(tmp_path, image, capsys):
    bundle = tmp_path / "bundle.json"
    bundle.write_text(
        '{"network": {"_target_": "torch.nn.Identity"}, "inferer": {"_target_": "SimpleInferer"}}'
    )
    assert main(["plan", str(image), str(bundle), "--trust-bundle"]) == 3
    said = capsys.readouterr().err
    assert "The bundle has a Identity and a SimpleInferer; a forecast is possible for volseg.UNet" in said
