"""The folder of a run: what it may hold before, and what a run always writes into it."""

import inspect
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from volseg.data import Case, stem
from volseg.engines.checkpoint import past_checkpoints
from volseg.engines.claim import claim
from volseg.engines.run_log import open_log
from volseg.errors import InputError, RefusedError
from volseg.io import atomic_write, digest, output_suffix

__all__ = ["check_run", "new_file", "open_run", "output_of"]

_LIBRARIES = ("torch", "monai", "numpy", "pytorch-ignite", "nibabel", "tifffile", "volseg")


def check_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Whether a training may run in this folder.

    Raises:
        RefusedError: if it holds a trained model and neither ``resume`` nor ``overwrite`` is given.
        InputError: if there is nothing to resume.
    """
    checkpoints = past_checkpoints(folder / "last.pt")
    if resume and not checkpoints:
        raise InputError(
            f"{folder} holds no last.pt: there is nothing to resume. Train without --resume first."
        )
    trained = checkpoints or (folder / "model.pt").exists()
    if trained and not resume and not overwrite:
        raise RefusedError(
            f"{folder} holds a trained model already. Go on with it by --resume True, train anew in another "
            "folder by --output_dir NAME, or replace it by --overwrite True."
        )


def open_run(folder: Path, *, resume: bool, data: Sequence[Case], facts: Mapping[str, Any]) -> None:
    """Make the folder of a training run, with its log file and all that is needed to repeat the run.

    What an earlier run left is removed first, unless it is resumed.

    Args:
        data: the cases; ``data.json`` lists their files with the SHA-256 of each.
        facts: what else ``versions.json`` tells beside the versions of the libraries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder)
    if not resume:
        stale = [folder / name for name in ("model.pt", "best.pt", "progress.csv", "log.txt")]
        stale += past_checkpoints(folder / "last.pt")
        for path in [*stale, *(folder / "tensorboard").glob("events.out.tfevents.*")]:
            path.unlink(missing_ok=True)
    open_log(folder / "log.txt")
    config = _running_config()
    if config is not None:
        _write_json(folder / "config.json", config)
    versions: dict[str, Any] = {name: version(name) for name in _LIBRARIES}
    versions |= {"python": platform.python_version(), "machine": platform.machine()}
    versions |= {"processor": _processor(), "threads": torch.get_num_threads(), **facts}
    _write_json(folder / "versions.json", versions)
    _write_json(folder / "data.json", [_listed(case) for case in data])


def _listed(case: Case) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": case.name}
    for part in ("image", "label", "truth"):
        path = getattr(case, part)
        if path is not None:
            entry[part] = _hashed(path)
    if case.channels:
        entry["channels"] = [_hashed(path) for path in case.channels]
    return entry


def _hashed(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": digest(path)}


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def _processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def output_of(case: Case, folder: Path) -> tuple[Path, Path, Path]:
    """Where the classes of an image go, probabilities and their spread: in its format if that can be."""
    name = case.name if case.channels else stem(case.image)
    fractions = output_suffix(case.image, fractions=True)
    maps, spread = (folder / f"{name}_{kind}{fractions}" for kind in ("probabilities", "spread"))
    return folder / f"{name}{output_suffix(case.image)}", maps, spread


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
