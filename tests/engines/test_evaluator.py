"""What is scored was not trained on, and a segmentation lies where its image lay."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from torch import nn

from volseg.annotation import hold_out
from volseg.data import WholeVolumes, find_cases, find_images, load_case
from volseg.engines import choose_scale, evaluator, pages, predictor, scale, to_device, use_bf16
from volseg.engines.pages import PAGES, choose_cases
from volseg.engines.scores import Scores
from volseg.errors import InputError, RefusedError
from volseg.io import Volume, read_volume, write_volume
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.metrics import pooled_surface_dice, surface_faces
from volseg.networks import UNet
from volseg.report import class_colours, panel, save_picture
from volseg.runs.checkpoint import save_checkpoint

SCHEME = LabelScheme(["low", "middle", "high"], [0, 1, 2], 3)
SIZES = pytest.mark.parametrize("size", [(20, 16), (20, 16, 12)], ids=["2d", "3d"])


class Nearest(nn.Module):
    """Segments by the first channel: the class whose number is nearest. ``scale`` is its only weight."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.stack([-((x[:, 0] * self.scale - k) ** 2) for k in range(3)], 1)


def by_hand(image, target):
    """IoU per class by counting, voxel after voxel."""
    predicted = np.clip(np.rint(image[0]), 0, 2).astype(int)
    scores = []
    for k in range(3):
        pairs = [
            (p == k, t == k) for p, t in zip(predicted.flat, target.flat, strict=True) if t != IGNORE_INDEX
        ]
        either = sum(p or t for p, t in pairs)
        scores.append(sum(p and t for p, t in pairs) / either if either else math.nan)
    return scores


def datasets(folder, **settings):
    return WholeVolumes(find_cases(folder), labels=SCHEME, in_channels=1, **settings)


def checkpoint(folder, entries):
    content = {"model": Nearest().state_dict(), "trained_on": entries, "iteration": 9}
    save_checkpoint(folder / "model.pt", content)
    return folder / "model.pt"


def run(dataset, **settings):
    settings = {"device": "cpu", "network": Nearest(), "inferer": SimpleInferer()} | settings
    engine = evaluator(dataset=dataset, **settings)
    engine.run()
    return engine.state.metrics


def expect(metrics, kind, scores):
    assert metrics[f"mean IoU: {kind}"] == pytest.approx(np.nanmean(scores))
    for name, score in zip(SCHEME.names, scores, strict=True):
        assert metrics.get(f"IoU of {name}: {kind}", math.nan) == pytest.approx(score, nan_ok=True)


# --- what is scored ----------------------------------------------------------------------------------


@SIZES
def test_exactly_the_voxels_that_were_not_trained_on_are_scored(make_dataset, size, tmp_path):
    last = "xyz"[len(size) - 1]
    folder = make_dataset(size=size, channels=1, truth=True, held_out={last: [5]})
    item = load_case(find_cases(folder)[0], labels=SCHEME, in_channels=1)
    image, truth = item["image"].numpy(), item["truth"][0].numpy()
    annotation = np.where(item["held"][0] == IGNORE_INDEX, item["label"][0], item["held"][0])
    # The dataset says slice 5; the checkpoint was trained with slice 9 held out, and that is what counts.
    weights = checkpoint(tmp_path, {item["hash"]: {"name": "a", "held_out": {last: [9]}}})
    metrics = run(datasets(folder), checkpoint=weights)
    _, held = hold_out(annotation, {last: [9]})
    assert (held != IGNORE_INDEX).sum() == np.prod(size[:-1])
    expect(metrics, "held out", by_hand(image, held))
    never = np.where(annotation == IGNORE_INDEX, truth, IGNORE_INDEX)
    expect(metrics, "never annotated", by_hand(image, never))
    assert by_hand(image, held) != by_hand(image, item["held"][0].numpy())


def test_labels_that_were_not_trained_on_are_scored_entirely(make_dataset, tmp_path):
    folder = make_dataset(size=(20, 16), channels=1, held_out={"y": [5]})
    item = load_case(find_cases(folder)[0], labels=SCHEME, in_channels=1)
    annotation = np.where(item["held"][0] == IGNORE_INDEX, item["label"][0], item["held"][0])
    metrics = run(datasets(folder), checkpoint=checkpoint(tmp_path, {}))
    expect(metrics, "held out", by_hand(item["image"].numpy(), annotation))


