"""A loss that knows nothing of unlabelled voxels does not come to see any."""

import pytest
import torch
from monai import losses as monai_losses
from torch import nn

from volseg.errors import InputError
from volseg.losses import AnnotatedLoss, SparseCrossEntropy, SparseDice, over_annotated

IGNORE = 255
FITTING = {
    "DiceLoss": lambda: monai_losses.DiceLoss(softmax=True, to_onehot_y=True),
    "DiceLoss, one-hot by us": lambda: monai_losses.DiceLoss(softmax=True),
    "DiceLoss over the batch": lambda: monai_losses.DiceLoss(softmax=True, to_onehot_y=True, batch=True),
    "DiceCELoss": lambda: monai_losses.DiceCELoss(softmax=True, to_onehot_y=True),
    "DiceFocalLoss": lambda: monai_losses.DiceFocalLoss(softmax=True, to_onehot_y=True),
    "FocalLoss": lambda: monai_losses.FocalLoss(to_onehot_y=True),
    "TverskyLoss": lambda: monai_losses.TverskyLoss(softmax=True, to_onehot_y=True),
    "GeneralizedDiceLoss": lambda: monai_losses.GeneralizedDiceLoss(softmax=True, to_onehot_y=True),
    "GeneralizedDiceFocalLoss": lambda: monai_losses.GeneralizedDiceFocalLoss(softmax=True, to_onehot_y=True),
    "cross-entropy": nn.CrossEntropyLoss,
    "cross-entropy with logits": nn.BCEWithLogitsLoss,
}


