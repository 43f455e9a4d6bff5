"""The one figure that stands for a result: the mean over the classes somebody is looking for.

Background is most of most volumes, and easy: counted like a class, it lifts a mean of two by a quarter. So
the *headline* is the mean over the foreground classes, where one class is the background, and over all
classes where none is. Either way its name says which, and the mean of all stands beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from volseg.labels import background_of
from volseg.metrics.segmentation import mean_score

__all__ = ["Headline"]

_NAMED = 5  # classes, at most, in the name


@dataclass(frozen=True)
class Headline:
    """Which classes the headline is the mean of, and what it is called.

    Args:
        names: of all classes, in the order of their indices.
        background: the index of the background, where that is known from elsewhere, as from paint in which 0
            was taken for it; ``None``: the class that is named so, if one is.
    """

    names: Sequence[str]
    background: int | None = None

    def __post_init__(self) -> None:
        if self.background is None:
            object.__setattr__(self, "background", background_of(self.names))
        elif not 0 <= self.background < len(self.names):
            raise ValueError(
                f"background = {self.background} is no class: their indices are 0 to {len(self.names) - 1}."
            )

    @property
    def leaves_out(self) -> bool:
        """Whether there is a background beside other classes."""
        return self.background is not None and len(self.names) > 1

    @property
    def classes(self) -> list[int]:
        """The indices of the classes it is the mean of."""
        return [i for i in range(len(self.names)) if not (self.leaves_out and i == self.background)]

    def mean(self, scores: Sequence[float] | npt.NDArray[Any]) -> float:
        """The mean of such scores of all classes, of those that have one; NaN if none has."""
        return mean_score([scores[i] for i in self.classes])

    def title(self, measure: str = "IoU") -> str:
        """``mean IoU over foreground classes (nucleus)``."""
        named = [self.names[i] for i in self.classes]
        more = f" and {len(named) - _NAMED + 1} more" if len(named) > _NAMED else ""
        listed = ", ".join(named[: _NAMED - 1] if more else named) + more
        if self.leaves_out:
            return f"mean {measure} over foreground classes ({listed})"
        return f"mean {measure} over all classes ({listed}; none is background)"

    def beside(self, mean_of_all: float | None) -> str:
        """``with background 0.843``, to stand beside it; empty where it is the mean of all classes."""
        if not self.leaves_out or mean_of_all is None or math.isnan(mean_of_all):
            return ""
        return f"with background {mean_of_all:.3f}"

    def told(
        self,
        value: float | None,
        interval: tuple[float, float] | None = None,
        mean_of_all: float | None = None,
        measure: str = "IoU",
    ) -> str:
        """``mean IoU over foreground classes (nucleus): 0.698 (0.42 – 0.91); with background 0.843``."""
        figure = "unknown" if value is None or math.isnan(value) else f"{value:.3f}"
        if interval is not None:
            figure += f" ({interval[0]:.2f} – {interval[1]:.2f})"
        beside = self.beside(mean_of_all)
        return f"{self.title(measure)}: {figure}" + (f"; {beside}" if beside else "")
