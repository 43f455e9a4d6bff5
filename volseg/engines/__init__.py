"""Training, evaluating and predicting, as functions that a bundle calls.

`trainer`, `evaluator` and `predictor` take what the bundle built (network, loss, data) and return an engine
of ignite, whose ``run()`` does the work in the run's folder. The rest prepares a run: seeds and log, the
device, several processes.
"""

from volseg.engines.evaluator import evaluator
from volseg.engines.predictor import predictor
from volseg.engines.scale import choose_scale, to_device, use_bf16
from volseg.engines.scores import InstanceScores, MembraneScores
from volseg.engines.trainer import trainer
from volseg.runs.log import begin
from volseg.runs.processes import join_processes, leave_processes, local_device

__all__ = [
    "InstanceScores",
    "MembraneScores",
    "begin",
    "choose_scale",
    "evaluator",
    "join_processes",
    "leave_processes",
    "local_device",
    "place",
    "predictor",
    "to_device",
    "trainer",
    "use_bf16",
]

place = to_device  # its earlier name, which stored bundles use
