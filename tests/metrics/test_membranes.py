"""Membranes are scored as the ISBI 2012 challenge did: its definitions in slow and obvious words."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import adapted_rand_error

from volseg.metrics import (
    THRESHOLDS,
    Best,
    homotopic_warp,
    membrane_scores,
    pixel_error,
    rand_error,
    thinned_scores,
    warping_error,
)
from volseg.metrics.membranes import _thinned
from volseg.metrics.warping import _SIMPLE, KINDS

EIGHT = np.ones((3, 3), bool)


def objects(image):
    return ndimage.label(image)[1]


def gaps(image):
    """8-connected parts of what is not inside, the outside of the image being one of it."""
    return ndimage.label(~np.pad(image, 1), EIGHT)[1]


def random_images(seed, shape=(13, 11)):
    """A blobby truth and a prediction that resembles it."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 1)
    other = field + 0.6 * ndimage.gaussian_filter(rng.standard_normal(shape), 0.7)
    probability = (1 / (1 + np.exp(-8 * other))).astype(np.float32)
    return field > 0, probability


def two_cells(width=1):
    """Two cells in a frame of membrane, a membrane of ``width`` pixels between them."""
    truth = np.zeros((9, 12 + width), bool)
    truth[1:-1, 1:6] = truth[1:-1, 6 + width : -1] = True
    return truth


def two_blocks(width=1):
    """The same in 3D."""
    return np.repeat(two_cells(width)[..., None], 4, -1)


@pytest.fixture(params=[two_cells, two_blocks], ids=["2d", "3d"])
def cells(request):
    return request.param


# --- homotopic warping


def counts_after_flip(image, place):
    flipped = image.copy()
    flipped[place] = ~flipped[place]
    return objects(flipped), gaps(flipped)


@pytest.mark.parametrize("centre", [False, True])
def test_a_point_is_simple_if_the_parts_around_it_say_so(centre):
    """All 256 neighbourhoods: objects and gaps that touch the centre, counted one by one."""
    ring = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    for code in range(256):
        patch = np.zeros((3, 3), bool)
        for bit, place in enumerate(ring):
            patch[place] = code >> bit & 1
        inside, outside = patch.copy(), ~patch
        inside[1, 1] = outside[1, 1] = False
        parts_in, number_in = ndimage.label(inside)
        touching = sum(
            any(parts_in[p] == i for p in [(0, 1), (1, 0), (1, 2), (2, 1)]) for i in range(1, number_in + 1)
        )
        number_out = ndimage.label(outside, EIGHT)[1]
        assert _SIMPLE[code] == (touching == 1 and number_out == 1)
        # and then flipping the centre changes no count in the patch, wherever it stands
        patch[1, 1] = centre
        if _SIMPLE[code]:
            assert counts_after_flip(patch, (1, 1)) == (objects(patch), gaps(patch))


def slow_warp(truth, prediction, confidence):
    """The same greedy order, a point being simple if it has one object and one gap in its patch."""
    image = np.pad(truth, 1)
    target, sure = np.pad(prediction, 1), np.pad(confidence, 1)
    left = sorted(map(tuple, np.argwhere(image != target)), key=lambda place: -sure[place])
    while True:
        kept = []
        for row, column in left:
            patch = image[row - 1 : row + 2, column - 1 : column + 2].copy()
            patch[1, 1] = False
            labels = ndimage.label(patch)[0]
            touching = {labels[0, 1], labels[1, 0], labels[1, 2], labels[2, 1]} - {0}
            around = ~patch
            around[1, 1] = False
            if len(touching) == 1 and ndimage.label(around, EIGHT)[1] == 1:
                image[row, column] = ~image[row, column]
            else:
                kept.append((row, column))
        if len(kept) == len(left):
            return image[1:-1, 1:-1]
        left = kept


@pytest.mark.parametrize("seed", range(6))
def test_the_warp_is_that_of_the_obvious_loop(seed):
    truth, probability = random_images(seed)
    confidence = abs(probability - 0.5)
    warping = homotopic_warp(truth, probability > 0.5, confidence)
    np.testing.assert_array_equal(warping.warped, slow_warp(truth, probability > 0.5, confidence))


images = st.integers(1, 2**32 - 1).map(lambda seed: random_images(seed, (seed % 17 + 1, seed % 13 + 1)))


