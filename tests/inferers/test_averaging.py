"""Averaged over a group of symmetries, any network's answer turns with the image."""

import math
import weakref

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from torch import nn

from volseg.geometry import Symmetry, grid_symmetries
from volseg.inferers import OverlapTileInferer, RotationAveragingInferer
from volseg.inferers.averaging import turn, turn_back
from volseg.networks import UNet

EXACT = {"rtol": 0, "atol": 1e-6}
CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}


@pytest.fixture(params=[(7, 5), (5, 4, 3)], ids=["2d", "3d"])
def x(request):
    return torch.randn(2, 2, *request.param, generator=torch.Generator().manual_seed(0))


def crooked(dims):
    """A network that treats no two directions alike."""
    torch.manual_seed(1)
    return nn.Sequential(CONVOLUTION[dims](2, 4, 3, padding="same"), nn.Tanh(), CONVOLUTION[dims](4, 3, 1))


def all_planes(dims):
    return [(i, j) for i in range(dims) for j in range(i + 1, dims)]


def averaging(symmetries="grid", dims=2, **options):
    options = {"planes": all_planes(dims)} | options
    return RotationAveragingInferer(SimpleInferer(), symmetries, **options)


# Symmetries


@pytest.mark.parametrize(
    ("dims", "planes", "count"),
    [
        (2, [], 4),
        (2, [(0, 1)], 8),
        (3, [], 8),
        (3, [(1, 2)], 16),
        (3, [(2, 0), (1, 0)], 48),
        (3, [(0, 1), (1, 2)], 48),
        (3, [(1, 2), (0, 1)], 48),
    ],
)
def test_a_grid_has_as_many_symmetries_as_geometry_says(dims, planes, count):
    group = grid_symmetries(dims, planes)
    assert len(set(group)) == count
    assert group[0] == Symmetry(tuple(range(dims)), (False,) * dims)
    x = torch.arange(2 * 3**dims).reshape(1, 2, *(3,) * dims)
    images = {tuple(turn(each, x).flatten().tolist()) for each in group}
    assert len(images) == count
    # Closed: a symmetry of a symmetry is one of them.
    assert images == {tuple(turn(a, turn(b, x)).flatten().tolist()) for a in group for b in group[-3:]}
    assert sum(each.is_rotation for each in group) == count // 2


def test_quarter_turns_are_rotations_and_mirror_images_are_not():
    assert Symmetry((1, 0), (False, True)).is_rotation
    assert Symmetry((0, 1), (True, True)).is_rotation
    assert not Symmetry((0, 1), (False, True)).is_rotation
    assert not Symmetry((1, 0), (False, False)).is_rotation
    x = torch.arange(6).reshape(1, 1, 2, 3)
    assert torch.equal(turn(Symmetry((1, 0), (True, False)), x), x.rot90(1, (2, 3)))


def test_turning_back_undoes_turning(x):
    for each in grid_symmetries(x.ndim - 2, all_planes(x.ndim - 2)):
        assert torch.equal(turn_back(each, turn(each, x)), x)


@pytest.mark.parametrize(
    ("symmetries", "options", "shape", "count"),
    [
        ("grid", {}, (4, 4), 8),
        ("square", {}, (4, 4), 8),
        ("rotations7", {}, (4, 4), 7),
        ("rotations", {}, (4, 4), 4),
        ("mirror", {}, (4, 4), 4),
        ("mirror", {"spacing": (1, 2)}, (4, 4), 4),
        ("grid", {"spacing": (1, 2)}, (4, 4), 4),
        ("grid", {"spacing": (1, 1, 1.005)}, (4, 4, 4), 48),
        ("rotations", {"spacing": (1, 1, 1)}, (4, 4, 4), 24),
        ("grid", {"spacing": (1, 1, 1.02)}, (4, 4, 4), 16),
        ("grid", {"spacing": (3, 1, 1)}, (4, 4, 4), 16),
        ("grid", {"spacing": (3, 2, 1)}, (4, 4, 4), 8),
        ("grid", {}, (4, 4, 4), 16),
        ("mirror", {}, (4, 4, 4), 8),
        ("square", {}, (4, 4, 4), 8),
        ("rotations7", {"planes": [(1, 2)]}, (4, 4, 4), 7),
    ],
)
def test_the_versions_are_those_the_grid_allows(symmetries, options, shape, count):
    versions = RotationAveragingInferer(SimpleInferer(), symmetries, **options).versions(
        torch.zeros(1, 1, *shape)
    )
    assert len(set(versions)) == count
    assert (Symmetry(tuple(range(len(shape))), (False,) * len(shape)) in versions) == (
        symmetries != "rotations7"
    )


