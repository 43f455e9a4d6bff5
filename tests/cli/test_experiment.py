"""What ``volseg experiment`` makes of its own options."""

import pytest

from volseg.cli.experiment import _budgets, _vary


def test_values_with_commas_stand_in_brackets():
    found = _vary(["size=[1,2],[3,4]", "lr=0.1, 0.2"], lambda entry, text: (entry, text))
    assert found == {"size": [("size", "[1,2]"), ("size", "[3,4]")], "lr": [("lr", "0.1"), ("lr", "0.2")]}


@pytest.mark.parametrize("texts", [["lr"], ["lr="], ["lr=1", "lr=2"]])
def test_a_vary_that_says_nothing_is_refused(texts):
    with pytest.raises(ValueError, match=f"--vary {texts[-1]}: write each entry once, as ENTRY=V1,V2"):
        _vary(texts, lambda entry, text: text)


def test_budgets_are_read_or_refused():
    assert _budgets("1,1,1 5,5,3") == [(1, 1, 1), (5, 5, 3)]
    with pytest.raises(ValueError, match='--budgets "1,x" is not a list such as'):
        _budgets("1,x")
