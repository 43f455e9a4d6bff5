"""The shift of the logits that makes the best of a network's decisions, fitted on annotation."""

import numpy as np
import pytest
import torch
from torch import nn

from volseg.engines.calibration import add_to_bias, fit_shift, gather
from volseg.labels import IGNORE_INDEX
from volseg.metrics import dice


def noisy_logits(shift: float, count: int = 20_000, rare: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes, the second one rare; the logits of the second are off by ``shift``."""
    generator = torch.Generator().manual_seed(0)
    classes = (torch.rand(count, generator=generator) < rare).long()
    signal = torch.randn(count, generator=generator) + 3.0 * classes - 1.5
    return torch.stack([torch.zeros(count), signal + shift], 1), classes


def foreground_dice(logits: torch.Tensor, classes: torch.Tensor) -> float:
    matrix = torch.bincount(classes * 2 + logits.argmax(1), minlength=4).reshape(2, 2)
    return float(dice(matrix.numpy())[1])


@pytest.mark.parametrize("off", [-2.0, 0.0, 2.0])
def test_the_fit_is_as_good_as_the_best_of_all_thresholds(off):
    logits, classes = noisy_logits(off)
    shift = fit_shift([(logits, classes)], [1])
    best = max(
        foreground_dice(logits + torch.tensor([0.0, step]), classes) for step in np.arange(-6, 6, 0.05)
    )
    assert foreground_dice(logits + torch.as_tensor(shift, dtype=torch.float32), classes) > best - 0.005


def test_a_constant_error_of_the_logits_is_undone():
    straight = fit_shift([noisy_logits(0.0)], [1])
    skewed = fit_shift([noisy_logits(1.5)], [1])
    assert straight[1] - skewed[1] == pytest.approx(1.5, abs=0.35)


def test_several_classes_are_each_moved_to_their_place():
    generator = torch.Generator().manual_seed(1)
    classes = torch.randint(0, 3, (9000,), generator=generator)
    logits = 2.0 * nn.functional.one_hot(classes, 3) + torch.randn(9000, 3, generator=generator)
    shift = fit_shift([(logits + torch.tensor([0.0, 2.0, -2.0]), classes)], [0, 1, 2])
    np.testing.assert_allclose(shift - shift[0], [0.0, -2.0, 2.0], atol=0.4)


@pytest.mark.parametrize("spatial", [(6, 5), (4, 6, 5)], ids=["2d", "3d"])
def test_only_annotated_voxels_are_gathered(spatial):
    logits = torch.randn(3, *spatial, generator=torch.Generator().manual_seed(0))
    target = torch.full((1, *spatial), IGNORE_INDEX, dtype=torch.uint8)
    target[0, 1] = 2
    picked, classes = gather(logits, target)
    torch.testing.assert_close(picked, logits[:, 1].reshape(3, -1).T)
    assert set(classes.tolist()) == {2}


def test_the_shift_is_put_into_the_last_convolution():
    network = nn.Module()
    network.head = nn.Conv2d(2, 2, 1)
    image = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    before = network.head(image)
    add_to_bias(network, [0.0, 0.7])
    torch.testing.assert_close(
        network.head(image) - before, torch.tensor([0.0, 0.7]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    )


def test_a_network_without_a_head_is_refused():
    with pytest.raises(ValueError, match="no 'head' with a bias"):
        add_to_bias(nn.Conv2d(1, 2, 1), [0.0, 1.0])
