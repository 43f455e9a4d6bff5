"""A case as tensors, checked: image, annotation to train on, annotation held out, dense truth."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volseg.annotation import choose_held_out, hold_out
from volseg.data.cases import Case
from volseg.errors import InputError
from volseg.io import Volume, check_alignment, read_volume
from volseg.labels import LabelScheme

__all__ = ["load_case", "read_image"]

Preprocessing = Callable[[dict[str, Any]], Mapping[Any, Any]]


def read_image(case: Case, in_channels: int) -> Volume:
    """The image of a case, checked for its channels."""
    volume = read_volume(case.image)
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
) -> dict[str, Any]:
    """Tensors and facts of one case.

    Args:
        preprocessing: a MONAI transform on the dictionary, applied to the image once.
        held_out: fraction of the annotated slices whose annotation is kept from training, in a case that
            does not itself list such slices.

    Returns:
        ``image (C, *spatial)`` float32 and, where the case has them, ``label``, ``held`` and ``truth``
        ``(1, *spatial)`` uint8 with class indices and 255; ``name``, ``spacing``, ``volume`` (the file's
        geometry, without its voxels), ``held_out`` (slices per axis) and ``label_hash``.
    """
    source = read_image(case, in_channels)
    item: dict[str, Any] = {"image": torch.from_numpy(source.array.astype(np.float32))}
    if preprocessing is not None:
        item = dict(preprocessing(item))
    image = torch.as_tensor(item["image"])
    item["image"] = image.as_tensor() if hasattr(image, "as_tensor") else image
    if item["image"].shape[1:] != source.spatial_shape:
        raise ValueError(
            f"preprocessing turns {case.image} from {source.spatial_shape} voxels into "
            f"{tuple(item['image'].shape[1:])}. It may change grey values only: annotation and result lie on "
            "the grid of the file."
        )
    item["name"], item["spacing"] = case.name, source.spacing
    item["volume"] = _geometry(source)
    if case.label is not None:
        annotation = _read_labels(case.label, source, labels)
        slices: Mapping[str, Sequence[int]] = {}
        if case.held_out is not None:
            slices = case.held_out
        elif held_out:
            slices = choose_held_out(annotation, held_out)
        try:
            train, held = hold_out(annotation, slices)
        except ValueError as error:
            raise InputError(
                f"The slices that dataset.json holds out of {case.name} do not fit {case.label}: {error}"
            ) from error
        item["label"], item["held"] = torch.from_numpy(train)[None], torch.from_numpy(held)[None]
        item["held_out"] = {axis: [int(i) for i in indices] for axis, indices in slices.items()}
        item["label_hash"] = _sha256(case.label)
    if case.truth is not None:
        item["truth"] = torch.from_numpy(_read_labels(case.truth, source, labels))[None]
    return item


def _read_labels(path: Path, image: Volume, labels: LabelScheme) -> np.ndarray[Any, np.dtype[np.uint8]]:
    volume = check_alignment(image, read_volume(path, labels=True))
    return labels.encode(volume.array[0], source=str(path))


def _geometry(volume: Volume) -> Volume:
    """The volume with an array of the same shape that takes no memory."""
    return replace(volume, array=np.broadcast_to(np.zeros((), volume.array.dtype), volume.array.shape))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
