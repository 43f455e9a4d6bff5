"""Between the arrays of a MONAI pipeline (ndarray, Tensor, MetaTensor) and plain tensors, without copies.

A small module, as all transforms share it and none of them owns it.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type
from torch import Tensor

__all__ = ["entry", "like", "plain_tensor", "probability"]


def entry(data: Mapping[Any, Any], key: Any) -> Any:
    """``data[key]``, or a message that says what there is."""
    if key not in data:
        raise ValueError(f"The sample has no entry {key!r}; it holds {', '.join(map(repr, data))}.")
    return data[key]


def plain_tensor(array: Any) -> Tensor:
    """The same memory as a tensor without metadata. Strides stay; only exotic layouts are copied."""
    if isinstance(array, MetaTensor):
        return array.as_tensor()
    if isinstance(array, Tensor):
        return array
    array = np.asarray(array)
    if not array.dtype.isnative or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # A memory map opened for reading is welcome: nothing here writes into a source.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def like(result: Tensor, original: Any) -> Any:
    """``result`` as the kind of array that ``original`` is, with its metadata."""
    return convert_to_dst_type(result, original, dtype=result.dtype)[0]


def probability(value: float, name: str) -> float:
    """``value``, if it can be the probability ``name``."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value!r} must be a probability between 0 and 1.")
    return float(value)