def test_the_spacing_of_a_metatensor_is_used():
    inferer = RotationAveragingInferer(SimpleInferer())
    for diagonal, count in (((-2, 2, 2), 48), ((2, 2, 5), 16), ((5, 2, 2), 16)):
        affine = torch.diag(torch.tensor([*diagonal, 1.0]))
        x = MetaTensor(torch.zeros(1, 1, 4, 4, 4), affine=affine)
        assert len(inferer.versions(x)) == count
    out = inferer(x, nn.Conv3d(1, 2, 1))
    assert isinstance(out, MetaTensor)
    assert torch.equal(out.affine, affine.to(out.affine))


# Averages


@pytest.mark.parametrize("symmetries", ["grid", "square", "rotations7", "rotations", "mirror"])
def test_a_network_that_looks_at_single_voxels_is_unchanged(x, symmetries):
    dims = x.ndim - 2
    torch.manual_seed(0)
    network = CONVOLUTION[dims](2, 3, 1)
    logits, spread = averaging(symmetries, dims, spread=True, planes=[(0, 1)])(x, network)
    torch.testing.assert_close(logits, network(x).log_softmax(1).detach(), rtol=0, atol=1e-5)
    assert logits.dtype == torch.float32
    assert spread.max() < 1e-6


@pytest.mark.parametrize("symmetries", ["grid", "square", "rotations", "mirror"])
def test_the_average_turns_with_the_image(x, symmetries):
    dims = x.ndim - 2
    network, inferer = crooked(dims), averaging(symmetries, dims, spread=True)
    logits, spread = inferer(x, network)
    for each in inferer.versions(x)[1::5]:
        turned, its_spread = inferer(turn(each, x), network)
        torch.testing.assert_close(turned, turn(each, logits), rtol=0, atol=1e-5)
        torch.testing.assert_close(its_spread, turn(each, spread), rtol=0, atol=1e-5)
    alone = network(x).detach()
    each = inferer.versions(x)[1]
    assert not torch.allclose(network(turn(each, x)), turn(each, alone), atol=1e-2), (
        "the network is too regular"
    )


def test_mean_and_spread_are_those_of_all_versions_kept(x):
    dims = x.ndim - 2
    network, inferer = crooked(dims), averaging("rotations7", dims, spread=True)
    kept = torch.stack(
        [turn_back(each, network(turn(each, x))).softmax(1).detach() for each in inferer.versions(x)]
    )
    logits, spread = inferer(x, network)
    torch.testing.assert_close(logits.softmax(1), kept.mean(0), **EXACT)
    torch.testing.assert_close(logits.exp(), kept.mean(0), **EXACT)
    torch.testing.assert_close(spread, kept.std(0, correction=0), **EXACT)
    assert spread.max() > 0.01
    torch.testing.assert_close(averaging("rotations7", dims)(x, network), logits, rtol=0, atol=0)


