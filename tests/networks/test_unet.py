"""The published networks to the last parameter, and what holds for every U-Net built from them."""

import copy
import re
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from volseg.networks import UNet, unet3d_2016, unet_2015
from volseg.networks.layers import crop

PAIRS = [(3, 4), (4, 6), (6, 8)]


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def dims(request):
    return request.param


def small(dims, **options):
    torch.manual_seed(0)
    options = {"channels": PAIRS, "norm": "batch"} | options
    return UNet(dims, 2, 3, **options)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_the_published_networks_have_the_published_number_of_parameters():
    assert parameters(unet_2015()) == 31_030_658
    assert parameters(unet_2015(released=True)) == 31_100_354
    assert parameters(unet3d_2016(norm=None)) == 19_069_955
    assert parameters(unet3d_2016()) == 19_069_955 + 4_672


def test_the_2015_network_has_23_convolutional_layers():
    convolutions = [part for part in unet_2015().modules() if isinstance(part, nn.modules.conv._ConvNd)]
    assert len(convolutions) == 23


@pytest.mark.slow
@torch.no_grad()
def test_the_published_tiles_come_out_in_the_published_sizes():
    assert unet_2015(width=1 / 16)(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    assert unet3d_2016(width=1 / 16)(torch.zeros(1, 3, 132, 132, 116)).shape == (1, 3, 44, 44, 28)


def test_width_scales_the_channels_and_nothing_else():
    narrow, wide = unet3d_2016(width=0.5), unet3d_2016()
    assert [p.ndim for p in narrow.parameters()] == [p.ndim for p in wide.parameters()]
    assert narrow.bottom.layers[3].weight.shape == (256, 128, 3, 3, 3)
    assert narrow.context == wide.context
    assert unet_2015(width=1e-6).bottom.layers[0].weight.shape[:2] == (2, 2)


def test_dropout_stands_at_the_end_of_the_two_deepest_levels():
    places = [name for name, part in unet_2015().named_modules() if isinstance(part, nn.Dropout)]
    assert places == ["analysis.3.layers.4", "bottom.layers.4"]
    assert not any(isinstance(part, nn.Dropout) for part in unet3d_2016(width=0.1).modules())


OPTIONS = {
    "plain": {},
    "one level": {"channels": [(3, 4)]},
    "kernels per level": {"kernel_size": [1, 3, 5]},
    "flat first level": {"kernel_size": [(3, 1), 3, (1, 3)], "pooling": [(2, 1), 2]},
    "pooling by 3": {"pooling": [3, 2]},
    "halve": {"up_channels": "halve", "up_activation": True, "conv_bias": False, "up_bias": False},
    "dropout": {"dropout": 0.3},
    "instance": {"norm": "instance"},
    "group": {"norm": "group", "channels": [(3, 4), (4, 16)]},
    "none": {"norm": None},
}


def fitted(options, dims):
    """Per-axis options of two numbers, with the first one twice in 3D."""

    def fit(entry):
        return entry[:1] * (dims - 1) + entry[1:] if isinstance(entry, tuple) else entry

    return {k: [fit(e) for e in v] if k in ("kernel_size", "pooling") else v for k, v in options.items()}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_what_comes_out_has_the_size_that_was_foretold(dims, options, padding):
    network = small(dims, padding=padding, **fitted(options, dims)).eval()
    legal = follow_the_messages(network, [2 * c + 11 for c in network.context])
    with torch.no_grad():
        result = network(noise(1, 2, *legal))
    assert result.shape == (1, 3, *network.output_size(legal))
    assert network.output_size(legal) == tuple(n - 2 * c for n, c in zip(legal, network.context, strict=True))
    assert network.input_size(network.output_size(legal)) == tuple(legal)


def follow_the_messages(network, sizes):
    """A legal input size, found as a user would who takes the larger one of the sizes offered."""
    for axis in range(network.spatial_dims):
        try:
            network.output_size(sizes)
        except ValueError as refusal:
            named, nearest = re.fullmatch(r"input_size\[(\d)\] = .* (\d+)\.", str(refusal)).groups()
            assert int(named) >= axis
            sizes[int(named)] = int(nearest)
    return sizes


def test_an_unpadded_network_sees_its_context_and_not_a_voxel_more(dims):
    network = small(dims, norm=None, channels=[(3, 4), (4, 4)]).double().eval()
    for part in network.modules():
        if isinstance(part, nn.modules.conv._ConvNd):
            nn.init.uniform_(part.weight, 0.1, 1.0)  # nothing cancels and no ReLU closes
    x = noise(1, 2, *network.input_size((2,) * dims)).double().abs().requires_grad_()
    out = network(x)
    assert out.shape[2:] == (2,) * dims
    out.sum().backward()
    touched = (x.grad != 0).any(dim=1)[0]
    for axis in range(dims):
        along = touched.movedim(axis, 0).flatten(1).any(1)
        assert along[0], "the outermost voxel is part of the context"
        assert along[-1]


def test_shifting_the_input_by_the_stride_shifts_the_output(dims):
    network = small(dims).eval()
    sizes = network.input_size((8,) * dims)
    x = noise(1, 2, *(n + s for n, s in zip(sizes, network.stride, strict=True)))
    with torch.no_grad():
        first = network(x[(..., *(slice(0, n) for n in sizes))])
        second = network(x[(..., *(slice(s, None) for s in network.stride))])
    overlap = tuple(slice(s, None) for s in network.stride), tuple(slice(None, -s) for s in network.stride)
    torch.testing.assert_close(first[(..., *overlap[0])], second[(..., *overlap[1])], rtol=0, atol=1e-5)


def test_the_upsampled_map_comes_before_the_cropped_skip(dims):
    network = small(dims, norm=None, channels=[(3, 4), (4, 6)]).eval()
    seen = {}
    network.synthesis[0].register_forward_pre_hook(lambda _, args: seen.update(joined=args[0]))
    network.ups[0].register_forward_hook(lambda _, args, out: seen.update(up=out))
    network.analysis[0].register_forward_hook(lambda _, args, out: seen.update(skip=out))
    with torch.no_grad():
        network(noise(1, 2, *network.input_size((6,) * dims)))
    margin = (seen["skip"].shape[2] - seen["up"].shape[2]) // 2
    middle = seen["skip"][(..., *(slice(margin, -margin),) * dims)]
    torch.testing.assert_close(seen["joined"], torch.cat([seen["up"], middle], 1), rtol=0, atol=0)


def test_weights_start_gaussian_with_the_spread_of_the_released_code(dims):
    network = UNet(dims, 1, 2, channels=[(32, 64), (64, 64)])
    convolution, up = network.analysis[0].layers[2], network.ups[0]
    assert convolution.weight.std().item() == pytest.approx((2 / (32 * 3**dims)) ** 0.5, rel=0.05)
    assert up.weight.std().item() == pytest.approx((2 / (64 * 2**dims)) ** 0.5, rel=0.05)
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("plan", [unet_2015, unet3d_2016])
def test_variance_passes_through_the_second_convolution_of_every_level(plan):
    """Unit variance is what the paper aims at; max pooling of noise roughly doubles it per level."""
    torch.manual_seed(0)
    network = plan(norm=None, width=0.25).eval()
    variances = []
    for level in [*network.analysis, network.bottom, *network.synthesis]:
        for convolution in (level.layers[0], level.layers[2]):
            convolution.register_forward_hook(lambda _, args, out: variances.append(out.var().item()))
    x = noise(1, network.in_channels, *network.input_size((4,) * network.spatial_dims)) * 0.5**0.5
    with torch.no_grad():
        network(x)
    first, second = np.array(variances).reshape(-1, 2).T
    assert variances[0] == pytest.approx(1, abs=0.2)
    assert ((second / first > 0.4) & (second / first < 2)).all(), second / first
    assert np.exp(np.log(second / first).mean()) == pytest.approx(1, abs=0.2)


def test_checkpointing_changes_neither_gradients_nor_running_statistics(dims):
    plain = small(dims, dropout=0.5).train()
    sparing = copy.deepcopy(plain)
    for part in sparing.modules():
        if hasattr(part, "checkpointing"):
            part.checkpointing = True
    x = noise(1, 2, *plain.input_size((8,) * dims))
    for network in (plain, sparing):
        torch.manual_seed(3)
        network(x).square().mean().backward()
    for expected, found in zip(plain.parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
    for (name, expected), found in zip(plain.named_buffers(), sparing.buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=f"{name} moved twice")


def test_checkpointing_is_a_choice_at_construction():
    assert all(part.checkpointing for part in unet3d_2016(width=0.1, checkpointing=True).analysis)


@pytest.mark.parametrize("grad", [False, True])
def test_without_gradient_the_uncropped_maps_are_freed(dims, grad):
    network = small(dims).eval()
    maps = []
    network.analysis[0].register_forward_hook(lambda _, args, out: maps.append(weakref.ref(out)))
    alive = []
    network.bottom.register_forward_pre_hook(lambda *_: alive.append(maps[0]() is not None))
    with torch.set_grad_enabled(grad):
        network(noise(1, 2, *network.input_size((8,) * dims)))
    assert alive == [grad]


@torch.no_grad()
def test_bf16_and_channels_last_change_rounding_only(dims):
    network = small(dims).eval()
    x = noise(1, 2, *network.input_size((8,) * dims))
    expected = network(x)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    network, x = network.to(memory_format=layout), x.to(memory_format=layout)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x)
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).std() < 0.03 * expected.std()


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_scripted_network_computes_the_same(dims, padding):
    network = small(dims, padding=padding).eval()
    x = noise(1, 2, *network.input_size((8,) * dims))
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))


