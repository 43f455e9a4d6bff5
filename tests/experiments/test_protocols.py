"""What the experiments divide, derive and combine: no training here."""

import hashlib
from itertools import chain

import numpy as np
import pytest

from volseg.annotation import find_slices, hold_out, keep_slices
from volseg.bundle import check_bundle, read_bundle
from volseg.data import find_cases
from volseg.errors import InputError
from volseg.experiments import datasets
from volseg.experiments.campaign import Cell, Result
from volseg.experiments.comparison import csv_of, grid
from volseg.experiments.datasets import (
    Flat,
    Side,
    annotated,
    count,
    derive,
    divide_budgets,
    divide_folds,
    read_annotated,
    volumes,
    without,
)
from volseg.experiments.sweep import combinations, names_of
from volseg.io import read_volume, write_volume
from volseg.labels import IGNORE_INDEX, LabelScheme

SIZE = (16, 15, 12)
SCHEME = LabelScheme(["inside tubule", "tubule", "background"], [0, 1, 2], 3)
BUNDLE = {
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@x.parameters()", "lr": 0.1, "momentum": 0.9},
    "train": {"trainer": {"batch_size": 1}},
    "seed": 0,
}


@pytest.fixture
def labels():
    """A volume with 4 yz, 3 xz and 5 xy slices annotated."""
    dense = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
    return keep_slices(dense, (4, 3, 5))


@pytest.fixture
def dataset(make_dataset):
    """Two cases with crossing slices and a dense truth."""
    folder = make_dataset(cases=("a", "b"), size=SIZE, truth=True, held_out={"z": [1]})
    for case, counts in (("a", (3, 2, 4)), ("b", (2, 2, 2))):
        truth = read_volume(folder / "truth" / f"{case}.tif", labels=True)
        sparse = keep_slices(truth.array[0], counts, ignore_index=3)
        write_volume(folder / "labels" / f"{case}.tif", sparse, truth, overwrite=True)
    return folder


# --- which slices -------------------------------------------------------------------------------------


def test_all_annotated_slices_are_found_and_of_a_dense_label_the_last_axis(labels):
    assert find_slices(labels) == {"x": [2, 6, 10, 14], "y": [2, 7, 12], "z": [1, 3, 6, 8, 10]}
    assert find_slices(np.zeros((5, 4, 3), np.uint8)) == {"x": [], "y": [], "z": [0, 1, 2]}


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_share_out_every_slice_once_and_evenly(folds):
    cases = {
        "a": {"x": [3, 9, 12], "y": [4], "z": [1, 5, 9, 13, 17, 21]},
        "b": {"x": [], "y": [2, 7], "z": [3]},
    }
    divided = divide_folds(cases, folds)
    for name, slices in cases.items():
        for axis, indices in slices.items():
            assert sorted(chain(*(fold[name][axis] for fold in divided))) == indices
    sizes = [sum(map(count, fold.values())) for fold in divided]
    assert max(sizes) - min(sizes) <= 1
    along_z = [len(fold["a"]["z"]) for fold in divided]
    assert max(along_z) - min(along_z) <= 1


def test_neighbouring_slices_stay_in_one_fold():
    divided = divide_folds({"a": {"z": list(range(10, 22))}}, 3)
    for fold in divided:
        indices = fold["a"]["z"]
        assert len(indices) == 4
        assert indices == list(range(indices[0], indices[0] + 4))


@pytest.mark.parametrize("folds", [1, 4])
def test_impossible_folds_are_refused(folds):
    with pytest.raises(InputError, match=f"{folds} folds of 3 annotated slice.* are not possible"):
        divide_folds({"a": {"x": [1], "z": [2, 3]}}, folds)


def test_budgets_grow_and_are_all_tested_on_the_same_untouched_voxels(labels):
    budgets = ((1, 1, 1), (2, 2, 1), (3, 2, 3))
    divided = divide_budgets(labels, find_slices(labels), budgets)
    assert [tuple(map(len, slices.values())) for slices in divided.slices] == list(budgets)
    fractions = [annotated(train).mean() for train in divided.train]
    assert fractions == sorted(set(fractions))
    test = annotated(divided.test)
    assert test.any()
    np.testing.assert_array_equal(divided.test[test], labels[test])
    for train, slices in zip(divided.train, divided.slices, strict=True):
        assert not (annotated(train) & test).any()
        np.testing.assert_array_equal(train, hold_out(labels, slices)[1])
    whole = hold_out(labels, without(find_slices(labels), divided.slices[-1]))[1]
    lost = annotated(whole) & ~test  # nothing but the lines on slices trained on
    np.testing.assert_array_equal(lost, annotated(whole) & annotated(divided.train[-1]))


def test_a_budget_takes_what_there_is_and_leaves_some_to_test(labels):
    slices = find_slices(labels)
    assert [len(s) for s in divide_budgets(labels, slices, [(9, 9, 2)]).slices[0].values()] == [4, 3, 2]
    with pytest.raises(InputError, match="takes every annotated slice, so none is left"):
        divide_budgets(labels, slices, [(1, 1, 1), (9, 9, 9)])


