"""Cases are found, checked and cut into patches; what is held out never reaches a patch."""

import json
import logging

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from torch.utils.data import DataLoader

from volseg.data import (
    KINDS,
    Cases,
    LoadedCase,
    TrainingPatches,
    WholeVolumes,
    find_cases,
    find_images,
    load_case,
    stem,
    write_phantom,
)
from volseg.errors import InputError, RefusedError
from volseg.instances import InstanceScheme
from volseg.io import Volume, read_volume, write_volume
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.transforms import BorderWeightMapd, RandDeformedPatchd

SCHEME = LabelScheme(["low", "middle", "high"], [0, 1, 2], 3)


def as_they_are(patch_size):
    """Patches without any change: a plain crop around an annotated voxel."""
    return RandDeformedPatchd(patch_size=patch_size, std=0, rotation=0, scaling=(1, 1), flip=0)


def patches(folder, patch_size=(8, 8, 8), *, transform=None, **settings):
    settings = {
        "labels": SCHEME,
        "in_channels": 3,
        "transform": transform or as_they_are(patch_size),
    } | settings
    return TrainingPatches(find_cases(folder), **settings)


# --- what belongs together -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 20), (24, 20, 16)], ids=["2d", "3d"])
@pytest.mark.parametrize("suffix", [".tif", ".nii.gz", ".nii"])
@pytest.mark.parametrize("folders", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_images_and_labels_of_one_name_are_a_case(make_dataset, folders, suffix, size):
    folder = make_dataset(cases=("b", "a"), folders=folders, suffix=suffix, size=size, truth=True)
    first, second = find_cases(folder)
    assert (first.name, second.name) == ("a", "b")
    assert first.image == folder / folders[0] / f"a{suffix}"
    assert first.label == folder / folders[1] / f"a{suffix}"
    assert first.truth == folder / "truth" / f"a{suffix}"
    item = load_case(first, labels=SCHEME, in_channels=3)
    assert item["image"].shape == (3, *size)
    assert item["label"].shape == item["truth"].shape == (1, *size)


def test_image_and_label_may_be_of_different_formats(make_dataset):
    folder = make_dataset()
    label = folder / "labels" / "a.tif"
    volume = read_volume(label, labels=True)
    write_volume(folder / "labels" / "a.nii.gz", volume.array, volume)
    label.unlink()
    (case,) = find_cases(folder)
    assert case.label == folder / "labels" / "a.nii.gz"
    assert load_case(case, labels=SCHEME, in_channels=3)["label"].shape == (1, 24, 24, 24)


def test_the_list_in_dataset_json_decides_which_cases_are_trained_on(make_dataset):
    folder = make_dataset(cases=("a", "b"), folders=("imagesTr", "labelsTr"), suffix=".nii.gz")
    entry = {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({"training": [entry], "held_out": {"b": {"x": [3]}}}))
    (case,) = find_cases(folder)
    assert case.name == "b"
    assert case.held_out == {"x": [3]}


def test_images_to_segment_are_a_file_a_folder_or_a_dataset(make_dataset):
    folder = make_dataset(cases=("a", "b"), folders=("imagesTr", "labelsTr"))
    of_dataset, of_folder = find_images(folder), find_images(folder / "imagesTr")
    assert [case.name for case in of_dataset] == ["a", "b"]
    assert of_dataset == of_folder
    assert find_images(folder / "imagesTr" / "b.tif") == of_folder[1:]
    (folder / "imagesTs").mkdir()
    (folder / "imagesTr" / "b.tif").rename(folder / "imagesTs" / "b.tif")
    assert [case.image for case in find_images(folder)] == [folder / "imagesTs" / "b.tif"]


def test_an_image_without_annotation_is_left_out_and_said(make_dataset, caplog):
    folder = make_dataset(cases=("a", "b"))
    (folder / "labels" / "b.tif").unlink()
    (folder / "images" / ".hidden.tif").write_bytes(b"")
    (folder / "images" / "notes.txt").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        assert [case.name for case in find_cases(folder)] == ["a"]
    assert "1 of 2 images" in caplog.text


def test_a_stem_is_the_name_without_its_format(tmp_path):
    assert [stem(tmp_path / n) for n in ("a.nii.gz", "a.NII", "a.b.tif", "a.txt")] == ["a", "a", "a.b", "a"]


LISTED = {"image": "images/a.tif", "label": "labels/a.tif"}


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds a list, but an object is needed"),
        ({"training": {}}, "'training' is not a list"),
        ({"training": ["a.tif"]}, "the entry 'a.tif' of 'training' does not name an image and a label"),
        ({"training": [{"image": "images/a.tif"}]}, "does not name an image and a label"),
        ({"training": [{**LISTED, "label": "labels/b.tif"}]}, "labels/b.tif, which does not exist"),
        ({"training": [{**LISTED, "label": "../a.tif"}]}, "which lies outside the dataset"),
        ({"training": [LISTED, LISTED]}, "lists two cases named 'a'"),
        ({"training": []}, "holds no pair of an image and an annotation"),
        ({"held_out": [1]}, "held_out does not name slices per case and axis"),
        ({"held_out": {"a": [1]}}, "held_out does not name slices"),
        ({"held_out": {"a": {"x": 1}}}, "held_out does not name slices"),
        ({"held_out": {"a": {"x": [1.5]}}}, "held_out does not name slices"),
        ({"held_out": {"a": "some"}}, "held_out does not name slices"),
        ({"held_out": {"c": {"x": [1]}}}, "held_out names the case 'c', which is not in the dataset"),
    ],
)
def test_a_slip_in_dataset_json_is_told(make_dataset, listing, message):
    folder = make_dataset()
    (folder / "dataset.json").write_text(listing if isinstance(listing, str) else json.dumps(listing))
    with pytest.raises(RefusedError if "outside" in message else InputError, match=message):
        find_cases(folder)


