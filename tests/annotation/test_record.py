"""Nothing that was learnt from is ever scored, however often somebody paints more and trains on."""

import base64
import json
import logging
import zlib

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from torch import nn

from volseg.annotation import choose_more_held_out, find_slices
from volseg.annotation.record import annotation_of, held_out_again, learnt_of
from volseg.data import TrainingPatches, WholeVolumes, find_cases, load_case
from volseg.engines import evaluator, trainer
from volseg.errors import InputError, RefusedError
from volseg.io import read_volume, write_volume
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.runs.checkpoint import load_checkpoint, save_checkpoint
from volseg.transforms import RandDeformedPatchd

SCHEME = LabelScheme(["low", "high"], [0, 1], 9)
SIZES = pytest.mark.parametrize("size", [(18, 16), (12, 11, 14)], ids=["2d", "3d"])


def painted(folder, mask, name="a"):
    """Have exactly these voxels painted in the label file of a case: slabs along the first axis."""
    path = folder / "labels" / f"{name}.tif"
    slabs = (np.arange(mask.shape[0]) * 2 // mask.shape[0]).reshape(-1, *[1] * (mask.ndim - 1))
    write_volume(path, np.where(mask, slabs, 9).astype(np.uint8), read_volume(path), overwrite=True)


def patches(folder, size, held_out=0.2):
    return TrainingPatches(
        find_cases(folder), labels=SCHEME, in_channels=1, held_out=held_out,
        transform=RandDeformedPatchd(patch_size=[8] * len(size), context=(1,) * len(size)),
    )  # fmt: skip


def stroke(random, mask, kind):
    """Paint a slice, half a slice, or a scribble."""
    axis = int(random.integers(mask.ndim))
    index = int(random.integers(mask.shape[axis]))
    plane = np.moveaxis(mask, axis, 0)[index]
    if kind == "slice":
        plane[:] = True
    elif kind == "half":
        plane[: plane.shape[0] // 2] = True
    else:
        start = [int(random.integers(n - 3)) for n in plane.shape]
        plane[tuple(slice(s, s + 3) for s in start)] = True


class Score:
    """Collects which voxels of a case are scored, as a measure sees them."""

    def clear(self):
        self.voxels = {}

    def add(self, case, probabilities, held, instances, labels):
        self.voxels[case] = (held != IGNORE_INDEX).numpy()

    def report(self):
        return {}

    def table(self, report):
        return iter(())


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.cat([x, -x], 1) * self.scale


def scored(folder, record, tmp_path):
    """The voxels of case a that ``volseg evaluate`` scores with a checkpoint of this record."""
    save_checkpoint(
        tmp_path / "m.pt", {"model": Constant().state_dict(), "trained_on": record, "iteration": 1}
    )
    measure = Score()
    measure.clear()
    evaluator(
        device="cpu", dataset=WholeVolumes(find_cases(folder), labels=SCHEME, in_channels=1),
        network=Constant(), inferer=SimpleInferer(), checkpoint=tmp_path / "m.pt", measures=[measure],
    ).run()  # fmt: skip
    return measure.voxels.get("a")


@SIZES
@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 23))]
)
def test_whatever_is_painted_between_resumes_nothing_learnt_is_scored_or_held_out_anew(
    make_dataset, tmp_path, size, seed
):
    """Against an account of every voxel that a label to train on ever showed."""
    random = np.random.default_rng(seed)
    folder = make_dataset(size=size, channels=1, values=(0, 1), unlabelled=9)
    mask = np.zeros(size, bool)
    for _ in range(4):
        stroke(random, mask, "slice")
    ever, held_before, record = np.zeros(size, bool), {}, {}
    for _ in range(5):
        painted(folder, mask)
        dataset = patches(folder, size)
        if record:
            dataset.go_on_from(json.loads(json.dumps(record)))
        (item,) = dataset.cases
        train = item["label"][0].numpy() != IGNORE_INDEX
        on_held = np.zeros(size, bool)
        for axis, indices in held_before.items():
            np.moveaxis(on_held, "xyz".index(axis), 0)[indices] = True
            assert set(indices) <= set(item["held_out"][axis]), "what was held out stays held out"
        assert not (train & on_held).any(), "and is not learnt from"
        ever |= train
        record = dataset.trained_on()
        np.testing.assert_array_equal(learnt_of(record, item), ever)
        found = scored(folder, record, tmp_path)
        np.testing.assert_array_equal(mask & ~ever, np.zeros(size, bool) if found is None else found)
        held_before = item["held_out"]
        for _ in range(int(random.integers(1, 4))):
            stroke(random, mask, random.choice(["slice", "half", "scribble"]))