@settings(max_examples=60, deadline=None)
@given(images)
def test_warping_keeps_the_topology_and_only_approaches_the_prediction(pair):
    truth, probability = pair
    prediction = probability > 0.5
    warped, mistakes = homotopic_warp(truth, prediction, abs(probability - 0.5))
    assert (objects(warped), gaps(warped)) == (objects(truth), gaps(truth))
    np.testing.assert_array_equal(mistakes != 0, warped != prediction)
    assert ((warped == truth) | (warped == prediction)).all()


@settings(max_examples=60, deadline=None)
@given(images)
def test_a_mistake_is_named_after_what_its_pixel_would_do_to_the_whole_image(pair):
    truth, probability = pair
    warping = homotopic_warp(truth, probability > 0.5, abs(probability - 0.5))
    before = objects(warping.warped), gaps(warping.warped)
    for place in map(tuple, np.argwhere(warping.mistakes)):
        after = counts_after_flip(warping.warped, place)
        more, holes = after[0] - before[0], after[1] - before[1]
        if more:
            expected = {
                (True, True): "object lost", (True, False): "split",
                (False, True): "merge", (False, False): "object added",
            }[bool(warping.warped[place]), more < 0]  # fmt: skip
        else:
            expected = "hole added" if holes > 0 else "hole filled"
        assert KINDS[warping.mistakes[place] - 1] == expected