def test_a_case_is_known_by_its_image_too(make_dataset, tmp_path):
    """Labels of two images can be the same file, as where neither shows anything."""
    folder = make_dataset(size=(20, 16), channels=1, cases=("a", "b"))
    items = [load_case(case, labels=SCHEME, in_channels=1) for case in find_cases(folder)]
    assert torch.equal(items[0]["label"], items[1]["label"])
    weights = checkpoint(tmp_path, {items[0]["hash"]: {"name": "a", "held_out": {}}})
    metrics = run(datasets(folder), checkpoint=weights)
    expect(metrics, "held out", by_hand(items[1]["image"].numpy(), items[1]["label"][0].numpy()))


def test_without_a_checkpoint_the_split_is_the_datasets(make_dataset):
    folder = make_dataset(size=(20, 16), channels=1, held_out={"y": [5]})
    item = load_case(find_cases(folder)[0], labels=SCHEME, in_channels=1)
    expect(run(datasets(folder)), "held out", by_hand(item["image"].numpy(), item["held"][0].numpy()))


def test_scores_are_pooled_over_cases_and_counted_anew_each_time(make_dataset):
    folder = make_dataset(size=(20, 16), channels=1, cases=("a", "b"), held_out={"y": [5]})
    items = [load_case(case, labels=SCHEME, in_channels=1) for case in find_cases(folder)]
    image = np.concatenate([item["image"].numpy() for item in items], 1)
    held = np.concatenate([item["held"][0].numpy() for item in items])
    engine = evaluator(device="cpu", dataset=datasets(folder), network=Nearest(), inferer=SimpleInferer())
    for _ in range(2):
        engine.run()
        expect(engine.state.metrics, "held out", by_hand(image, held))


def test_nothing_to_score_is_said(make_dataset, caplog, tmp_path):
    assert run(datasets(make_dataset(size=(20, 16), channels=1)), output_dir=tmp_path / "out") == {}
    assert "Nothing was scored: every annotated voxel was trained on" in caplog.text
    assert not (tmp_path / "out" / "picture.png").exists()