@pytest.mark.parametrize("budget", [(1, 1), (0, 0, 0), (1, -1, 1)])
def test_a_budget_that_does_not_fit_is_refused(labels, budget):
    with pytest.raises(ValueError, match="does not fit: write one number of slices per axis"):
        divide_budgets(labels, find_slices(labels), [budget])


# --- derived datasets ---------------------------------------------------------------------------------


@pytest.fixture
def parts(dataset):
    """Everything that is annotated, divided into training and test."""
    cases = read_annotated(find_cases(dataset), SCHEME, 3)
    slices = {case.name: find_slices(case.label) for case in cases}
    test = divide_folds(slices, 2)[0]
    both = {case.name: hold_out(case.label, test[case.name]) for case in cases}
    train = {name: without(slices[name], test[name]) for name in both}
    return (
        Side(cases, {name: labels[0] for name, labels in both.items()}, train),
        Side(cases, {name: labels[1] for name, labels in both.items()}, test),
    )


def read_labels(folder, part="labels"):
    return {
        path.stem: SCHEME.encode(read_volume(path, labels=True).array[0])
        for path in sorted((folder / part).iterdir())
    }


def test_no_test_voxel_is_trained_on_and_none_is_lost(parts, dataset, tmp_path):
    train, test = parts
    trained = read_labels(derive(tmp_path / "train", volumes(train), SCHEME))
    tested = read_labels(derive(tmp_path / "test", volumes(test, test=True), SCHEME))
    for name, everything in read_labels(dataset).items():
        one, other = trained[name], tested[f"{name}_test"]
        assert not (annotated(one) & annotated(other)).any()
        np.testing.assert_array_equal(np.minimum(one, other), everything)


def test_in_2d_exactly_the_annotated_slices_are_trained_on(parts, tmp_path):
    train, _ = parts
    folder = derive(tmp_path / "train", Flat(tmp_path / "slices").train(train), SCHEME)
    expected = {
        f"{name}_{axis}{index:03d}"
        for name, slices in train.slices.items()
        for axis, indices in slices.items()
        for index in indices
    }
    found = find_cases(folder)
    assert {case.name for case in found} == expected
    for case in train.cases:
        volume = read_volume(case.case.image)
        for axis, index in (("x", train.slices[case.name]["x"][0]), ("y", train.slices[case.name]["y"][0])):
            path = folder / "images" / f"{case.name}_{axis}{index:03d}.tif"
            image, label = read_volume(path), read_volume(folder / "labels" / path.name, labels=True)
            kept = [i for i in range(3) if "xyz"[i] != axis]
            np.testing.assert_array_equal(image.array, np.take(volume.array, index, 1 + "xyz".index(axis)))
            np.testing.assert_array_equal(
                SCHEME.encode(label.array[0]), np.take(train.labels[case.name], index, "xyz".index(axis))
            )
            assert image.spacing == pytest.approx([volume.spacing[i] for i in kept], rel=1e-5)


def test_2d_and_3d_are_tested_on_the_same_voxels(parts, tmp_path):
    _, test = parts
    in_3d = derive(tmp_path / "3d", volumes(test, test=True), SCHEME)
    in_2d = derive(tmp_path / "2d", Flat(tmp_path / "slices").test(test), SCHEME)
    for part in ("labels", "truth"):
        counts = [
            sum(
                np.bincount(array[annotated(array)], minlength=3)
                for array in read_labels(folder, part).values()
            )
            for folder in (in_3d, in_2d)
        ]
        assert counts[0].sum() > 0
        np.testing.assert_array_equal(*counts)


def test_images_of_volumes_are_not_copied(parts, dataset, tmp_path):
    folder = derive(tmp_path / "train", volumes(parts[0]), SCHEME)
    assert (folder / "images" / "a.tif").samefile(dataset / "images" / "a.tif")


def test_label_files_of_different_slices_differ_even_where_they_show_the_same(parts, tmp_path):
    part = parts[0]
    blank = Side(
        part.cases,
        {n: np.where(annotated(a), 2, IGNORE_INDEX).astype(np.uint8) for n, a in part.labels.items()},
        part.slices,
    )
    folder = derive(tmp_path / "train", Flat(tmp_path / "slices").train(blank), SCHEME)
    files = list((folder / "labels").iterdir())
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in files}) == len(files) > 4


def test_a_dataset_half_written_is_not_used(parts, tmp_path, monkeypatch):
    written = []

    def fail(path, array, like):
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        write_volume(path, array, like)

    monkeypatch.setattr(datasets, "write_volume", fail)
    with pytest.raises(KeyboardInterrupt):
        derive(tmp_path / "sets" / "train", volumes(parts[0]), SCHEME)
    assert list((tmp_path / "sets").iterdir()) == []
    (tmp_path / "sets" / ".train-killed" / "labels").mkdir(parents=True)  # no time to clean up
    monkeypatch.undo()
    folder = derive(tmp_path / "sets" / "train", volumes(parts[0]), SCHEME)
    assert sorted(read_labels(folder)) == ["a", "b"]
    assert list((tmp_path / "sets").iterdir()) == [folder]

    def never():
        raise AssertionError("a complete dataset is written again")
        yield

    assert derive(folder, never(), SCHEME) == folder