HAND_MADE = {
    "merge": (["#.#"], ["###"]),
    "split": (["###"], ["#.#"]),
    "hole added": (["###", "###", "###"], ["###", "#.#", "###"]),
    "hole filled": (["###", "#.#", "###"], ["###", "###", "###"]),
    "object added": (["...", "...", "..."], ["...", ".#.", "..."]),
    "object lost": (["...", ".#.", "..."], ["...", "...", "..."]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_mistake_is_one_pixel(kind):
    truth, prediction = (np.array([[c == "#" for c in row] for row in rows]) for rows in HAND_MADE[kind])
    warping = homotopic_warp(truth, prediction, np.ones(truth.shape))
    assert {name: warping.count(name) for name in KINDS} == {name: int(name == kind) for name in KINDS}
    assert warping_error(prediction * 1.0, truth, kinds=KINDS).value == 1 / truth.size


def test_an_object_that_touches_at_a_corner_is_not_merged():
    rows = ["...#.", "##...", "#.#..", "###.."]
    truth = np.array([[c == "#" for c in row] for row in rows])
    prediction = truth.copy()
    prediction[1, 2] = True
    warping = homotopic_warp(truth, prediction, np.ones(truth.shape))
    assert [kind for kind in KINDS if warping.count(kind)] == ["hole added"]


# --- what each measure sees


def test_one_pixel_that_merges_two_cells_is_one_mistake():
    truth = two_cells()
    leaky = truth.copy()
    leaky[4, 6] = True
    assert warping_error(leaky * 1.0, truth) == Best(1 / truth.size, 0.0)
    assert pixel_error(leaky * 1.0, truth).value < 0.01
    assert rand_error(leaky * 1.0, truth).value > 0.3
    v_rand, v_info = thinned_scores(leaky * 1.0, truth)
    assert v_rand.value < 0.7
    assert v_info.value == 0  # one segment says nothing


def test_a_wide_merge_counts_with_the_pixels_that_would_mend_it():
    truth = two_cells(3)
    leaky = truth.copy()
    leaky[3:6, 6:9] = True
    assert warping_error(leaky * 1.0, truth).value == 3 / truth.size


def test_a_displaced_border_is_no_mistake_of_topology():
    truth = two_cells(2)
    shifted = np.roll(truth, 2, 1)
    shifted[:, :2] = False
    assert warping_error(shifted * 1.0, truth, kinds=KINDS).value == 0
    assert pixel_error(shifted * 1.0, truth).value > 0.1


def test_the_width_of_a_membrane_matters_before_thinning_only(cells):
    truth, wide = cells(3), ndimage.binary_erosion(cells(3), border_value=1)
    assert wide.sum() < truth.sum()
    assert rand_error(wide * 1.0, truth).value > 0.2
    assert thinned_scores(wide * 1.0, truth) == (Best(1, 0.0), Best(1, 0.0))


def test_the_truth_itself_is_perfect(cells):
    scores = membrane_scores(cells() * 1.0, cells())
    names = ["pixel_error", "rand_error", *["warping_error"] * (cells is two_cells), "v_rand", "v_info"]
    assert list(scores) == names
    for name, best in scores.items():
        assert best == Best(float(name.startswith("v_")), 0.0)


def test_the_best_threshold_is_found(cells):
    truth = cells()
    probability = np.where(truth, 0.75, 0.55).astype(np.float32)
    for measure in (pixel_error, rand_error):
        assert measure(probability, truth) == Best(0, 0.6)
        assert measure(probability, truth, thresholds=(0.5,)).value > 0
    assert thinned_scores(probability, truth).v_rand == Best(1, 0.6)
    assert THRESHOLDS == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def test_all_scores_at_once_are_those_one_by_one():
    truth, probability = random_images(3)
    scores = membrane_scores(probability, truth, thresholds=(0.3, 0.5))
    for measure in (pixel_error, rand_error, warping_error):
        assert scores[measure.__name__] == measure(probability, truth, thresholds=(0.3, 0.5))
    assert (scores["v_rand"], scores["v_info"]) == thinned_scores(probability, truth, thresholds=(0.3, 0.5))


# --- slow twins


def segments(inside):
    """Ids of the truth or of a prediction; predicted membrane pixels each their own."""
    labels = ndimage.label(inside)[0]
    alone = labels == 0
    labels[alone] = labels.max() + 1 + np.arange(alone.sum())
    return labels


def slow_rand_error(pairs):
    """Pixel by pixel: pairs in one segment of both, of the truth, of the prediction."""
    both = of_true = of_predicted = 0
    for true, predicted in pairs:
        for a, b in itertools.combinations(range(len(true)), 2):
            one, other = true[a] == true[b], predicted[a] == predicted[b]
            both, of_true, of_predicted = both + (one and other), of_true + one, of_predicted + other
    return 1 - 2 * both / (of_true + of_predicted)


@pytest.fixture(params=[(9, 8), (4, 5, 4)], ids=["2d", "3d"])
def sections(request):
    return [random_images(seed, request.param) for seed in (1, 2)]


@pytest.mark.parametrize("number", [1, 2])
def test_the_rand_error_is_that_of_a_loop_over_pairs_of_pixels(sections, number):
    chosen = sections[:number]
    pairs = [(ndimage.label(t)[0][t], segments(p > 0.5)[t]) for t, p in chosen]
    got = rand_error([p for _, p in chosen], [t for t, _ in chosen], thresholds=(0.5,))
    assert got == Best(pytest.approx(slow_rand_error(pairs)), 0.5)


def test_the_rand_error_is_scikit_images_with_the_membranes_left_out(sections):
    truth, probability = sections[0]
    expected = adapted_rand_error(ndimage.label(truth)[0], segments(probability > 0.5))[0]  # ignores 0
    assert rand_error(probability, truth, thresholds=(0.5,)).value == pytest.approx(expected)


def slow_pixel_error(pairs, threshold):
    right = predicted = true = 0
    for t, p in pairs:
        for place in np.ndindex(t.shape):
            inside = p[place] > threshold
            right, predicted, true = right + (inside and t[place]), predicted + inside, true + t[place]
    precision, recall = right / predicted, right / true
    return 1 - 2 * precision * recall / (precision + recall)


def test_the_pixel_error_is_that_of_a_loop(sections):
    got = pixel_error([p for _, p in sections], [t for t, _ in sections])
    values = [slow_pixel_error(sections, threshold) for threshold in THRESHOLDS]
    assert got == Best(pytest.approx(min(values)), THRESHOLDS[int(np.argmin(values))])


def slow_thinning(inside):
    """Grow all segments by one step at a time; a pixel that two of them reach becomes a line."""
    labels = ndimage.label(inside)[0]
    lines = np.zeros(inside.shape, bool)
    steps = ndimage.generate_binary_structure(inside.ndim, 1)
    while True:
        for place in map(tuple, np.argwhere((labels == 0) & ~lines)):
            around = np.zeros(inside.shape, bool)
            around[place] = True
            found = set(labels[ndimage.binary_dilation(around, steps)].tolist()) - {0}
            if found:
                lines[place] = len(found) > 1
                labels[place] = 0 if lines[place] else found.pop()
                break
        else:
            return labels


def article_scores(true, predicted):
    """V_Rand and V_Info of Arganda-Carreras et al. 2015 from p_ij over the true inside."""
    p = np.zeros((true.max() + 1, predicted.max() + 1))
    np.add.at(p, (true, predicted), 1 / len(true))
    t, s = p.sum(1), p.sum(0)

    def entropy(x):
        return -(x[x > 0] * np.log(x[x > 0])).sum()

    information = entropy(t) + entropy(s) - entropy(p)
    return (p**2).sum() / (0.5 * (t**2).sum() + 0.5 * (s**2).sum()), information / (
        0.5 * entropy(t) + 0.5 * entropy(s)
    )


def test_v_rand_and_v_info_are_those_of_the_article():
    truth, probability = two_cells(3), two_cells(3) * 0.9
    probability[4, 1:6] = 0.2  # splits the left cell
    thinned = slow_thinning(probability > 0.5)
    alone = thinned == 0
    thinned[alone] = thinned.max() + 1 + np.arange(alone.sum())
    rand, info = article_scores(ndimage.label(truth)[0][truth], thinned[truth])
    v_rand, v_info = thinned_scores(probability, truth, thresholds=(0.5,))
    assert v_info.value == pytest.approx(info)
    assert v_rand.value == pytest.approx(rand, abs=3 / truth.sum())  # pairs of a pixel with itself
    assert 0.5 < v_rand.value < 0.9
    assert 0.5 < v_info.value < 0.95


def test_thinning_leaves_lines_one_pixel_wide(cells):
    for width in (1, 3, 5):
        inside = cells(width)
        thin = _thinned(inside)
        assert len(np.unique(thin)) == 3
        middle = (slice(3, 6), slice(5, 7 + width), *(slice(1, 3),) * (inside.ndim - 2))
        assert ((thin[middle] == 0).sum(1) == 1).all()


# --- several sections


def test_sections_are_scored_together(cells):
    whole, half = cells(), cells()
    half[4] = False  # splits both cells
    one, other = [whole * 1.0, half * 1.0], [whole, whole]
    assert pixel_error(one, other).value < pixel_error(half * 1.0, whole).value
    assert 0 < rand_error(one, other).value < rand_error(half * 1.0, whole).value
    alone, both = thinned_scores(half * 1.0, whole), thinned_scores(one, other)
    assert both.v_info.value == pytest.approx((1 + alone.v_info.value) / 2)
    assert alone.v_rand.value < both.v_rand.value < 1
    if whole.ndim == 2:
        assert warping_error(one, other).value == warping_error(half * 1.0, whole).value / 2 > 0


def test_repeating_a_section_changes_nothing(sections):
    for truth, probability in sections:
        once = membrane_scores(probability, truth)
        thrice = membrane_scores([probability] * 3, [truth] * 3)
        for name, best in once.items():
            assert thrice[name] == pytest.approx(best)


def test_a_threshold_holds_for_all_sections():
    truth = two_cells()
    dim, bright = np.where(truth, 0.35, 0.15), np.where(truth, 0.85, 0.55)
    assert pixel_error(dim, truth).value == pixel_error(bright, truth).value == 0
    assert pixel_error([dim, bright], [truth, truth]).value > 0


# --- kinds of arrays, limits, errors


def test_tensors_and_class_indices_are_welcome(cells):
    truth = cells()
    probability = np.where(truth, 0.8125, 0.3125).astype(np.float32)  # exact in bfloat16
    expected = membrane_scores(probability, truth)
    tensor = torch.from_numpy(probability).requires_grad_()
    assert membrane_scores(tensor, torch.from_numpy(truth.astype(np.uint8))) == expected
    assert membrane_scores(tensor.to(torch.bfloat16), truth.astype(np.int64)) == expected
    assert membrane_scores([tensor], [truth[::-1][::-1]]) == expected


def test_nothing_inside_says_nothing(cells):
    nothing = np.zeros_like(cells())
    for measure in (pixel_error, rand_error):
        assert math.isnan(measure(nothing * 1.0, nothing).value)
    scores = thinned_scores(nothing * 1.0, nothing)
    assert math.isnan(scores.v_rand.value)
    assert math.isnan(scores.v_info.threshold)


def test_nothing_found_is_as_bad_as_can_be(cells):
    nothing = np.zeros_like(cells(), np.float32)
    assert pixel_error(nothing, cells()).value == 1
    assert rand_error(nothing, cells()).value == 1
    assert thinned_scores(nothing, cells()).v_rand.value == 0


def test_one_segment_in_both_is_perfect(cells):
    everything = np.ones_like(cells())
    assert thinned_scores(everything * 1.0, everything) == (Best(1, 0.0), Best(1, 0.0))
    assert rand_error(everything * 1.0, everything).value == 0


@pytest.mark.parametrize(
    ("probability", "truth", "message"),
    [
        (np.ones((3, 3)), np.ones((3, 4), bool), r"shape \(3, 3\), its truth \(3, 4\): they have to agree"),
        (np.ones(3), np.ones(3, bool), r"shape \(3,\); it is an image \(X, Y\) or a volume"),
        (np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3), bool), "without batch or channel axis"),
        (np.ones((0, 3)), np.ones((0, 3), bool), "nothing to score"),
        (np.full((3, 3), 255), np.ones((3, 3), bool), "runs from 255 to 255; probabilities are 0 to 1"),
        (np.full((3, 3), -0.1), np.ones((3, 3), bool), "runs from -0.1 to -0.1"),
        (np.full((3, 3), np.nan), np.ones((3, 3), bool), "runs from nan to nan"),
        (np.ones((3, 3)), np.full((3, 3), 255), "The truth holds 255; it is 1 inside cells"),
        ([np.ones((3, 3))], [], "There are 1 probability maps and 0 true images"),
        ([], [], "at least one"),
    ],
)
def test_what_cannot_be_scored_is_refused(probability, truth, message):
    for measure in (pixel_error, rand_error, warping_error, thinned_scores, membrane_scores):
        with pytest.raises(ValueError, match=message):
            measure(probability, truth)