def test_figures_are_written_once_and_as_valid_json(make_dataset, tmp_path, caplog):
    folder = make_dataset(size=(20, 16), channels=1, truth=True, held_out={"y": [5]})
    settings = {"output_dir": tmp_path / "out", "tolerance": 1.0}
    with caplog.at_level(logging.INFO):
        metrics = run(datasets(folder), **settings)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads((tmp_path / "out" / "metrics.json").read_text(), parse_constant=refuse)
    assert report["held out"]["voxels"] == 20
    assert report["held out"]["mean IoU"] == pytest.approx(metrics["mean IoU: held out"], abs=1e-5)
    assert len(report["held out"]["precision, recall, F1 within 1 voxel(s)"]["a"]["low"]) == 3
    rows = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert rows[0] == "voxels,case,class,IoU,Dice,surface Dice"
    assert len(rows) == 1 + 2 * 2 * 3  # two kinds, one case and all, three classes
    assert (tmp_path / "out" / "picture.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert 'id="scores"' in page
    assert 'id="again"' in page  # command and versions
    assert "All cases" in page
    assert report["held out"]["headline"]["name"].startswith("mean IoU over all classes")
    assert f"{metrics['mean IoU: held out']:.3f}" in page
    assert "Voxels held out (20): mean IoU" in caplog.text
    with pytest.raises(RefusedError, match="metrics.json exists already and is not overwritten"):
        run(datasets(folder), **settings)
    run(datasets(folder), **settings, overwrite=True)


def test_surfaces_are_scored_beside_voxels_in_file_table_log_and_page(make_dataset, tmp_path, caplog):
    folder = make_dataset(size=(20, 16), channels=1, cases="ab", held_out={"y": [4, 5, 6, 7, 8]})
    last = read_volume(folder / "images" / "b.tif")
    write_volume(folder / "images" / "b.tif", np.roll(last.array, 4, 1), last, overwrite=True)
    items = [load_case(case, labels=SCHEME, in_channels=1) for case in find_cases(folder)]
    faces = []
    for item in items:
        guess = np.clip(np.rint(item["image"][0].numpy()), 0, 2)
        faces.append(surface_faces(guess, item["held"][0], 3)[0])
    with caplog.at_level(logging.INFO):
        run(datasets(folder), output_dir=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["held out"]
    expected = pooled_surface_dice(sum(faces))
    assert 0 < expected.min() < expected.max() < 1
    assert list(found["surface Dice"].values()) == pytest.approx(expected, abs=1e-5)
    for name, own in zip("ab", faces, strict=True):
        by_class = list(found["surface Dice by case"][name].values())
        assert by_class == pytest.approx(pooled_surface_dice(own), abs=1e-5)
    mean = found["mean foreground surface Dice"]
    assert mean == pytest.approx(expected.mean(), abs=1e-5)
    assert found["tolerance of surface Dice in voxels"] == 1
    last = (tmp_path / "out" / "metrics.csv").read_text().splitlines()[-1]
    assert last.startswith("held out,all,high,")
    assert last.endswith(f",{expected[2]:.4f}")
    assert (
        f"mean surface Dice at 1 voxel over all classes (low, middle, high; none is background): {mean:.3f}."
        in caplog.text
    )
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Surface Dice: share of the border that is off by one voxel at most." in page
    for value in (*expected, mean, np.nanmean(pooled_surface_dice(faces[1]))):
        assert f'<td class="number">{value:.3f}</td>' in page


def test_surfaces_know_the_voxel_size_and_cases_weigh_by_their_voxels():
    truth = torch.zeros((1, 12, 12), dtype=torch.uint8)
    truth[..., 5:] = 1
    guess = torch.zeros_like(truth)
    guess[..., 6:] = 1
    found = {}
    for spacing in (None, (1, 1), (9, 9), (1, 5)):
        scores = Scores(LabelScheme(["background", "cell"], [0, 1], 255))
        scores.add("a", "held out", guess, truth, spacing)
        found[spacing] = scores.surfaces["held out"]["a"][1].tolist()
    assert found == {None: [24, 24], (1, 1): [24, 24], (9, 9): [24, 24], (1, 5): [0, 24]}


def test_a_bad_case_ends_the_evaluation_with_its_message(make_dataset, caplog):
    folder = make_dataset(size=(20, 16), channels=2)
    with pytest.raises(InputError, match=r"has 2 channel\(s\), but the bundle expects 1"):
        run(datasets(folder))
    assert "ERROR" not in caplog.text


def test_a_case_without_foreground_has_no_score_but_ends_nothing():
    scores = Scores(LabelScheme(["background", "cell"], [0, 1], 255), tolerance=1)
    blank = torch.zeros((1, 4, 4), dtype=torch.uint8)
    scores.add("a", "held out", blank, blank)
    scores.add("nothing", "held out", blank, torch.full_like(blank, IGNORE_INDEX))
    (found,) = scores.report().values()
    assert found["mean IoU"] == 1.0
    assert found["mean foreground Dice over cases"] is None
    assert found["Dice by case"] == {"a": {"background": 1.0, "cell": None}}
    assert found["precision, recall, F1 within 1 voxel(s)"] == {"a": {"cell": [None, None, None]}}
    (line,) = scores.table()
    assert "1 of 2 classes are nowhere" in line


def test_the_network_is_left_as_it_was(make_dataset):
    network = Nearest().train()
    run(datasets(make_dataset(size=(20, 16), channels=1)), network=network)
    assert network.training


# --- segmentations -------------------------------------------------------------------------------------


@SIZES
@pytest.mark.parametrize("suffix", [".nii.gz", ".tif"])
def test_a_segmentation_lies_where_its_image_lies(tmp_path, size, suffix):
    random = np.random.default_rng(0)
    array = random.uniform(-0.4, 2.4, (1, *size)).astype(np.float32)
    affine = np.diag([*(0.5, 0.5, 2.0)[: len(size)], 1.0])
    if suffix == ".nii.gz":
        affine[:2, :2] = [[0, -0.5], [0.7, 0]]  # turned
        affine[:-1, -1] = [10, -20, 30][: len(size)]
    source = tmp_path / f"a{suffix}"
    write_volume(source, array, Volume(array, affine, "mm" if suffix == ".nii.gz" else "um"))
    scheme = LabelScheme(["low", "middle", "high"], [10, 20, 30], 3)
    weights = checkpoint(tmp_path, {})
    settings = {"device": "cpu", "network": Nearest(), "inferer": SimpleInferer(), "checkpoint": weights}
    dataset = WholeVolumes(find_images(source), labels=scheme, in_channels=1)
    settings |= {"dataset": dataset, "output_dir": tmp_path / "out", "probabilities": True}
    predictor(**settings).run()
    image = read_volume(source)
    result = read_volume(tmp_path / "out" / f"a{suffix}", labels=True)
    maps = read_volume(tmp_path / "out" / f"a_probabilities{suffix}")
    np.testing.assert_array_equal(result.array, 10 * (np.clip(np.rint(image.array), 0, 2) + 1))
    assert result.array.dtype == np.uint8
    assert maps.array.dtype == np.float32
    np.testing.assert_allclose(maps.array.sum(0), 1, atol=1e-6)
    np.testing.assert_array_equal(maps.array.argmax(0), result.array[0] // 10 - 1)
    for written in (result, maps):
        np.testing.assert_allclose(written.affine, image.affine, atol=1e-6)
        assert written.unit == image.unit
    # nothing is written over
    with pytest.raises(RefusedError, match=f"a{suffix} exists already and is not overwritten"):
        predictor(**settings).run()
    (tmp_path / "out" / f"a{suffix}").unlink()
    with pytest.raises(RefusedError, match=f"a_probabilities{suffix} exists already"):
        predictor(**settings).run()
    predictor(**settings, overwrite=True).run()
    with pytest.raises(RefusedError, match="is the image itself: name another output_dir"):
        predictor(**settings | {"output_dir": tmp_path, "overwrite": True}).run()


def test_weights_are_needed_to_score_and_to_segment(make_dataset, tmp_path):
    folder = make_dataset(channels=1)
    images = WholeVolumes(find_images(folder), labels=SCHEME, in_channels=1)
    settings = {"device": "cpu", "network": Nearest(), "inferer": SimpleInferer()}
    settings |= {"checkpoint": tmp_path / "model.pt", "output_dir": tmp_path / "out"}
    for engine in (predictor(dataset=images, **settings), evaluator(dataset=datasets(folder), **settings)):
        with pytest.raises(InputError, match="There is no checkpoint at"):
            engine.run()
    assert not (tmp_path / "out").exists()


# --- how large, on what ---------------------------------------------------------------------------------

SCALES = {"paper": {"width": 32}, "quick": {"width": 8}}


def test_the_scale_follows_the_machine_unless_one_is_asked_for():
    small = choose_scale(SCALES, device="cpu")
    assert (small["width"], small["name"]) == (8, "quick")
    assert small["note"].startswith("No GPU was found: training at the 'quick' scale, the bundle's settings")
    assert "scale='paper' takes those for a GPU" in small["note"]
    assert "narrower" not in small["note"]  # which a network of the user's own need not be
    large = choose_scale(SCALES, device=torch.device("cuda"))
    assert (large["width"], large["note"]) == (32, "Training at the 'paper' scale")
    forced = choose_scale(SCALES, scale="paper", device="cpu")
    assert (forced["width"], forced["note"]) == (32, "Training at the 'paper' scale")
    with pytest.raises(ValueError, match="scale = 'papr' is not one of: auto, paper, quick."):
        choose_scale(SCALES, scale="papr", device="cpu")


def test_a_table_with_a_row_for_each_setting_gives_the_same_scales():
    scales = {"paper": {"width": 32, "norm": None}, "quick": {"width": 8, "norm": "batch"}}
    table = {"width": {"paper": 32, "quick": 8}, "norm": {"paper": None, "quick": "batch"}}
    for name in ("auto", "paper", "quick"):
        found = choose_scale(table=table, scale=name, device="cpu")
        assert found == choose_scale(scales, scale=name, device="cpu")
    assert scale.scale_names(table) == ["paper", "quick"]
    with pytest.raises(ValueError, match="norm has values for the scales paper, other settings for"):
        choose_scale(table=table | {"norm": {"paper": None}}, device="cpu")
    for given in ({}, {"scales": scales, "table": table}):
        with pytest.raises(ValueError, match="either scales or a table of them"):
            choose_scale(**given, device="cpu")


def test_the_number_format_follows_the_machine_unless_one_is_asked_for(monkeypatch):
    network = UNet(2, 1, 2, channels=[(2, 2)])
    flat = UNet(3, 1, 2, channels=[(2, 2)], kernel_size=[[3, 3, 1]])
    assert use_bf16(network, "cpu", precision="bfloat16")
    assert not use_bf16(network, "cpu", precision="float32")
    monkeypatch.setattr(scale, "_is_faster", lambda *_: True)
    for able in (True, False):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda able=able: able, raising=False)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False, raising=False)
        assert use_bf16(network, "cpu") is able
        assert not use_bf16(flat, "cpu")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(scale, "_is_faster", lambda *_: False)
    assert not use_bf16(network, "cpu")
    with pytest.raises(ValueError, match="precision = 'half' is not one of: auto, bfloat16, float32"):
        use_bf16(network, "cpu", precision="half")


@pytest.mark.parametrize("dims", [2, 3])
def test_a_placed_network_computes_the_same(dims):
    network = UNet(dims, 1, 2, channels=[(2, 2)]).eval()
    x = torch.randn(1, 1, *[8] * dims)
    before = network(x)
    torch.testing.assert_close(to_device(network, "cpu")(x), before)


# --- the picture ------------------------------------------------------------------------------------------


@SIZES
@pytest.mark.parametrize("has_truth", [True, False])
def test_a_picture_shows_the_parts_side_by_side(tmp_path, size, has_truth):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (1, *size)).astype(np.uint8)
    for channels in (1, 2, 3, 5):
        image = random.normal(size=(channels, *size))
        picture = panel(image, labels, labels, labels if has_truth else None, 3)
        parts = 4 if has_truth else 3
        assert picture.dtype == np.uint8
        assert picture.shape == (size[1], parts * size[0] + 4 * (parts - 1), 3)
        annotated, predicted = (picture[:, i * (size[0] + 4) :][:, : size[0]] for i in (1, 2))
        np.testing.assert_array_equal(annotated, predicted)
    save_picture(tmp_path / "picture.png", picture, SCHEME, has_truth=has_truth)
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_white_picture_has_as_many_titles_as_parts(tmp_path):
    white = np.full((16, 76, 3), 255, np.uint8)
    for name, has_truth in (("three.png", False), ("four.png", True)):
        save_picture(tmp_path / name, white, SCHEME, has_truth=has_truth)
    assert (tmp_path / "three.png").read_bytes() != (tmp_path / "four.png").read_bytes()


