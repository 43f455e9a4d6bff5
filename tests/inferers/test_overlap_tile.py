"""Tiling is invisible: whatever the tile, every voxel comes out as from one pass over the whole."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch import nn

from volseg.errors import InputError, ResourceError
from volseg.geometry import plan_tiles
from volseg.inferers import OverlapTileInferer
from volseg.inferers.blocks import BlockRunner
from volseg.inferers.overlap_tile import process_tiles
from volseg.inferers.planning import estimate_memory
from volseg.machine import free_memory
from volseg.networks import UNet, unet3d_2016

TOLERANCE = {"rtol": 0, "atol": 1e-5}


def make(dims, padding="valid", **options):
    """A small network with weights and running statistics that are not trivial."""
    torch.manual_seed(0)
    options = {
        "channels": [(3, 4), (4, 5)] if dims == 3 else [(3, 4), (4, 5), (5, 6)],
        "norm": "batch",
    } | options
    network = UNet(dims, 2, 3, padding=padding, **options)
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
    return network.eval()


NETWORKS = {
    "2d": make(2),
    "2d padded": make(2, "same"),
    "3d": make(3),
    "3d padded": make(3, "same"),
    "3d flat": make(3, kernel_size=[(3, 3, 1), 3], pooling=[(2, 2, 1)]),
    "2d by 3": make(2, channels=[(3, 4), (4, 5)], pooling=3, kernel_size=[1, 5]),
}


@pytest.fixture(params=["2d", "2d padded", "3d", "3d padded"])
def network(request):
    return copy.deepcopy(NETWORKS[request.param])


def volume(network, *size, items=1, seed=1):
    size = size or {2: (23, 17), 3: (11, 9, 6)}[network.spatial_dims]
    return torch.randn(items, 2, *size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def untiled(network, x):
    """The slow obvious twin: numpy mirrors the whole input, the network takes it in one pass."""
    margins = []
    for axis, size in enumerate(x.shape[2:]):
        context, radius, step = (
            values[axis] for values in (network.context, network.receptive_radius, network.stride)
        )
        before = context if context else -(-radius // step) * step
        after = before
        while (before + size + after - 2 * context) % step != (_rest(network)[axis]):
            after += 1
        margins.append((before, after))
    padded = x.numpy()
    for axis, margin in enumerate(margins, start=2):
        widths = [(0, 0)] * x.ndim
        widths[axis] = margin
        padded = np.pad(padded, widths, mode="reflect" if x.shape[axis] > 1 else "edge")
    out = network(torch.from_numpy(padded))
    for axis, (size, (before, _)) in enumerate(zip(x.shape[2:], margins, strict=True)):
        out = out.narrow(axis + 2, before - network.context[axis], size)
    return out


def _rest(network):
    """What output sizes are modulo the stride."""
    return network._sizes.remainder


@st.composite
def cases(draw):
    network = NETWORKS[draw(st.sampled_from(sorted(NETWORKS)))]
    longest = 40 if network.spatial_dims == 2 else 13
    size = [draw(st.integers(1, longest)) for _ in network.stride]
    tile = [draw(st.integers(1, 4)) * step for step in network.stride]
    return network, size, tile, draw(st.booleans())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(cases())
def test_tiled_equals_whole_for_any_size_and_any_tile(case):
    network, size, tile, by_rows = case
    x = volume(network, *size)
    expected = untiled(network, x)
    torch.testing.assert_close(OverlapTileInferer()(x, network), expected, **TOLERANCE)
    torch.testing.assert_close(tiled(network, x, tile, by_rows=by_rows), expected, **TOLERANCE)


def tiled(network, x, tile, *, by_rows):
    """One item in given tiles, at once or by rows, whatever a planner would prefer."""
    runner = BlockRunner(network)
    runner.prepare()
    runner.by_rows = by_rows
    required = runner.required
    output = torch.full((1, 3, *x.shape[2:]), torch.nan)
    tiles = plan_tiles(x.shape[2:], tile, required.halo, required.stride, required.remainder)
    for _, where, logits in process_tiles(x[0], runner, tiles):
        assert output[0][:, *where].isnan().all(), "written once"
        output[0][:, *where] = logits
    return output


@pytest.mark.parametrize("by_rows", [False, True], ids=["at once", "by rows"])
@pytest.mark.parametrize("name", NETWORKS)
def test_tiled_equals_whole(name, by_rows):
    network = NETWORKS[name]
    x = volume(network)
    tile = tuple(2 * step for step in network.stride)
    torch.testing.assert_close(tiled(network, x, tile, by_rows=by_rows), untiled(network, x), **TOLERANCE)
    torch.testing.assert_close(OverlapTileInferer(tile)(x, network), untiled(network, x), **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2d", "3d padded"])
@pytest.mark.parametrize("mode", ["running", "volume"])
def test_one_thread_and_two_say_the_same(name, mode):
    network = NETWORKS[name]
    x = volume(network)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(OverlapTileInferer(8, batch_norm=mode)(x, network).softmax(1))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_tiled_equals_whole_for_the_2016_network():
    torch.manual_seed(0)
    network = unet3d_2016(2, 3, width=1 / 16).eval()
    x = volume(network, 19, 29, 7)
    torch.testing.assert_close(OverlapTileInferer((16, 16, 8))(x, network), untiled(network, x), **TOLERANCE)


def test_zero_padding_never_reaches_the_output(network):
    """A constant image stays as regular as the up-convolutions leave it, up to the very border."""
    x = torch.ones(1, 2, *volume(network).shape[2:])
    out = OverlapTileInferer(4)(x, network)
    for axis, step in enumerate(network.stride, start=2):
        length = out.shape[axis] - step
        torch.testing.assert_close(out.narrow(axis, step, length), out.narrow(axis, 0, length), **TOLERANCE)


def test_every_item_of_a_batch_goes_by_itself(network):
    x = volume(network, items=3)
    for mode in ("running", "tile", "volume"):
        inferer = OverlapTileInferer(8, batch_norm=mode)
        alone = torch.cat([inferer(item[None], network) for item in x])
        torch.testing.assert_close(inferer(x, network), alone, rtol=0, atol=0)


def test_the_memory_limit_sets_the_tile(network):
    x = volume(network, *(40,) * network.spatial_dims)
    blocks = []
    network.register_forward_pre_hook(
        lambda _, args: blocks.append(args[0].shape) if not args[0].is_meta else None
    )
    expected = OverlapTileInferer()(x, network)
    assert len(blocks) == 1, "it fits, so one tile suffices"
    need = estimate_memory(network, blocks[0], torch.float32).bytes
    blocks.clear()
    torch.testing.assert_close(OverlapTileInferer(None, need - 1)(x, network), expected, **TOLERANCE)
    assert len(blocks) > 1
    assert all(estimate_memory(network, block, torch.float32).bytes < need for block in blocks)


def test_memory_is_foretold_from_the_tensors_alive_at_once():
    layers = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1))
    forecast = estimate_memory(layers, (1, 1, 10, 10), torch.float32)
    alive = 4 * 100 * (1 + 3 + 2)  # the caller keeps the input
    assert forecast.bytes == pytest.approx(1.3 * alive)
    assert forecast.largest == 300
    assert free_memory(torch.device("cpu")) > 2**20


def test_too_little_memory_is_said_before_anything_runs(network):
    with pytest.raises(
        ResourceError, match=r"smallest possible tile needs about .* but only 0\.0 MiB may be used"
    ):
        OverlapTileInferer(max_memory=100)(volume(network), network)


class Talkative(nn.Module):
    """A network whose memory cannot be estimated, because it looks at its values."""

    context, receptive_radius, stride = (0, 0), (0, 0), (1, 1)

    def input_size(self, size):
        return size

    def forward(self, x, offset=0.0):
        return x + float(x.mean()) * 0 + offset


def test_a_network_that_needs_values_is_asked_for_a_tile():
    x = torch.rand(1, 2, 5, 4)
    with pytest.raises(ValueError, match="memory that Talkative needs cannot be estimated"):
        OverlapTileInferer()(x, Talkative())
    torch.testing.assert_close(OverlapTileInferer(2)(x, Talkative()), x)


def test_further_arguments_reach_the_network():
    x = torch.rand(1, 2, 5, 4)
    torch.testing.assert_close(OverlapTileInferer(2)(x, Talkative(), 1.0), x + 1)
    torch.testing.assert_close(OverlapTileInferer(2)(x, Talkative(), offset=2.0), x + 2)


def test_statistics_of_the_volume_do_not_depend_on_the_tile(network):
    x = 3 * volume(network) + 1
    results = [OverlapTileInferer(tile, batch_norm="volume")(x, network) for tile in (4, 8, 12, None)]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], **TOLERANCE)


def test_statistics_of_a_volume_in_one_block_are_those_of_its_tile(network):
    x = 3 * volume(network) + 1
    whole = OverlapTileInferer(batch_norm="tile")(x, network)
    torch.testing.assert_close(
        OverlapTileInferer(8, batch_norm="volume")(x, network), whole, rtol=0, atol=1e-4
    )


def test_statistics_of_the_volume_undo_a_change_of_contrast():
    network = make(2)
    x = volume(network, 64, 64)
    inferer = OverlapTileInferer(16, batch_norm="volume")
    changed = inferer(5 * x, network) - inferer(x, network)
    assert changed.abs().max() < 0.02
    running = OverlapTileInferer(16)
    assert (running(5 * x, network) - running(x, network)).abs().max() > 0.5


def test_statistics_gathered_over_blocks_hold_the_variance_between_them(monkeypatch):
    monkeypatch.setattr("volseg.inferers.statistics._STATISTICS_VOXELS", 20**2)
    network = UNet(2, 1, 1, channels=[(2, 2)], kernel_size=1, norm="batch").eval()
    x = torch.zeros(1, 1, 40, 40)
    x[:, :, 20:] = 10.0  # no variance within a block, all of it between them
    seen = []

    def note(norm, args, _):
        if not norm.training:
            seen.append(((norm.running_mean.clone(), norm.running_var.clone()), args[0]))

    network.bottom.layers[1].register_forward_hook(note)
    OverlapTileInferer(40, batch_norm="volume")(x, network)
    (mean, variance), values = seen[-1]
    torch.testing.assert_close(mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(variance, values.var((0, 2, 3), correction=0))


def test_the_statistics_of_a_volume_keep_to_the_memory_limit(caplog):
    network = make(2)
    x = volume(network, 160, 160)
    blocks = []
    network.register_forward_pre_hook(
        lambda _, args: blocks.append(args[0].shape) if not args[0].is_meta else None
    )
    whole = OverlapTileInferer(batch_norm="volume")(x, network)
    assert not caplog.records
    largest = estimate_memory(network, max(blocks), torch.float32).bytes
    blocks.clear()
    limit = largest // 3
    tight = OverlapTileInferer(max_memory=limit, batch_norm="volume")(x, network)
    assert all(estimate_memory(network, block, torch.float32).bytes <= limit for block in blocks)
    assert "MiB allow no more" in caplog.text
    assert (tight - whole).abs().mean() < 0.3 * whole.std(), "a little different"


def test_statistics_of_the_tile_are_those_of_a_network_in_training(network):
    x = volume(network)
    twin = copy.deepcopy(network).train()
    torch.testing.assert_close(
        OverlapTileInferer(batch_norm="tile")(x, network), untiled(twin, x), **TOLERANCE
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["running", "tile", "volume"])
def test_the_network_is_left_as_it_was_even_after_an_error(network, mode, training):
    network.train(training)
    network.head.train(not training)
    before = copy.deepcopy(network.state_dict())
    modes = [part.training for part in network.modules()]
    x = volume(network)
    OverlapTileInferer(8, batch_norm=mode)(x, network)
    x[0, 0, 5] = torch.nan
    with pytest.raises(InputError):
        OverlapTileInferer(8, batch_norm=mode)(x, network)
    assert [part.training for part in network.modules()] == modes
    assert all(part.track_running_stats for part in network.modules() if hasattr(part, "track_running_stats"))
    assert not any(part._forward_hooks for part in network.modules())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=name)


def test_dropout_is_off_and_no_gradient_is_kept():
    network = make(2, dropout=0.5).train()
    x = volume(network)
    for mode in ("running", "tile", "volume"):
        inferer = OverlapTileInferer(8, batch_norm=mode)
        out = inferer(x, network)
        assert not out.requires_grad
        torch.testing.assert_close(out, inferer(x, network), rtol=0, atol=0)


def test_values_that_are_not_finite_are_reported_with_their_place():
    network = make(2)
    x = volume(network, 24, 24)
    x[0, 0, 3, 3] = torch.inf
    with pytest.raises(
        InputError,
        match=r"logits in the tile of voxels 0:24 x 0:24 are NaN .* holds \d+ NaN or infinite values",
    ):
        OverlapTileInferer(24)(x, network)
    x[0, 0, 3, 3] = 0
    network.head.bias.data.fill_(torch.nan)
    with pytest.raises(InputError, match="The input is finite: look for NaN in the weights"):
        OverlapTileInferer(24)(x, network)
    with pytest.raises(InputError, match="The input is finite: try amp=False"):
        OverlapTileInferer(24, amp=True)(x, network)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float64, torch.float16])
def test_any_real_dtype_goes_in_and_float32_comes_out(network, dtype):
    x = (10 * volume(network)).abs().to(dtype)
    out = OverlapTileInferer(8)(x, network)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, OverlapTileInferer(8)(x.float(), network))


def test_half_precision_changes_rounding_only(network):
    x = volume(network)
    expected = OverlapTileInferer(8)(x, network)
    found = OverlapTileInferer(8, amp=True)(x, network)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).std() < 0.03 * expected.std()


def test_a_metatensor_keeps_its_affine(network):
    x = MetaTensor(volume(network), affine=2 * torch.eye(4))
    out = OverlapTileInferer(8)(x, network)
    assert isinstance(out, MetaTensor)
    torch.testing.assert_close(out.affine, x.affine)
    torch.testing.assert_close(out.as_tensor(), OverlapTileInferer(8)(x.as_tensor(), network))


def test_the_network_may_be_wrapped():
    network = make(2)
    x = volume(network)
    expected = OverlapTileInferer(8)(x, network)
    for tile in (8, None):
        torch.testing.assert_close(
            OverlapTileInferer(tile)(x, nn.DataParallel(network)), expected, **TOLERANCE
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_input_and_network_may_be_on_different_devices(network):
    x = volume(network)
    expected = OverlapTileInferer(8)(x, network)
    network.cuda()
    out = OverlapTileInferer(8)(x, network)
    assert out.device == x.device
    torch.testing.assert_close(out, expected, rtol=0, atol=5e-3)


def test_progress_is_shown_when_asked_for(capsys):
    network = make(2)
    OverlapTileInferer(8, progress=True)(volume(network, 16, 16), network)
    shown = capsys.readouterr().err
    assert "256/256" in shown, "voxels that are done"
    assert "00:00<" in shown, "the time left"
    OverlapTileInferer(8)(volume(network, 16, 16), network)
    assert capsys.readouterr().err == ""


def test_a_tile_off_the_stride_is_refused(network):
    with pytest.raises(ValueError, match=r"tile\[0\] = 7 is not a multiple of the network stride"):
        OverlapTileInferer(7)(volume(network), network)
    with pytest.raises(ValueError, match="holds 4 numbers, but there are"):
        OverlapTileInferer((4, 4, 4, 4))(volume(network), network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_norm": "current"}, "batch_norm = 'current' is unknown"),
        ({"tile": 0}, r"tile\[0\] = 0 is too small"),
        ({"tile": 8.0}, r"tile = 8\.0 is neither a whole number"),
        ({"max_memory": 0}, "max_memory = 0 bytes must be positive"),
    ],
)
def test_impossible_settings_are_refused_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        OverlapTileInferer(**options)


def test_a_network_that_tells_a_part_of_its_sizes_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match="does not say receptive_radius"):
        OverlapTileInferer()(torch.zeros(1, 1, 4, 4), Silent())


class Silent(nn.Module):
    """A padded network that does not say how far it looks."""

    context, stride = (0, 0), (2, 2)

    def input_size(self, size):
        raise ValueError(f"{size} is never right")


class Unwilling(Silent):
    receptive_radius = (0, 0)


class Lying(Talkative):
    context = receptive_radius = (1, 1)


def test_a_network_that_contradicts_itself_is_refused():
    with pytest.raises(
        ValueError, match=r"Unwilling.input_size accepts no output size up to the stride \(2, 2\)"
    ):
        OverlapTileInferer(2)(torch.zeros(1, 1, 4, 4), Unwilling())
    with pytest.raises(
        ValueError,
        match=r"returned \(1, 1, 6, 6\) for a block of \(1, 1, 6, 6\).*promises \(1, classes, 4, 4\)",
    ):
        OverlapTileInferer(4)(torch.zeros(1, 1, 4, 4), Lying())


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 2, 16, 0), (0, 2, 16, 16), (1, 2, 4, 4, 4)])
def test_an_input_of_another_shape_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"The input has the shape .* with 2 spatial axes and at least one voxel"
    ):
        OverlapTileInferer(8)(torch.zeros(shape), NETWORKS["2d"])
