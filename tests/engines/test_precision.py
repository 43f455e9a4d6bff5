"""bfloat16 where it is faster, float32 where it is not or is not safe, and the same choice until the end."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from volseg.engines import scale, to_device
from volseg.runs.checkpoint import load_checkpoint

training = sys.modules["volseg.engines.trainer"]  # the name in the package is the function

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.mark.parametrize(("bf16", "faster"), [(0.5, True), (0.75, True), (0.85, False), (2.0, False)])
def test_bfloat16_is_taken_where_it_is_clearly_faster(monkeypatch, bf16, faster):
    asked = []

    def seconds(layer, image, amp):
        asked.append((layer.in_channels, layer.out_channels, tuple(image.shape), amp))
        hiccup = 10.0 if len(asked) < 4 else 0.0  # the first runs allocate memory; others are in the way
        return hiccup + (bf16 if amp else 1.0)

    monkeypatch.setattr(scale, "_seconds", seconds)
    scale._is_faster.cache_clear()
    state = torch.get_rng_state()
    try:
        assert scale._is_faster(3, 4, (3, 3, 3)) is faster
        number = len(asked)
        assert scale._is_faster(3, 4, (3, 3, 3)) is faster
    finally:
        scale._is_faster.cache_clear()
    assert len(asked) == number  # two parts of a bundle ask; they hear the same
    assert {amp for *_, amp in asked} == {True, False}
    assert {a[:3] for a in asked} == {(3, 4, (1, 3, 32, 32, 32))}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_time_of_a_training_step_is_measured(dims):
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[dims](1, 2, 3)
    image = torch.randn(1, 1, *[8] * dims).requires_grad_()
    assert all(scale._seconds(layer, image, amp) > 0 for amp in (True, False))
    assert layer.weight.grad is not None


@pytest.mark.parametrize("begun", [True, False])
def test_a_resumed_run_keeps_the_format_it_was_begun_in_unless_told_otherwise(
    make_run, monkeypatch, begun, caplog
):
    monkeypatch.setattr(training, "use_bf16", lambda *_, **__: begun)
    make_run("parts", precision="auto", max_epochs=1).engine.run()
    whole = make_run("whole", precision="auto")
    whole.engine.run()
    monkeypatch.setattr(training, "use_bf16", lambda *_, **__: not begun)
    resumed = make_run("parts", precision="auto", resume=True)
    resumed.engine.run()
    assert caplog.text == "" or "now it is" not in caplog.text
    facts = json.loads((resumed.folder / "versions.json").read_text())
    assert facts["precision"] == ("bfloat16" if begun else "float32")
    ends = [load_checkpoint(run.folder / "last.pt") for run in (whole, resumed)]
    assert ends[0]["amp"] is ends[1]["amp"] is begun
    for name, tensor in ends[0]["model"].items():
        assert torch.equal(tensor, ends[1]["model"][name])
    told = make_run("parts", precision="float32", resume=True, max_epochs=4)
    told.engine.run()
    assert load_checkpoint(told.folder / "last.pt")["amp"] is (not begun)
    assert f"last.pt has amp = {begun}, now it is {not begun}" in caplog.text


def test_flat_kernels_keep_the_ordinary_layout_on_a_cpu():
    for kernel, last in (((1, 3, 3), False), ((3, 3, 1), False), ((3, 3, 3), True), ((1, 1, 1), True)):
        network = nn.Sequential(nn.Conv3d(2, 4, kernel))
        weight = to_device(network, "cpu")[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last_3d) is (last or kernel == (1, 1, 1))


FLAT = """
import torch
from volseg.engines import to_device
from volseg.networks import UNet
kernels, pools = [(1, 3, 3), (3, 3, 3)], [(1, 2, 2)]
for size in ((6, 192, 192), (8, 160, 160), (8, 128, 128)):
    torch.manual_seed(0)
    network = UNet(3, 1, 2, channels=[(4, 8), (8, 16)], padding="same", norm="batch",
                   kernel_size=kernels, pooling=pools)
    network = to_device(network, "cpu")
    for _ in range(2):
        image, target = torch.randn(1, 1, *size), torch.randint(0, 2, (1, *size))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(image)
        loss = torch.nn.functional.cross_entropy(logits.float(), target)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    print("clean")
"""


@pytest.mark.slow
def test_bfloat16_on_flat_patches_takes_no_run_down():
    """These sizes crashed or gave NaN in channels-last memory (torch 2.13, a processor with AMX)."""
    words = [sys.executable, "-W", "ignore", "-c", FLAT]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["clean"] * 3
