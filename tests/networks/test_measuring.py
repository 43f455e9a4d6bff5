"""What a network does to sizes is found without its word, and then tiling is invisible, too."""

import pytest
import torch
from monai.networks import nets
from torch import nn

from volseg.errors import InputError
from volseg.inferers import OverlapTileInferer
from volseg.inferers.blocks import requirements_of, window_of
from volseg.networks import UNet, context_of
from volseg.networks.measuring import first_output, looks_how_far, nearest_sizes, sizes_of

LEVELS = [[2, 4], [4, 8], [8, 8]]


class Silent(nn.Module):
    """A network that does not say its sizes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_measured_is_what_the_unet_says(dims, padding):
    unet = UNet(dims, 2, 3, channels=LEVELS[: 5 - dims], padding=padding)
    measured, said = requirements_of(Silent(unet)), requirements_of(unet)
    assert measured.context == said.context == context_of(Silent(unet))
    assert (measured.stride, measured.remainder) == (said.stride, said.remainder)
    assert all(a <= b <= a + s for a, b, s in zip(said.halo, measured.halo, said.stride, strict=True))
    assert sizes_of(Silent(unet))[0] == 2


def test_an_anisotropic_network_is_measured_along_each_axis():
    network = nets.UNet(3, 1, 2, [4, 4, 4], [(2, 2, 1), (2, 2, 2)], norm="batch")
    assert sizes_of(network).step == (4, 4, 2)
    assert requirements_of(network).stride == (4, 4, 2)


FOREIGN = {
    "UNet": lambda: nets.UNet(2, 1, 3, [4, 8, 8], [2, 2], num_res_units=1, norm="batch"),
    "UNet 3D": lambda: nets.UNet(3, 1, 2, [4, 4], [2], norm="batch"),
    "BasicUNet": lambda: nets.BasicUNet(2, 1, 2, features=(2, 2, 4, 4, 4, 2), norm="batch"),
    "BasicUNetPlusPlus": lambda: nets.BasicUNetPlusPlus(2, 1, 2, features=(2, 2, 4, 4, 4, 2), norm="batch"),
    "DynUNet": lambda: nets.DynUNet(
        2, 1, 2, [3, 3, 3, 3], [1, 2, 2, 2], [2, 2, 2], filters=[2, 4, 4, 4], norm_name="batch",
        deep_supervision=True,
    ),
    "a single layer": lambda: nn.Conv2d(1, 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_tiles_of_a_network_of_others_are_invisible(name):
    torch.manual_seed(0)
    network = FOREIGN[name]().eval()
    dims = len(sizes_of(network).size)
    size = (146, 138) if dims == 2 else (46, 38, 20)
    x = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(1))
    small, whole = (OverlapTileInferer([t] * dims)(x, network) for t in (48, 192))
    torch.testing.assert_close(small, whole, rtol=0, atol=1e-5)
    assert small.shape[2:] == x.shape[2:]


def test_the_reach_that_is_measured_is_the_least_that_hides_tiles():
    """With a border narrower by one stride they show."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 5, padding=2), nn.MaxPool2d(2), nn.ConvTranspose2d(2, 2, 2, 2)
    ).eval()
    assert looks_how_far(network) == (2, 2)
    assert looks_how_far(nn.Sequential(nn.Conv2d(1, 2, 9, padding=4))) == (4, 4)


def test_borders_many_times_the_image_are_not_read(caplog):
    network = FOREIGN["BasicUNet"]().eval()
    assert requirements_of(network).halo == (96, 96)
    assert window_of(network, (200, 200)) is None
    with caplog.at_level("INFO"):
        assert window_of(FOREIGN["BasicUNet"](), (40, 30)) == (64, 64)
    assert "depends on (96, 96) voxels around it, too much for seamless tiles" in caplog.text
    assert OverlapTileInferer()(torch.rand(1, 1, 40, 30), network).shape == (1, 2, 40, 30)


@pytest.mark.slow
def test_a_transformer_goes_through_the_sliding_window(caplog):
    pytest.importorskip("einops")
    torch.manual_seed(0)
    network = nets.UNETR(
        1, 2, (32, 48), feature_size=2, hidden_size=8, mlp_dim=8, num_heads=2, spatial_dims=2
    )
    x = torch.rand(1, 1, 50, 40)
    with caplog.at_level("INFO"):
        found = OverlapTileInferer()(x, network.eval())
    assert window_of(network, (50, 40)) == (32, 48)
    assert found.shape == (1, 2, 50, 40)
    assert "depends on its whole input" in caplog.text
    assert "sliding window of 32 x 48 voxels" in caplog.text
    with pytest.raises(ValueError, match="tiles cannot be planned for it"):
        requirements_of(network)
    with pytest.raises(ValueError, match="with 2 spatial axes is needed"):
        OverlapTileInferer()(torch.rand(1, 1, 8, 8, 8), network)


def test_norms_that_look_at_the_tile_are_told(caplog):
    network = nets.UNet(2, 1, 2, [4, 4], [2])
    with caplog.at_level("INFO"):
        requirements_of(network)
        requirements_of(network)
    assert len(caplog.records) == 1
    assert "Its InstanceNorm2d takes statistics from the tile" in caplog.text


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(3, 3), "not all 2D or all 3D"),
        (nn.Conv2d(1, 2, 3, stride=2, padding=1), "returns 32 x 32 voxels for 64 x 64"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), "took no input of the sizes tried"),
    ],
)
def test_what_cannot_segment_is_refused(network, message):
    with pytest.raises(InputError, match=message):
        context_of(network)


def test_of_several_outputs_the_first_counts():
    x = torch.zeros(1, 2, 4, 4)
    assert first_output([x, x[:, :1]], 2) is x
    assert first_output(torch.stack([x, x + 1], 1), 2).equal(x)
    for wrong in ({"out": x}, [], x[0]):
        with pytest.raises(InputError, match=r"where logits \(B, classes, \*spatial\) with 2 spatial axes"):
            first_output(wrong, 2)


def test_the_nearest_legal_sizes_are_named():
    sizes = sizes_of(nets.UNet(2, 1, 2, [4, 4, 4, 4], [2, 2, 2]))
    assert nearest_sizes(sizes, (28, 32)) == [(24, 32), (32, 32)]
    assert nearest_sizes(sizes, (3, 8)) == [(8, 8)]


def test_measuring_leaves_the_network_as_it_was():
    network = nets.UNet(2, 1, 2, [4, 4], [2], norm="batch").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    looks_how_far(network)
    assert network.training
    assert any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
