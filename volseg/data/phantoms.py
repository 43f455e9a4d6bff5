"""The phantom as a dataset folder: for a first run without data, and for the demonstration."""

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from volseg.annotation import choose_held_out, keep_slices
from volseg.errors import RefusedError
from volseg.io import Volume, write_volume
from volseg.labels import LabelScheme
from volseg.phantom import XENOPUS_SIZES, XENOPUS_SPACING, xenopus_phantom

__all__ = ["phantom_or_own", "write_phantom"]

logger = logging.getLogger(__name__)

SLICES = ((7, 5, 21), (6, 7, 12), (4, 5, 10))  # annotated yz, xz, xy slices (Çiçek et al. 2016, Sec. 3)
SCHEME = LabelScheme(["inside tubule", "tubule", "background"], [0, 1, 2], 3)
_HELD_OUT = 0.2  # of the annotated slices


def phantom_or_own(dataset_dir: str | Path, phantom_dir: str | Path | None) -> Path:
    """``dataset_dir``; if that is the phantom's folder and it does not exist yet, the phantom is made."""
    folder = Path(dataset_dir)
    if phantom_dir is not None and folder == Path(phantom_dir):
        if not folder.exists():
            logger.info("No --dataset_dir was given: making the phantom, a synthetic kidney, in %s.", folder)
            write_phantom(folder)
        else:
            logger.info("No --dataset_dir was given: using the phantom, a synthetic kidney, in %s.", folder)
    return folder


def write_phantom(folder: str | Path, *, sizes: Sequence[Sequence[int]] = XENOPUS_SIZES) -> None:
    """Three synthetic kidneys with sparse annotation, dense truth and a list of held-out slices.

    The folder appears under its name when it is complete.

    Raises:
        RefusedError: if something stands there already.
    """
    folder = Path(folder)
    if folder.exists():
        raise RefusedError(
            f"{folder} exists already and is not overwritten. Name another folder, or remove it."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        held_out = {}
        for index, (size, slices) in enumerate(zip(sizes, SLICES, strict=False)):
            name = f"kidney_{index + 1}"
            image, truth = xenopus_phantom(index, size=size)
            sparse = keep_slices(truth, [min(n, k) for n, k in zip(size, slices, strict=True)])
            held_out[name] = choose_held_out(sparse, _HELD_OUT)
            like = Volume(image, np.diag([*XENOPUS_SPACING, 1.0]), "um")
            for part, array in (("images", image), ("labels", SCHEME.decode(sparse)), ("truth", truth)):
                (draft / part).mkdir(exist_ok=True)
                write_volume(draft / part / f"{name}.tif", array, like)
        listing = {"name": "synthetic kidney (a phantom, not Xenopus)", "held_out": held_out}
        (draft / "dataset.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
