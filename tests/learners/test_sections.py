"""A U-Net on sections: when there is one, what it is shown and what it looks at."""

import numpy as np
import pytest
import torch

from volseg.annotation import find_slices, keep_slices
from volseg.labels import IGNORE_INDEX
from volseg.learners import JoinedModel, UNetLearner, UNetModel, architecture, sections
from volseg.learners.joined import SHARE, SHARE_OF_SECTIONS
from volseg.learners.unet import _Patches, choose_architecture
from volseg.learning import Task

SIZE = (20, 24, 16)
ISOTROPIC = (1.0, 1.0, 1.0)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(architecture, "_WIDTH", {"cpu": 4})
    monkeypatch.setattr(sections, "ENOUGH", 1)


def halves(size=SIZE):
    """Left and right."""
    truth = np.zeros(size, np.uint8)
    truth[size[0] // 2 :] = 1
    return truth


@pytest.mark.parametrize(
    ("counts", "spacing", "wanted"),
    [
        ((0, 0, 4), ISOTROPIC, [2]),
        ((2, 0, 3), ISOTROPIC, [0, 2]),
        ((4, 4, 4), (1.0, 1.0, 5.0), [2]),  # the others are sections of oblong pixels
        ((4, 0, 0), (1.0, 1.0, 5.0), []),
    ],
)
def test_sections_are_looked_at_where_slices_are_painted(counts, spacing, wanted):
    truth = halves((60, 60, 60))
    labels = keep_slices(truth, counts)
    assert sections.across(labels, find_slices(labels), spacing) == wanted


def test_blocks_are_looked_at_where_little_is_painted_of_a_class_and_of_strokes_and_images():
    labels = keep_slices(halves((60, 60, 60)), (0, 0, 2))
    slices = find_slices(labels)
    assert sections.across(labels, slices, ISOTROPIC) == [2]
    assert sections.across(labels, {}, ISOTROPIC) == []  # strokes
    labels[labels == 1] = IGNORE_INDEX
    labels[30:40, :40, slices["z"][0]] = 1
    assert sections.across(labels, slices, ISOTROPIC) == []
    assert sections.across(halves((60, 60)), {"x": [3]}, (1.0, 1.0)) == []


@pytest.mark.parametrize("counts", [(0, 0, 3), (2, 2, 2)])
def test_every_painted_voxel_is_shown_in_the_fullest_section_through_it(counts):
    labels = keep_slices(halves(), counts)
    slices = find_slices(labels)
    labels[1, 1, 1:6] = 0  # and a stroke beside
    painted = labels != IGNORE_INDEX
    found = sections.painted_sections(labels, [0, 1, 2])
    assert sum(count for _, _, count in found) == painted.sum()
    sizes = {axis: painted.sum(tuple(a for a in range(3) if a != axis)) for axis in range(3)}
    wanted: dict[tuple[int, int], int] = {}
    for place in np.argwhere(painted):
        best = max(range(3), key=lambda axis: sizes[axis][place[axis]])
        wanted[best, int(place[best])] = wanted.get((best, int(place[best])), 0) + 1
    assert {(axis, index): count for axis, index, count in found} == wanted
    assert {("xyz"[axis], index) for axis, index, count in found if count > 20} == {
        (name, index) for name, indices in slices.items() for index in indices
    }


def test_a_section_is_seen_with_its_neighbours_and_at_the_ends_with_itself():
    image = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    torch.testing.assert_close(
        sections.section(image, 1, 2), torch.cat([image[:, :, 1], image[:, :, 2], image[:, :, 3]])
    )
    torch.testing.assert_close(
        sections.section(image, 2, 0), torch.cat([image[..., 0], image[..., 0], image[..., 1]])
    )
    torch.testing.assert_close(
        sections.section(image, 2, 4), torch.cat([image[..., 3], image[..., 4], image[..., 4]])
    )


def test_the_network_fits_the_pixels_of_a_section_not_the_voxels():
    plan = choose_architecture((64, 64, 12), (1.0, 1.0, 5.0), seconds=1, device="cpu", axes=[2])
    assert plan.patch == [64, 64]
    assert set(map(tuple, plan.kernels)) == {(3, 3)}
    across_x = choose_architecture((12, 64, 48), (5.0, 1.0, 1.0), seconds=1, device="cpu", axes=[0])
    assert across_x.patch == [64, 48]
    assert set(map(tuple, across_x.kernels)) == {(3, 3)}


def test_sections_are_drawn_as_often_as_they_are_painted(small):
    labels = np.full(SIZE, IGNORE_INDEX, np.uint8)
    labels[3, 3, 4], labels[9, 9, 11] = 0, 1
    labels[5, 5, 13] = labels[7, 5, 13] = 2
    task = Task(np.zeros((1, *SIZE), np.float32), ISOTROPIC, 3)
    plan = choose_architecture(SIZE, ISOTROPIC, seconds=1, device="cpu", axes=[2])
    _, targets = _Patches(task, labels, plan, deform=False).batch(range(400))
    found = [(targets == c).flatten(1).any(1).float().mean() for c in range(3)]
    np.testing.assert_allclose(found, [0.25, 0.25, 0.5], atol=0.08)


@pytest.mark.parametrize("axes", [[2], [0, 2]])
def test_a_patch_shows_image_and_labels_of_the_same_section(small, axes):
    """The image is the labels, and so every patch must show them alike."""
    truth = halves() + (np.arange(SIZE[2]) % 2 == 0).astype(np.uint8)
    labels = keep_slices(truth, [3 if axis in axes else 0 for axis in range(3)])
    task = Task(truth[None].astype(np.float32), ISOTROPIC, 3)
    plan = choose_architecture(SIZE, ISOTROPIC, seconds=1, device="cpu", axes=axes)
    images, targets = _Patches(task, labels, plan, deform=False).batch(range(30))
    assert images.shape[1] == 3
    known = targets[:, 0] != IGNORE_INDEX
    assert len(images[:, 1][known].unique()) == 3
    for c in range(3):
        assert len(images[:, 1][known & (targets[:, 0] == c)].unique()) == 1


@pytest.fixture
def trained(small):
    truth = halves()
    image = truth[None] + np.random.default_rng(0).normal(0, 0.2, (1, *SIZE))
    task = Task(image.astype(np.float32), ISOTROPIC, 2)
    labels = keep_slices(truth, (0, 0, 3))
    return task, truth, UNetLearner().learn(task, labels, slices=find_slices(labels), seconds=1e-6, fewest=40)


def test_what_is_found_in_a_section_comes_from_it_and_its_neighbours(trained):
    task, truth, model = trained
    assert list(model.architecture.axes) == [2]
    assert "looked at sections across z, each with its neighbours" in model.notes[0]
    found = model.predict(task)
    assert (found.argmax(0) == truth).mean() > 0.9
    changed = np.array(task.image)
    changed[..., 9] = changed[..., 9][:, ::-1]
    task = Task(changed, ISOTROPIC, 2)
    moved = np.abs(model.predict(task) - found).max((0, 1, 2)) > 1e-3
    assert np.flatnonzero(moved).tolist() == [8, 9, 10]


def test_along_several_axes_the_mean_counts(trained):
    task, _, model = trained
    parts = []
    for axes in ([0], [2], [0, 2]):
        model.architecture = model.architecture._replace(axes=axes)
        parts.append(model.predict(task))
    np.testing.assert_allclose(parts[2], (parts[0] + parts[1]) / 2, atol=1e-5)
    where = np.random.default_rng(0).random(SIZE) < 0.05
    np.testing.assert_allclose(model.predict_at(task, where), parts[2][:, where], atol=1e-5)


def test_it_comes_back_from_a_file_and_files_from_before_are_of_blocks(trained):
    _, _, model = trained
    again = UNetModel.from_state(model.state())
    assert again.architecture.axes == [2]
    assert again.notes == model.notes
    state = UNetModel(choose_architecture(SIZE, ISOTROPIC, seconds=1, device="cpu"), 1, 2).state()
    del state["plan"]["axes"]
    assert not UNetModel.from_state(state).architecture.axes


def test_a_network_of_sections_counts_more_in_a_joined_result(trained):
    _, _, model = trained
    blocks = UNetModel(choose_architecture(SIZE, ISOTROPIC, seconds=1, device="cpu"), 1, 2)
    assert JoinedModel([model, model]).share == SHARE_OF_SECTIONS
    assert JoinedModel([model, blocks]).share == SHARE
    assert JoinedModel([model, model], 0.0).share == 0
