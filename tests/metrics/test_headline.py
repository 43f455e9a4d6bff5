"""The figure that stands at the top: of which classes it is the mean, and that this is said."""

import numpy as np
import pytest

from volseg.labels import background_of
from volseg.metrics import Headline, mean_score


@pytest.mark.parametrize("name", ["background", "Background", " BACKGROUND ", "bg"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_background_is_left_out_wherever_it_stands_and_however_it_is_written(name, place):
    names = ["nucleus", "membrane"]
    names.insert(place, name)
    scores = np.array([0.5, 0.7])
    with_background = np.insert(scores, place, 0.99)
    headline = Headline(names)
    assert headline.background == place
    assert headline.mean(with_background) == mean_score(scores)
    assert headline.title() == "mean IoU over foreground classes (nucleus, membrane)"
    assert headline.in_words(0.6, (0.5, 0.7), 0.73) == (
        "mean IoU over foreground classes (nucleus, membrane): 0.600 (0.50 – 0.70); with background 0.730"
    )


def test_without_a_background_all_classes_count_and_that_is_said():
    headline = Headline(["tubule", "lumen"])
    assert headline.mean([0.5, 0.7]) == 0.6
    assert headline.in_words(0.6, None, 0.6, "Dice") == (
        "mean Dice over all classes (tubule, lumen; none is background): 0.600"
    )


def test_what_paint_was_understood_to_say_is_the_background_whatever_it_is_called():
    headline = Headline(["outside", "cell", "background"], 0)
    assert headline.classes == [1, 2]
    assert headline.title() == "mean IoU over foreground classes (cell, background)"
    with pytest.raises(ValueError, match="background = 3 must be the index of a class, 0 to 2"):
        Headline(["a", "b", "c"], 3)


def test_a_background_alone_is_not_left_out():
    headline = Headline(["background"])
    assert headline.classes == [0]
    assert headline.beside(0.9) == ""


def test_many_classes_are_not_all_listed_and_one_without_a_score_does_not_count():
    headline = Headline(["background", *"abcdefg"])
    assert headline.title() == "mean IoU over foreground classes (a, b, c, d and 3 more)"
    assert headline.mean([1, 0.5, np.nan, 0.7, *[np.nan] * 4]) == 0.6
    assert headline.in_words(float("nan")).endswith(": unknown")


def test_no_class_is_taken_for_background_because_its_name_begins_so():
    assert background_of(["background noise", "cell"]) is None
