"""The per-voxel learner: from painted voxels to the class of every voxel, in seconds.

No network of patches: each voxel is classified by itself, by what is known of it.

* **What it looks like** (:mod:`volseg.pixelwise.features`): per channel, at seven scales, the smoothed grey
  value, the length of the gradient, and the sorted eigenvalues of the Hessian and of the structure tensor.
  They need no training and do not change when the image is turned (the features of pixel classification,
  Sommer et al. 2011, Arganda-Carreras et al. 2017).
* **Where it is** (:mod:`volseg.pixelwise.place`): the distance to the nearest paint of each class, where
  slices of two directions cross; a painted slice is measured from all others, never from itself. In a stack
  painted in one direction the position, blurred by how far unpainted voxels are from paint.
* **Perceptrons** (:mod:`volseg.pixelwise.members`): two of two hidden layers with 128 units each, one of
  which does not see where the voxel is; their log probabilities are averaged.
* **Auto-context** (:mod:`volseg.pixelwise.context`): a second pair sees filter responses to the probabilities
  of the first as well (Tu and Bai 2010), on the finest grid that time and memory allow.
* **While a person paints** (:mod:`volseg.pixelwise.live`): rounds of learning, each from the one
  before, and filter responses brick by brick (:mod:`volseg.pixelwise.bricks`).

:class:`PixelwiseLearner` is what ``volseg densify`` speaks to, :func:`learn` the same as a function. The
U-Net (:mod:`volseg.learners.unet`) is its peer: it learns its own features, in minutes instead of seconds.
Both can be joined (:mod:`volseg.learners.joined`).

Example:
    >>> task = Task(image, spacing=(0.1, 0.1, 0.3), classes=3)  # (C, *spatial)
    >>> model = learn(task, labels, slices=find_slices(labels), seconds=20)  # 255: unlabelled
    >>> model.predict(task).argmax(0)  # (*spatial)
"""

from volseg.learning import Task
from volseg.pixelwise.live import Live, PaintedVoxels
from volseg.pixelwise.model import Model, PixelwiseLearner, bank_of, learn

__all__ = ["Live", "Model", "PaintedVoxels", "PixelwiseLearner", "Task", "bank_of", "learn"]