@SIZES
def test_a_slice_that_was_finished_after_it_was_learnt_from_is_scored_where_it_is_new(
    make_dataset, tmp_path, size
):
    """And labels that grew after the training are fresh, wherever nothing was learnt."""
    folder = make_dataset(size=size, channels=1, values=(0, 1), unlabelled=9)
    mask = np.zeros(size, bool)
    mask[..., [1, 5, 9, 13]] = True
    mask[: size[0] // 2, ..., 3] = True
    painted(folder, mask)
    dataset = patches(folder, size)
    learnt = dataset.cases[0]["label"][0].numpy() != IGNORE_INDEX
    assert learnt[..., 3].any()
    mask[..., 3] = True
    painted(folder, mask)
    np.testing.assert_array_equal(scored(folder, dataset.trained_on(), tmp_path), mask & ~learnt)


def test_new_slices_are_dealt_among_those_that_were_never_learnt():
    labels = np.full((40, 20), IGNORE_INDEX, np.uint8)
    labels[:, 2:14:2] = 0
    learnt = np.zeros(labels.shape, bool)
    learnt[:, [2, 4, 6, 10]] = True
    learnt[20] = True  # a line that crosses them all
    before = {"x": [], "y": [8]}
    assert choose_more_held_out(labels, before, learnt, 0.2) == before, "one of six is a fifth, about"
    labels[:, 14::2] = 0
    more = choose_more_held_out(labels, before, learnt, 0.2)
    assert more["x"] == []
    assert set(more["y"]) > {8}
    assert not set(more["y"]) & {2, 4, 6, 10}
    assert len(more["y"]) == round(0.2 * sum(map(len, find_slices(labels).values())))
    assert choose_more_held_out(labels, before, labels != IGNORE_INDEX, 0.5) == before, "nothing is fresh"


def test_a_case_that_was_learnt_from_is_never_scored_though_it_is_held_out_now(
    make_dataset, tmp_path, caplog
):
    size = (18, 16)
    folder = make_dataset(size=size, channels=1, values=(0, 1), unlabelled=9, cases=("a", "b", "c"))
    (folder / "dataset.json").write_text(json.dumps({"held_out": {"c": "all"}}))
    first = patches(folder, size)
    assert [e["held_out"] for e in first.trained_on().values() if e["name"] == "c"] == ["all"]
    (folder / "dataset.json").write_text(json.dumps({"held_out": {"a": "all"}}))
    second = patches(folder, size)
    with caplog.at_level(logging.INFO):
        second.go_on_from(first.trained_on())
    assert "c was held out as a whole, and stays so" in caplog.text
    assert [item["name"] for item in second.cases] == ["b"]
    record = second.trained_on()
    learnt = next(item["label"][0] != IGNORE_INDEX for item in first.cases if item["name"] == "a")
    assert not (scored(folder, record, tmp_path) & learnt.numpy()).any()
    third = patches(folder, size)
    third.go_on_from(record)
    assert record == third.trained_on()
    for name in ("a", "c"):  # only b is left, and that is taken out
        for part in ("images", "labels"):
            (folder / part / f"{name}.tif").unlink()
    (folder / "dataset.json").write_text("{}")
    last = patches(folder, size)
    with pytest.raises(InputError, match="has an annotated voxel to train on"):
        last.go_on_from({f"{last.cases[0]['hash']} b": {"name": "b", "held_out": "all", "learnt": ""}})


def test_an_image_is_known_by_its_voxels_in_another_file_and_under_another_name(
    make_dataset, tmp_path, caplog
):
    size = (18, 16)
    folder = make_dataset(size=size, channels=1, values=(0, 1), unlabelled=9)
    record = patches(folder, size).trained_on()
    item = load_case(find_cases(folder)[0], labels=SCHEME, in_channels=1)
    learnt = learnt_of(record, item)
    assert learnt.any()
    for part in ("images", "labels"):
        path = folder / part / "a.tif"
        volume = read_volume(path)
        write_volume(path.with_name("other.nii.gz"), volume.array[0], volume)
        path.unlink()
    again = load_case(find_cases(folder)[0], labels=SCHEME, in_channels=1)
    assert again["name"] == "other"
    np.testing.assert_array_equal(learnt_of(record, again), learnt)
    stranger = again | {"hash": "0" * 64, "name": "a"}
    assert not learnt_of(record, stranger).any()
    assert "The image of a is not the one that was trained on under this name" in caplog.text


def test_labels_that_were_changed_are_told(make_dataset, caplog):
    size = (18, 16)
    folder = make_dataset(size=size, channels=1, values=(0, 1), unlabelled=9)
    dataset = patches(folder, size)
    item, record = dataset.cases[0], dataset.trained_on()
    caplog.set_level(logging.INFO)
    caplog.clear()
    assert held_out_again(item, record, 0.2) == item["held_out"]
    assert caplog.text == ""
    other = item | {"label": torch.where(item["label"] == 0, 1, item["label"])}
    held_out_again(other, record, 0.2)
    assert "a: voxels that were learnt from have another class now" in caplog.text
    fewer = item | {"label": item["label"].clone()}
    fewer["label"][0, :2] = IGNORE_INDEX
    gone = int(((item["label"] != IGNORE_INDEX) & (fewer["label"] == IGNORE_INDEX)).sum())
    held_out_again(fewer, record, 0.2)
    assert f"a: {gone} voxels that were learnt from are no longer annotated" in caplog.text
    more = item | {"label": item["label"].clone()}
    more["label"][0, :, 2] = 0
    held_out_again(more, record, 0.2)
    assert "a: 18 voxels were painted since. Held out are y = " in caplog.text


def test_a_record_of_a_version_that_kept_no_masks_counts_all_but_what_it_held_out(make_dataset):
    size = (18, 16)
    folder = make_dataset(size=size, channels=1, values=(0, 1), unlabelled=9)
    item = load_case(find_cases(folder)[0], labels=SCHEME, in_channels=1)
    old = {"f" * 64: {"name": "a", "held_out": {"y": [5]}}}
    expected = annotation_of(item) != IGNORE_INDEX
    expected[:, 5] = False
    np.testing.assert_array_equal(learnt_of(old, item), expected)
    assert held_out_again(item, old, 0.0) == {"y": [5]}


@pytest.mark.parametrize(
    "text", ["?", base64.b64encode(b"x").decode(), base64.b64encode(zlib.compress(bytes(10**6))).decode(), 7]
)
def test_a_record_that_is_damaged_is_refused(make_dataset, text):
    folder = make_dataset(size=(18, 16), channels=1, values=(0, 1), unlabelled=9)
    item = load_case(find_cases(folder)[0], labels=SCHEME, in_channels=1)
    record = {f"{item['hash']} a": {"name": "a", "held_out": {}, "learnt": text, "classes": ""}}
    with pytest.raises(InputError, match="record of what was learnt from a is damaged or of another size"):
        learnt_of(record, item)


# --- whole trainings -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clean_process")
def test_a_training_that_goes_on_keeps_its_record_and_refuses_other_classes(make_run, caplog):
    first = make_run(max_epochs=1)
    first.engine.run()
    before = load_checkpoint(first.folder / "model.pt")
    assert before["classes"] == {"names": ["low", "middle", "high"], "values": [0, 1, 2]}
    second = make_run(max_epochs=2, resume=True)
    second.engine.run()
    assert load_checkpoint(first.folder / "model.pt")["trained_on"] == before["trained_on"]
    kept = {path.name: path.read_bytes() for path in first.folder.iterdir() if path.is_file()}
    for names, values in ((["low", "middle", "high"], [2, 1, 0]), (["high", "middle", "low"], [0, 1, 2])):
        third = make_run(max_epochs=3)
        third.dataset.labels = LabelScheme(names, values, 3)
        parts = {k: v for k, v in vars(third).items() if k not in ("engine", "folder", "cases", "resume")}
        with pytest.raises(
            RefusedError, match=r"trained for the classes low = 0, middle = 1, high = 2; now they"
        ):
            trainer(**parts, resume=True)
    assert {path.name: path.read_bytes() for path in first.folder.iterdir() if path.is_file()} == kept


@pytest.mark.parametrize(
    "record", [["a"], {"x": 1}, {"x": {"name": "a"}}, {"x": {"name": "a", "held_out": 3}}]
)
def test_a_checkpoint_whose_record_is_none_is_refused(tmp_path, record):
    torch.save({"model": Constant().state_dict(), "trained_on": record}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="its record of what was trained on was not written by volseg"):
        load_checkpoint(tmp_path / "m.pt")
