"""The learners of ``volseg densify`` by name: the per-voxel learner, the U-Net, and both joined.

What they have in common is said in :mod:`volseg.learning`. This room stands above the engines because the
U-Net needs networks, transforms, losses and inferers, which lie on several floors; the per-voxel learner is a
room of its own on the science floor (:mod:`volseg.pixelwise`) and needs none of these. Another learner goes
into a room of its own, or here if it trains a network, and into ``LEARNERS``.

Which is taken: by its name, by what a file says, and what ``"auto"`` stands for.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from volseg.errors import InputError
from volseg.learners.joined import JoinedLearner, JoinedModel
from volseg.learners.unet import UNetLearner, UNetModel
from volseg.learning import Learner, Trained
from volseg.pixelwise import PixelwiseLearner

__all__ = [
    "LEARNERS",
    "JoinedLearner",
    "JoinedModel",
    "LearnerName",
    "UNetLearner",
    "UNetModel",
    "check_learner",
    "choose_learner",
    "learner_in",
    "trained_in",
]

LearnerName = Literal["auto", "pixelwise", "unet", "joined"]

LEARNERS: dict[str, Learner] = {
    learner.name: learner for learner in (PixelwiseLearner(), UNetLearner(), JoinedLearner())
}
# From so many seconds on, a U-Net that is joined has learnt enough to be of use: docs/results.md, "Learners".
_JOINED_FROM = 240.0
_LOOKING = 2e-5  # seconds of a processor that the U-Nets of all folds and the result take to look at a voxel
_LOOKED = 0.15  # of the time, at most, that may go into that
# Files that name no learner were written when there was only this one.
_UNNAMED = PixelwiseLearner.name


def check_learner(name: str) -> None:
    """Refuse a learner that does not exist."""
    if name not in get_args(LearnerName):
        raise ValueError(f"learner = {name!r} is unknown. There are: {', '.join(get_args(LearnerName))}.")


def choose_learner(
    name: str, earlier: Learner | None = None, *, seconds: float = 0.0, voxels: int = 0
) -> Learner:
    """The learner of this name; ``"auto"`` is both joined where there is time for a U-Net.

    Where there is not, it is the per-voxel learner. An earlier result is continued by the learner that learnt
    it, or by one that can start from it.

    Args:
        earlier: the learner of that result.
        seconds: that there are for everything.
        voxels: of the volume.

    Raises:
        InputError: if it cannot start from the earlier result.
        ValueError: if there is none of this name.
    """
    check_learner(name)
    if name == "auto":
        enough = seconds >= max(_JOINED_FROM, _LOOKING * voxels / _LOOKED)
        best = LEARNERS[JoinedLearner.name if enough else PixelwiseLearner.name]
        return best if earlier is None or earlier.name in best.continues else earlier
    if earlier is not None and earlier.name not in (name, *LEARNERS[name].continues):
        raise InputError(
            f"the earlier result was learnt by {earlier.title}; another learner ({name}) cannot start from "
            f"that. Choose {earlier.name} or auto, or leave the earlier result out."
        )
    return LEARNERS[name]


def learner_in(state: Mapping[str, Any], source: object) -> Learner:
    """The learner that a checkpoint was written by.

    Args:
        source: the file, to be named.

    Raises:
        InputError: if this volseg does not have it, or the file is of another kind.
    """
    if "curve" not in state and "stages" not in state:
        raise InputError(
            f"{source} holds nothing that volseg densify has learnt. Name the model.pt of one of its results."
        )
    name = state.get("learner", _UNNAMED)
    if name not in LEARNERS:
        raise InputError(
            f"{source} was learnt by {name!r}, which this volseg does not have. It has "
            f"{', '.join(LEARNERS)}: use the volseg that wrote the file, or a newer one."
        )
    return LEARNERS[name]


def trained_in(state: Mapping[str, Any], source: object) -> Trained:
    """What was learnt, from a checkpoint of whichever learner; see :func:`learner_in`."""
    return learner_in(state, source).from_state(state)
