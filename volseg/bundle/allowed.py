"""What a bundle of somebody unknown may name: components, functions and members, none of which does harm.

None of them opens a file that it is not told to read, runs code that it is given, or writes anywhere but
below the folder that :data:`WRITES` names. ``docs/bundles.md`` shows the list.
"""

__all__ = [
    "CALLABLE",
    "CALLED",
    "DOTTED",
    "FUNCTIONS",
    "IMPORTS",
    "MEMBERS",
    "NOT_FOR_STRANGERS",
    "TARGETS",
    "WRITES",
]

_OPTIMISERS = "torch.optim.", (
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop",
)  # fmt: skip
_SCHEDULERS = "torch.optim.lr_scheduler.", (
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LinearLR",
    "MultiStepLR", "OneCycleLR", "PolynomialLR", "SequentialLR", "StepLR",
)  # fmt: skip
_LOSSES_OF_TORCH = "torch.nn.", ("BCEWithLogitsLoss", "CrossEntropyLoss")
_TRANSFORMS = (
    "AdjustContrastd", "CastToTyped", "ClipIntensityPercentilesd", "Compose", "EnsureTyped",
    "GaussianSharpend", "GaussianSmoothd", "HistogramNormalized", "Identityd", "MedianSmoothd",
    "NormalizeIntensityd", "OneOf",
    "RandAdjustContrastd", "RandAxisFlipd", "RandBiasFieldd", "RandCoarseDropoutd", "RandCoarseShuffled",
    "RandFlipd", "RandGaussianNoised", "RandGaussianSharpend", "RandGaussianSmoothd", "RandGibbsNoised",
    "RandHistogramShiftd", "RandKSpaceSpikeNoised", "RandRicianNoised", "RandRotate90d",
    "RandScaleIntensityFixedMeand", "RandScaleIntensityd", "RandShiftIntensityd", "RandStdShiftIntensityd",
    "RandomOrder", "ScaleIntensityRangePercentilesd", "ScaleIntensityRanged", "ScaleIntensityd",
    "ShiftIntensityd", "SomeOf", "StdShiftIntensityd", "ThresholdIntensityd", "ToTensord",
)  # fmt: skip
_NETWORKS = (
    "AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "HighResNet", "SegResNet", "SegResNetDS",
    "SegResNetVAE", "SwinUNETR", "UNETR", "UNet", "VNet",
)  # fmt: skip
_LOSSES = (
    "AsymmetricUnifiedFocalLoss", "DiceCELoss", "DiceFocalLoss", "DiceLoss", "FocalLoss",
    "GeneralizedDiceFocalLoss", "GeneralizedDiceLoss", "GeneralizedWassersteinDiceLoss", "TverskyLoss",
)  # fmt: skip
_MONAI = "monai.", (
    "inferers.SimpleInferer", "inferers.SlidingWindowInferer",
    *(f"losses.{name}" for name in _LOSSES), *(f"networks.nets.{name}" for name in _NETWORKS),
    *(f"transforms.{name}" for name in _TRANSFORMS),
)  # fmt: skip
_VOLSEG = "volseg.", (
    "BorderWeightMapd", "InstanceScheme", "InstanceScores", "LabelScheme", "MembraneScores",
    "NormalizeGreyValuesd", "OverlapTileInferer", "RandBSplineDeformd", "RandDeformedPatchd",
    "RandGreyValuesd", "RotationAveragingInferer", "SparseCrossEntropy", "SparseDice", "SparseDiceCE",
    "TrainingPatches", "UNet", "Volume", "WholeVolumes", "begin", "border_weight_map",
    "bspline_displacement", "choose_scale", "class_balance", "context_of", "densify", "evaluator",
    "find_cases", "find_images", "join_processes", "leave_processes", "local_device", "place", "predictor",
    "read_volume", "trainer", "unet3d_2016", "unet_2015", "use_bf16",
)  # fmt: skip
# Public, but not for strangers: it writes wherever it is told to.
NOT_FOR_STRANGERS = frozenset({"volseg.write_volume"})
_LISTS = (_VOLSEG, _OPTIMISERS, _SCHEDULERS, _LOSSES_OF_TORCH, _MONAI)
TARGETS: frozenset[str] = frozenset(
    {prefix + name for prefix, names in _LISTS for name in names}
    | {name.rpartition(".")[2] for name in _MONAI[1]}  # MONAI finds its own by the last word
)
# The arguments by which components are told where to write: below the current folder only.
WRITES: dict[str, str] = {
    "volseg.densify": "output", "volseg.evaluator": "output_dir", "volseg.find_cases": "phantom_dir",
    "volseg.find_images": "phantom_dir", "volseg.predictor": "output_dir", "volseg.trainer": "output_dir",
}  # fmt: skip
# What may stand with "_mode_": "callable", to be called without arguments when everything is built.
CALLABLE = frozenset({"volseg.densify"})

IMPORTS = ("import volseg", "import torch", "import numpy", "import numpy as np")
FUNCTIONS = frozenset(
    {"abs", "bool", "float", "int", "len", "list", "max", "min", "round", "str", "sum", "tuple"}
)
DOTTED = frozenset({
    "torch.bfloat16", "torch.cuda.device_count", "torch.cuda.is_available", "torch.device", "torch.float32",
    "torch.ones", "torch.tensor", "volseg.begin", "volseg.context_of", "volseg.join_processes",
    "volseg.leave_processes", "volseg.local_device",
})  # fmt: skip
# What may be asked of a component that the bundle itself builds, and what may be called, without arguments.
MEMBERS = frozenset({"context", "image", "images", "label", "receptive_radius", "spatial_dims", "stride"})
CALLED = frozenset({"counts", "parameters", "run"})
