"""Which annotated slices are trained on and which are tested on: arithmetic on label arrays.

As in :mod:`volseg.annotation`, labels are class indices ``(*spatial)`` with 255 where it is unlabelled,
and a choice of slices is a mapping from the axis, ``"x"``, ``"y"`` or ``"z"``, to indices.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from volseg.annotation import even_positions, hold_out
from volseg.arguments import option
from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX

__all__ = [
    "Budgets",
    "Labels",
    "Slices",
    "annotated",
    "count",
    "divide_budgets",
    "divide_folds",
    "without",
]

Labels: TypeAlias = npt.NDArray[np.uint8]
Slices: TypeAlias = Mapping[str, Sequence[int]]


class Budgets(NamedTuple):
    """What is trained on under each budget, and what all of them are tested on."""

    train: list[Labels]
    slices: list[dict[str, list[int]]]  # the slices trained on, per budget
    test: Labels


def count(slices: Slices) -> int:
    """How many slices there are."""
    return sum(map(len, slices.values()))


def divide_folds(cases: Mapping[str, Slices], folds: int) -> list[dict[str, dict[str, list[int]]]]:
    """Every annotated slice in one of ``folds`` test subsets: per fold the slices of each case.

    The subsets are equally large, and each is spread evenly over each direction; slices that are
    neighbours stay together, because one of them shows what the next looks like.
    """
    total = sum(count(slices) for slices in cases.values())
    if not 2 <= folds <= total:
        raise InputError(
            f"{folds} folds of {total} annotated slice(s) are not possible: each needs a slice to test on "
            f"and one to train on. Choose {option('folds')} from 2 to the number of slices."
        )
    divided: list[dict[str, dict[str, list[int]]]] = [
        {name: {axis: [] for axis in slices} for name, slices in cases.items()} for _ in range(folds)
    ]
    start = 0
    for name, slices in cases.items():
        for axis, indices in slices.items():
            n = len(indices)
            together = n > 1 and float(np.mean(np.diff(indices) == 1)) > 0.5
            for i, index in enumerate(indices):
                fold = i * folds // n if together else i
                divided[(start + fold) % folds][name][axis].append(int(index))
            start += n
    if not all(any(map(count, fold.values())) for fold in divided):
        raise InputError(
            f"The annotated slices cannot be divided into {folds} folds. Choose fewer ({option('folds')})."
        )
    return divided


def divide_budgets(labels: Labels, slices: Slices, budgets: Sequence[Sequence[int]]) -> Budgets:
    """Fewer and more annotated slices to train on, and one test for all of them.

    The slices of the largest budget are spread evenly over the annotated ones, those of the smaller
    budgets evenly over these. The test is on the slices that are in none of them, as in Çiçek et al.
    2016 (Table 2), without the lines in which they cross a slice of any budget.

    Args:
        slices: the annotated slices.
        budgets: slices per axis; where fewer are annotated, these are taken.
    """
    axes = list(slices)
    for budget in budgets:
        if len(budget) != len(axes) or min(budget) < 0 or not any(budget):
            raise ValueError(
                f"The budget {','.join(map(str, budget))} does not fit: write one number of slices per axis "
                f"({', '.join(axes)}), such as {','.join('2' * len(axes))}."
            )
    most = {
        axis: [slices[axis][i] for i in even_positions(len(slices[axis]), min(k, len(slices[axis])))]
        for axis, k in zip(axes, np.max(np.asarray(budgets), axis=0).tolist(), strict=True)
    }
    rest = {axis: sorted(set(slices[axis]) - set(most[axis])) for axis in axes}
    if not count(rest):
        raise InputError(
            "The largest budget takes every annotated slice, so none is left to test on. "
            f"Choose smaller ones ({option('budgets')})."
        )
    chosen = [
        {
            axis: [most[axis][i] for i in even_positions(len(most[axis]), min(k, len(most[axis])))]
            for axis, k in zip(axes, budget, strict=True)
        }
        for budget in budgets
    ]
    test = hold_out(hold_out(labels, most)[0], rest)[1]
    return Budgets([hold_out(labels, part)[1] for part in chosen], chosen, test)


def without(slices: Slices, others: Slices) -> dict[str, list[int]]:
    """The slices that are not among the others."""
    return {
        axis: [i for i in indices if i not in set(others.get(axis, ()))] for axis, indices in slices.items()
    }


def annotated(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where there is annotation."""
    return np.asarray(labels != IGNORE_INDEX)
