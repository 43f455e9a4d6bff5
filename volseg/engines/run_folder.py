"""The folder of a run: what it may hold before, and what a run always writes into it."""

import inspect
import json
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from volseg.data import Case, stem
from volseg.errors import InputError, RefusedError
from volseg.io import SUFFIXES, atomic_write

__all__ = ["check_run", "close_log", "new_file", "open_run", "output_of"]

_LIBRARIES = ("torch", "monai", "numpy", "pytorch-ignite", "nibabel", "tifffile", "volseg")
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def check_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Whether a training may run in this folder.

    Raises:
        RefusedError: if it holds a trained model and neither ``resume`` nor ``overwrite`` is given.
        InputError: if there is nothing to resume.
    """
    if resume and not (folder / "last.pt").exists():
        raise InputError(
            f"{folder} holds no last.pt: there is nothing to resume. Train without --resume first."
        )
    trained = any((folder / name).exists() for name in ("last.pt", "model.pt"))
    if trained and not resume and not overwrite:
        raise RefusedError(
            f"{folder} holds a trained model already. Go on with it by --resume True, train anew in another "
            "folder by --output_dir NAME, or replace it by --overwrite True."
        )


def open_run(folder: Path, *, resume: bool) -> None:
    """Make the folder of a training run, with its log file, versions and resolved configuration.

    What an earlier run left is removed first, unless it is resumed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        stale = [folder / name for name in ("last.pt", "model.pt", "progress.csv", "log.txt")]
        for path in [*stale, *(folder / "tensorboard").glob("events.out.tfevents.*")]:
            path.unlink(missing_ok=True)
    _log_to(folder / "log.txt")
    config = _running_config()
    if config is not None:
        with atomic_write(folder / "config.json", overwrite=True) as path:
            path.write_text(json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8")
    facts: dict[str, str | int] = {name: version(name) for name in _LIBRARIES}
    facts |= {"python": platform.python_version(), "machine": platform.machine()}
    facts |= {"threads": torch.get_num_threads()}
    with atomic_write(folder / "versions.json", overwrite=True) as path:
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def output_of(case: Case, folder: Path) -> tuple[Path, Path]:
    """Where the segmentation of an image goes, and its probabilities: in the image's format."""
    suffix = max((s for s in SUFFIXES if case.image.name.lower().endswith(s)), key=len)
    name = stem(case.image)
    return folder / f"{name}{suffix}", folder / f"{name}_probabilities{suffix}"


def new_file(path: Path, *, overwrite: bool, source: Path | None = None) -> Path:
    """``path``, if it may be written.

    Raises:
        RefusedError: if it exists and is not to be overwritten, or is the ``source`` of what goes there.
    """
    if source is not None and path.exists() and path.samefile(source):
        raise RefusedError(f"{path} is the image itself: name another --output_dir for the result.")
    if path.exists() and not overwrite:
        raise RefusedError(
            f"{path} exists already and is not overwritten. Choose another --output_dir, "
            "or add --overwrite True."
        )
    return path


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    close_log()
    root = logging.getLogger("volseg")
    root.addHandler(handler)
    if root.level == logging.NOTSET:  # nobody set up logging, as in a notebook: the file gets it all the same
        root.setLevel(logging.INFO)


def close_log() -> None:
    """The run is over: what the program does afterwards is not part of its log."""
    root = logging.getLogger("volseg")
    for old in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(old)
        old.close()


def _running_config() -> dict[str, Any] | None:
    """The configuration that MONAI is running, overlays and overrides applied; ``None`` outside a bundle.

    MONAI hands the parts of a configuration to the components, never the whole; it is the workflow
    object further up the stack that knows it.
    """
    for frame in inspect.stack(context=0):
        workflow = frame.frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            return {key: value for key, value in workflow.parser.get().items() if key != "_meta_"}
    return None
