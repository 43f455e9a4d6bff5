"""What a network has learnt from, voxel by voxel, so that none of it is ever scored.

Every checkpoint carries a record. It has an entry for each case: the case's name, the slices (or all of it)
that were held out, and a mask of the voxels that were learnt from in this training and those before it. An
image is known by its voxels: more paint, another format of the file or another name change nothing. So
whoever paints more and trains on keeps what was held out, and a score is one of what was never learnt.
"""

import base64
import binascii
import hashlib
import logging
import zlib
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from volseg.annotation import choose_more_held_out, hold_out
from volseg.annotation.numbering import numbered_slices
from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX

__all__ = [
    "Record",
    "annotation_of",
    "entry_of",
    "held_out_again",
    "is_record",
    "learnt_of",
    "spared_entry",
    "voxels_hash",
]

logger = logging.getLogger(__name__)

Record: TypeAlias = dict[str, dict[str, Any]]
"""Entries by the hash of the image's voxels, and the case's name behind it."""

Mask: TypeAlias = npt.NDArray[np.bool_]
Classes: TypeAlias = npt.NDArray[np.uint8]
Item: TypeAlias = Mapping[str, Any]


def is_record(content: Any) -> bool:
    """Whether this is a record, as far as that can be seen without the images."""
    return isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(entry, dict) and {"name", "held_out"} <= set(entry) and (
            entry["held_out"] == "all"
            or (
                isinstance(entry["held_out"], dict)
                and all(isinstance(indices, list) for indices in entry["held_out"].values())
            )
        )
        for key, entry in content.items()
    )  # fmt: skip


def voxels_hash(image: npt.NDArray[np.float32]) -> str:
    """SHA-256 of the grey values of an image ``(C, *spatial)`` and its size."""
    sha = hashlib.sha256(str(image.shape).encode())
    sha.update(np.ascontiguousarray(image).data)
    return sha.hexdigest()


def annotation_of(item: Item) -> Classes:
    """All that is annotated of a case, learnt and held out, ``(*spatial)``."""
    train, held = _array(item["label"]), _array(item["held"])
    return np.where(held == IGNORE_INDEX, train, held)


def entry_of(item: Item, before: Record) -> tuple[str, dict[str, Any]]:
    """The entry of a case that is trained on, and its key.

    Args:
        item: of :func:`volseg.data.load_case`.
        before: the record of the training that this one continues.
    """
    known = _entries(before, item)
    learnt = (_array(item["label"]) != IGNORE_INDEX) | _learnt(known, item)
    classes = annotation_of(item)[learnt]
    return f"{item['hash']} {item['name']}", {
        "name": item["name"],
        "held_out": item["held_out"],
        "learnt": _packed(learnt),
        "classes": hashlib.sha256(classes.tobytes()).hexdigest(),
    }


def learnt_of(record: Record, item: Item) -> Mask:
    """The voxels of a case that the network has learnt from, ``(*spatial)``.

    A case of a known name with another image is another case, which is said.
    """
    known = _entries(record, item)
    if not known and any(entry["name"] == item["name"] for entry in record.values()):
        logger.warning(
            "The image of %s is not the one that was trained on under this name: all of its annotation is "
            "taken as new. If it is the same image with other grey values, its figures are too good.",
            item["name"],
        )
    return _learnt(known, item)


def held_out_again(item: Item, record: Record, fraction: float) -> Mapping[str, Sequence[int]] | str | None:
    """What is held out of a case when its training goes on; ``None`` if the training did not know it.

    What was held out stays so. Of slices that were never learnt from as many are added as now make up the
    ``fraction``, unless the data set says itself what is held out.
    """
    known = _entries(record, item)
    if not known:
        return None
    known = [entry for entry in known if entry["name"] == item["name"]] or known
    if any(entry["held_out"] == "all" for entry in known):
        return "all"
    annotation, listed = annotation_of(item), item["case"].held_out
    held: dict[str, list[int]] = {}
    for slices in (*(entry["held_out"] for entry in known), listed or {}):
        for axis, indices in slices.items():
            held[axis] = sorted({*held.get(axis, ()), *indices})
    before = held
    if listed is None and fraction:
        held = choose_more_held_out(annotation, held, _learnt(known, item), fraction)
    _say_changes(item, known, annotation, before, held)
    return held


