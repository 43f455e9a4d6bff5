"""Sizes and tiles, checked against slow twins that walk through a network or a volume step by step."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volseg.geometry import choose_tile, legal_sizes, mirror_indices, per_axis, plan_tiles, tiles_needed

KERNELS_2016 = [(3, 3, 3)] * 4
POOLS_2016 = [(2, 2, 2)] * 3


def walk(size, kernels, pools):
    """The output size of one axis, step by step, or None where a pooling or a convolution fails."""
    skips = []
    for level, kernel in enumerate(kernels):
        size -= 2 * (kernel - 1)
        if size < 1:
            return None
        if level < len(pools):
            if size % pools[level]:
                return None
            skips.append(size)
            size //= pools[level]
    for level in reversed(range(len(pools))):
        size *= pools[level]
        assert (skips[level] - size) % 2 == 0, "a skip could not be cropped evenly"
        size -= 2 * (kernels[level] - 1)
        if size < 1:
            return None
    return size


@st.composite
def axes(draw):
    """Kernels and poolings of a network along one axis."""
    levels = draw(st.integers(1, 4))
    kernels = draw(st.lists(st.sampled_from([1, 3, 5]), min_size=levels, max_size=levels))
    pools = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=levels - 1, max_size=levels - 1))
    return kernels, pools


@settings(max_examples=100, deadline=None)
@given(axes(), axes())
def test_legal_sizes_are_those_that_survive_a_walk_through_the_network(first, second):
    depth = min(len(first[0]), len(second[0]))
    kernels = list(zip(first[0][:depth], second[0][:depth], strict=True))
    pools = list(zip(first[1][: depth - 1], second[1][: depth - 1], strict=True))
    sizes = legal_sizes(kernels, pools)
    fixed = next(n for n in range(1, 2000) if walk(n, second[0][:depth], second[1][: depth - 1]))
    for n in range(2 * sizes.context[0] + 3 * sizes.stride[0] + 2):
        expected = walk(n, first[0][:depth], first[1][: depth - 1])
        if expected is None:
            with pytest.raises(ValueError, match=rf"input_size\[0\] = {n} is not a legal input size"):
                sizes.output_size((n, fixed))
        else:
            output = sizes.output_size((n, fixed))
            assert output[0] == expected
            assert sizes.input_size(output) == (n, fixed)
            assert output[0] % sizes.stride[0] == sizes.remainder[0]


def test_the_published_sizes():
    sizes = legal_sizes(KERNELS_2016, POOLS_2016)
    assert sizes.context == (44, 44, 44)
    assert sizes.stride == (8, 8, 8)
    assert sizes.output_size((132, 132, 116)) == (44, 44, 28)
    assert legal_sizes([(3, 3)] * 5, [(2, 2)] * 4).output_size(572) == (388, 388)


def test_sizes_of_a_padded_network_are_multiples_of_the_stride():
    sizes = legal_sizes(KERNELS_2016, POOLS_2016, padded=True)
    assert sizes.context == (0, 0, 0)
    assert sizes.output_size((8, 16, 24)) == (8, 16, 24) == sizes.input_size((8, 16, 24))
    with pytest.raises(ValueError, match=r"output_size\[2\] = 12 is not .* Nearest: 8 and 16\."):
        sizes.input_size((8, 16, 12))


@pytest.mark.parametrize(
    ("size", "nearest"), [(0, "Nearest: 92."), (91, "Nearest: 92."), (99, "92 and 100"), (131, "124 and 132")]
)
def test_an_illegal_size_is_refused_with_the_nearest_legal_ones(size, nearest):
    sizes = legal_sizes(KERNELS_2016, POOLS_2016)
    with pytest.raises(ValueError, match=rf"input_size\[1\] = {size} .*legal are 92, 100, 108 .*{nearest}"):
        sizes.output_size((132, size, 132))


def seen(first, last, kernels, pools, level=0):
    """Interval of the input that a padded network looks at for one interval of its output."""
    reach = kernels[level] - 1
    low, high = first - reach, last + reach
    if level < len(pools):
        pool = pools[level]
        deep_low, deep_high = seen(low // pool, high // pool, kernels, pools, level + 1)
        low, high = min(low, deep_low * pool), max(high, deep_high * pool + pool - 1)
        low, high = low - reach, high + reach
    return low, high


@settings(max_examples=100, deadline=None)
@given(axes(), st.integers(1, 3))
def test_a_padded_network_looks_exactly_its_receptive_radius_beyond_an_aligned_block(axis, blocks):
    kernels, pools = axis
    sizes = legal_sizes([(k,) for k in kernels], [(p,) for p in pools], padded=True)
    (radius,), (stride,) = sizes.receptive_radius, sizes.stride
    low, high = seen(0, blocks * stride - 1, kernels, pools)
    assert (-low, high - (blocks * stride - 1)) == (radius, radius)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
def test_mirroring_is_numpys_reflect_repeated_as_often_as_needed(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="reflect" if size > 1 else "edge")
    np.testing.assert_array_equal(mirror_indices(-before, size + after, size), expected)


def test_an_empty_axis_cannot_be_mirrored():
    with pytest.raises(ValueError, match="An axis of 0 voxels cannot be mirrored"):
        mirror_indices(0, 3, 0)


@st.composite
def plans(draw):
    """Size, tile, context, stride and remainder of a random tiling, 2D or 3D."""
    count = draw(st.sampled_from([2, 3]))
    stride = [draw(st.sampled_from([1, 2, 4, 6])) for _ in range(count)]
    return (
        [draw(st.integers(1, 23)) for _ in range(count)],
        [draw(st.integers(1, 4)) * s for s in stride],
        [draw(st.integers(0, 9)) for _ in range(count)],
        stride,
        [draw(st.integers(0, s - 1)) for s in stride],
    )


@settings(max_examples=100, deadline=None)
@given(plans())
def test_tiles_write_every_voxel_once_and_read_what_the_network_takes(plan):
    size, tile, context, stride, remainder = plan
    written = np.zeros(size, int)
    for part in plan_tiles(size, tile, context, stride, remainder):
        written[part.write] += 1
        for read, write, c, s, r in zip(part.read, part.write, context, stride, remainder, strict=True):
            assert write.start % s == 0
            assert read.start == write.start - c
            produced = read.stop - read.start - 2 * c
            assert produced % s == r
            assert 0 <= produced - (write.stop - write.start) < s, "more is read than the size demands"
    assert (written == 1).all()


@settings(max_examples=25, deadline=None)
@given(plans(), st.integers(1, 60000))
def test_the_chosen_tile_needs_the_least_reading_of_all(plan, limit):
    size, _, context, stride, remainder = plan

    def work(tile):
        volumes = [
            np.prod([read.stop - read.start for read in part.read])
            for part in plan_tiles(size, tile, context, stride, remainder)
        ]
        return sum(volumes), max(volumes)

    every = product(*(range(s, n + s, s) for n, s in zip(size, stride, strict=True)))
    costs = [total for total, largest in map(work, every) if largest <= limit]
    chosen = choose_tile(size, context, stride, limit, remainder)
    if chosen is None:
        assert not costs
    else:
        total, largest = work(chosen)
        assert largest <= limit
        assert total == min(costs)


def test_tiles_are_of_equal_size_rather_than_as_large_as_they_may_be():
    assert choose_tile((96,), 4, 8, max_voxels=80) == (48,)
    assert choose_tile((2048, 64), 92, 16, max_voxels=800 * 260, remainder=4) == (512, 64)


def test_a_volume_that_fits_is_one_tile():
    assert choose_tile((248, 244, 64), 44, 8, 10**9, 4) == (248, 248, 64)


def test_a_tile_off_the_stride_is_refused_with_the_nearest_that_line_up():
    with pytest.raises(ValueError, match=r"tile\[1\] = 30 is not a multiple of .* 8: .* do: 24 or 32\."):
        plan_tiles((50, 50), (8, 30), 4, 8)
    with pytest.raises(ValueError, match=r"tile\[0\] = 3 .* Nearest that do: 8\."):
        plan_tiles((50, 50), 3, 4, 8)


def test_one_number_stands_for_all_axes():
    assert per_axis(3, 3, "tile") == (3, 3, 3)
    assert per_axis(np.int64(3), 2, "tile") == (3, 3)
    assert per_axis([1, 2], 2, "tile") == (1, 2)
    assert per_axis(0, 2, "context", minimum=0) == (0, 0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((1, 2, 3), r"tile = \(1, 2, 3\) holds 3 numbers, but there are 2 spatial axes"),
        (2.5, r"tile = 2\.5 is neither a whole number nor a sequence"),
        ("ab", r"tile = 'ab' is neither"),
        ((4, 0.5), r"tile = \(4, 0\.5\) is neither"),
        (True, r"tile = True is neither"),
        (None, r"tile = None is neither"),
        ((4, 0), r"tile\[1\] = 0 is too small: at least 1 is needed"),
    ],
)
def test_what_is_no_size_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        per_axis(value, 2, "tile")


def test_only_the_tiles_that_some_voxels_need_are_read():
    where = np.zeros((64, 64, 40), bool)
    where[..., 3] = where[..., 30] = True
    where[:, 40:] = False
    whole = plan_tiles(where.shape, (64, 64, 40), 6, 4)
    needed = tiles_needed(whole, where, (6, 6, 6), (4, 4, 4), (0, 0, 0))
    written = np.zeros_like(where)
    for tile in needed:
        assert not written[tile.write].any()
        written[tile.write] = True
    assert written[where].all()
    read = [sum(np.prod([s.stop - s.start for s in tile.read]) for tile in each) for each in (needed, whole)]
    assert read[0] < 0.7 * read[1]
    assert tiles_needed(whole, np.zeros_like(where), (6, 6, 6), (4, 4, 4), (0, 0, 0)) == []
