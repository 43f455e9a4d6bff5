"""A result that is replaced: at any moment the old one or the new one is whole, and nothing else is lost."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from volseg.errors import ResourceError
from volseg.io import Volume, write_volume
from volseg.runs import replacing
from volseg.runs.replacing import install, settle, stage_of

OLD = {"model.pt": "old", "report.html": "old", "folds/fold_1.pt": "old", "folds/fold_2.pt": "old"}
NEW = {"model.pt": "new", "report.html": "new", "folds/fold_1.pt": "new", "figures/scores.png": "new"}
MINE = {"mine.txt": "mine", "figures/mine.png": "mine", "sub/deep/mine.txt": "mine"}


def lay(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def found(folder):
    hidden = (".lock", ".volseg-complete")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in hidden)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


class Killed(BaseException):
    """Stands in for kill -9: nothing may catch it and tidy up."""


@pytest.fixture
def result(tmp_path):
    folder = tmp_path / "result"
    lay(folder, OLD | MINE)
    lay(stage_of(folder), NEW)
    return folder


@pytest.fixture
def killed_at(monkeypatch):
    """Ends the program at the n-th call of the file system; gives whether it did."""

    def arrange(n):
        calls = [0]

        def counted(module, name):
            original = getattr(module, name)

            def call(*words, **more):
                calls[0] += 1
                if calls[0] == n:
                    raise Killed
                return original(*words, **more)

            monkeypatch.setattr(module, name, call)

        for module, name in (
            (os, "link"), (os, "replace"), (os, "rename"), (shutil, "rmtree"), (Path, "mkdir"),
            (Path, "unlink"), (replacing, "_exchanged"),
        ):  # fmt: skip
            counted(module, name)
        return lambda: calls[0] >= n

    return arrange


@pytest.mark.parametrize("n", range(1, 15))
def test_a_kill_at_any_moment_leaves_the_old_result_or_the_new_one(result, killed_at, monkeypatch, n):
    was_killed = killed_at(n)
    replaced = [Path(name) for name in OLD]
    try:
        install(stage_of(result), result, replaced)
    except Killed:
        pass
    else:
        assert not was_killed()
    monkeypatch.undo()
    assert found(result) in (OLD | MINE, NEW | MINE)
    was_old = found(result) == OLD | MINE
    settled = settle(result)  # when it is opened again
    assert found(result) in (OLD | MINE, NEW | MINE)
    assert not was_old or settled == (found(result) == NEW | MINE)
    if found(result) == NEW | MINE:
        assert not stage_of(result).exists()
        assert not (result / ".volseg-complete").exists()
    assert settle(result) is False


@pytest.mark.parametrize("n", range(1, 30))
def test_one_by_one_a_kill_is_made_up_for_when_the_folder_is_opened(result, killed_at, monkeypatch, n):
    monkeypatch.setattr(replacing, "_exchanged", lambda *_: False)
    killed_at(n)
    with contextlib.suppress(Killed):
        install(stage_of(result), result, [Path(name) for name in OLD])
    monkeypatch.undo()
    monkeypatch.setattr(replacing, "_exchanged", lambda *_: False)
    decided = (stage_of(result) / ".volseg-complete").exists() or (result / ".volseg-complete").exists()
    settle(result)
    assert found(result) == NEW | MINE or (not decided and found(result) == OLD | MINE)


def test_folders_change_names_in_one_call_here(result):
    """The property that the first test rests on; on a system without such a call it is not kept."""
    assert replacing._exchanged(stage_of(result), result) or os.name != "posix"


def test_a_segmentation_outside_of_the_folder_is_replaced_with_it(result, tmp_path):
    target = tmp_path / "mine.nii.gz"
    target.write_text("old")
    lay(stage_of(result), {"mine.nii.gz": "new"})
    install(stage_of(result), result, [Path(name) for name in OLD], target)
    assert target.read_text() == "new"
    assert found(result) == NEW | MINE


def test_whoever_stands_in_the_folder_keeps_standing_there(result, monkeypatch):
    monkeypatch.chdir(result)
    install(stage_of(Path()), Path(), [Path(name) for name in OLD])
    assert found(Path()) == NEW | MINE
    assert os.path.samefile(".", result)


def test_where_nothing_can_be_made_beside_the_folder_the_stage_is_inside(result, monkeypatch):
    shutil.rmtree(stage_of(result))
    monkeypatch.setattr(os, "access", lambda *_: False)
    stage = stage_of(result)
    assert stage.parent == result
    lay(stage, NEW)
    install(stage, result, [Path(name) for name in OLD])
    assert found(result) == NEW | MINE
    assert not stage.exists()


def test_a_disk_without_room_for_what_is_kept_changes_nothing(result, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(ResourceError, match="cannot replace .*No space left.*It is as it was"):
        install(stage_of(result), result, [Path(name) for name in OLD])
    assert found(result) == OLD | MINE


@pytest.mark.slow
def test_a_whole_run_that_is_killed_leaves_the_old_result(tmp_path):
    """From the command line, at several moments of the run; the next run leaves nothing of it behind."""
    random = np.random.default_rng(0)
    truth = (np.add.outer(np.add.outer(np.arange(20), np.arange(18)), np.arange(12)) > 24).astype(
        np.uint8
    ) + 1
    paint = np.zeros_like(truth)
    paint[..., [2, 6, 9]], paint[10] = truth[..., [2, 6, 9]], truth[10]
    grey = (truth + random.normal(size=truth.shape)).astype(np.float32)
    for name, array in (("image", grey), ("paint", paint)):
        write_volume(tmp_path / f"{name}.nii.gz", array, Volume(array[None], np.eye(4), "mm"))
    words = ["densify", "image.nii.gz", "paint.nii.gz", "-o", "out", "--unlabelled", "0", "--force"]
    words += ["--method", "random-walker", "--no-suggest", "--overwrite"]
    code = f"import sys; from volseg.cli import main; sys.exit(main({words!r}))"

    def start():
        return subprocess.Popen([sys.executable, "-P", "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)

    assert start().wait() == 0
    out = tmp_path / "out"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for appears in ("log.txt", "scores.json", "figures/scores.png"):
        run = start()
        while not (stage_of(out) / appears).exists() and run.poll() is None:
            time.sleep(0.002)
        run.kill()
        assert run.wait() == -signal.SIGKILL, "it was over before it could be killed"
        files = {
            path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"
        }
        assert files == before
        assert stage_of(out).exists()
    assert start().wait() == 0
    assert not stage_of(out).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"image.nii.gz", "paint.nii.gz", "out"}
