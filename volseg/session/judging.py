"""The live score: how good the result is that follows from the paint at hand, with an interval.

Places are held out in turn, and short trainings from nothing on the others are compared; see
:mod:`volseg.densification.strokes`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from volseg.densification.strokes import live_score
from volseg.labels import IGNORE_INDEX
from volseg.pixelwise import Live, PaintedVoxels
from volseg.session.canvas import DENSE
from volseg.session.painting import ClassInfo

if TYPE_CHECKING:
    from volseg.session.session import Session

__all__ = ["Score", "score", "score_of_made"]

_ROUNDS, _STEPS = 3, 40  # of each training
_DENSE = 2**26  # voxels of the largest volume that is scored while painting


@dataclass(frozen=True)
class Score:
    """Mean IoU over the classes other than background.

    Attributes:
        value: the estimate; ``None`` if there is too little paint to tell.
        low, high: its 95 % interval.
        per_class: the same by the class's value: estimate, low, high.
        reason: why there is no number, or what it cannot know.
        revision: of the paint that it is about.
    """

    value: float | None
    low: float | None
    high: float | None
    per_class: dict[int, tuple[float | None, float | None, float | None]]
    reason: str
    revision: int

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return vars(self) | {
            "per_class": {
                str(value): dict(zip(("value", "low", "high"), one, strict=True))
                for value, one in self.per_class.items()
            }
        }


def score(session: "Session", should_stop: Callable[[], bool] | None = None) -> Score | None:
    """The score of the paint at hand; ``None`` if it was stopped.

    Only voxels whose image features are at hand are looked at, so that nothing waits for the whole volume.
    """
    revision, live = session.revision, session.live
    counts = session.counts()
    values = [value for value in session.classes if counts[value]]
    if np.prod(session.size, dtype=float) > _DENSE:
        text = "The volume is too large for a score while painting. " + (
            "Make the volume: that is scored."
            if np.prod(session.size, dtype=float) <= DENSE
            else "Cut the part that matters out of the image, and paint on that: it is scored."
        )
        return Score(None, None, None, {}, text, revision)
    if live is None or len(values) < 2:
        return Score(None, None, None, {}, "Too little paint to tell: paint a second class.", revision)
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[values] = np.arange(len(values))
    labels = table[session.labels]
    among = _at_hand(session, live)

    def learn_without(left_out: npt.NDArray[np.bool_]) -> Callable[[npt.NDArray[np.bool_]], Any]:
        other = live.apart(len(values))
        rest = PaintedVoxels.of(np.where(left_out, np.uint8(IGNORE_INDEX), labels))
        with session.learning():
            for _ in range(_ROUNDS):
                other.learn(rest, seconds=0, steps=_STEPS, should_stop=should_stop)

        def predict(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
            with session.learning():
                return other.predict_at(np.argwhere(where))

        return predict

    found = live_score(
        labels, session.spacing, learn_without, names=[session.classes[value].name for value in values],
        background=values.index(0) if 0 in values else None, among=among, should_stop=should_stop,
    )  # fmt: skip
    if should_stop is not None and should_stop():
        return None
    share = float(among.mean())
    seen = "" if share == 1 else f" It is of the {share:.0%} of the volume that has been looked at so far."
    per_class = {value: (s.value, s.low, s.high) for value, s in zip(values, found.per_class, strict=True)}
    return Score(found.value, found.low, found.high, per_class, (found.reason + seen).strip(), revision)


def score_of_made(scores: Mapping[str, Any], classes: Mapping[int, ClassInfo], revision: int) -> Score:
    """What densify reports of the volume that it made.

    Args:
        scores: ``"volseg"`` of its ``scores.json``; empty if nothing could be held out.
    """
    if not scores:
        text = "Of the volume that was made there is no score: nothing could be held out of the paint."
        return Score(None, None, None, {}, text, revision)
    main, each = scores["headline"]["IoU"], scores["IoU"]
    names = {value: info.name for value, info in classes.items() if info.name in each}
    per_class = {v: (each[n]["value"], each[n]["low"], each[n]["high"]) for v, n in names.items()}
    text = "It is of the volume that was made."
    return Score(main["value"], main["low"], main["high"], per_class, text, revision)


def _at_hand(session: "Session", live: Live) -> npt.NDArray[np.bool_]:
    """Where image features are at hand."""
    among = np.zeros(session.size, bool)
    for block in live.bricks.blocks(tuple(slice(0, n) for n in session.size)):
        among[block] = live.ready(block) == 1
    return among
