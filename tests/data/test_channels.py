"""Channels in files of their own are one case: found, verified, trained on and segmented as one image."""

import json
import logging

import numpy as np
import pytest
import torch

from volseg.data import (
    TrainingPatches,
    WholeVolumes,
    find_cases,
    find_images,
    join_channels,
    load_case,
    output_of,
)
from volseg.data.verification import Expectations, verify
from volseg.errors import InputError
from volseg.experiments.datasets import read_annotated
from volseg.io import Volume, read_volume, write_volume
from volseg.labels import LabelScheme
from volseg.transforms import RandDeformedPatchd

SCHEME = LabelScheme(["low", "middle", "high"], [0, 1, 2], 3)
LAYOUTS = {"plain": ("images", "labels"), "nnU-Net": ("imagesTr", "labelsTr")}


@pytest.fixture(params=[(".tif", (12, 10)), (".nii.gz", (12, 10, 8))], ids=["2d", "3d"])
def grid(request):
    return request.param


@pytest.fixture
def apart(make_dataset, grid):
    """Makes a data set whose images are files of one channel each, and gives its folder."""

    def make(name="apart", cases=("a", "b"), folders=("images", "labels"), channels=3):
        suffix, size = grid
        folder = make_dataset(name, cases=cases, size=size, suffix=suffix, folders=folders, channels=channels)
        for case in cases:
            whole = folder / folders[0] / f"{case}{suffix}"
            volume = read_volume(whole)
            for i, channel in enumerate(volume.array):
                like = Volume(channel[None], volume.affine, volume.unit)
                write_volume(whole.with_name(f"{case}_{i:04d}{suffix}"), channel, like)
            whole.unlink()
        return folder

    return make


def files(folder, stem, suffix, count):
    return tuple(folder / f"{stem}_{i:04d}{suffix}" for i in range(count))


@pytest.mark.parametrize("folders", LAYOUTS.values(), ids=LAYOUTS)
def test_a_label_without_a_number_has_the_channels_as_its_image(apart, make_dataset, grid, folders):
    suffix, size = grid
    folder = apart(folders=folders)
    first, second = find_cases(folder)
    assert (first.name, second.name) == ("a", "b")
    assert first.images == first.channels == files(folder / folders[0], "a", suffix, 3)
    assert first.image == first.channels[0]
    assert verify(folder, expected=Expectations(SCHEME, 3, len(size))) == []
    item = load_case(first, labels=SCHEME, in_channels=3)
    whole = make_dataset("whole", cases=("a", "b"), size=size, suffix=suffix)
    expected = load_case(find_cases(whole)[0], labels=SCHEME, in_channels=3)
    for key in ("image", "label"):
        assert torch.equal(item[key], expected[key])
    patch = RandDeformedPatchd(patch_size=[6] * len(size))
    assert TrainingPatches(find_cases(folder), labels=SCHEME, in_channels=3, transform=patch)[0]


def test_each_channel_counts_when_a_split_is_known_again(apart, grid):
    folder = apart(cases=("a",))
    before = load_case(find_cases(folder)[0], labels=SCHEME, in_channels=3)["hash"]
    path = folder / "images" / f"a_0002{grid[0]}"
    volume = read_volume(path)
    write_volume(path, volume.array + 1, volume, overwrite=True)
    assert load_case(find_cases(folder)[0], labels=SCHEME, in_channels=3)["hash"] != before


def test_a_list_of_cases_may_leave_the_numbers_out(apart, grid):
    folder = apart(folders=LAYOUTS["nnU-Net"])
    entry = {"image": f"./imagesTr/b{grid[0]}", "label": f"./labelsTr/b{grid[0]}"}
    (folder / "dataset.json").write_text(json.dumps({"training": [entry]}))
    (case,) = find_cases(folder)
    assert (case.name, len(case.channels)) == ("b", 3)


def test_one_channel_may_have_a_number_and_another_file_the_very_name(apart, make_dataset, grid):
    suffix, size = grid
    folder = apart(channels=1)
    assert [case.images for case in find_cases(folder)] == [
        files(folder / "images", name, suffix, 1) for name in "ab"
    ]
    both = make_dataset("both", cases=("a",), size=size, suffix=suffix)
    (both / "images" / f"a_0000{suffix}").write_bytes((both / "images" / f"a{suffix}").read_bytes())
    (case,) = find_cases(both)
    assert case.images == (both / "images" / f"a{suffix}",)


def test_a_gap_in_the_numbers_is_told(apart, grid):
    folder = apart()
    (folder / "images" / f"b_0001{grid[0]}").unlink()
    with pytest.raises(InputError, match="b_0002.* is channel 2 of b, but there is no b_0001. Number the ch"):
        find_cases(folder)


def test_what_is_wrong_with_one_channel_is_told_of_that_file(apart, grid):
    folder = apart()
    suffix, size = grid
    path = folder / "images" / f"b_0001{suffix}"
    path.write_bytes(path.read_bytes()[:-30])
    (one,) = verify(folder, expected=Expectations(SCHEME, 3))
    assert (one.severity, one.file) == ("error", str(path))
    smaller = np.zeros((1, size[0] - 1, *size[1:]), np.float32)
    write_volume(path, smaller, Volume(smaller, np.eye(len(size) + 1)), overwrite=True)
    (one,) = verify(folder, expected=Expectations(SCHEME, 3))
    assert "b_0001" in one.what


def test_images_to_segment_are_joined_where_the_network_has_so_many_channels(apart, grid):
    suffix, _ = grid
    folder = apart()
    found = find_images(folder)
    assert len(found) == 6
    cases = WholeVolumes(found, labels=SCHEME, in_channels=3).data
    assert [case.name for case in cases] == ["a", "b"]
    assert cases[0].channels == files(folder / "images", "a", suffix, 3)
    assert WholeVolumes(found, labels=SCHEME, in_channels=3)[1]["image"].shape[0] == 3
    assert output_of(cases[0], folder)[0].name == f"a{suffix}"
    (alone,) = join_channels(find_images(cases[1].image), 3)  # of one file those beside it
    assert alone == cases[1]
    assert join_channels(found, 1) == found
    assert join_channels(found, 2) == found  # three files are not two channels


def test_frames_that_are_numbered_are_not_taken_for_channels(apart, grid):
    folder = apart(cases=("frame",), channels=5)
    found = find_images(folder)
    assert join_channels(found, 3) == found
    with pytest.raises(InputError, match=r"frame_0000.* has 1 channel\(s\), but the bundle expects 3"):
        WholeVolumes(found, labels=SCHEME, in_channels=3)[0]


def test_a_channel_that_nobody_annotated_is_no_lonely_image(apart, caplog):
    folder = apart()
    with caplog.at_level(logging.INFO):
        find_cases(folder)
    assert "no annotation" not in caplog.text


def test_an_experiment_says_that_it_cannot(apart):
    with pytest.raises(InputError, match="is one channel of several, .* Join them by 'volseg convert'"):
        read_annotated(find_cases(apart()), SCHEME, 3)