def test_the_picture_shows_a_slice_that_nobody_annotated():
    annotation = np.full((1, 6, 6, 9), IGNORE_INDEX, np.uint8)
    annotation[..., 3:6] = 1  # the middle ones
    image = np.broadcast_to(np.arange(9.0), (1, 6, 6, 9)) + np.random.default_rng(0).normal(size=(1, 6, 6, 9))
    shown = panel(image, annotation, np.zeros_like(annotation), None, 2)[:, 10:16]
    assert (shown == 235).all()  # the colour of what is not annotated


def test_the_worst_the_median_and_the_best_case_have_pages_and_all_are_listed(make_dataset, tmp_path):
    folder = make_dataset(size=(20, 16), channels=1, cases="abcde", held_out={"y": [5]})
    out = tmp_path / "out"
    run(datasets(folder), output_dir=out)
    cases = json.loads((out / "metrics.json").read_text())["held out"]["Dice by case"]
    pages = {what: (out / name).read_text(encoding="utf-8") for what, name in PAGES.items()}
    for what, page in pages.items():
        assert f"the {what} of 5 cases" in page
        for case in cases:
            assert f">{case}<" in page
        for name in PAGES.values():
            assert f'href="{name}"' in page
    run(
        datasets(make_dataset("one", size=(20, 16), channels=1, held_out={"y": [5]})),
        output_dir=out,
        overwrite=True,
    )
    assert {path.name for path in out.glob("report*")} == {"report.html"}


