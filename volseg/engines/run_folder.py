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

from volseg.errors import InputError, RefusedError
from volseg.io import atomic_write

__all__ = ["new_file", "open_run"]

_LIBRARIES = ("torch", "monai", "numpy", "pytorch-ignite", "nibabel", "tifffile", "volseg")
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def open_run(output_dir: str | Path, *, resume: bool, overwrite: bool) -> Path:
    """The folder of a training run, with its log file, versions and resolved configuration.

    Raises:
        RefusedError: if it holds a trained model and neither ``resume`` nor ``overwrite`` is given.
        InputError: if there is nothing to resume.
    """
    folder = Path(output_dir)
    trained = (folder / "last.pt").exists() or (folder / "model.pt").exists()
    if resume and not (folder / "last.pt").exists():
        raise InputError(f"{folder} holds no last.pt: there is nothing to resume. Train without --resume first.")
    if trained and not resume and not overwrite:
        raise RefusedError(
            f"{folder} holds a trained model already. Go on with it by --resume True, train anew in another "
            "folder by --output_dir NAME, or replace it by --overwrite True."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if trained and not resume:
        for stale in ("last.pt", "model.pt", "progress.csv", "log.txt"):
            (folder / stale).unlink(missing_ok=True)
    _log_to(folder / "log.txt")
    config = _running_config()
    if config is not None:
        with atomic_write(folder / "config.json", overwrite=True) as path:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    facts = {name: version(name) for name in _LIBRARIES}
    facts |= {"python": platform.python_version(), "machine": platform.machine()}
    facts |= {"threads": torch.get_num_threads()}
    with atomic_write(folder / "versions.json", overwrite=True) as path:
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return folder


def new_file(path: Path, *, overwrite: bool) -> Path:
    """``path``, if it may be written.

    Raises:
        RefusedError: if it exists and is not to be overwritten.
    """
    if path.exists() and not overwrite:
        raise RefusedError(
            f"{path} exists already and is not overwritten. Choose another --output_dir, or add --overwrite True."
        )
    return path


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger("volseg")
    for old in [h for h in root.handlers if isinstance(h, logging.FileHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)


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
