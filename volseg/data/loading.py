"""A case as tensors, checked: image, annotation to train on, annotation held out, dense truth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from volseg.annotation import choose_held_out, hold_out
from volseg.annotation.record import voxels_hash
from volseg.data.cases import Case, HeldOut
from volseg.errors import InputError, theirs
from volseg.instances import InstanceScheme
from volseg.io import Notes, Volume, check_alignment, read_channels, read_volume
from volseg.labels import IGNORE_INDEX, LabelScheme

__all__ = ["LoadedCase", "classes_of", "image_tensor", "load_case", "preprocess", "read_image"]

Preprocessing: TypeAlias = Callable[[dict[str, Any]], Mapping[Any, Any]]
Classes: TypeAlias = npt.NDArray[np.uint8]


class LoadedCase(TypedDict):
    """A case in memory; what comes from an annotation or a truth is there where the case has one."""

    image: torch.Tensor
    """``(C, *spatial)`` float32."""
    case: Case
    name: str
    spacing: tuple[float, ...]
    volume: Volume
    """The geometry of the file, without its voxels."""
    label: NotRequired[torch.Tensor]
    """What is trained on: ``(1, *spatial)`` uint8, class indices and 255."""
    held: NotRequired[torch.Tensor]
    """What is held out, likewise."""
    held_out: NotRequired[HeldOut]
    """Slices per axis, or ``"all"``."""
    truth: NotRequired[torch.Tensor]
    """Likewise, dense."""
    instances: NotRequired[torch.Tensor]
    """For an :class:`InstanceScheme`: ``(1, *spatial)`` int32, -1 where unlabelled."""
    hash: NotRequired[str]
    """Of the image's voxels."""
    label_voxels: NotRequired[Sequence[npt.NDArray[Any]]]
    """Where training finds the voxels of each class, in flat indices."""
    weight: NotRequired[torch.Tensor]
    """Of each voxel, where training has a map of weights."""


def read_image(case: Case, in_channels: int, notes: Notes | None = None) -> Volume:
    """The image of a case, checked for its channels; ``notes`` collects what is logged else."""
    volume = read_channels(case.images, spacing=case.spacing, notes=notes)
    if volume.channels != in_channels:
        raise InputError(
            f"{case.image} has {volume.channels} channel(s), but the bundle expects {in_channels}. "
            "Set in_channels in the bundle to what the images have."
        )
    return volume


def load_case(
    case: Case,
    *,
    labels: LabelScheme,
    in_channels: int,
    preprocessing: Preprocessing | None = None,
    held_out: float = 0.0,
    notes: Notes | None = None,
) -> LoadedCase:
    """Tensors and facts of one case.

    Args:
        preprocessing: a MONAI transform on the dictionary, applied to the image once.
        held_out: fraction of the annotated slices whose annotation is kept from training, in a case that
            does not itself list such slices.
        notes: collects what is noticed of the files, which is logged else.
    """
    source = read_image(case, in_channels, notes)
    item: LoadedCase = {
        "image": preprocess({"image": image_tensor(source)}, source, preprocessing)["image"],
        "case": case,
        "name": case.name,
        "spacing": source.spacing,
        "volume": _geometry(source),
    }
    if case.label is not None:
        with np.errstate(over="ignore"):
            item["hash"] = voxels_hash(source.array.astype(np.float32))
        label = _read_labels(case, case.label, source, labels, notes)
        annotation = classes_of(label, labels, str(case.label))
        if isinstance(labels, InstanceScheme):
            ids = labels.instances(_without_blank(label, 0), source=str(case.label))
            ids[_is_blank(label)] = -1
            item["instances"] = torch.from_numpy(ids)[None]
        train, held, item["held_out"] = _split(case, annotation, held_out)
        item["label"], item["held"] = torch.from_numpy(train)[None], torch.from_numpy(held)[None]
    if case.truth is not None:
        truth = classes_of(_read_labels(case, case.truth, source, labels, notes), labels, str(case.truth))
        item["truth"] = torch.from_numpy(truth)[None]
    return item


def classes_of(label: Volume, labels: LabelScheme, source: str) -> Classes:
    """Class indices of a label file; what was NaN in it is unlabelled, whatever the scheme says."""
    encoded = labels.encode(_without_blank(label, labels.values[0]), source=source)
    encoded[_is_blank(label)] = IGNORE_INDEX
    return encoded


def _is_blank(label: Volume) -> npt.NDArray[np.bool_]:
    return label.array[0] == (label.blank if label.blank is not None else np.nan)


def _without_blank(label: Volume, instead: int) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = label.array[0]
    return array if label.blank is None else np.where(array == label.blank, instead, array)


def preprocess(
    item: dict[str, Any], source: Volume, preprocessing: Preprocessing | None = None
) -> dict[str, Any]:
    """What the network gets of an image: ``item["image"]`` preprocessed, float32, and checked.

    Args:
        item: with the voxels of ``source`` as a tensor, see :func:`image_tensor`.

    Raises:
        InputError: if its numbers do not fit into 32-bit floating point.
        ValueError: if the preprocessing changes the grid.
    """
    if preprocessing is not None:
        with theirs("preprocessing", preprocessing, "failed on an image"):
            item = dict(preprocessing(item))
    image = torch.as_tensor(item["image"])
    item["image"] = (image.as_tensor() if hasattr(image, "as_tensor") else image).float()
    if not item["image"].isfinite().all():
        raise InputError(
            f"{source.name}: its values, {source.array.min():g} to {source.array.max():g}, are too large: "
            "the network would get numbers that are not finite in 32-bit floating point. If they mark what "
            "is outside of the picture, preprocessing with volseg.NormalizeGreyValuesd leaves them out; else "
            "divide the image by a number."
        )
    if item["image"].shape[1:] != source.spatial_shape:
        raise ValueError(
            f"preprocessing turns {source.name} from {source.spatial_shape} voxels into "
            f"{tuple(item['image'].shape[1:])}. It may change grey values only: annotation and result lie on "
            "the grid of the file."
        )
    return item


def image_tensor(volume: Volume) -> torch.Tensor:
    """The voxels as float32; as float64 where the file has a wider type, until they are normalised."""
    is_exact = np.can_cast(volume.array.dtype, np.float32)
    return torch.from_numpy(volume.array.astype(np.float32 if is_exact else np.float64))


def _split(case: Case, annotation: Classes, fraction: float) -> tuple[Classes, Classes, HeldOut]:
    """What is trained on, what is held out, and which slices these are."""
    if case.held_out == "all":
        return np.full_like(annotation, IGNORE_INDEX), annotation, "all"
    slices = case.held_out
    if slices is None:
        slices = choose_held_out(annotation, fraction) if fraction else {}
    try:
        train, held = hold_out(annotation, slices)
    except ValueError as error:
        raise InputError(
            f"The slices that dataset.json holds out of {case.name} do not fit {case.label}: {error}"
        ) from error
    return train, held, {axis: [int(i) for i in indices] for axis, indices in slices.items()}


def _read_labels(case: Case, path: Path, image: Volume, labels: LabelScheme, notes: Notes | None) -> Volume:
    read = read_volume(path, labels=True, spacing=case.spacing, colours=case.colours, notes=notes)
    return check_alignment(image, read, fill=labels.unlabelled or 0, notes=notes)


def _geometry(volume: Volume) -> Volume:
    """The volume with an array of the same shape that takes no memory."""
    return replace(volume, array=np.broadcast_to(np.zeros((), volume.array.dtype), volume.array.shape))