def test_arguments_are_checked():
    truth = two_cells()
    for measure in (pixel_error, rand_error, warping_error, thinned_scores, membrane_scores):
        with pytest.raises(ValueError, match="thresholds is empty"):
            measure(truth * 1.0, truth, thresholds=())
    with pytest.raises(ValueError, match="kinds holds 'merger'; there are: merge, split, hole added"):
        warping_error(truth * 1.0, truth, kinds=("split", "merger"))
    with pytest.raises(ValueError, match="this one is 3D. Score it section by section"):
        warping_error(two_blocks() * 1.0, two_blocks())


# --- real tissue


def test_real_membranes_score_as_one_would_expect(shared_data):
    tifffile = pytest.importorskip("tifffile")
    truth = tifffile.imread(shared_data / "isbi2012_em" / "train-labels.tif", key=0) == 255
    perfect = membrane_scores(truth * 1.0, truth, thresholds=(0.5,))
    assert [perfect[name].value for name in ("pixel_error", "rand_error", "warping_error")] == [0, 0, 0]
    assert perfect["v_rand"].value == perfect["v_info"].value == 1

    shifted = membrane_scores(np.roll(truth, 1, 0) * 1.0, truth, thresholds=(0.5,))
    assert shifted["pixel_error"].value > 0.02
    assert shifted["warping_error"].value < 1e-4

    # open the membrane between a large cell and its largest neighbour, where it is thinnest
    cells = ndimage.label(truth)[0]
    sizes = np.bincount(cells.ravel())
    largest = sizes[1:].argmax() + 1
    to_largest = ndimage.distance_transform_edt(cells != largest)
    near = set(cells[to_largest < 5].tolist()) - {0, largest}
    neighbour = max(near, key=sizes.__getitem__)
    gap = to_largest + ndimage.distance_transform_edt(cells != neighbour)
    place = np.unravel_index(gap.argmin(), gap.shape)
    row, column = np.ogrid[: truth.shape[0], : truth.shape[1]]
    leaky = truth | (np.hypot(row - place[0], column - place[1]) <= gap.min())
    assert ndimage.label(leaky)[1] < cells.max()
    merged = membrane_scores(leaky * 1.0, truth, thresholds=(0.5,))
    assert 0 < merged["warping_error"].value < 1e-3
    assert merged["pixel_error"].value < 0.001
    share = 2 * sizes[largest] * sizes[neighbour] / (sizes[1:] ** 2).sum()  # of pairs, wrongly joined
    assert share > 0.01
    assert merged["rand_error"].value >= 0.9 * share / (2 + share)
    assert merged["v_rand"].value <= 1 - 0.9 * share / (2 + share)
