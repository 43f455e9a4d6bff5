"""A network by rows and without batch norm computes what it always computed, and what that costs is known."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from volseg.inferers.planning import MemoryTracker, operations
from volseg.networks import UNet, unet3d_2016, unet_2015
from volseg.networks.layers import convolve
from volseg.networks.rows import fold_batch_norm, forward_rows, rows_per_step

OPTIONS = {
    "plain": {},
    "padded": {"padding": "same"},
    "one level": {"channels": [(3, 4)]},
    "kernels per level": {"kernel_size": [1, 3, 5]},
    "padded, kernels per level": {"kernel_size": [5, 3, 1], "padding": "same"},
    "pooling by 3": {"pooling": [3, 2]},
    "no pooling along the rows": {"kernel_size": [(1, 3), 3, 3], "pooling": [(1, 2), 2]},
    "released": {"up_channels": "halve", "up_activation": True, "conv_bias": False, "up_bias": False},
    "no norm": {"norm": None, "dropout": 0.5},
}


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def dims(request):
    return request.param


def make(dims, options):
    """A network whose statistics and scales are not trivial, and an input for it."""
    torch.manual_seed(0)
    fitted = {
        key: [entry + entry[-1:] * (dims - 2) if isinstance(entry, tuple) else entry for entry in value]
        if key in ("kernel_size", "pooling")
        else value
        for key, value in options.items()
    }
    network = UNet(dims, 2, 3, **({"channels": [(3, 4), (4, 5), (5, 6)], "norm": "batch"} | fitted))
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor in (part.running_mean, part.bias.data):
                tensor.normal_(0, 0.3)
            for tensor in (part.running_var, part.weight.data):
                tensor.uniform_(0.5, 2)
    size = legal(network, 19 if dims == 2 else 7)
    return network.double().eval(), torch.randn(1, 2, *size, dtype=torch.float64)


def legal(network, least):
    """The smallest input that gives at least so many voxels along every axis, more along the first."""
    sizes = []
    for axis, (step, rest) in enumerate(zip(network.stride, network._sizes.remainder, strict=True)):
        wanted = least + 9 * (axis == 0)
        sizes.append(wanted + (rest - wanted) % step)
    return network.input_size(sizes)


@pytest.mark.parametrize("step", [1, 3, 16])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@torch.no_grad()
def test_by_rows_the_numbers_are_the_same(dims, options, step):
    network, x = make(dims, options)
    network = fold_batch_norm(network)
    pieces = list(forward_rows(network, x.split(5, 2), step=step))
    assert len(pieces) > 1 or step == 16
    torch.testing.assert_close(torch.cat(pieces, 2), network(x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_memory_does_not_grow_with_the_number_of_rows(dims):
    network, _ = make(dims, {})
    peaks = []
    for rows in (20, 60):
        size = network.input_size((network.stride[0] * rows,) + (network.stride[0] * 4,) * (dims - 1))
        with MemoryTracker() as tracker:
            few = (torch.zeros(1, 2, 4, *size[1:]).double() for _ in range(size[0] // 4))
            for _ in forward_rows(network, few):
                pass
        peaks.append(tracker.peak)
    assert peaks[1] <= 1.01 * peaks[0]


@torch.no_grad()
def test_by_rows_the_2016_network_needs_a_third_of_the_memory():
    network = unet3d_2016().eval().to("meta")
    x = torch.empty(1, 3, 180, 180, 180, device="meta")
    with MemoryTracker() as at_once:
        network(x)
    with MemoryTracker() as by_rows:
        for _ in forward_rows(network, x.split(16, 2)):
            pass
    assert by_rows.peak < at_once.peak / 3


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@torch.no_grad()
def test_batch_norm_goes_into_the_convolutions(dims, options):
    network, x = make(dims, options)
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_norm(network.train())
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in folded.modules())
    torch.testing.assert_close(folded(x), network.eval()(x), rtol=0, atol=1e-12)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the network itself"


@torch.no_grad()
def test_batch_norm_without_scale_or_shift_folds_too(dims):
    network, x = make(dims, {})
    for name, part in list(network.named_modules()):
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            bare = type(part)(part.num_features, affine=False).double().eval()
            bare.load_state_dict({k: v for k, v in part.state_dict().items() if k not in ("weight", "bias")})
            network.set_submodule(name, bare)
    torch.testing.assert_close(fold_batch_norm(network)(x), network(x), rtol=0, atol=1e-12)


def test_coarser_levels_take_fewer_rows_but_not_too_few():
    network = unet3d_2016(width=1 / 16)
    assert rows_per_step(network) == [16, 8, 4, 4]
    assert rows_per_step(network, 1) == [1, 1, 1, 1]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_operations_are_those_that_torch_counts(dims, options):
    network, x = make(dims, options)
    assert operations(network, x.shape[2:]) == counted(network, x.shape)


@pytest.mark.parametrize("network", [unet_2015(), unet_2015(released=True), unet3d_2016()])
def test_operations_of_the_published_tiles(network):
    tile = {2: (572, 572), 3: (132, 132, 116)}[network.spatial_dims]
    assert operations(network, tile) == counted(network, (1, network.in_channels, *tile))


def counted(network, shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(network).float().to("meta")(torch.empty(shape, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("size", [(1, 5, 6, 7), (2, 5, 6, 7), (1, 5, 90, 91)], ids=str)
@torch.no_grad()
def test_convolutions_by_onednn_are_convolutions(dims, size):
    """Batches of one and small maps are what torch computes in another way."""
    torch.manual_seed(0)
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    for channels, kernel, padding in ((3, 3, 0), (20, 3, 1), (3, 1, 0)):
        layer = kind(channels, 4, kernel, padding=padding)
        x = torch.randn(size[0], channels, *size[4 - dims :])
        expected = layer.double()(x.double())
        found = convolve(x, layer.float(), (padding,) * dims)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