def test_the_picture_is_of_the_worst_case_and_says_so(make_dataset, tmp_path, monkeypatch):
    folder = make_dataset(size=(20, 16), channels=1, cases="abcde", held_out={"y": [5]})
    last = read_volume(folder / "images" / "e.tif")
    write_volume(folder / "images" / "e.tif", last.array * 0, last, overwrite=True)
    shown = []
    monkeypatch.setattr(pages, "save_picture", lambda *given, has_truth: shown.append(given))
    run(datasets(folder), output_dir=tmp_path / "out")
    ((path, picture, _, title),) = shown
    assert path == tmp_path / "out" / "picture.png"
    assert title == "e: the worst of 5 cases"
    predicted = picture[:, 2 * (20 + 4) :][:, :20]
    assert (predicted == class_colours(3)[0]).all()  # the class of what is dark


def test_cases_are_ranked_by_their_headline():
    scores = Scores(LabelScheme(["background", "cell"], [0, 1], 255))
    truth = torch.zeros((1, 4, 4), dtype=torch.uint8)
    truth[0, 0] = 1
    for name, right in (("poor", 1), ("fine", 4), ("fair", 2)):
        guess = torch.zeros_like(truth)
        guess[0, 0, :right] = 1
        scores.add(name, "held out", guess, truth)
    assert choose_cases(scores) == {"worst": "poor", "median": "fair", "best": "fine"}
    assert next(iter(scores.summary())) == "mean foreground IoU: held out"
    assert "mean IoU over foreground classes (cell): " in next(scores.table())
    assert choose_cases(Scores(LabelScheme(["a", "b"], [0, 1], 255))) == {}
