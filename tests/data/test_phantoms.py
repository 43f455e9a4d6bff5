"""What all phantoms promise: a function of seed and size, and nothing else."""

import numpy as np
import pytest

from volseg.phantom import brain_phantom, cells_phantom, membranes_phantom, xenopus_phantom

PHANTOMS = {
    xenopus_phantom: (28, 26, 20),
    cells_phantom: (64, 64),
    membranes_phantom: (64, 64),
    brain_phantom: (64, 64),
}


@pytest.fixture(params=PHANTOMS, ids=lambda phantom: phantom.__name__)
def phantom(request):
    return request.param


def test_the_same_seed_gives_the_same_case_and_another_seed_another(phantom):
    size = PHANTOMS[phantom]
    one, again, other = phantom(5, size=size), phantom(5, size=size), phantom(6, size=size)
    assert one[0].shape[1:] == one[1].shape == size
    for first, second, third in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(first, second)
        assert (first != third).any()
    assert (one[0] != other[0]).mean() > 0.1


def test_global_random_state_is_neither_used_nor_touched(phantom):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    image, _ = phantom(3, size=PHANTOMS[phantom])
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    np.testing.assert_array_equal(phantom(3, size=PHANTOMS[phantom])[0], image)


def test_a_size_that_holds_nothing_is_refused(phantom):
    dims = len(PHANTOMS[phantom])
    for size in [(64,) * (dims - 1) + (15,), (64,) * (5 - dims)]:
        with pytest.raises(ValueError, match=rf"size is \(64, .*needs {dims} sizes, each 16 or more"):
            phantom(0, size=size)


def test_a_negative_seed_is_refused(phantom):
    with pytest.raises(ValueError, match=r"seed is -1.*0 or more"):
        phantom(-1)
