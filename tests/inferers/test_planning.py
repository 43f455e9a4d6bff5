"""The planner estimates memory, takes the tiles that cost least within it, and fixes what it got wrong."""

import copy
import json
import subprocess
import sys
import textwrap
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from volseg.errors import ResourceError
from volseg.geometry import balanced_tiles, plan_tiles
from volseg.inferers import OverlapTileInferer
from volseg.inferers.blocks import BlockRunner
from volseg.inferers.overlap_tile import process_tiles
from volseg.inferers.planning import MemoryTracker, make_plan, operations
from volseg.machine import release_freed_memory
from volseg.networks import UNet, unet3d_2016

GIB = 2**30


@pytest.fixture(params=[2, pytest.param(3, marks=pytest.mark.slow)], ids=["2d", "3d"])
def dims(request):
    return request.param


def ready(network, **options):
    runner = BlockRunner(network.eval(), **options)
    runner.prepare()
    return runner


def small(dims, **options):
    torch.manual_seed(0)
    return UNet(dims, 2, 3, **({"channels": [(8, 12), (12, 16), (16, 20)], "norm": "batch"} | options))


@pytest.mark.parametrize("by_rows", [False, True], ids=["at once", "by rows"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_memory_is_foretold_within_15_per_cent(dims, padding, by_rows):
    """Measured: the bytes of all tensors alive at once, while real numbers go through."""
    runner = ready(small(dims, padding=padding))
    size = (200, 180) if dims == 2 else (44, 40, 36)
    found = plans(runner, size)
    estimated = {plan.tile: plan for plan in found if plan.by_rows == by_rows}
    assert estimated
    volume = torch.randn(2, *size)
    for plan in estimated.values():
        runner.by_rows = by_rows
        with MemoryTracker(is_quick=True) as tracker, torch.no_grad():
            for _ in runner.pieces(volume, plan.tiles[0]):
                pass
        weights = [part.numel() * part.element_size() for part in runner.quick.parameters()]
        measured = tracker.peak - 4 * volume.numel()  # the volume itself does not count
        measured = 1.15 * measured + max(weights) if by_rows else 1.05 * measured + sum(weights)
        assert plan.bytes == pytest.approx(measured, rel=0.15), plan.tile


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other allocators")
def test_large_blocks_go_back_to_the_system_at_once():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    np.ones(30 << 20, np.uint8)  # freed: from now on glibc would keep blocks as large as this
    release_freed_memory()
    before = resident()
    blocks = [np.ones(4 << 20, np.uint8) for _ in range(30)]
    last = blocks[-1]
    del blocks
    assert last[0] == 1
    assert resident() - before < 30 << 20, "not 120"


@pytest.fixture(scope="module")
def grown():
    """MB that convolutions of a thin slab take while they run, and that the tracker counts."""
    if sys.platform != "linux":
        pytest.skip("resident memory is told otherwise elsewhere")
    script = """
        import copy, json, threading, torch
        from pathlib import Path
        from torch import nn
        from volseg.inferers.planning import MemoryTracker
        from volseg.machine import release_freed_memory
        from volseg.networks.layers import convolve

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        def watch(over, seen):
            while not over.wait(0.001):
                seen.append(resident())

        def measure(layer, rows, call, is_quick=False):
            x = torch.randn(1, 16, 6, rows, 160)
            call(x[..., :8, :8])
            over, seen = threading.Event(), [resident()]
            watcher = threading.Thread(target=watch, args=(over, seen))
            watcher.start()
            call(x)
            over.set()
            watcher.join()
            shadow, slab = copy.deepcopy(layer).to("meta"), x.to("meta")
            with MemoryTracker(is_quick=is_quick) as tracker:
                shadow(slab)
            return (max(seen) - seen[0]) / 1e6, tracker.peak / 1e6

        release_freed_memory()
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)
        plain, up = nn.Conv3d(16, 16, 3), nn.ConvTranspose3d(16, 16, 2, 2)
        found = {"up": measure(up, 100, up), "plain": measure(plain, 200, plain)}
        if torch.backends.mkldnn.is_available():
            found["ours"] = measure(plain, 200, lambda x: convolve(x, plain, (0, 0, 0)), True)
        print(json.dumps(found))
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("way", ["plain", "up"])
def test_what_torch_takes_beside_a_thin_slab_is_foretold(grown, way):
    """If torch comes to do without, the rule of ``MemoryTracker`` has had its day."""
    measured, counted = grown[way]
    assert counted > 80
    assert counted == pytest.approx(measured, rel=0.15)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_our_convolution_takes_little_beside_a_thin_slab(grown):
    measured, counted = grown["ours"]
    assert counted < measured < 40


def plans(runner, size):
    found = []
    for limit in (10**6, 4 * 10**6, 30 * 10**6, 10**9):
        try:
            found.append(make_plan(runner, 2, size, limit))
        except ResourceError:
            continue
    return found


@pytest.mark.slow
def test_no_other_tile_that_fits_costs_less():
    """Against every tile there is, each asked for by itself."""
    runner = ready(small(2))
    size, limit = (60, 50), 10**6
    plan = make_plan(runner, 2, size, limit)
    assert plan.bytes <= limit
    required = runner.required
    costs = []
    for choice in product(*balanced_tiles(size, required.halo, required.stride, required.remainder)):
        tile = tuple(step for step, _ in choice)
        read = [max(reads) for _, reads in choice]
        tiles = plan_tiles(size, tile, required.halo, required.stride, required.remainder)
        blocks = Counter(tuple(part.stop - part.start for part in one.read) for one in tiles)
        cost = sum(count * operations(runner.network, block) for block, count in blocks.items())
        if tile == plan.tile:
            assert cost == plan.operations
        needs = []
        for by_rows in (False, True):
            runner.by_rows = by_rows
            with MemoryTracker(is_quick=True) as tracker, torch.no_grad():
                for _ in runner.pieces(torch.zeros(2, *size), tiles[0]):
                    pass
            needs.append(tracker.peak)
        if 1.3 * min(needs) < limit:  # comfortably inside
            costs.append((cost, tile, read))
    assert plan.operations <= min(costs)[0]


@pytest.mark.slow
def test_the_aims_of_the_2016_network_at_2048_cubed():
    """Operations against the published tiles, which write 44 x 44 x 28 voxels each."""
    network = unet3d_2016()
    runner = ready(network)
    size = (2048,) * 3
    published = 47 * 47 * 74 * operations(network, (132, 132, 116))
    for limit, aim in ((2 * 10**9, 3.5), (8 * 10**9, 4.3)):
        plan = make_plan(runner, 3, size, limit)
        assert plan.bytes <= limit
        assert published / plan.operations > aim


@pytest.mark.slow
def test_what_is_held_beside_the_network_counts():
    runner = ready(small(3))
    alone = make_plan(runner, 2, (200, 60, 60), 10**7)
    assert alone.by_rows
    assert alone.tile[0] == 200, "by rows a tile may be as long as the volume"
    loaded = make_plan(runner, 2, (200, 60, 60), 10**7, carried=20.0)
    assert loaded.tile[0] < 200
    assert loaded.bytes <= 10**7


def test_a_volume_that_fits_is_one_tile(dims):
    plan = make_plan(ready(small(dims)), 2, (30,) * dims, GIB)
    assert len(plan.tiles) == 1
    assert not plan.by_rows


class Hungry(nn.Module):
    """A network that cannot take blocks above a size, and says so in one of the ways there are."""

    context, receptive_radius, stride = (1, 1), (1, 1), (2, 2)

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error = most, error
        self.seen = []

    def input_size(self, size):
        if any(n % 2 for n in size):
            raise ValueError("odd")
        return tuple(n + 2 for n in size)

    def forward(self, x):
        self.seen.append(tuple(x.shape[2:]))
        if x.shape[2] * x.shape[3] > self.most:
            raise self.error
        return 2 * x[:, :, 1:-1, 1:-1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
        MemoryError(),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:12]}",
)
def test_a_tile_that_runs_out_of_memory_is_halved_and_the_work_goes_on(error, caplog):
    network = Hungry(120, error)
    x = torch.rand(1, 1, 37, 22)
    torch.testing.assert_close(OverlapTileInferer(16)(x, network), 2 * x)
    failed = [block[0] * block[1] for block in network.seen if block[0] * block[1] > 120]
    assert failed[:2] == [18 * 18, 10 * 18], "half did not suffice either"
    assert failed == sorted(set(failed), reverse=True), "nothing as large is tried again"
    assert "Memory ran out at a tile of 16 x 16; it is halved." in caplog.text


def test_other_errors_are_not_taken_for_a_shortage():
    with pytest.raises(RuntimeError, match="weights are missing"):
        OverlapTileInferer(16)(torch.rand(1, 1, 30, 30), Hungry(10, RuntimeError("weights are missing")))


def test_when_nothing_is_left_to_halve_it_is_said():
    with pytest.raises(ResourceError, match="ran out at the smallest possible tile, 2 x 2 voxels"):
        OverlapTileInferer(8)(torch.rand(1, 1, 30, 30), Hungry(5, MemoryError()))


def test_before_a_tile_is_halved_it_goes_by_rows(monkeypatch, caplog):
    network = small(2).eval()
    x = torch.randn(1, 2, 60, 50)
    expected = OverlapTileInferer(32)(x, network)
    forward = UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda *_: (_ for _ in ()).throw(MemoryError()))
    torch.testing.assert_close(OverlapTileInferer(32)(x, network), expected, rtol=0, atol=1e-5)
    assert "going on by rows" in caplog.text
    monkeypatch.setattr(UNet, "forward", forward)


@torch.no_grad()
def test_by_rows_tiles_are_halved_across_the_rows(monkeypatch):
    network = small(2).eval()
    x = torch.randn(2, 60, 50)
    runner = ready(network)
    runner.by_rows = True
    plain, widths = runner.block, []

    def block(volume, read):
        widths.append(read[1].stop - read[1].start)
        if widths[-1] > 90:
            raise MemoryError
        return plain(volume, read)

    monkeypatch.setattr(runner, "block", block)
    required = runner.required
    tiles = plan_tiles((60, 50), (60, 52), required.halo, required.stride, required.remainder)
    output = torch.zeros(3, 60, 50)
    for tile, where, logits in process_tiles(x, runner, tiles):
        assert tile.write[0] == slice(0, 60)
        output[:, *where] = logits
    torch.testing.assert_close(output, OverlapTileInferer()(x[None], network)[0], rtol=0, atol=1e-5)
    assert min(widths) <= 90 < max(widths)


def test_a_network_with_hooks_or_further_arguments_is_run_as_it_is(dims):
    network = small(dims).eval()
    assert ready(network).quick is not None
    assert ready(network, kwargs={"mode": 1}).quick is None
    assert ready(small(dims, norm="group")).quick is None
    assert ready(small(dims, norm="instance")).quick is None
    assert ready(nn.DataParallel(network)).quick is not None
    hooked = copy.deepcopy(network)
    hooked.bottom.register_forward_hook(lambda *_: None)
    assert ready(hooked).quick is None
    compiled = torch.compile(copy.deepcopy(network))
    assert ready(compiled).quick is None
