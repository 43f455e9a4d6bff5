"""Whether a bundle can be run without knowing who wrote it.

A MONAI bundle is a program: ``"$__import__('os').system('...')"`` and ``{"_target_": "os.system"}`` run when
it is evaluated, an ``$import`` anywhere runs always, and MONAI puts the bundle's folder in front of the
installed packages, so that a file ``tensorboard.py`` beside it is imported instead of TensorBoard.

So a bundle is read as data first and compared with a list of what bundles need: volseg's own components,
torch's optimisers, a few of MONAI's; expressions that refer, count and calculate. What is run is a private
copy of exactly what was compared. Anything beyond the list takes ``--trust-bundle``, on the command line.
"""

import ast
import json
import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

from volseg.bundle.expressions import REFERENCE
from volseg.bundle.files import load_json, read_bundle
from volseg.bundle.names import SEP, shown, walk
from volseg.errors import RefusedError

__all__ = ["beyond_the_list", "runnable"]

logger = logging.getLogger(__name__)

_STAND_IN = "__local_refs"

# Components -------------------------------------------------------------------------------------------------
_OPTIMISERS = "torch.optim.", ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad")
_SCHEDULERS = "torch.optim.lr_scheduler.", (
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ExponentialLR", "LinearLR",
    "MultiStepLR", "OneCycleLR", "PolynomialLR", "SequentialLR", "StepLR",
)  # fmt: skip
_MONAI = "monai.", (
    "inferers.SimpleInferer", "inferers.SlidingWindowInferer", "losses.DiceCELoss", "losses.DiceLoss",
    "losses.FocalLoss", "losses.TverskyLoss", "networks.nets.AttentionUnet", "networks.nets.BasicUNet",
    "networks.nets.DynUNet", "networks.nets.SegResNet", "networks.nets.SwinUNETR", "networks.nets.UNETR",
    "networks.nets.UNet", "networks.nets.VNet", "transforms.AdjustContrastd", "transforms.Compose",
    "transforms.GaussianSmoothd", "transforms.NormalizeIntensityd", "transforms.OneOf",
    "transforms.RandAdjustContrastd", "transforms.RandGaussianNoised", "transforms.RandGaussianSmoothd",
    "transforms.RandScaleIntensityd", "transforms.RandShiftIntensityd", "transforms.ScaleIntensityd",
    "transforms.ScaleIntensityRangePercentilesd", "transforms.ScaleIntensityRanged",
)  # fmt: skip
_VOLSEG = "volseg.", (
    "BorderWeightMapd", "InstanceScheme", "InstanceScores", "LabelScheme", "MembraneScores",
    "NormalizeGreyValuesd", "OverlapTileInferer", "RandBSplineDeformd", "RandDeformedPatchd",
    "RandGreyValuesd", "RotationAveragingInferer", "SparseCrossEntropy", "SparseDice", "SparseDiceCE",
    "TrainingPatches", "context_of", "UNet", "Volume", "WholeVolumes", "begin", "border_weight_map",
    "bspline_displacement", "choose_scale", "class_balance", "densify", "evaluator", "find_cases",
    "find_images", "join_processes", "leave_processes", "local_device", "place",
    "predictor", "read_volume", "trainer", "unet3d_2016", "unet_2015",
    "use_bf16",
)  # fmt: skip
# Public, but not for strangers: it writes wherever it is told to.
NOT_FOR_STRANGERS = frozenset({"volseg.write_volume"})
TARGETS: frozenset[str] = frozenset(
    {prefix + name for prefix, names in (_VOLSEG, _OPTIMISERS, _SCHEDULERS, _MONAI) for name in names}
    | {name.rpartition(".")[2] for name in _MONAI[1]}  # MONAI finds its own by the last word
)

# Expressions ------------------------------------------------------------------------------------------------
IMPORTS = ("import volseg", "import torch", "import numpy", "import numpy as np")
FUNCTIONS = {"abs", "bool", "float", "int", "len", "list", "max", "min", "round", "str", "sum", "tuple"}
DOTTED = {
    "torch.bfloat16", "torch.cuda.device_count", "torch.cuda.is_available", "torch.device", "torch.float32",
    "volseg.begin", "volseg.context_of", "volseg.join_processes", "volseg.leave_processes",
    "volseg.local_device",
}  # fmt: skip
# What may be asked of a component that the bundle itself builds, all of them from TARGETS.
MEMBERS = {
    "context",
    "counts",
    "image",
    "images",
    "label",
    "parameters",
    "receptive_radius",
    "run",
    "spatial_dims",
    "stride",
}
_HARMLESS = (
    ast.Expression, ast.Constant, ast.Load, ast.Subscript, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare,
    ast.IfExp, ast.List, ast.Tuple, ast.Dict, ast.Call, ast.keyword, ast.Add, ast.Sub, ast.Mult, ast.Div,
    ast.FloorDiv, ast.Mod, ast.USub, ast.Not, ast.And, ast.Or, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt,
    ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn,
)  # fmt: skip