def test_the_order_of_the_versions_does_not_matter(x):
    dims = x.ndim - 2
    group = grid_symmetries(dims, all_planes(dims))
    expected = averaging(group, dims, spread=True)(x, crooked(dims))
    for got, wanted in zip(
        averaging(group[::-1], dims, spread=True)(x, crooked(dims)), expected, strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_tiles_stay_invisible(padding):
    torch.manual_seed(0)
    network = UNet(2, 2, 3, channels=[(3, 4), (4, 5)], padding=padding, norm="batch").eval()
    x = torch.randn(1, 2, 19, 14)
    whole, tiled = (RotationAveragingInferer(OverlapTileInferer(tile))(x, network) for tile in (None, (4, 8)))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    assert whole.shape == (1, 3, 19, 14)


def test_certainty_beyond_float32_stays_finite():
    def sure(x):
        return torch.cat([x + 1000, x - 1000], dim=1)

    logits = averaging()(torch.zeros(1, 1, 3, 3), sure)
    assert logits.isfinite().all()
    assert torch.equal(logits.softmax(1)[:, 0], torch.ones(1, 3, 3))


def test_arguments_reach_the_network_and_the_input_stays(x):
    before = x.clone()
    seen = []

    def network(block, scale, *, shift):
        seen.append((scale, shift))
        return block

    averaging("mirror", x.ndim - 2)(x, network, 3, shift=4)
    assert set(seen) == {(3, 4)}
    assert len(seen) == 2 ** (x.ndim - 2)
    assert torch.equal(x, before)


class _Counting(nn.Module):
    """Remembers how many results of its passes are still alive."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = [], 0

    def forward(self, x):
        out = torch.cat([x, -x], dim=1)
        self.alive = [ref for ref in self.alive if ref() is not None] + [weakref.ref(out)]
        self.most = max(self.most, len(self.alive))
        return out


def test_the_versions_are_not_kept():
    network = _Counting()
    averaging("grid", spread=True)(torch.zeros(1, 1, 4, 4), network)
    assert network.most <= 2


# Refusals


def test_quarter_turns_need_a_network_that_is_alike_along_both_axes():
    network = UNet(3, 1, 2, channels=[(2, 2), (2, 2)], kernel_size=[(3, 3, 1), 3], pooling=[(2, 2, 1)]).eval()
    x = torch.randn(1, 1, 8, 8, 5)
    inferer = OverlapTileInferer()
    message = r"The network's context is \(8, 8, 2\).*along the axes [01] and 2.*planes"
    with pytest.raises(ValueError, match=message):
        RotationAveragingInferer(inferer, spacing=(1, 1, 1))(x, network)
    with pytest.raises(ValueError, match=message):
        RotationAveragingInferer(inferer, spacing=(1, 1, 1))(x, nn.DataParallel(network))
    assert RotationAveragingInferer(inferer, "rotations", spacing=(1, 1, 3))(x, network).shape == (
        1,
        2,
        8,
        8,
        5,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symmetries": "cube"}, 'symmetries = \'cube\' is unknown. Use one of "rotations7", "square"'),
        ({"symmetries": []}, "symmetries is empty"),
        ({"spacing": (1, 1), "planes": [(0, 1)]}, "Give one of them"),
        ({"spacing": (1, 0)}, r"spacing = \(1, 0\) must hold voxel sizes above 0"),
        ({"spacing": (1, math.nan)}, "must hold voxel sizes above 0"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RotationAveragingInferer(SimpleInferer(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": (1, 1, 1)}, r"spacing = \(1, 1, 1\) must hold one voxel size for each of the 2 axes"),
        ({"planes": [(0, 2)]}, r"planes holds \(0, 2\): a plane is two different axes out of 0 to 1"),
        ({"planes": [(0, 1, 1)]}, r"planes holds \(0, 1, 1\)"),
        ({"planes": [(1, 1)]}, r"planes holds \(1, 1\)"),
        ({"spacing": (1, 2), "symmetries": "square"}, "no two axes have the same spacing"),
        ({"symmetries": [((0, 1, 2), (False,) * 3)]}, "is not a symmetry of an input with 2 spatial axes"),
        ({"symmetries": [((0, 0), (False, False))]}, "is not a symmetry of an input"),
    ],
)
def test_what_does_not_fit_the_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RotationAveragingInferer(SimpleInferer(), **options)(torch.zeros(1, 2, 4, 4), crooked(2))


def test_an_input_without_spatial_axes_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\), but \(batch, channels, \*spatial\) is needed"):
        averaging()(torch.zeros(1, 2), crooked(2))


@pytest.mark.parametrize(
    "network",
    [lambda x: x[:, :1], lambda x: (x, x), lambda x: x.flatten()],
    ids=["one class", "pair", "flat"],
)
def test_results_that_are_no_logits_are_refused(network):
    with pytest.raises(ValueError, match="Averaging needs logits of two or more classes"):
        averaging()(torch.zeros(1, 2, 4, 4), network)


def test_results_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"One version came back as \(1, 2, 2, 4\), another as"):
        averaging()(torch.zeros(1, 2, 4, 4), lambda x: x[:, :, :2])
