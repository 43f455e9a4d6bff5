"""What a bundle of unknown origin may name and evaluate.

MONAI turns every ``#`` into ``::``, every reference into ``__local_refs['id']``, inside texts and comments as
well, and evaluates what comes of it. So its own substitutions are made first, and the tree of exactly the
text that it will hand to ``eval`` is judged: a node of a kind that is not listed here refuses the whole.

What a bundle of unknown origin may name: components, functions and members, none of which does harm.

None of them opens a file that it is not asked to read, runs code that it is given, or writes anywhere but
below the folder that :data:`WRITES` names. ``docs/bundles.md`` shows the list.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

__all__ = [
    "CALLABLE",
    "CALLED",
    "DOTTED",
    "FUNCTIONS",
    "IMPORTS",
    "MEMBERS",
    "TARGETS",
    "UNKNOWN",
    "WRITES",
    "Said",
    "as_evaluated",
    "constant",
    "is_plain",
]

_OPTIMISERS = "torch.optim.", (
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop",
)  # fmt: skip
_SCHEDULERS = "torch.optim.lr_scheduler.", (
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LinearLR",
    "MultiStepLR", "OneCycleLR", "PolynomialLR", "SequentialLR", "StepLR",
)  # fmt: skip
_LOSSES_OF_TORCH = "torch.nn.", (
    "BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss",
    "MultiLabelSoftMarginLoss", "MultiMarginLoss", "NLLLoss", "SmoothL1Loss", "SoftMarginLoss",
)  # fmt: skip
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
    "BorderWeightMapd", "Cases", "InstanceScheme", "InstanceScores", "LabelScheme", "MembraneScores",
    "NormalizeGreyValuesd", "OverlapTileInferer", "RandBSplineDeformd", "RandDeformedPatchd",
    "RandGreyValuesd", "RotationAveragingInferer", "SparseCrossEntropy", "SparseDice", "SparseDiceCE",
    "TrainingPatches", "UNet", "Volume", "WholeVolumes", "begin", "border_weight_map",
    "bspline_displacement", "choose_scale", "class_balance", "context_of", "densify", "evaluator",
    "find_cases", "find_images", "join_processes", "leave_processes", "local_device", "place", "predictor",
    "read_volume", "to_device", "trainer", "unet3d_2016", "unet_2015", "use_bf16",
)  # fmt: skip
_LISTS = (_VOLSEG, _OPTIMISERS, _SCHEDULERS, _LOSSES_OF_TORCH, _MONAI)
TARGETS: frozenset[str] = frozenset(
    {prefix + name for prefix, names in _LISTS for name in names}
    | {name.rpartition(".")[2] for name in _MONAI[1]}  # MONAI finds its own by the last word
)
# The arguments by which components learn where to write: below the current folder only.
WRITES: dict[str, str] = {
    "volseg.Cases": "phantom_dir", "volseg.densify": "output", "volseg.evaluator": "output_dir",
    "volseg.find_cases": "phantom_dir", "volseg.find_images": "phantom_dir", "volseg.predictor": "output_dir",
    "volseg.trainer": "output_dir",
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


REFERENCES = "__local_refs"
_LARGEST = 10**9
_CALCULATING = (
    ast.Expression, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.List, ast.Tuple,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.Not, ast.And, ast.Or, ast.Eq,
    ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn,
)  # fmt: skip


class _Unknown:
    """A value that only evaluation can determine."""


UNKNOWN = _Unknown()


class Said(str):
    """What the person at the command line says of this very thing, whatever it is."""

    __slots__ = ()


def as_evaluated(entry: str, value: str, ids: Collection[str]) -> str | None:
    """The text that MONAI makes of an entry; ``None`` where it fails, or would make more of it next time."""
    try:
        absolute = ConfigParser.resolve_relative_ids(entry, value)
        if ConfigParser.resolve_relative_ids(entry, absolute) != absolute:
            return None
        # Of a reference alone MONAI takes the thing itself; here its id is what is wanted.
        refs = {i: f"@{i}" for i in ids}
        final: str = ReferenceResolver.update_refs_pattern(absolute, refs)
    except (KeyError, ValueError):
        return None
    return final


def is_plain(entry: str, value: str, entries: Mapping[str, Any]) -> bool:
    """Whether an expression (with its ``$``) does nothing but refer, count and calculate."""
    text = as_evaluated(entry, value, entries)
    if text is None:
        return False
    if "import" in text:  # MONAI takes it for a statement
        return text[1:].strip(" ") in IMPORTS and text == value
    tree = _tree(text)
    return tree is not None and all(_is_plain(node, entries) for node in _reached(tree))


def constant(
    entry: str, value: Any, entries: Mapping[str, Any], moot: Collection[str], names: Collection[str]
) -> Any:
    """What an entry will be, as far as that can be known: constants, references, texts joined by ``+``.

    :class:`Said` for what the person at the command line sets (``moot``) under one of ``names``: who says
    where the images lie has not said that results go there. :data:`UNKNOWN` for anything else.
    """
    return _constant(entry, value, entries, moot, names, depth=0)


def _constant(
    entry: str,
    value: Any,
    entries: Mapping[str, Any],
    moot: Collection[str],
    names: Collection[str],
    depth: int,
) -> Any:
    if not isinstance(value, str):
        return UNKNOWN if isinstance(value, dict | list) else value
    text = as_evaluated(entry, value, entries)
    if text is None or depth > len(entries):
        return UNKNOWN

    def follow(reference: str) -> Any:
        if any(reference == key or reference.startswith(key + "::") for key in moot):
            return Said(".") if reference.rpartition("::")[2] in names else UNKNOWN
        if reference not in entries:
            return UNKNOWN
        return _constant(reference, entries[reference], entries, moot, names, depth + 1)

    def of(node: ast.AST) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if (reference := _reference(node)) is not None:
            return follow(reference)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts = of(node.left), of(node.right)
            if any(part is UNKNOWN for part in parts):
                return UNKNOWN
            return "".join(part for part in parts if isinstance(part, str))
        return UNKNOWN

    if text.startswith("@") and text[1:] in entries:
        return follow(text[1:])
    if not text.startswith("$"):
        return text
    tree = _tree(text)
    return UNKNOWN if tree is None else of(tree.body)


def _tree(text: str) -> ast.Expression | None:
    """What is evaluated, without its ``$``, and read as MONAI reads it."""
    try:
        ast.parse(text[1:])
        return ast.parse(text[1:], mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _reached(tree: ast.Expression) -> Iterator[ast.AST]:
    """All nodes but those that :func:`_is_plain` has looked at with the node above them."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        if _reference(node) is not None or _dotted(node) in DOTTED:
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            pending += node.args
        elif isinstance(node, ast.Call) and _dotted(node.func) not in DOTTED:
            if isinstance(node.func, ast.Attribute):
                pending.append(node.func.value)
        elif isinstance(node, ast.Call):
            pending += [*node.args, *(keyword.value for keyword in node.keywords)]
        else:
            pending += ast.iter_child_nodes(node)