@pytest.fixture(params=[(6, 5), (4, 6, 5)], ids=["2d", "3d"])
def case(request):
    """Logits for three classes and a target in which every other slice is annotated."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, *request.param, generator=generator)
    target = torch.randint(0, 3, (2, 1, *request.param), generator=generator)
    target[:, :, ::2] = IGNORE
    return logits.requires_grad_(), target


@pytest.mark.parametrize("name", FITTING)
def test_what_is_unlabelled_cannot_reach_the_loss(case, name):
    logits, target = case
    loss = over_annotated(FITTING[name]())
    value = loss(logits, target)
    value.backward()
    unlabelled = (target == IGNORE).expand_as(logits)
    assert logits.grad is not None
    assert not logits.grad[unlabelled].any()
    assert logits.grad[~unlabelled].any()
    other = torch.where(unlabelled, torch.nan, logits.detach())
    torch.testing.assert_close(loss(other, target), value.detach())
    blank = torch.full_like(target, IGNORE)
    if name not in ("DiceLoss, one-hot by us",):
        more = loss(torch.cat([logits, logits], 2), torch.cat([target, blank], 2))
        torch.testing.assert_close(more, value)


@pytest.mark.parametrize("name", sorted(set(FITTING) - {"cross-entropy", "cross-entropy with logits"}))
def test_of_a_target_without_gaps_the_loss_is_what_its_authors_made_it(case, name):
    logits = case[0].detach()
    target = torch.randint(0, 3, (2, 1, *logits.shape[2:]), generator=torch.Generator().manual_seed(1))
    theirs = FITTING[name]()
    plain = theirs(
        logits, target if "one-hot" not in name else nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1)
    )
    torch.testing.assert_close(over_annotated(theirs)(logits, target), plain, rtol=1e-4, atol=1e-5)


def test_the_same_loss_by_two_authors_is_the_same(case):
    logits, target = case
    torch.testing.assert_close(
        over_annotated(nn.CrossEntropyLoss())(logits, target), SparseCrossEntropy()(logits, target)
    )
    theirs = monai_losses.DiceLoss(softmax=True, to_onehot_y=True, batch=True)
    torch.testing.assert_close(
        over_annotated(theirs)(logits, target), SparseDice()(logits, target), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", FITTING)
def test_without_annotation_the_loss_is_zero_and_attached(case, name):
    logits, target = case
    value = over_annotated(FITTING[name]())(logits * torch.inf, torch.full_like(target, IGNORE))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.nan_to_num(0).any()


def test_a_loss_that_knows_of_unlabelled_voxels_comes_back_as_it_is():
    loss = SparseCrossEntropy()
    assert over_annotated(loss) is loss

    def mine(logits, target, weight):
        return (logits * 0).sum() + (target == IGNORE).sum()

    assert over_annotated(mine)(torch.zeros(1, 2, 3), torch.full((1, 1, 3), IGNORE), None) == 3


def test_a_plain_function_gets_class_indices(case):
    logits, target = case
    seen = []

    def mine(found, wanted):
        seen.append((found.shape, wanted.shape, int(wanted.max())))
        return found.mean()

    over_annotated(mine)(logits, target)
    count = int((target != IGNORE).sum())
    assert seen == [((1, 3, count), (1, 1, count), 2)]


class Undecided(nn.Module):
    def forward(self, everything):
        return everything.mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (monai_losses.HausdorffDTLoss(), "HausdorffDTLoss looks at the neighbours of a voxel"),
        (monai_losses.SoftclDiceLoss(), "looks at the neighbours"),
        (monai_losses.MaskedLoss(monai_losses.SSIMLoss, spatial_dims=2), "looks at the neighbours"),
        (monai_losses.DiceLoss(to_onehot_y=True), 'makes no probabilities of them: set "softmax": true'),
        (monai_losses.DiceCELoss(), 'set "softmax": true'),
        (nn.NLLLoss(), "take torch.nn.CrossEntropyLoss"),
        (nn.BCELoss(), "take torch.nn.BCEWithLogitsLoss"),
        (nn.CrossEntropyLoss(reduction="none"), "set it to 'mean'"),
        (nn.TripletMarginLoss(), r"takes anchor, positive, negative; it must take \(input, target\)"),
        (Undecided(), "takes everything"),
        (monai_losses.MaskedDiceLoss(softmax=True), "takes a mask, of which there is no need"),
        (nn.KLDivLoss(), "wants probabilities, but the network gives logits: take torch.nn.CrossEntropyLoss"),
        (monai_losses.AUCMLoss(), "more than a segmentation"),
        (monai_losses.ContrastiveLoss(), "more than a segmentation"),
    ],
)
def test_what_cannot_be_computed_voxel_by_voxel_is_refused(loss, message):
    with pytest.raises(InputError, match=message):
        over_annotated(loss)


def test_weights_need_a_loss_that_takes_them(case):
    logits, target = case
    with pytest.raises(InputError, match="CrossEntropyLoss takes no weights.*set weight_map to null"):
        over_annotated(nn.CrossEntropyLoss(), weighted=True)
    with pytest.raises(InputError, match="takes no weights"):
        AnnotatedLoss(nn.CrossEntropyLoss())(logits, target, torch.ones_like(target))
    over_annotated(SparseCrossEntropy(), weighted=True)


def test_a_map_instead_of_a_number_is_refused(case):
    with pytest.raises(InputError, match=r"<lambda> returned \(1, 3, \d+\) instead of one number"):
        over_annotated(lambda found, wanted: found)(*case)


def test_the_unified_focal_loss_gets_probabilities_of_the_annotated_voxels():
    """MONAI's own word is that it takes logits, but it cuts them to 0..1; and it wants two axes or three."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 6, 5, generator=generator, requires_grad=True)
    target = torch.randint(0, 2, (2, 1, 6, 5), generator=generator)
    target[:, :, ::2] = IGNORE
    loss = monai_losses.AsymmetricUnifiedFocalLoss(to_onehot_y=True)
    known = target[:, 0] != IGNORE
    row = logits.softmax(1).movedim(1, -1)[known].T[None, :, :, None]
    expected = loss(row, target[:, 0][known][None, None, :, None])
    found = over_annotated(loss)(logits, target)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert bool((logits.grad.movedim(1, -1)[known] != 0).all())
    with pytest.raises(
        InputError, match="AsymmetricUnifiedFocalLoss is for two classes, but the network gives 3"
    ):
        over_annotated(loss)(torch.randn(1, 3, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.long))


def test_the_margin_loss_of_torch_gets_one_row_per_voxel():
    logits, target = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 1, 4, 4))
    expected = nn.functional.multi_margin_loss(logits[0].flatten(1).T, target.flatten())
    torch.testing.assert_close(over_annotated(nn.MultiMarginLoss())(logits, target), expected)
