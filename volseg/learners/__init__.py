"""The learners of ``volseg densify`` by name: the per-voxel learner, and the U-Net.

What they have in common is said in :mod:`volseg.learning`. This room stands above the engines because the
U-Net needs networks, transforms, losses and inferers, which lie on several floors; the per-voxel learner is a
room of its own on the science floor (:mod:`volseg.pixelwise`) and needs none of these. Another learner goes
into a room of its own, or here if it trains a network, and into ``LEARNERS``.
"""

from volseg.learners.choice import (
    LEARNERS,
    LearnerName,
    check_learner,
    choose_learner,
    learner_in,
    trained_in,
)
from volseg.learners.network import UNetModel
from volseg.learners.unet import UNetLearner

__all__ = [
    "LEARNERS",
    "LearnerName",
    "UNetLearner",
    "UNetModel",
    "check_learner",
    "choose_learner",
    "learner_in",
    "trained_in",
]