def test_a_folder_that_is_no_dataset_is_told(make_dataset, tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder. It should hold images/ and labels/"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has neither images/ and labels/ nor imagesTr/ and labelsTr/"):
        find_cases(tmp_path)
    with pytest.raises(InputError, match="does not exist: name an image"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no image. Formats that can be read: .nii"):
        find_images(tmp_path)
    folder = make_dataset(cases=("a", "b"))
    (folder / "images" / "b.tif").unlink()
    with pytest.raises(InputError, match="labels/b.tif has no image in"):
        find_cases(folder)
    (folder / "labels" / "b.tif").rename(folder / "labels" / "a.tiff")
    with pytest.raises(InputError, match="share one name: which of them is meant"):
        find_cases(folder)


# --- what does not fit is refused before anything is trained ---------------------------------------


def test_a_label_of_another_shape_is_refused(make_dataset):
    folder = make_dataset()
    label = read_volume(folder / "labels" / "a.tif", labels=True)
    part = Volume(label.array[:, :-1], label.affine, label.unit)
    write_volume(folder / "labels" / "a.tif", part.array, part, overwrite=True)
    with pytest.raises(InputError, match="has 24 x 24 x 24 voxels, the label .* has 23 x 24 x 24"):
        patches(folder)


def test_a_label_at_another_place_is_refused(make_dataset):
    folder = make_dataset(suffix=".nii.gz")
    label = read_volume(folder / "labels" / "a.nii.gz", labels=True)
    affine = label.affine.copy()
    affine[0, 3] += 2
    moved = Volume(label.array, affine, "mm")
    write_volume(folder / "labels" / "a.nii.gz", moved.array, moved, overwrite=True)
    with pytest.raises(InputError, match="corners lie up to 4 voxels from those of"):
        patches(folder)


def test_a_value_that_the_scheme_does_not_know_is_refused(make_dataset):
    with pytest.raises(
        InputError, match=r"a.tif: it holds 7 \(.* voxels\), .* the label scheme knows 0 = low"
    ):
        patches(make_dataset(values=(0, 1, 7)))


def test_a_wrong_number_of_channels_is_refused(make_dataset):
    with pytest.raises(InputError, match=r"has 1 channel\(s\), but the bundle expects 3. Set in_channels"):
        patches(make_dataset(channels=1))


def test_a_dataset_without_annotation_is_refused(make_dataset):
    with pytest.raises(InputError, match=r"None of the 1 label file\(s\) has an annotated voxel.*is 3 in"):
        patches(make_dataset(values=(3, 3, 3)))
    with pytest.raises(InputError, match="those held out left aside"):
        patches(make_dataset("held", held_out="all"))
    images = find_images(make_dataset("other"))
    with pytest.raises(InputError, match="has no annotation: it cannot be trained on"):
        TrainingPatches(images, labels=SCHEME, in_channels=3, transform=as_they_are((8, 8, 8)))


def test_a_file_that_vanished_is_told(make_dataset):
    folder = make_dataset()
    (case,) = find_cases(folder)
    case.image.unlink()
    with pytest.raises(InputError, match=r"a\.tif"):
        load_case(case, labels=SCHEME, in_channels=3)


@pytest.mark.parametrize(
    ("slices", "why"), [({"w": [1]}, "the axis 'w'"), ({"z": [24]}, "holds 24, but z runs from 0 to 23")]
)
def test_held_out_slices_that_are_not_in_the_volume_are_told(make_dataset, slices, why):
    folder = make_dataset(held_out=slices)
    with pytest.raises(
        InputError, match=f"a.tif: the slices that dataset.json holds out do not fit: .*{why}"
    ):
        patches(folder)


def test_preprocessing_may_not_move_voxels(make_dataset):
    with pytest.raises(ValueError, match="preprocessing turns .* It may change grey values only"):
        patches(make_dataset(), preprocessing=lambda item: {"image": item["image"][:, 1:]})


def test_one_case_without_annotation_is_left_out_and_said(make_dataset, caplog):
    folder = make_dataset(cases=("a", "b"))
    blank = read_volume(folder / "labels" / "b.tif", labels=True)
    write_volume(folder / "labels" / "b.tif", np.full_like(blank.array, 3), blank, overwrite=True)
    with caplog.at_level(logging.INFO):
        dataset = patches(folder)
    assert [item["name"] for item in dataset.cases] == ["a"]
    assert "b.tif has no annotated voxel to train on; it is left out" in caplog.text
    assert "1 case(s) to train on; 25.00 % of their voxels are annotated: low 33.3%" in caplog.text


def test_a_class_that_nobody_annotated_is_said(make_dataset, caplog):
    patches(make_dataset(values=(0, 2)))
    assert "No voxel of the class 'middle' is annotated: it cannot be learnt" in caplog.text


# --- training and evaluation never meet ----------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 24), (24, 24, 24)], ids=["2d", "3d"])
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "chosen"])
def test_held_out_slices_are_never_trained_on(make_dataset, size, listed):
    last = "xyz"[len(size) - 1]
    folder = make_dataset(size=size, channels=1, held_out={last: [5, 13]} if listed else None)
    (case,) = find_cases(folder)
    volume = read_volume(case.image)
    index = np.arange(np.prod(size), dtype=np.float32).reshape(1, *size)  # every voxel tells where it is
    write_volume(case.image, index, volume, overwrite=True)
    dataset = patches(folder, (12,) * len(size), in_channels=1, held_out=0.3, length=200)
    (item,) = dataset.cases
    annotation = SCHEME.encode(read_volume(case.label, labels=True).array)
    held = np.zeros(size, bool)
    for axis, indices in item["held_out"].items():
        held[(*[slice(None)] * "xyz".index(axis), indices)] = True
    assert held.any()
    allowed = np.where(held, IGNORE_INDEX, annotation[0]).ravel()
    seen = np.zeros(allowed.size, bool)
    for patch in (dataset[i] for i in range(len(dataset))):
        label, place = patch["label"].numpy()[0], patch["image"].numpy()[0].astype(int)
        annotated = label != IGNORE_INDEX
        np.testing.assert_array_equal(label[annotated], allowed[place[annotated]])
        seen[place[annotated]] = True
    assert not seen[held.ravel()].any()
    assert seen[allowed != IGNORE_INDEX].mean() > 0.9  # or the test would show nothing
    np.testing.assert_array_equal(item["held"][0].numpy()[held], annotation[0][held])
    assert (item["held"][0].numpy()[~held] == IGNORE_INDEX).all()


