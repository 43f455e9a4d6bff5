"""Fixtures that several test files share."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from volseg.io import Volume, write_volume

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real volumes with ground truth; not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data are not here: {folder.name} folder missing beside the repository")
    return folder


FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figure(request):
    """Keeps a line to be shown when all tests are done: what docs/guarantees.md tells as measured."""
    lines = request.config.stash.setdefault(FIGURES, [])
    return lambda text: lines.append(text)


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(FIGURES, [])
    for number, line in enumerate(lines if "not slow" not in config.option.markexpr else ()):
        if number == 0:
            terminalreporter.section("figures")
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What the tests verify is not remembered among the user's caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(autouse=True)
def from_python():
    """Each test calls from Python, though one before it may have begun a bundle run in this process."""
    from volseg.arguments import come_through, in_python

    come_through(in_python)


@pytest.fixture
def clean_process():
    """Undoes what running a bundle changes in the process: logging, and how errors are shown."""
    loggers = [logging.getLogger(), logging.getLogger("volseg")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    excepthook = sys.excepthook
    yield
    sys.excepthook = excepthook
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
        for handler in handlers:
            logger.addHandler(handler)
        logger.setLevel(level)


@pytest.fixture
def volseg(capfd):
    """Runs a command in this process; gives its exit code and what it printed."""
    from volseg.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def make_dataset(tmp_path):
    """Writes a small dataset folder that can be learnt from, and gives its path.

    The classes are slabs along the first axis, brighter from class to class; the annotation is every
    fourth slice along the last axis, ``held_out`` goes into ``dataset.json``.
    """

    def make(
        name: str = "dataset",
        *,
        cases: Sequence[str] = ("a",),
        size: Sequence[int] = (24, 24, 24),
        channels: int = 3,
        values: Sequence[int] = (0, 1, 2),
        unlabelled: int = 3,
        suffix: str = ".tif",
        folders: Sequence[str] = ("images", "labels"),
        truth: bool = False,
        held_out: Mapping[str, Sequence[int]] | str | None = None,
    ) -> Path:
        folder = tmp_path / name
        random = np.random.default_rng(0)
        affine = np.diag([0.5] * len(size) + [1.0])
        for case in cases:
            slabs = np.minimum(np.arange(size[0]) * len(values) // size[0], len(values) - 1)
            dense = np.broadcast_to(slabs.reshape(-1, *[1] * (len(size) - 1)), size)
            image = dense + random.normal(0, 0.3, (channels, *size))
            like = Volume(image.astype(np.float32), affine, "mm" if suffix.startswith(".nii") else "um")
            label = np.asarray(values, np.uint8)[dense]
            sparse = np.full_like(label, unlabelled)
            sparse[..., 1::4] = label[..., 1::4]
            written = {folders[0]: like.array, folders[1]: sparse} | ({"truth": label} if truth else {})
            for part, array in written.items():
                (folder / part).mkdir(parents=True, exist_ok=True)
                write_volume(folder / part / f"{case}{suffix}", array, like)
        if held_out is not None:
            listing = {"held_out": dict.fromkeys(cases, held_out)}
            (folder / "dataset.json").write_text(json.dumps(listing))
        return folder

    return make


@pytest.fixture
def make_run(make_dataset, tmp_path):
    """Everything a training needs, made again from the same seeds: a tiny 2D network on a tiny image."""
    import torch

    from volseg.data import TrainingPatches, find_cases
    from volseg.engines import trainer
    from volseg.labels import LabelScheme
    from volseg.losses import SparseCrossEntropy
    from volseg.networks import UNet
    from volseg.transforms import RandDeformedPatchd

    scheme = LabelScheme(["low", "middle", "high"], [0, 1, 2], 3)
    folder = make_dataset(size=(32, 32), channels=1, cases=("a", "b"))

    def make(output="run", *, decay=0.9, channels=((2, 4), (4, 8)), loss=None, **settings):
        torch.manual_seed(7)
        network = UNet(2, 1, 3, channels=channels, norm="batch", dropout=0.2)
        transform = RandDeformedPatchd(patch_size=(24, 24), context=network.context, std=1.0, flip=0.5)
        dataset = TrainingPatches(
            find_cases(folder), labels=scheme, in_channels=1, transform=transform, held_out=0.2
        )
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        parts = {
            "device": "cpu",
            "max_epochs": 3,
            "epoch_length": 2,
            "dataset": dataset,
            "network": network,
            "loss": loss or SparseCrossEntropy(),
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
            "output_dir": tmp_path / output,
            "weight_average": decay,
        } | settings
        return SimpleNamespace(
            engine=trainer(**parts), folder=tmp_path / output, cases=find_cases(folder), **parts
        )

    return make