def test_an_illegal_input_is_refused_before_any_convolution():
    network = unet3d_2016(width=0.1)
    with pytest.raises(ValueError, match=r"input_size\[2\] = 118 is not a legal .* Nearest: 116 and 124\."):
        network(torch.zeros(1, 3, 132, 132, 118))
    with pytest.raises(ValueError, match=r"has the shape \(1, 1, 132, 132, 116\), but the network takes"):
        network(torch.zeros(1, 1, 132, 132, 116))
    with pytest.raises(ValueError, match=r"\(batch, 3, \*spatial\) with 3 spatial axes"):
        network(torch.zeros(1, 3, 132, 132))
    with pytest.raises(ValueError, match=r"output_size\[0\] = 40 is not .* Nearest: 36 and 44\."):
        network.input_size((40, 44, 28))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims = 4 is not possible"),
        ({"in_channels": 0}, r"in_channels\[0\] = 0 is too small"),
        ({"padding": "mirror"}, "padding = 'mirror' is unknown"),
        ({"norm": "layer"}, "norm = 'layer' is unknown"),
        ({"dropout": 1.0}, "dropout = 1.0 is not a probability below 1"),
        ({"channels": []}, "channels is empty"),
        ({"channels": [(4, 4), (4,)]}, r"channels\[1\] = \(4,\) holds 1 numbers"),
        ({"kernel_size": [3, 3]}, r"kernel_size = \[3, 3\] has 2 entries, .* 3, one per level"),
        ({"kernel_size": 4}, "kernel_size of level 0 is \\(4, 4\\): an even kernel has no centre"),
        ({"pooling": [2, 2, 2]}, "must be 2, one per step down"),
        ({"pooling": 2.5}, "pooling = 2.5 is neither a whole number"),
        ({"up_channels": "double"}, "up_channels = 'double' is not possible"),
        ({"up_channels": ["keep"]}, "or 2 of these"),
        ({"channels": [(1, 1), (1, 1), (1, 1)], "up_channels": "halve"}, "cannot halve a single channel"),
    ],
)
def test_an_impossible_network_is_refused(options, message):
    options = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": PAIRS} | options
    with pytest.raises(ValueError, match=message):
        UNet(**options)


def test_a_width_of_nothing_is_refused():
    with pytest.raises(ValueError, match="width = 0 must be positive"):
        unet_2015(width=0)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_gradients_are_those_that_autograd_finds_by_itself(dims, padding, monkeypatch):
    network = small(dims, padding=padding).double()
    size = (44,) * dims if padding == "valid" else (16,) * dims
    image = noise(1, 2, *size).double().requires_grad_()
    wanted = [image, *network.parameters()]

    def gradients():
        result = network(image)
        return torch.autograd.grad(result, wanted, torch.ones_like(result))

    found = gradients()
    monkeypatch.setattr(UNet, "_crop_and_pool", lambda _, x, margin, pool: (crop(x, margin), pool(x)))
    for ours, theirs in zip(found, gradients(), strict=True):
        torch.testing.assert_close(ours, theirs)