def test_what_is_counted_is_what_is_trained_on(make_dataset):
    dataset = patches(make_dataset(cases=("a", "b"), held_out={"z": [5]}))
    expected = [2 * 5 * 8 * 24] * 3  # two cases, five slices of 24 x 24 left, a third each
    assert dataset.counts().tolist() == expected


def test_evaluation_and_training_hold_out_the_same_slices(make_dataset):
    folder = make_dataset()
    settings = {"labels": SCHEME, "in_channels": 3, "held_out": 0.3}
    trained = patches(folder, held_out=0.3).cases[0]
    whole = WholeVolumes(find_cases(folder), **settings)[0]
    assert len(WholeVolumes(find_cases(folder), **settings)) == 1
    assert trained["held_out"] == whole["held_out"]
    assert trained["hash"] == whole["hash"]
    torch.testing.assert_close(trained["held"], whole["held"])


def test_what_is_said_of_the_cases_once_holds_for_both_datasets(make_dataset):
    folder = make_dataset()
    (folder / "images" / "b.tif").write_bytes((folder / "images" / "a.tif").read_bytes())
    said = {"labels": SCHEME, "in_channels": 3, "held_out": 0.3}
    cases = Cases(folder, **said)
    assert list(cases) == find_cases(folder)
    assert (cases.labels, cases[-1].name, len(cases.images)) == (SCHEME, "a", 2)
    transform = [as_they_are((8, 8, 8))]  # a list, as in a bundle
    for given in ({}, {"held_out": 0.0}):
        trained = TrainingPatches(cases, transform=transform, **given)
        alone = TrainingPatches(find_cases(folder), transform=Compose(transform), **said | given)
        assert trained.cases[0]["held_out"] == alone.cases[0]["held_out"]
        torch.testing.assert_close(trained[5]["image"], alone[5]["image"])
    (whole,) = WholeVolumes(cases)
    torch.testing.assert_close(whole["held"], WholeVolumes(find_cases(folder), **said)[0]["held"])
    assert "label" not in WholeVolumes(cases.images)[1]