def _is_plain(node: ast.AST, entries: Mapping[str, Any]) -> bool:
    """Whether one node is allowed where it stands; those below it are looked at by themselves."""
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, str):
            return REFERENCES not in value and "::" not in value and "@" not in value
        return value is None or (isinstance(value, int | float) and abs(value) <= _LARGEST)
    if (reference := _reference(node)) is not None:
        return reference in entries
    if isinstance(node, ast.Call):
        return _is_harmless_call(node, entries)
    if isinstance(node, ast.Attribute):
        return _dotted(node) in DOTTED or node.attr in MEMBERS
    if isinstance(node, ast.Subscript):
        return True
    return isinstance(node, _CALCULATING)


def _is_harmless_call(call: ast.Call, entries: Mapping[str, Any]) -> bool:
    if any(keyword.arg is None for keyword in call.keywords):
        return False
    if isinstance(call.func, ast.Name):
        return call.func.id in FUNCTIONS and not call.keywords
    if isinstance(call.func, ast.Attribute):
        if _dotted(call.func) in DOTTED:
            return True
        return call.func.attr in CALLED and not call.args and not call.keywords
    reference = _reference(call.func)
    component = entries.get(reference) if reference is not None else None
    is_ours = isinstance(component, dict) and component.get("_target_") in CALLABLE
    return is_ours and not call.args and not call.keywords


def _reference(node: ast.AST) -> str | None:
    """The id of ``__local_refs['id']``."""
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == REFERENCES
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    ):
        return node.slice.value
    return None


def _dotted(node: ast.AST) -> str:
    """``torch.cuda.is_available`` of a chain of attributes; empty if it does not begin with a name."""
    if isinstance(node, ast.Name):
        return node.id
    owner = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{owner}.{node.attr}" if owner and isinstance(node, ast.Attribute) else ""