_FOLDERS = ("output", "output_dir", "phantom_dir")  # where components write
_JOINED = re.compile(rf"({REFERENCE.pattern})((?:\s*\+\s*'[^'\\]*')*)")


@contextmanager
def runnable(paths: Sequence[Path], overridden: Collection[str] = (), *, trust: bool) -> Iterator[list[Path]]:
    """The files to hand to MONAI for a bundle and its overlays, for as long as the block lasts.

    Without ``trust`` that is one file, alone in a folder of its own, with what was compared with the list;
    with it, the files themselves, after a word on what they will do.

    Args:
        overridden: entries that the person at the command line sets; what the bundle has there is moot.

    Raises:
        RefusedError: if the bundle asks for more than the list has; nothing of it was evaluated or imported.
    """
    config = read_bundle(paths)
    beside = paths[0].with_name("metadata.json")
    meta = load_json(beside)[0] if beside.is_file() else None  # MONAI would put it in the place of _meta_
    found = beyond_the_list(config if meta is None else {**config, "_meta_": meta}, overridden)
    if trust:
        for text in found:
            logger.warning("Trusted: %s.", text)
        yield list(paths)
        return
    if found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        raise RefusedError(
            f"{paths[0]} is not run, because it could do anything: {'; '.join(found[:3])}{more}. "
            "If you know who wrote it, read these entries and add --trust-bundle."
        )
    with tempfile.TemporaryDirectory(prefix="volseg-") as folder:
        path = Path(folder) / "bundle.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        if meta is not None:
            path.with_name("metadata.json").write_text(json.dumps(meta), encoding="utf-8")
        yield [path]


def beyond_the_list(config: Mapping[str, Any], overridden: Collection[str] = ()) -> list[str]:
    """Each entry that the list does not cover, with why; none if the bundle can be run unseen."""
    moot = {key.replace("#", SEP) for key in overridden}
    entries = dict(walk(config))
    found: list[str] = []
    for entry, value in entries.items():
        if entry in moot or any(entry.startswith(key + SEP) for key in moot):
            continue
        problem = _judge(entry.rpartition(SEP)[2], value)
        if problem is None and entry.rpartition(SEP)[2] in _FOLDERS:
            problem = _leaves(value, entries, moot)
        if problem is not None:
            found.append(f"{shown(entry)} {problem}")
    return found


def _judge(key: str, value: Any) -> str | None:
    """What one entry does beyond the list, its children aside."""
    if key == "_target_" and not (isinstance(value, str) and value in TARGETS):
        return f"calls {str(value)[:60]!r}"
    if key == "_requires_" or (key == "_mode_" and value not in ("default", "callable")):
        return f"is {str(value)[:60]!r}"
    if not isinstance(value, str):
        return None
    if value.startswith("%"):
        return f"copies from {value[:60]!r}"
    if value.startswith("$") and not _is_plain(value[1:]):
        return f"evaluates {value[:60]!r}"
    return None


def _is_plain(code: str) -> bool:
    """Whether an expression does nothing but refer, count and calculate."""
    if code.strip() in IMPORTS:
        return True
    try:
        tree = ast.parse(REFERENCE.sub(_STAND_IN, code), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
            return False
        if isinstance(node, ast.Name):
            if node.id != _STAND_IN and node.id not in FUNCTIONS:
                return False  # also torch or volseg by itself, of which everything could be asked
        elif isinstance(node, ast.Attribute):
            if _dotted(node) in DOTTED:
                continue
            if node.attr not in MEMBERS:
                return False
            pending.append(node.value)
        elif isinstance(node, _HARMLESS):
            pending.extend(ast.iter_child_nodes(node))
        else:
            return False
    return True


def _dotted(node: ast.expr) -> str:
    """``torch.cuda.is_available`` of a chain of attributes; empty if it does not begin with a name."""
    if isinstance(node, ast.Name):
        return node.id
    owner = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{owner}.{node.attr}" if owner and isinstance(node, ast.Attribute) else ""


def _leaves(value: Any, entries: Mapping[str, Any], moot: Collection[str]) -> str | None:
    """Whether a folder that is written to may lie outside the current one."""
    pending, seen = [value], set[str]()
    while pending:
        text = pending.pop()
        if not isinstance(text, str) or text in seen:
            continue
        seen.add(text)
        if text.startswith(("@", "$")):
            joined = _JOINED.fullmatch(text.lstrip("$"))
            if joined is None:
                return f"writes to {text[:60]!r}, which may be anywhere"
            reference = joined[1][1:].replace("#", SEP)
            pending += [entries.get(reference)] if reference not in moot else []
            text = joined[2]
        elif text.startswith(("/", "\\", "~")) or PureWindowsPath(text).drive:
            return f"writes to {text[:60]!r}, outside the current folder"
        if ".." in text:
            return f"writes to {text[:60]!r}, outside the current folder"
    return None