def test_cases_are_looked_for_when_they_are_asked_for(make_dataset, tmp_path):
    image = make_dataset() / "images" / "a.tif"
    cases = Cases(tmp_path / "nowhere", labels=SCHEME, in_channels=3, images=image)
    assert [case.name for case in cases.images] == ["a"]
    with pytest.raises(InputError, match="nowhere is not a folder"):
        len(cases)
    with pytest.raises(ValueError, match="labels and in_channels are needed, or data that say them"):
        WholeVolumes(list(cases.images), labels=SCHEME)


@pytest.mark.parametrize("size", [(24, 24), (24, 24, 24)], ids=["2d", "3d"])
def test_a_case_that_is_held_out_as_a_whole_is_scored_and_not_trained_on(make_dataset, size):
    folder = make_dataset(cases=("a", "b"), size=size, channels=1)
    (folder / "dataset.json").write_text(json.dumps({"held_out": {"a": "all"}}))
    cases = find_cases(folder, held_out_cases=0.5)  # which the list overrules
    assert [case.held_out for case in cases] == ["all", None]
    dataset = TrainingPatches(
        cases, labels=SCHEME, in_channels=1, transform=as_they_are((8,) * len(size)), length=3
    )
    assert [item["name"] for item in dataset.cases] == ["b"]
    assert {entry["name"]: entry["held_out"] for entry in dataset.trained_on().values()} == {
        "a": "all",
        "b": {},
    }
    held = WholeVolumes(cases, labels=SCHEME, in_channels=1)[0]
    assert (held["label"] == IGNORE_INDEX).all()
    np.testing.assert_array_equal(held["held"][0], SCHEME.encode(read_volume(cases[0].label).array[0]))


