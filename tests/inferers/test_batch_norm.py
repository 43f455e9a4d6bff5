"""Whose statistics batch norm uses: of the image, of the training, of both; and what is exported."""

import json
import logging
from pathlib import Path

import pytest
import torch

from volseg.cli.bundles import EXPORT
from volseg.data import WholeVolumes
from volseg.engines import evaluator
from volseg.engines.state import undeformed_blocks
from volseg.inferers import OverlapTileInferer, RotationAveragingInferer
from volseg.inferers.statistics import clean_statistics, statistics_of
from volseg.io import read_weights
from volseg.labels import LabelScheme
from volseg.networks import UNet
from volseg.runs.checkpoint import load_checkpoint, load_weights, save_checkpoint

SCHEME = LabelScheme(["low", "middle", "high"], [0, 1, 2], 3)

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def network(request):
    torch.manual_seed(0)
    return UNet(request.param, 1, 2, channels=[(3, 4), (4, 5)], norm="batch").eval()


def volume(network, n=24):
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(1, 1, *(n,) * network.spatial_dims, generator=generator) + 1


def infer(x, network, batch_norm, **settings):
    return OverlapTileInferer(8, batch_norm=batch_norm, **settings)(x, network)


# --- a mixture ---------------------------------------------------------------------------------------


def test_the_ends_of_a_mixture_are_the_two_that_are_mixed(network):
    x = volume(network)
    for share, other in ((0.0, "running"), (1.0, "volume")):
        found = infer(x, network, "mix", share=share)
        torch.testing.assert_close(found, infer(x, network, other), rtol=0, atol=1e-5)
    ends = (infer(x, network, other) for other in ("running", "volume"))
    assert all((infer(x, network, "mix") - end).abs().max() > 1e-3 for end in ends)


def test_means_and_variances_are_averaged(network):
    x = volume(network)
    before = statistics_of(network)
    kept = {}

    def look(norm, *_):
        kept[norm] = (norm.running_mean.clone(), norm.running_var.clone())

    norms = [part for part in network.modules() if hasattr(part, "running_mean")]
    seen = []
    for mode in ("volume", "mix"):
        handles = [norm.register_forward_hook(look) for norm in norms]  # also keeps the network unfolded
        infer(x, network, mode, share=0.25)
        seen.append(dict(kept))
        for handle in handles:
            handle.remove()
    for norm, (mean, variance) in zip(norms, before, strict=True):
        for number, own in enumerate((torch.tensor(mean), torch.tensor(variance))):
            expected = 0.25 * seen[0][norm][number] + 0.75 * own
            torch.testing.assert_close(seen[1][norm][number], expected)
    assert statistics_of(network) == before


def test_a_mixture_does_not_depend_on_the_tile(network):
    x = volume(network)
    whole = OverlapTileInferer(batch_norm="mix")(x, network)
    torch.testing.assert_close(infer(x, network, "mix"), whole, rtol=0, atol=1e-5)


def test_each_turned_version_is_mixed_with_the_training_not_with_the_version_before(network):
    x = volume(network)
    inner = OverlapTileInferer(batch_norm="mix")
    both = RotationAveragingInferer(inner, "mirror")
    assert (both(x, network) - both(x, network)).abs().max() == 0


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match="share = .* must be between 0 and 1"):
        OverlapTileInferer(batch_norm="mix", share=share)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'mixed' is unknown. Use .* or \"mix\""):
        OverlapTileInferer(batch_norm="mixed")


# --- gathered again -----------------------------------------------------------------------------------


def test_clean_statistics_are_mean_and_total_variance(network):
    """Of the first norm, whose input is a convolution of the blocks; the slow twin puts them side by side."""
    blocks = [volume(network, 28) * factor for factor in (1, 3)]
    before = statistics_of(network)
    mean, variance = clean_statistics(network, blocks)[0]
    assert statistics_of(network) == before
    first = next(part for part in network.modules() if hasattr(part, "kernel_size"))
    together = torch.cat([first(block) for block in blocks]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.tensor(mean), together.mean(1))
    torch.testing.assert_close(torch.tensor(variance), together.var(1, correction=0))


