"""A brick of the filter bank is the part of the whole that it claims to be."""

import numpy as np
import pytest
import torch

from volseg.greyvalues import normalised
from volseg.pixelwise import bricks as module
from volseg.pixelwise.bricks import Bricks
from volseg.pixelwise.features import filter_bank, responses_at, responses_in

CASES = {
    "2d": ((210, 97), (1.0, 1.0), 1),
    "2d, three channels": ((61, 50), (1.0, 2.0), 3),
    "3d": ((37, 53, 30), (1.0, 1.0, 1.0), 1),
    "last axis coarse": ((41, 26, 9), (1.0, 1.0, 3.0), 2),
    "first axis coarse": ((7, 60, 33), (2.5, 1.0, 1.0), 1),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request, monkeypatch):
    """An image whose bricks are small, so that there are many."""
    size, spacing, channels = request.param
    monkeypatch.setattr(module, "_EDGES", {2: (32, 16, 8), 3: (16, 8, 5)})
    image = np.random.default_rng(0).normal(100, 20, (channels, *size)).astype(np.float32)
    image[:, 10:20, 5:15] += 100
    return image, spacing


class Blocks:
    """An image that can be read in blocks only."""

    def __init__(self, image):
        self.image, self.shape, self.read = image, image.shape, 0

    def __getitem__(self, index):
        assert isinstance(index, tuple)
        assert all(isinstance(part, slice) for part in index)
        block = self.image[index]
        self.read += block.size
        return block


def test_bricks_are_parts_of_the_bank_of_the_whole(case):
    image, spacing = case
    bank = filter_bank(normalised(image), spacing)
    bricks = Bricks(Blocks(image), spacing)
    whole = responses_in(bank, 0, len(image[0]))
    assert bricks.features == bank.features
    rng = np.random.default_rng(1)
    for _ in range(4):  # in any order
        ends = [sorted(rng.choice(n + 1, 2, replace=False)) for n in bricks.size]
        block = tuple(slice(int(low), int(high)) for low, high in ends)
        torch.testing.assert_close(
            bricks.responses_in(block), whole[(slice(None), *block)], rtol=0, atol=2e-3
        )


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "int32", "float64"])
def test_values_of_any_type_are_normalised_as_those_of_the_whole(dtype):
    image = np.random.default_rng(0).integers(0, 120, (2, 30, 20)).astype(dtype)
    if dtype == "int16":
        image -= 60
    whole = responses_in(filter_bank(normalised(image), (1.0, 1.0)), 0, 30)
    found = Bricks(image, (1.0, 1.0)).responses_in((slice(None), slice(None)))
    torch.testing.assert_close(found, whole, rtol=0, atol=2e-3)


def test_responses_at_voxels_are_those_of_the_bank(case):
    image, spacing = case
    voxels = torch.from_numpy(np.random.default_rng(1).integers(0, image.shape[1:], (200, image.ndim - 1)))
    wanted = responses_at(filter_bank(normalised(image), spacing), voxels)
    torch.testing.assert_close(Bricks(image, spacing).responses_at(voxels), wanted, rtol=0, atol=2e-3)


def test_bricks_take_no_more_memory_than_they_may(case):
    image, spacing = case
    free = Bricks(image, spacing)
    everything = tuple(slice(None) for _ in spacing)
    free.build(everything)
    bound = Bricks(image, spacing, most_bytes=free.bytes // 2)
    for part in bound.blocks(everything):
        found = bound.responses_in(part)
        assert bound.bytes <= bound.most_bytes
        assert torch.equal(found, free.responses_in(part))


def test_what_is_there_is_known_and_not_computed_again(case):
    image, spacing = case
    source = Blocks(image)
    bricks = Bricks(source, spacing)
    everything = tuple(slice(None) for _ in spacing)
    block = next(bricks.blocks(everything))
    assert bricks.ready(block) == 0
    assert not bricks.build(block, should_stop=lambda: True)
    assert bricks.build(block)
    assert bricks.ready(block) == 1
    read = source.read
    bricks.responses_in(block)
    assert source.read == read
    assert 0 < bricks.ready(everything) < 1


def test_the_nearest_bricks_come_first(case):
    image, spacing = case
    bricks = Bricks(image, spacing)
    place = [n - 1 for n in bricks.size]
    blocks = list(bricks.nearest(place))
    covered = np.zeros(bricks.size, int)
    away = []
    for block in blocks:
        covered[block] += 1
        beyond = [max(0, p - b.stop + 1) * d for p, b, d in zip(place, block, spacing, strict=True)]
        away.append(np.linalg.norm(beyond))
    assert (covered == 1).all()
    assert away[0] == 0
    assert np.corrcoef(away, np.arange(len(away)))[0, 1] > 0.9


def test_of_a_large_image_few_blocks_are_read_to_normalise_it(monkeypatch):
    image = np.random.default_rng(0).normal(100, 20, (1, 64, 64, 64)).astype(np.float32)
    exact = Bricks(image, (1.0,) * 3).responses_in((slice(0, 8),) * 3)
    monkeypatch.setattr(module, "_MEASURED", 1000)
    monkeypatch.setattr(module, "_PLACE", 6)
    source = Blocks(image)
    found = Bricks(source, (1.0,) * 3)._measured(0)
    assert source.read < image.size / 4
    assert found.centre == pytest.approx(100, abs=2)
    assert found.spread == pytest.approx(20, rel=0.1)
    assert exact.isfinite().all()