@pytest.mark.parametrize(
    ("fraction", "held"), [(0.0, []), (0.2, [2]), (0.5, [1, 3]), (0.01, [2]), (0.99, [0, 1, 3, 4])]
)
def test_a_fraction_of_the_cases_is_held_out_evenly_spread(make_dataset, fraction, held):
    folder = make_dataset(cases="abcde", size=(8, 8), channels=1)
    cases = find_cases(folder, held_out_cases=fraction)
    assert [index for index, case in enumerate(cases) if case.held_out == "all"] == held


def test_a_single_case_is_not_held_out(make_dataset):
    folder = make_dataset(size=(8, 8))
    assert [case.held_out for case in find_cases(folder, held_out_cases=0.9)] == [None]
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"held_out_cases = {wrong} must be from 0 to below 1"):
            find_cases(folder, held_out_cases=wrong)


# --- objects told apart --------------------------------------------------------------------------


@pytest.fixture(params=[(24, 20), (16, 16, 14)], ids=["2d", "3d"])
def touching(request, make_dataset):
    """A dataset whose labels are ids: slabs that touch, and what is unlabelled at the end."""
    size = request.param
    folder = make_dataset(size=size, channels=1)
    label = folder / "labels" / "a.tif"
    ids = np.zeros((1, *size), np.int16)
    ids[:, 2:7], ids[:, 7:12] = 4, 9
    ids[:, -3:] = -1
    write_volume(label, ids, read_volume(label, labels=True), overwrite=True)
    return folder, ids


OBJECTS = InstanceScheme(("background", "cell"), unlabelled=-1)


def test_labels_of_objects_are_classes_and_ids(touching):
    folder, ids = touching
    item = load_case(find_cases(folder)[0], labels=OBJECTS, in_channels=1)
    assert LoadedCase.__required_keys__ <= item.keys() <= LoadedCase.__annotations__.keys()
    np.testing.assert_array_equal(item["instances"], ids)
    np.testing.assert_array_equal(item["label"], OBJECTS.encode(ids))
    assert (item["label"][:, 6:8] == 0).all()  # the gap between the two


@pytest.mark.parametrize("on_patches", [False, True], ids=["once", "per patch"])
def test_patches_carry_the_border_weight(touching, on_patches):
    folder, ids = touching
    dims = ids.ndim - 1
    weigh = BorderWeightMapd("instances", w0=10.0, sigma=2.0)
    cut = RandDeformedPatchd(
        patch_size=ids.shape[1:],
        std=0,
        rotation=0,
        scaling=(1, 1),
        weight_key="instances" if on_patches else "weight",
    )
    dataset = TrainingPatches(
        find_cases(folder),
        labels=OBJECTS,
        in_channels=1,
        transform=Compose([cut, weigh]) if on_patches else cut,
        weight_map=None if on_patches else weigh,
        length=1,
    )
    patch = dataset[0]  # the only one of its size that fits is the whole case
    assert set(patch) == {"image", "label", "weight"}
    expected = weigh({"instances": torch.from_numpy(ids.astype(np.int32))})
    torch.testing.assert_close(patch["label"], expected["label"])
    torch.testing.assert_close(patch["weight"], expected["weight"])
    assert patch["weight"].shape == (1, *ids.shape[1:])
    middle = (0, 6, *[5] * (dims - 1))
    assert patch["weight"][middle] == pytest.approx(1 + 10 * np.exp(-((1 + 2) ** 2) / 8))
    assert (patch["weight"][:, -3:] == 0).all()


# --- a patch is a function of the seed and its number ----------------------------------------------


def warped(folder, seed=0):
    return patches(folder, transform=RandDeformedPatchd(patch_size=(8, 8, 8), flip=0.5), seed=seed, length=6)


