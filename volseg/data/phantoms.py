"""The phantoms as dataset folders: for a first run without data, and for the demonstration."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from volseg.annotation import choose_held_out, keep_slices
from volseg.arguments import option
from volseg.errors import RefusedError
from volseg.io import Volume, write_json, write_volume
from volseg.labels import LabelScheme
from volseg.phantom import (
    XENOPUS_SIZES,
    XENOPUS_SPACING,
    brain_phantom,
    cells_phantom,
    membranes_phantom,
    xenopus_phantom,
)

__all__ = ["KINDS", "Kind", "phantom_or_own", "write_phantom"]

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["kidney", "membranes", "cells", "brain"]
Array: TypeAlias = npt.NDArray[Any]


class Phantom(NamedTuple):
    """One case as it is written."""

    image: Array  # (C, *spatial)
    label: Array  # (*spatial), as in a label file
    spacing: tuple[float, ...]
    unit: str
    truth: Array | None = None
    held_out: Any = None  # as in dataset.json


class _Images(NamedTuple):
    """A set of 2D images; every fifth is held out."""

    make: Callable[..., tuple[Array, Array]]
    number: int
    size: tuple[int, int]
    pixel: float
    unit: str
    values: tuple[int, int] | None  # in the file, for the classes 0 and 1; None for ids as they are


KINDS: dict[str, str] = {
    "kidney": "a synthetic kidney",
    "membranes": "synthetic sections of neurites and their membranes",
    "cells": "synthetic touching cells",
    "brain": "synthetic slices of heads with a tumour",
}
_IMAGES = {
    "membranes": _Images(membranes_phantom, 20, (256, 256), 0.004, "um", (0, 255)),
    "cells": _Images(cells_phantom, 20, (256, 256), 0.65, "um", None),
    "brain": _Images(brain_phantom, 40, (192, 192), 1.2, "mm", (0, 1)),
}
_EVERY = 5  # of the images, one in so many is held out

SLICES = ((7, 5, 21), (6, 7, 12), (4, 5, 10))  # annotated yz, xz, xy slices (Çiçek et al. 2016, Sec. 3)
SCHEME = LabelScheme(["inside tubule", "tubule", "background"], [0, 1, 2], 3)
_HELD_OUT = 0.2  # of the annotated slices


def phantom_or_own(dataset_dir: str | Path, phantom_dir: str | Path | None, kind: Kind = "kidney") -> Path:
    """``dataset_dir``; if that is the phantom's folder and it does not exist yet, the phantom is made."""
    folder = Path(dataset_dir)
    if phantom_dir is not None and folder == Path(phantom_dir):
        verb = "using" if folder.exists() else "making"
        which = option("dataset_dir")
        logger.info("No %s was given: %s the phantom, %s, in %s.", which, verb, KINDS[kind], folder)
        if not folder.exists():
            write_phantom(folder, kind)
    return folder


def write_phantom(
    folder: str | Path, kind: Kind = "kidney", *, sizes: Sequence[Sequence[int]] | None = None
) -> None:
    """A dataset folder of synthetic cases, with a list of what is held out.

    ``"kidney"``: three volumes with sparse annotation and dense truth. ``"membranes"``, ``"cells"`` and
    ``"brain"``: annotated images, every fifth of which is held out. The folder appears under its name
    when it is complete.

    Args:
        sizes: of the cases, x, y(, z); as many as there are sizes are made.

    Raises:
        RefusedError: if something stands there already.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r} is not a phantom. There are: {', '.join(KINDS)}.")
    folder = Path(folder)
    if folder.exists():
        raise RefusedError(
            f"{folder} exists already and is not overwritten. Name another folder, or remove it."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        held_out = {}
        for name, case in _kidneys(sizes) if kind == "kidney" else _images(kind, sizes):
            if case.held_out is not None:
                held_out[name] = case.held_out
            like = Volume(case.image, np.diag([*case.spacing, 1.0]), case.unit)
            parts = {"images": case.image, "labels": case.label, "truth": case.truth}
            for part, array in parts.items():
                if array is not None:
                    (draft / part).mkdir(exist_ok=True)
                    write_volume(draft / part / f"{name}.tif", array, like)
        listing = {"name": f"{KINDS[kind]} (a phantom)", "held_out": held_out}
        write_json(draft / "dataset.json", listing, indent=1)
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise
            raise RefusedError(f"{folder} was made by another process meanwhile; it stays.") from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _kidneys(sizes: Sequence[Sequence[int]] | None) -> Iterator[tuple[str, Phantom]]:
    for index, (size, slices) in enumerate(zip(sizes or XENOPUS_SIZES, SLICES, strict=False)):
        image, truth = xenopus_phantom(index, size=size)
        sparse = keep_slices(truth, [min(n, k) for n, k in zip(size, slices, strict=True)])
        held_out = choose_held_out(sparse, _HELD_OUT)
        label = SCHEME.decode(sparse)
        yield f"kidney_{index + 1}", Phantom(image, label, XENOPUS_SPACING, "um", truth, held_out)


def _images(kind: str, sizes: Sequence[Sequence[int]] | None) -> Iterator[tuple[str, Phantom]]:
    images = _IMAGES[kind]
    for index, size in enumerate(sizes or [images.size] * images.number):
        image, truth = images.make(index, size)
        if images.values is not None:
            truth = np.array(images.values, np.uint8)[truth]
        held_out = "all" if index % _EVERY == _EVERY - 1 else None
        label = truth.astype(np.uint16) if truth.dtype != np.uint8 else truth
        yield (
            f"{kind}_{index + 1:02d}",
            Phantom(image, label, (images.pixel,) * 2, images.unit, None, held_out),
        )