def test_a_scheme_without_unlabelled_is_refused(dataset):
    with pytest.raises(
        InputError, match="have no value for unlabelled voxels, but slices are to be left out"
    ):
        read_annotated(find_cases(dataset), LabelScheme(["a", "b"], [0, 1]), 3)


@pytest.mark.parametrize("bundle", ["xenopus", "medulla", "hippocampus"])
def test_the_overlay_for_slices_fits_every_3d_bundle(root, bundle):
    files = [root / "bundles" / f"{bundle}.json", root / "configs" / "slices_2d.json"]
    assert check_bundle(files) == []
    assert read_bundle(files)["network_def"]["spatial_dims"] == 2


# --- the grid of a sweep ------------------------------------------------------------------------------


def test_every_combination_is_a_cell():
    found = combinations(
        BUNDLE, {"seed": 1}, {"train#trainer#batch_size": [1, 4], "optimizer#lr": [0.1, 0.01]}
    )
    assert [one.name for one in found] == [
        "batch_size=1,lr=0.1", "batch_size=1,lr=0.01", "batch_size=4,lr=0.1", "batch_size=4,lr=0.01",
    ]  # fmt: skip
    assert found[3].settings == {"seed": 1, "train#trainer#batch_size": 4, "optimizer#lr": 0.01}
    assert found[3].title == "batch_size 4, lr 0.01"


@pytest.mark.parametrize("entry", ["optimizer", "optimizer#_target_"])
@pytest.mark.parametrize("value", ["AdamW", "torch.optim.AdamW"])
def test_another_component_takes_the_arguments_it_knows(entry, value):
    _, adam = combinations(BUNDLE, {}, {entry: ["SGD", value]})
    assert adam.shown == {"optimizer": "AdamW"}
    expected = {"_target_": "torch.optim.AdamW", "params": "$@x.parameters()", "lr": 0.1}
    assert adam.settings == {"optimizer": expected}


def test_an_entry_keeps_its_full_name_where_its_last_word_is_not_its_own():
    assert names_of({"train#a#lr": [], "b#lr": [], "c#size": []}) == {
        "train#a#lr": "train#a#lr", "b#lr": "b#lr", "c#size": "size",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "vary", "message"),
    [
        ({}, {}, "Nothing is varied: say what by vary="),
        ({"seed": 1}, {"seed": [1, 2]}, "seed is set and varied"),
        ({}, {"seed": [1, 1]}, "vary: seed has a value twice"),
        ({}, {"seed": ["a b", "a/b"]}, "Two of the values varied look the same"),
        (
            {},
            {"optimizer": ["SGD", "Adamw"]},
            "cannot locate 'torch.optim.Adamw'; did you mean",
        ),
        ({}, {"optimizer": ["SWALR"]}, "torch.optim.SWALR"),
    ],
)
def test_a_slip_in_what_is_varied_is_told(settings, vary, message):
    with pytest.raises(ValueError, match=message):
        combinations(BUNDLE, settings, vary)


# --- tables -------------------------------------------------------------------------------------------


def test_a_table_has_a_dash_for_what_is_missing_and_a_mean_for_what_is_complete():
    cells = [Cell(f"{c}{r}", "", str(r), c, (), {}, facts={"fold": r}) for r in (1, 2) for c in ("A", "B")]
    scores = {"A1": 0.5, "A2": 0.75, "B1": 0.25}
    results = {
        name: Result({"held out": {"mean IoU": s, "IoU": {"x": s}, "voxels": 9}, "iteration": 4}, 60.0)
        for name, s in scores.items()
    }
    assert grid(cells, results, "row").splitlines() == [
        "| row | A | B |",
        "| --- | --- | --- |",
        "| 1 | 0.500 | 0.250 |",
        "| 2 | 0.750 | – |",
        "| mean | 0.625 | – |",
    ]
    lines = csv_of(cells, results).splitlines()
    assert (
        lines[0]
        == 'cell,fold,"mean IoU, held out","IoU of x, held out","voxels, held out",iterations,minutes,trouble'
    )
    assert lines[1] == "A1,1,0.5,0.5,9,4,1.00,"
    assert lines[4] == "B2,2,–,–,–,–,–,–"


def test_the_papers_means_are_those_it_prints():
    from volseg.experiments.comparison import TABLE_1, TABLE_3

    means = {name: [round(sum(table[name]) / 3, 3) for table in (TABLE_1, TABLE_3)] for name in TABLE_1}
    assert means == {
        "3D without BN": [0.842, 0.723],
        "3D with BN": [0.863, 0.704],
        "2D with BN": [0.796, 0.547],
    }