def test_patch_i_is_a_function_of_the_seed_and_i(make_dataset):
    folder = make_dataset(cases=("a", "b"))
    dataset, again = warped(folder), warped(folder)
    in_order = [dataset[i] for i in range(6)]
    backwards = [again[i] for i in reversed(range(6))][::-1]
    for one, other in zip(in_order, backwards, strict=True):
        assert set(one) == {"image", "label"}
        torch.testing.assert_close(one["image"], other["image"], rtol=0, atol=0)
        torch.testing.assert_close(one["label"], other["label"], rtol=0, atol=0)
    assert len({patch["image"].numpy().tobytes() for patch in in_order}) == 6
    assert not torch.equal(warped(folder, seed=1)[0]["image"], in_order[0]["image"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # where there is one core
def test_workers_draw_the_same_patches(make_dataset):
    dataset = warped(make_dataset(cases=("a", "b")))
    alone = [dataset[i]["image"] for i in range(6)]
    together = [batch["image"][0] for batch in DataLoader(dataset, num_workers=2)]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


# --- the phantom -----------------------------------------------------------------------------------


def test_the_phantom_is_made_where_it_is_missing_and_never_overwritten(tmp_path, monkeypatch, caplog):
    sizes = [(32, 32, 16), (24, 32, 16)]
    monkeypatch.setattr(
        "volseg.data.phantoms.write_phantom", lambda folder, kind: write_phantom(folder, kind, sizes=sizes)
    )
    folder = tmp_path / "data" / "phantom"
    with caplog.at_level(logging.INFO):
        cases = find_cases(folder, phantom_dir=folder)
        assert find_images(folder, phantom_dir=folder)
    assert "No dataset_dir was given: making the phantom" in caplog.text
    assert "No dataset_dir was given: using the phantom" in caplog.text
    assert [case.name for case in cases] == ["kidney_1", "kidney_2"]
    assert all(case.truth and case.held_out for case in cases)
    assert [path.name for path in folder.parent.iterdir()] == ["phantom"]  # and no draft is left
    item = load_case(cases[0], labels=LabelScheme(["inside", "tubule", "rest"], [0, 1, 2], 3), in_channels=3)
    label, truth = item["label"], item["truth"]
    annotated = label != IGNORE_INDEX
    assert 0.1 < annotated.float().mean() < 0.9
    assert torch.equal(label[annotated], truth[annotated])
    assert (item["held"] != IGNORE_INDEX).any()
    with pytest.raises(RefusedError, match="exists already and is not overwritten"):
        write_phantom(folder)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("membranes", LabelScheme(["membrane", "inside"], [0, 255])),
        ("cells", InstanceScheme()),
        ("brain", LabelScheme(["background", "tumour"], [0, 1])),
    ],
)
def test_the_phantoms_of_images_are_annotated_and_every_fifth_is_held_out(tmp_path, kind, labels):
    folder = tmp_path / "phantom"
    write_phantom(folder, kind, sizes=[(64, 64)] * 5)
    cases = find_cases(folder, phantom_dir=folder, phantom=kind)
    assert [case.held_out for case in cases] == [None] * 4 + ["all"]
    for case in cases:
        item = load_case(case, labels=labels, in_channels=1)
        assert item["image"].shape == item["label"].shape == (1, 64, 64)
        assert item["volume"].unit in ("um", "mm")
        annotation = torch.where(item["held"] == IGNORE_INDEX, item["label"], item["held"])
        assert set(annotation.unique().tolist()) == {0, 1}


def test_an_unknown_phantom_is_refused(tmp_path):
    assert set(KINDS) == {"kidney", "membranes", "cells", "brain"}
    with pytest.raises(ValueError, match="kind = 'heart' is not a phantom. There are: kidney, membranes"):
        write_phantom(tmp_path / "phantom", "heart")


def test_a_phantom_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("volseg.data.phantoms.write_volume", fail)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "phantom", sizes=[(16, 16, 16)])
    assert list(tmp_path.iterdir()) == []