def spared_entry(image: str, name: str, before: Record) -> tuple[str, dict[str, Any]]:
    """The entry of a case that is held out as a whole, and its key; what was learnt from it before counts.

    Args:
        image: the hash of its voxels.
    """
    key = f"{image} {name}"
    return key, {"classes": "", "learnt": "", **before.get(key, {}), "name": name, "held_out": "all"}


def _say_changes(
    item: Item,
    known: Sequence[Mapping[str, Any]],
    annotation: Classes,
    before: Mapping[str, Sequence[int]],
    held: Mapping[str, Sequence[int]],
) -> None:
    """What has changed in the labels since the training was begun."""
    if not all(entry.get("learnt") for entry in known):
        return
    learnt = _learnt(known, item)
    erased = int((learnt & (annotation == IGNORE_INDEX)).sum())
    if erased:
        logger.warning("%s: %d voxels that were learnt from are no longer annotated.", item["name"], erased)
    classes = hashlib.sha256(annotation[learnt].tobytes()).hexdigest()
    if not erased and len(known) == 1 and classes != known[0]["classes"]:
        logger.warning("%s: voxels that were learnt from have another class now.", item["name"])
    new = (annotation != IGNORE_INDEX) & ~learnt
    new &= hold_out(annotation, before)[1] == IGNORE_INDEX
    if new.any():
        logger.info(
            "%s: %d voxels were painted since. Held out are %s, as before%s; the rest is learnt from.",
            item["name"],
            int(new.sum()),
            numbered_slices(before) or "none",
            "" if before == held else f", and now {numbered_slices(_added(before, held))}",
        )


def _added(before: Mapping[str, Sequence[int]], held: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    added = {axis: sorted(set(indices) - set(before.get(axis, ()))) for axis, indices in held.items()}
    return {axis: indices for axis, indices in added.items() if indices}


def _entries(record: Record, item: Item) -> list[dict[str, Any]]:
    """The entries of this image; of checkpoints that kept no masks, those of this name."""
    found = [entry for key, entry in record.items() if key.partition(" ")[0] == item["hash"]]
    return found or [e for e in record.values() if "learnt" not in e and e["name"] == item["name"]]


def _learnt(entries: Sequence[Mapping[str, Any]], item: Item) -> Mask:
    annotation = annotation_of(item)
    learnt = np.zeros(annotation.shape, bool)
    for entry in entries:
        if entry.get("learnt"):
            learnt |= _unpacked(entry["learnt"], annotation.shape, item["name"])
        elif (
            "learnt" not in entry and entry["held_out"] != "all"
        ):  # of a version that kept no masks: all that it did not hold out
            learnt |= hold_out(annotation, entry["held_out"])[0] != IGNORE_INDEX
    return learnt


def _array(tensor: Tensor) -> Classes:
    array: Classes = tensor[0].cpu().numpy()
    return array


def _packed(mask: Mask) -> str:
    """A bit for each voxel, compressed, as text: slices of a large volume take some kilobytes."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode()


def _unpacked(text: str, shape: Sequence[int], name: str) -> Mask:
    voxels, most = prod(shape), -(-prod(shape) // 8)
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), most + 1)
    except (zlib.error, binascii.Error, TypeError, ValueError):
        data = b""
    if len(data) != most:
        raise InputError(
            f"The checkpoint's record of what was learnt from {name} is damaged or of another size: no one "
            "can say what of it may be scored. Take another checkpoint, or train again."
        )
    return np.unpackbits(np.frombuffer(data, np.uint8), count=voxels).astype(bool).reshape(shape)