@pytest.mark.slow
def test_blocks_are_cut_from_the_image_as_it_is(make_run):
    dataset = make_run().dataset
    blocks = list(undeformed_blocks(dataset))
    assert blocks[0].shape[1:] == dataset[0]["image"].shape
    images = [torch.as_tensor(case["image"])[0] for case in dataset.cases]
    windows = [image.unfold(0, 24, 1).unfold(1, 24, 1).reshape(-1, 24 * 24) for image in images]
    for block in blocks:
        assert any((window == block.reshape(-1)).all(1).any() for window in windows)


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["running", "clean"])
def test_a_finished_training_keeps_what_it_segments_with_and_the_other(make_run, statistics):
    run = make_run(statistics=statistics)
    run.engine.run()
    content = load_checkpoint(run.folder / "model.pt")
    load_weights(run.network, run.folder / "model.pt")
    assert statistics_of(run.network) == content["statistics"][statistics]
    if statistics == "clean":
        blocks = undeformed_blocks(run.dataset)
        assert content["statistics"]["clean"] == clean_statistics(run.network.eval(), blocks)
        assert content["statistics"]["clean"] != content["statistics"]["running"]


def test_unknown_statistics_are_refused(make_run):
    with pytest.raises(ValueError, match="statistics = 'best' is unknown"):
        make_run(statistics="best")


# --- exported ----------------------------------------------------------------------------------------


def test_exported_weights_in_evaluation_mode_compute_what_predict_computes(make_run, tmp_path):
    run = make_run(statistics="clean")
    run.engine.run()
    arguments = type("", (), {"checkpoint": run.folder / "model.pt", "output": tmp_path / "w.safetensors"})
    arguments.overwrite = False
    EXPORT.run(arguments, ())
    tensors, notes = read_weights(tmp_path / "w.safetensors")
    assert json.loads(notes["statistics"]) == "clean"
    plain = UNet(2, 1, 3, channels=((2, 4), (4, 8)), norm="batch", dropout=0.2)
    plain.load_state_dict(tensors)
    load_weights(run.network, run.folder / "model.pt")
    x = torch.rand(1, 1, *plain.input_size((12, 12)), generator=torch.Generator().manual_seed(0))
    border = plain.context[0]
    expected = OverlapTileInferer()(x, run.network)[..., border:-border, border:-border]
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_evaluate_and_export_say_what_plain_evaluation_mode_is_worth(make_run, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    run = make_run()
    run.engine.run()
    inferer = RotationAveragingInferer(OverlapTileInferer(batch_norm="mix"), "mirror")
    (run.folder / "config.json").write_text(json.dumps({"inferer": {"inferer": {"batch_norm": "mix"}}}))

    def exported(name):
        arguments = type("", (), {"checkpoint": run.folder / "model.pt", "output": tmp_path / name})
        arguments.overwrite = False
        EXPORT.run(arguments, ())
        return capsys.readouterr().out, read_weights(tmp_path / name)[1]

    said, notes = exported("before.safetensors")
    assert 'batch_norm = "mix", which takes statistics from each image' in said
    assert "How good that is, is not known" in said
    assert json.loads(notes["batch_norm"]) == {"mode": "mix"}

    def score(inferer, output_dir):
        dataset = WholeVolumes(run.cases, labels=SCHEME, in_channels=1, held_out=0.2)
        given = {"dataset": dataset, "network": run.network, "inferer": inferer, "output_dir": output_dir}
        engine = evaluator(device="cpu", checkpoint=run.folder / "model.pt", **given)
        engine.run()
        return next(iter(engine.state.metrics.values()))

    with_image = score(inferer, run.folder)
    without = score(RotationAveragingInferer(OverlapTileInferer(), "mirror"), tmp_path / "plain")
    assert "in plain evaluation mode" in caplog.text
    told = json.loads((run.folder / "metrics.json").read_text())["batch_norm"]
    assert (told["mode"], told["score"], told["running"]) == ("mix", with_image, without)
    assert "batch_norm" not in json.loads((tmp_path / "plain" / "metrics.json").read_text())

    said, notes = exported("after.safetensors")
    assert f"{with_image:.3f} with predict, {without:.3f} in evaluation mode" in said
    assert json.loads(notes["batch_norm"]) == told
    told |= {"score": 0.9, "running": 0.5}
    metrics = Path(run.folder / "metrics.json")
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"batch_norm": told}))
    assert "WARNING, that is much worse" in exported("warned.safetensors")[0]


@pytest.mark.slow
def test_an_older_checkpoint_loads_and_that_is_said(make_run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = make_run()
    run.engine.run()
    content = load_checkpoint(run.folder / "model.pt")
    load_weights(run.network, run.folder / "model.pt")
    assert "has the running statistics of its training" not in caplog.text
    del content["statistics"]
    save_checkpoint(tmp_path / "old.pt", content)
    load_weights(run.network, tmp_path / "old.pt")
    assert "old.pt has the running statistics of its training" in caplog.text
