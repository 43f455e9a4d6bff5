"""Losses see annotated voxels and nothing else."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.losses import DiceLoss

from volseg.labels import IGNORE_INDEX
from volseg.losses import SparseCrossEntropy, SparseDice, SparseDiceCE

CLASS_WEIGHT = [0.2, 1.0, 3.0]
LOSSES = {
    "ce": SparseCrossEntropy,
    "dice": SparseDice,
    "dice per sample": partial(SparseDice, batch=False),
    "dice without background": partial(SparseDice, include_background=False),
    "dice+ce": partial(SparseDiceCE, dice_weight=0.7, ce_weight=1.5),
}
VARIANTS = {
    **LOSSES,
    "weighted ce": partial(SparseCrossEntropy, CLASS_WEIGHT),
    "weighted dice without background": partial(SparseDice, CLASS_WEIGHT, include_background=False),
}


@pytest.fixture(params=[(6, 5), (4, 6, 5)], ids=["2d", "3d"])
def case(request):
    """Logits for three classes, a target annotated in every other slice, a weight map."""
    generator = torch.Generator().manual_seed(0)
    spatial = request.param
    logits = torch.randn(2, 3, *spatial, generator=generator)
    target = torch.randint(0, 3, (2, 1, *spatial), generator=generator)
    target[:, :, ::2] = IGNORE_INDEX
    weight = torch.rand(2, 1, *spatial, generator=generator) + 0.1
    return logits.requires_grad_(), target, weight


@pytest.fixture(params=[False, True], ids=["", "class_weight"])
def class_weight(request):
    return CLASS_WEIGHT if request.param else None


@pytest.fixture(params=VARIANTS)
def loss(request):
    return VARIANTS[request.param]()


# --- slow obvious twins


def slow_cross_entropy(logits, target, weight, class_weight):
    total = norm = 0.0
    class_weight = class_weight or [1.0] * logits.shape[1]
    for b, *place in (target[:, 0] != IGNORE_INDEX).nonzero().tolist():
        z = logits.detach()[(b, slice(None), *place)].double()
        y = int(target[(b, 0, *place)])
        w = class_weight[y] * (1.0 if weight is None else float(weight[(b, 0, *place)]))
        total += w * (math.log(sum(math.exp(v) for v in z.tolist())) - float(z[y]))
        norm += w
    return total / norm


def slow_dice(logits, target, weight, class_weight, first=0, smooth=1e-5):
    annotated = target[:, 0] != IGNORE_INDEX
    p = logits.detach().double().movedim(1, -1)[annotated].softmax(-1)
    y = target[:, 0][annotated]
    w = torch.ones(len(y)) if weight is None else weight[:, 0][annotated]
    class_weight = class_weight or [1.0] * logits.shape[1]
    total = 0.0
    for c in range(first, logits.shape[1]):
        overlap = float((w * p[:, c] * (y == c)).sum())
        size = float((w * (p[:, c] + (y == c))).sum())
        total += class_weight[c] * (1 - (2 * overlap + smooth) / (size + smooth))
    return total / sum(class_weight[first:])


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_that_of_a_loop(case, class_weight, weighted):
    logits, target, weight = case
    weight = weight if weighted else None
    value = SparseCrossEntropy(class_weight)(logits, target, weight)
    assert value.item() == pytest.approx(slow_cross_entropy(logits, target, weight, class_weight), rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_dice_is_that_of_a_loop(case, class_weight, weighted, background):
    logits, target, weight = case
    weight = weight if weighted else None
    first = 0 if background else 1
    value = SparseDice(class_weight, include_background=background)(logits, target, weight)
    assert value.item() == pytest.approx(slow_dice(logits, target, weight, class_weight, first), rel=1e-5)
    each = [
        slow_dice(
            logits[b : b + 1],
            target[b : b + 1],
            None if weight is None else weight[b : b + 1],
            class_weight,
            first,
        )
        for b in range(2)
    ]
    value = SparseDice(class_weight, include_background=background, batch=False)(logits, target, weight)
    assert value.item() == pytest.approx(sum(each) / 2, rel=1e-5)


def test_cross_entropy_is_that_of_torch(case, class_weight):
    logits, target, _ = case
    weight = None if class_weight is None else torch.tensor(class_weight)
    expected = F.cross_entropy(logits, target[:, 0], weight=weight, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(SparseCrossEntropy(class_weight)(logits, target), expected)


@pytest.mark.parametrize("batch", [False, True])
def test_dice_of_a_dense_label_is_that_of_monai(case, batch):
    logits, target, _ = case
    target[target == IGNORE_INDEX] = 1
    monai = DiceLoss(softmax=True, to_onehot_y=True, batch=batch)
    torch.testing.assert_close(SparseDice(batch=batch)(logits, target), monai(logits, target))


def test_dice_and_cross_entropy_are_the_weighted_sum(case, class_weight):
    logits, target, weight = case
    combined = SparseDiceCE(class_weight, dice_weight=0.3, ce_weight=2.0)(logits, target, weight)
    dice = SparseDice()(logits, target, weight)
    ce = SparseCrossEntropy(class_weight)(logits, target, weight)
    torch.testing.assert_close(combined, 0.3 * dice + 2.0 * ce)


def test_a_perfect_prediction_costs_nothing(case):
    _, target, _ = case
    logits = 50.0 * F.one_hot(target[:, 0].clamp(max=2), 3).movedim(-1, 1)
    assert SparseDiceCE()(logits, target).item() == pytest.approx(0, abs=1e-5)


# --- what is unlabelled


def test_blank_slices_do_not_dilute_the_loss(case, loss):
    logits, target, weight = case
    blank = torch.full_like(target, IGNORE_INDEX)
    twice = torch.cat([logits, 9 * logits], 2), torch.cat([target, blank], 2), torch.cat([weight, weight], 2)
    torch.testing.assert_close(loss(*twice[:2]), loss(logits, target))
    torch.testing.assert_close(loss(*twice), loss(logits, target, weight))


def test_blank_samples_do_not_dilute_the_loss(case, loss):
    logits, target, _ = case
    blank = torch.full_like(target, IGNORE_INDEX)
    torch.testing.assert_close(
        loss(torch.cat([logits, logits]), torch.cat([target, blank])), loss(logits, target)
    )


@pytest.mark.parametrize("junk", [math.nan, -math.inf])
def test_nothing_leaks_from_unannotated_voxels(case, loss, junk):
    logits, target, weight = case
    ignored = (target == IGNORE_INDEX).expand_as(logits)
    expected = loss(logits, target, weight)
    (expected_grad,) = torch.autograd.grad(expected, logits)

    spoiled = logits.detach().clone()
    spoiled[ignored] = junk
    spoiled.requires_grad_()
    spoiled_weight = weight.clone()
    spoiled_weight[target == IGNORE_INDEX] = junk
    value = loss(spoiled, target, spoiled_weight)
    value.backward()
    assert value.item() == expected.item()
    assert (spoiled.grad[ignored] == 0).all()
    assert (spoiled.grad[~ignored] != 0).any()
    torch.testing.assert_close(spoiled.grad, expected_grad, rtol=0, atol=0)


@pytest.mark.parametrize("junk", [0.0, math.nan])
def test_without_annotation_the_loss_is_exactly_zero_and_on_the_graph(case, loss, junk):
    logits, target, weight = case
    logits = torch.full_like(logits, junk).requires_grad_()
    for map_ in (None, weight):
        value = loss(logits, torch.full_like(target, IGNORE_INDEX), map_)
        assert value.item() == 0
        assert value.requires_grad
        (grad,) = torch.autograd.grad(value, logits)
        assert (grad == 0).all()


def test_a_step_without_annotation_changes_no_weight(case, loss):
    logits, target, _ = case
    layer = torch.nn.Conv2d(3, 3, 1) if logits.ndim == 4 else torch.nn.Conv3d(3, 3, 1)
    before = [p.clone() for p in layer.parameters()]
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.99)
    loss(layer(logits), torch.full_like(target, IGNORE_INDEX)).backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_weight_zero_is_the_same_as_unlabelled(case, loss):
    logits, target, weight = case
    weight[:, :, 1] = 0
    blanked = target.clone()
    blanked[:, :, 1] = IGNORE_INDEX
    spoiled = logits.detach().clone()
    spoiled[:, :, 1] = math.nan
    torch.testing.assert_close(loss(spoiled, target, weight), loss(logits, blanked, weight))
    assert loss(logits, target, torch.zeros_like(weight)).item() == 0


def test_a_class_of_weight_zero_teaches_nothing():
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = SparseCrossEntropy([1, 0])(logits, torch.ones(1, 1, 4, 4, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


def test_nan_at_an_annotated_voxel_shows(case, loss):
    logits, target, _ = case
    with torch.no_grad():
        logits[:, :, 1] = math.nan
    assert loss(logits, target).isnan()


# --- scale, types, devices


def test_only_ratios_of_weights_matter(case):
    logits, target, weight = case
    ce = SparseCrossEntropy(CLASS_WEIGHT)
    torch.testing.assert_close(ce(logits, target, 7 * weight), ce(logits, target, weight))
    scaled = SparseCrossEntropy([5 * w for w in CLASS_WEIGHT])
    torch.testing.assert_close(scaled(logits, target, weight), ce(logits, target, weight))


def test_an_integer_weight_repeats_a_voxel(case):
    logits, target, _ = case
    doubled = torch.ones_like(target, dtype=torch.float32)
    doubled[:, :, 1] = 2
    repeated = [torch.cat([t, t[:, :, 1:2]], 2) for t in (logits, target)]
    for loss in (SparseCrossEntropy(), SparseDice()):
        torch.testing.assert_close(loss(logits, target, doubled), loss(*repeated))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(case, loss, dtype):
    logits, target, weight = case
    half = logits.detach().to(dtype)
    value = loss(half, target, weight)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(half.float(), target, weight), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(half, target, weight), value)


def test_many_half_precision_voxels_do_not_saturate():
    logits = torch.zeros(1, 2, 300, 300, dtype=torch.float16)
    target = torch.zeros(1, 1, 300, 300, dtype=torch.uint8)
    assert SparseCrossEntropy()(logits, target).item() == pytest.approx(math.log(2), rel=1e-5)
    assert SparseDice(smooth=1e-5)(logits, target).item() == pytest.approx(
        (1 - 2 * 0.5 / 1.5 + 1) / 2, rel=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64])
def test_the_type_of_the_target_does_not_matter(case, loss, dtype):
    logits, target, weight = case
    torch.testing.assert_close(loss(logits, target.to(dtype), weight), loss(logits, target, weight))


def test_meta_tensors_are_welcome(case, loss):
    logits, target, weight = case
    value = loss(MetaTensor(logits), MetaTensor(target), MetaTensor(weight))
    assert type(value) is torch.Tensor
    torch.testing.assert_close(value, loss(logits, target, weight))


def test_gradients_are_right(case, loss):
    logits, target, weight = case
    small = logits.detach()[:, :, :2, ..., :2].double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: loss(z, target[:, :, :2, ..., :2], weight[:, :, :2, ..., :2].double()), small
    )


def test_class_weights_are_no_part_of_a_checkpoint():
    assert SparseDiceCE([1, 2]).state_dict() == {}
    assert SparseCrossEntropy(torch.tensor([1, 2])).class_weight.tolist() == [1, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_loss_follows_the_logits_to_the_gpu(case):
    here = [t.detach() for t in case]
    there = [t.cuda() for t in here]
    for make in VARIANTS.values():
        torch.testing.assert_close(make()(*there).cpu(), make()(*here))


# --- refusals


@pytest.mark.parametrize(
    ("logits", "target", "weight", "message"),
    [
        ((1, 2), (1, 1), None, r"logits of shape \(1, 2\) are not \(B, C, \*spatial\)"),
        ((1, 1, 4, 4), (1, 1, 4, 4), None, "have one channel, whose softmax is always 1"),
        ((1, 2, 4, 4), (1, 4, 4), None, r"target has the shape \(1, 4, 4\).*need \(1, 1, 4, 4\)"),
        ((1, 2, 4, 4), (1, 1, 8, 8), None, r"target has the shape \(1, 1, 8, 8\).*crop the label"),
        ((2, 2, 4, 4), (1, 1, 4, 4), None, r"need \(2, 1, 4, 4\)"),
        ((1, 2, 4, 4), (1, 1, 4, 4), (4, 4), r"weight has the shape \(4, 4\)"),
    ],
)
@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_shapes_that_do_not_fit_are_refused(make, logits, target, weight, message):
    weight = None if weight is None else torch.ones(weight)
    with pytest.raises(ValueError, match=message):
        make()(torch.zeros(logits), torch.zeros(target, dtype=torch.uint8), weight)


@pytest.mark.parametrize("bad", [3, 254, -1, 0.5, math.nan])
def test_a_target_that_is_no_class_is_refused(case, loss, bad):
    logits, target, _ = case
    target = target.to(torch.float32 if isinstance(bad, float) else torch.int64)
    target[0, 0, 1] = bad
    with pytest.raises(ValueError, match=f"target holds {bad}; the logits have the classes 0 to 2, and 255"):
        loss(logits, target)


def test_class_weights_fit_the_logits(case):
    logits, target, _ = case
    for loss in (SparseCrossEntropy([1, 2]), SparseDice([1, 2])):
        with pytest.raises(ValueError, match="class_weight has 2 entries, the logits have 3 channels"):
            loss(logits, target)


@pytest.mark.parametrize("bad", [[0, 0], [1, -1], [1, math.nan], [[1, 2]], []])
@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_class_weights_are_weights(make, bad):
    with pytest.raises(ValueError, match="is not a list of one finite weight per class"):
        make(class_weight=bad)


def test_the_arguments_make_sense():
    with pytest.raises(ValueError, match="smooth = 0 is not above zero"):
        SparseDice(smooth=0)
    with pytest.raises(ValueError, match="class_weight is zero for every class but the background"):
        SparseDice([1, 0], include_background=False)
    with pytest.raises(ValueError, match="dice_weight = -1 is negative"):
        SparseDiceCE(dice_weight=-1)
    with pytest.raises(ValueError, match="ce_weight = nan is negative"):
        SparseDiceCE(ce_weight=math.nan)
