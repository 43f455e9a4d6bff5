"""What the evaluator measures beside overlap, against the measures themselves."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label as components

from volseg.engines import InstanceScores, MembraneScores
from volseg.instances import InstanceScheme
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.metrics import instance_scores, membrane_scores
from volseg.phantom import cells_phantom, membranes_phantom

MEMBRANES = LabelScheme(["membrane", "inside"], [0, 255])
CELLS = InstanceScheme(("background", "cell"))


def section(seed):
    """Probabilities of a section that are right but for some noise, and its truth."""
    _, truth = membranes_phantom(seed, (64, 64))
    noise = np.random.default_rng(seed).normal(0, 0.35, truth.shape)
    inside = torch.from_numpy(np.clip(truth + noise, 0, 1)).float()
    return torch.stack([1 - inside, inside]), torch.from_numpy(truth)


def cells(seed):
    """Probabilities that miss one gap in four, and the true ids."""
    _, truth = cells_phantom(seed, (96, 96))
    found = CELLS.encode(truth)
    closed = (truth > 0) & (truth % 4 == 0)
    found[closed] = 1
    inside = torch.from_numpy(found).float()
    return torch.stack([1 - inside, inside]), torch.from_numpy(truth)[None]


# --- membranes


def test_membranes_are_scored_over_all_images_that_are_held_out_as_a_whole():
    measure = MembraneScores("inside")
    pairs = [section(seed) for seed in range(3)]
    for index, (probabilities, truth) in enumerate(pairs[:2]):
        measure.add(str(index), probabilities, truth, None, MEMBRANES)
    partly = pairs[2][1].clone()
    partly[:5] = IGNORE_INDEX
    measure.add("partly annotated", pairs[2][0], partly, None, MEMBRANES)
    expected = membrane_scores(
        [probabilities[1].numpy() for probabilities, _ in pairs[:2]],
        [truth.numpy() == 1 for _, truth in pairs[:2]],
    )
    found = measure.report()["membranes"]
    assert found.pop("images") == 2
    assert found.keys() == expected.keys()
    for name, best in expected.items():
        assert found[name] == {"best": pytest.approx(best.value, abs=1e-5), "threshold": best.threshold}
    (line,) = measure.table(measure.report())
    assert line.startswith(f"Membranes of 2 image(s): pixel_error {found['pixel_error']['best']}, rand_error")
    measure.clear()
    assert measure.report() == {}
    assert list(measure.table({})) == []


def test_the_class_between_the_membranes_has_to_be_one_of_the_labels():
    with pytest.raises(ValueError, match=r"inside = 'cell' is none of the classes \(membrane, inside\)"):
        MembraneScores("cell").add("a", *section(0), None, MEMBRANES)


# --- objects


def test_objects_are_scored_one_by_one_and_pooled():
    measure = InstanceScores()
    single, objects = [], []
    for seed in range(2):
        probabilities, truth = cells(seed)
        held = torch.from_numpy(CELLS.encode(truth[0].numpy()))
        held[:10] = IGNORE_INDEX  # trained on
        measure.add(str(seed), probabilities, held, truth, CELLS)
        known = np.where(held == IGNORE_INDEX, -1, truth[0].numpy())
        predicted = CELLS.decode(probabilities.argmax(0).numpy()).astype(int)
        single.append(instance_scores(predicted, known))
        objects.append(single[-1]["objects"])
    measure.add("trained on", probabilities, torch.full_like(held, IGNORE_INDEX), truth, CELLS)
    found = measure.report()["objects"]
    assert (found["images"], found["objects"]) == (2, sum(objects))
    weights = np.array(objects) / sum(objects)
    assert found["SEG"] == pytest.approx(
        sum(w * s["seg"] for w, s in zip(weights, single, strict=True)), abs=1e-5
    )
    assert found["merged"] == sum(scores["merged"] for scores in single) > 0
    mean = np.mean([scores["average_precision"] for scores in single])
    assert found["average precision"] == pytest.approx(mean, abs=1e-5)
    assert found["by image"]["1"]["split"] == single[1]["split"]
    assert f"{sum(objects)} objects in 2 image(s): SEG {found['SEG']}" in next(
        measure.table({"objects": found})
    )
    measure.clear()
    assert measure.report() == {}


def test_an_image_without_objects_does_not_spoil_the_mean():
    measure = InstanceScores()
    nothing = torch.zeros(1, 8, 8, dtype=torch.int32)
    measure.add("empty", torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]), nothing[0], nothing, CELLS)
    assert measure.report()["objects"]["SEG"] is None
    probabilities, truth = cells(0)
    measure.add("full", probabilities, torch.from_numpy(CELLS.encode(truth[0].numpy())), truth, CELLS)
    found = measure.report()["objects"]
    assert found["SEG"] == found["by image"]["full"]["seg"]
    assert found["average precision"] == found["by image"]["full"]["average_precision"]


def test_classes_alone_are_not_objects():
    _, truth = cells(0)
    classes = (truth[0] > 0).long()
    assert components(classes)[1] > 1
    with pytest.raises(ValueError, match="let labels be an InstanceScheme"):
        InstanceScores().add(
            "a", torch.stack([1 - classes, classes]), classes, None, LabelScheme(["a", "b"], [0, 1])
        )
