"""From a few annotated slices to a dense segmentation of a whole image or volume."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from volseg.user import make_do

__version__ = "0.1.0"

make_do()  # before anything imports MONAI

if TYPE_CHECKING:
    from volseg.bspline import bspline_displacement as bspline_displacement
    from volseg.data import Cases as Cases
    from volseg.data import TrainingPatches as TrainingPatches
    from volseg.data import WholeVolumes as WholeVolumes
    from volseg.data import find_cases as find_cases
    from volseg.data import find_images as find_images
    from volseg.densification import densify as densify
    from volseg.engines import InstanceScores as InstanceScores
    from volseg.engines import MembraneScores as MembraneScores
    from volseg.engines import choose_scale as choose_scale
    from volseg.engines import evaluator as evaluator
    from volseg.engines import place as place
    from volseg.engines import predictor as predictor
    from volseg.engines import to_device as to_device
    from volseg.engines import trainer as trainer
    from volseg.engines import use_bf16 as use_bf16
    from volseg.inferers import OverlapTileInferer as OverlapTileInferer
    from volseg.inferers import RotationAveragingInferer as RotationAveragingInferer
    from volseg.instances import InstanceScheme as InstanceScheme
    from volseg.io import Volume as Volume
    from volseg.io import read_volume as read_volume
    from volseg.io import write_volume as write_volume
    from volseg.labels import LabelScheme as LabelScheme
    from volseg.losses import SparseCrossEntropy as SparseCrossEntropy
    from volseg.losses import SparseDice as SparseDice
    from volseg.losses import SparseDiceCE as SparseDiceCE
    from volseg.models import load as load
    from volseg.networks import UNet as UNet
    from volseg.networks import context_of as context_of
    from volseg.networks import unet3d_2016 as unet3d_2016
    from volseg.networks import unet_2015 as unet_2015
    from volseg.runs.log import begin as begin
    from volseg.runs.processes import join_processes as join_processes
    from volseg.runs.processes import leave_processes as leave_processes
    from volseg.runs.processes import local_device as local_device
    from volseg.session import Session as Session
    from volseg.transforms import BorderWeightMapd as BorderWeightMapd
    from volseg.transforms import NormalizeGreyValuesd as NormalizeGreyValuesd
    from volseg.transforms import RandBSplineDeformd as RandBSplineDeformd
    from volseg.transforms import RandDeformedPatchd as RandDeformedPatchd
    from volseg.transforms import RandGreyValuesd as RandGreyValuesd
    from volseg.weightmaps import border_weight_map as border_weight_map
    from volseg.weightmaps import class_balance as class_balance

# Imported on first use: "volseg --help" need not wait for torch and MONAI.
_ROOMS = {
    "bspline": ("bspline_displacement",),
    "data": ("Cases", "TrainingPatches", "WholeVolumes", "find_cases", "find_images"),
    "densification": ("densify",),
    "engines": (
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
    ),
    "inferers": ("OverlapTileInferer", "RotationAveragingInferer"),
    "instances": ("InstanceScheme",),
    "io": ("Volume", "read_volume", "write_volume"),
    "labels": ("LabelScheme",),
    "losses": ("SparseCrossEntropy", "SparseDice", "SparseDiceCE"),
    "models": ("load",),
    "networks": ("UNet", "context_of", "unet3d_2016", "unet_2015"),
    "session": ("Session",),
    "transforms": (
        "BorderWeightMapd",
        "NormalizeGreyValuesd",
        "RandBSplineDeformd",
        "RandDeformedPatchd",
        "RandGreyValuesd",
    ),
    "weightmaps": ("border_weight_map", "class_balance"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        return getattr(import_module(f"volseg.{_ROOM_OF[name]}"), name)
    if name in _rooms():
        return import_module(f"volseg.{name}")
    raise AttributeError(f"module 'volseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_rooms(), "__version__"})


def _rooms() -> set[str]:
    """What lies in this package: ``volseg.metrics`` works after ``import volseg`` alone."""
    from pkgutil import iter_modules

    return {name for _, name, _ in iter_modules(__path__) if not name.startswith("_")}
