"""Instances become what a network learns from: a class per voxel, and how much each voxel counts."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from volseg.bspline.field import numbers_per_axis
from volseg.instances import separate_touching
from volseg.labels import IGNORE_INDEX
from volseg.transforms.arrays import entry, like, plain_tensor
from volseg.weightmaps import border_weight_map

__all__ = ["BorderWeightMap", "BorderWeightMapd"]


class BorderWeightMap(Transform):
    """Class target and border weight from a map of instances (Ronneberger et al. 2015, Eq. 2).

    Args:
        w0, sigma, class_weight, background_only: see :func:`volseg.weightmaps.border_weight_map`.
        separate: open a gap of background where objects touch, without which nothing shows a network
            to part them (:func:`volseg.instances.separate_touching`).

    Shape:
        - instances: ``(1, *spatial)``, integers, 0 for background, negative for unlabelled.
        - target: uint8 ``(1, *spatial)``: 0 background, 1 object, ``ignore_index`` unlabelled.
        - weight: float32 ``(1, *spatial)``; 0 where unlabelled.
    """

    def __init__(
        self,
        *,
        w0: float = 10.0,
        sigma: float = 5.0,
        class_weight: Sequence[float] | None = None,
        background_only: bool = False,
        separate: bool = True,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        self.w0 = w0
        self.sigma = sigma
        self.class_weight = class_weight
        self.background_only = background_only
        self.separate = separate
        self.ignore_index = ignore_index
        self._weigh(np.zeros((1, 1), np.int32), None)  # wrong weights are refused here and now

    def __call__(
        self, instances: Any, *, spacing: Sequence[float] | None = None, unlabelled: Any = False
    ) -> tuple[Any, Any]:
        """The target and the weight, as the kind of array that ``instances`` is.

        Args:
            spacing: voxel size per axis; sigma is then in world units, else in voxels.
            unlabelled: bool ``(*spatial)``, where it is unlabelled beside negative ids.
        """
        if instances.shape[0] != 1:
            raise ValueError(f"Instances have shape {tuple(instances.shape)}; they are (1, *spatial).")
        ids = plain_tensor(instances).cpu().numpy()[0]
        unlabelled = (ids < 0) | np.asarray(unlabelled)
        if self.separate:
            ids = separate_touching(ids)
        weight = self._weigh(ids, spacing)
        weight[unlabelled] = 0
        target = (ids > 0).astype(np.uint8)
        target[unlabelled] = self.ignore_index
        return (
            like(torch.from_numpy(target[None]), instances),
            like(torch.from_numpy(weight[None]), instances),
        )

    def _weigh(self, ids: Any, spacing: Sequence[float] | None) -> Any:
        return border_weight_map(
            ids,
            w0=self.w0,
            sigma=self.sigma,
            class_weight=self.class_weight,
            spacing=spacing,
            background_only=self.background_only,
        )


class BorderWeightMapd(MapTransform):
    """:class:`BorderWeightMap` of an entry: class target and weight as entries.

    After :class:`RandDeformedPatchd` it weighs the deformed crop, so gaps have the width that the
    network is shown; there, deform the instances with ``ignore_index=-1``, or let them go along as its
    ``weight_key`` beside a class label. Before it, on whole images, it is computed once and the weight is
    deformed (``weight_key="weight"``): cheaper, and objects beyond the crop count.

    Args:
        keys: of the instances.
        label_key: where the class target goes. If a label is there already, its ignored voxels stay ignored.
        weight_key: where the weight goes.
        spacing_key: entry with the voxel size per axis, else that of a MetaTensor; sigma is then in
            world units. Without a key it is in voxels.
    """

    def __init__(
        self,
        keys: Sequence[str] | str = "label",
        *,
        label_key: str = "label",
        weight_key: str = "weight",
        w0: float = 10.0,
        sigma: float = 5.0,
        class_weight: Sequence[float] | None = None,
        background_only: bool = False,
        separate: bool = True,
        spacing_key: str | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"keys = {keys!r} must name one entry, the map of instances.")
        self.label_key = label_key
        self.weight_key = weight_key
        self.spacing_key = spacing_key
        self.weigh = BorderWeightMap(
            w0=w0,
            sigma=sigma,
            class_weight=class_weight,
            background_only=background_only,
            separate=separate,
            ignore_index=ignore_index,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        (key,) = self.keys
        given = entry(data, key)
        if given.shape[0] != 1:
            raise ValueError(f"{key!r} has shape {tuple(given.shape)}; instances are (1, *spatial).")
        unlabelled: Any = False
        if self.label_key != key and self.label_key in data:
            label = plain_tensor(data[self.label_key])
            if label.shape != given.shape:
                raise ValueError(
                    f"{self.label_key!r} has shape {tuple(label.shape)}, but {key!r} {tuple(given.shape)}; "
                    "both must show the same voxels."
                )
            unlabelled = (label[0] == self.weigh.ignore_index).cpu().numpy()
        spacing = self._spacing(data, given.ndim - 1)
        target, weight = self.weigh(given, spacing=spacing, unlabelled=unlabelled)
        return {**data, self.label_key: target, self.weight_key: weight}

    def _spacing(self, data: Mapping[Hashable, Any], dims: int) -> tuple[float, ...] | None:
        if self.spacing_key is None:
            return None
        given = data.get(self.spacing_key)
        if given is None:
            array = data[self.keys[0]]
            given = array.pixdim[:dims] if isinstance(array, MetaTensor) else 1.0
        return numbers_per_axis(given, dims, self.spacing_key)
