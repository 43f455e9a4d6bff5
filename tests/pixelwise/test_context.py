"""The second stage sees what the first one found, on the grid that fits."""

import numpy as np
import pytest
import torch

from volseg.annotation import find_slices, keep_slices
from volseg.learning import Task
from volseg.pixelwise import context
from volseg.pixelwise.context import context_of, finest_stride
from volseg.pixelwise.features import responses_at
from volseg.pixelwise.model import Model, bank_of, learn

SHAPES = [(40, 37), (25, 26, 22)]


@pytest.fixture(params=SHAPES, ids=["2d", "3d"])
def task(request):
    rng = np.random.default_rng(0)
    return Task(rng.normal(size=(1, *request.param)).astype(np.float32), (1.0,) * len(request.param), 2)


def waves(voxels):
    """Log probabilities ``(n, 2)`` that change slowly, along the first axis most."""
    scaled = voxels.float() * torch.tensor([0.25, 0.11, 0.07][: voxels.shape[1]])
    chance = 0.5 + 0.4 * torch.sin(scaled.sum(1))
    return torch.stack([1 - chance, chance], 1).log()


def made(task, stride):
    voxels = torch.cartesian_prod(*(torch.arange(n) for n in task.size))
    device = torch.device("cpu")
    return context_of(task, stride, lambda: waves(voxels).T.reshape(2, *task.size).numpy(), waves, device)


def test_a_coarse_context_shows_the_same_as_the_finest(task):
    dims = len(task.size)
    fine, coarse = made(task, (1,) * dims), made(task, (2,) * dims)
    inside = torch.cartesian_prod(*(torch.arange(6, n - 6) for n in task.size))
    # Scales are 1.0, 1.6 ... on the finest grid and 1.6, 2.5 ... of its voxels on the other one.
    per_scale = 2 + 2 * dims
    of_fine = responses_at(fine.bank, inside)[:, per_scale]
    of_coarse = responses_at(coarse.bank, inside)[:, 0]
    of_fine, of_coarse = ((x - x.mean()) / x.std() for x in (of_fine, of_coarse))
    assert (of_fine - of_coarse).abs().max() < 0.15  # shifted by half a voxel it is 0.17
    assert fine.found is not None
    assert coarse.found is None


@pytest.mark.parametrize("stride", [(2, 1, 1), (2, 2, 1), (4, 4, 2)])
def test_what_is_looked_at_lies_around_the_middle_of_a_voxel_of_the_grid(stride):
    task = Task(np.zeros((1, 12, 12, 12), np.float32), (1.0, 1.0, 1.0), 2)
    asked = []

    def at(voxels):
        asked.append(voxels)
        return waves(voxels)

    context_of(task, stride, lambda: None, at, torch.device("cpu"))
    size = [12 // s for s in stride]
    looked = torch.stack([each.float() for each in asked]).mean(0).reshape(*size, 3)
    middles = [torch.arange(n) * s + (s - 1) / 2 for n, s in zip(size, stride, strict=True)]
    torch.testing.assert_close(looked, torch.cartesian_prod(*middles).reshape(*size, 3))


def test_the_grid_is_as_fine_as_memory_and_time_allow(task, monkeypatch):
    bank, dims = bank_of(task), len(task.size)
    finest, seconds = finest_stride(task, bank, 10.0, 1e9)
    assert finest == (1,) * dims
    coarser, less = finest_stride(task, bank, 10.0, 0.9 * seconds)
    assert max(coarser) == 2
    assert less < 0.9 * seconds
    assert finest_stride(task, bank, 10.0, 1e-9) is None
    monkeypatch.setattr(context, "MOST_VALUES", 0.5 * context.values_of(task, finest))
    assert finest_stride(task, bank, 10.0, 1e9)[0] == coarser


def test_a_coarse_axis_is_not_halved_before_the_others_have_caught_up():
    found = list(context._strides((100, 100, 20), (1.0, 1.0, 5.0)))
    assert found == [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 2)]


def test_a_model_on_a_coarse_grid_learns_says_so_and_can_be_kept(task, clock, monkeypatch):
    truth = (np.indices(task.size)[0] > task.size[0] // 2).astype(np.uint8)
    task = Task(task.image + 2 * truth, task.spacing, 2)
    labels = keep_slices(truth, [3] * truth.ndim)
    monkeypatch.setattr(context, "MOST_VALUES", 0.5 * context.values_of(task, (1,) * truth.ndim))
    found = learn(task, labels, slices=find_slices(labels), seconds=1.0)
    assert max(found.stride) == 2
    assert "grid of 2 × 2" in " ".join(found.notes)
    scores = found.predict(task)
    assert (scores.argmax(0) == truth).mean() > 0.95
    where = np.random.default_rng(0).random(task.size) < 0.2
    np.testing.assert_allclose(found.predict_at(task, where), scores[:, where], rtol=1e-3, atol=2e-2)
    again = Model.from_state(found.state())
    assert again.stride == found.stride
    np.testing.assert_allclose(again.predict(task), scores, rtol=1e-2, atol=5e-2)


def test_a_second_stage_that_was_left_out_is_said(task, clock, monkeypatch):
    labels = keep_slices((task.image[0] > 0).astype(np.uint8), [3] * len(task.size))
    monkeypatch.setattr(context, "MOST_VALUES", 0)
    found = learn(task, labels, slices=find_slices(labels), seconds=0.5)
    assert len(found.stages) == 1
    assert "second stage" in found.notes[0]
