"""What came with this installation: bundles and overlays by name, and how to add a library it can do without.

In a checkout the files lie at the repository's root, in an installed package beside this module. Either
way ``xenopus``, ``xenopus.json`` and ``bundles/xenopus.json`` mean the bundle of that name, from any folder,
unless the current folder has a file that is called so.
"""

import logging
import os
import shlex
from pathlib import Path

from volseg.errors import InputError

__all__ = ["BUNDLES", "OPTIONAL", "OVERLAYS", "find", "folder", "install_line", "named", "shipped"]

logger = logging.getLogger(__name__)

BUNDLES = {
    "xenopus": "3D U-Net of 2016: three channels, three classes, sparse slices; makes its own phantom",
    "medulla": "membranes in isotropic electron microscopy, from a few slices",
    "hippocampus": "two structures in small MRI volumes, many sparsely annotated cases",
    "isbi2012": "membranes in sections of electron microscopy, 2D: U-Net of 2015; makes its own phantom",
    "cells": "touching cells or nuclei kept apart, 2D: an id per cell; makes its own phantom",
    "brain_mri": "tumours in MRI slices, 2D; makes its own phantom",
    "hela": "cells in DIC microscopy, 2D",
    "axon": "myelin and axons in scanning electron microscopy, 2D",
    "densify": "what `volseg densify` does to one volume, for MONAI's command",
}
OVERLAYS = {
    "smoke": "a tiny network and a handful of iterations: does everything run?",
    "fast": "half of the iterations, better than the bundle's own recipe after them",
    "multi_gpu": "several processes, started with torchrun",
    "cluster": "tiles of OME-Zarr images processed by Dask",
    "profile": "15 iterations, and where their time goes",
    "slices_2d": "makes a 3D bundle a 2D one, for `volseg experiment`",
    "without_norm": "no batch norm and a fifth of the learning rate, for `volseg experiment`",
}
# As in pyproject.toml. Libraries, not "volseg[zarr]": that works however volseg itself was installed.
OPTIONAL = {
    "zarr": ("zarr>=3.1",),
    "cluster": ("zarr>=3.1", "distributed"),
    "interpolate": ("itk-morphologicalcontourinterpolation",),
    "sweep": ("optuna",),
}


def install_line(extra: str) -> str:
    """The command that adds what a part of volseg needs, such as ``"zarr"``."""
    return shlex.join(["pip", "install", *OPTIONAL[extra]])


def folder(kind: str) -> Path:
    """Where ``bundles``, ``configs`` or ``docs`` of this installation lie."""
    package = Path(__file__).resolve().parent
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def shipped(name: str | os.PathLike[str]) -> Path | None:
    """What came with volseg under a name such as ``xenopus``, ``smoke.json`` or ``configs/smoke.json``."""
    *above, last = Path(name).parts or ("",)
    stem = last.removesuffix(".json")
    for kind, names in (("bundles", BUNDLES), ("configs", OVERLAYS)):
        if stem in names and above in ([], [kind]):
            return folder(kind) / f"{stem}.json"
    return None


def named(name: str | os.PathLike[str]) -> Path | None:
    """The JSON file that a name stands for, if there is one: from here, else one that came with volseg."""
    path = Path(name)
    here = (path, path.with_name(f"{path.name}.json")) if path.name else ()
    return next((one for one in here if one.suffix.lower() == ".json" and one.is_file()), shipped(name))


def find(name: str | os.PathLike[str]) -> Path:
    """The file that a name stands for: one that exists from here, else one that came with volseg.

    Which of two is taken is said.

    Raises:
        InputError: if it is neither the name of a JSON file nor of something that came with volseg.
    """
    path, own, found = Path(name), shipped(name), named(name)
    if found is not None:
        if found == own:
            logger.info("%s: %s, which came with volseg.", name, _short(own))
        elif own is not None and not found.samefile(own):
            logger.info("%s: the file of this folder, not the one that came with volseg.", found)
        return found
    if path.suffix.lower() == ".json":
        return path  # whoever reads it says what is wrong
    import difflib

    close = difflib.get_close_matches(path.name.lower(), [*BUNDLES, *OVERLAYS], n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise InputError(
        f"'{path}' is not a bundle: bundles end in .json, and settings are --ENTRY VALUE. {hint}"
        f"Those that came with volseg are {', '.join(BUNDLES)}, and the overlays {', '.join(OVERLAYS)}."
    )


def _short(path: Path) -> Path:
    """A path as seen from here, if it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
