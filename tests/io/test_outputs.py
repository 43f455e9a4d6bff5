"""Every writer under a full disk, a folder that may not be written to, and two writers at once."""

import importlib.util
import json
import logging
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from volseg.errors import RefusedError, ResourceError, VolsegError
from volseg.io import Volume, read_volume, suffix_of, write_volume
from volseg.runs.claim import claim, release

# Every kind of file that volseg leaves under a name somebody waits for: how it is written, small and large.
WRITERS = """
import importlib.util, json, os, pathlib, sys
import numpy as np, torch
from volseg.runs.checkpoint import save_checkpoint
from volseg.runs.checkpoint import export_weights
from volseg.errors import VolsegError
from volseg.io import Volume, atomic_write, write_volume
from volseg.labels import LabelScheme
from volseg.report import Report, save_picture, write_report

def volume(path, size):
    voxels = np.random.default_rng(size).integers(0, 250, (size, size) + (4,) * (path.suffix != ".png"))
    voxels = voxels.astype(np.uint8)
    write_volume(path, voxels, Volume(voxels[None], np.eye(voxels.ndim + 1), "mm"), overwrite=True)

def text(path, size):
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(list(range(size * size))))

def checkpoint(path, size):
    save_checkpoint(path, {"model": {"w": torch.randn(size, size)}})

def weights(path, size):
    export_weights({"model": {"w": torch.randn(size, size)}}, path, overwrite=True)

def picture(path, size):
    rng = np.random.default_rng(0)
    save_picture(path, rng.integers(0, 255, (size, 3 * size, 3), dtype=np.uint8), LabelScheme(["a"], [0]))

def page(path, size):
    image = np.random.default_rng(size).random((1, size, size), np.float32)
    report = Report("a", image, LabelScheme(["a", "b"], [0, 1]), (image[0] > 0.5).astype(np.uint8))
    write_report(path, report, overwrite=True)

VOLUMES = ("a.nii", "a.nii.gz", "a.tif", "a.ome.tif", "a.nrrd", "a.seg.nrrd", "a.mha", "a.png")
WRITERS = {name: volume for name in VOLUMES}
if importlib.util.find_spec("zarr"):
    WRITERS["a.ome.zarr"] = volume
WRITERS |= {"metrics.json": text, "model.pt": checkpoint, "a.safetensors": weights, "picture.png": picture}
WRITERS |= {"report.html": page}

def content(path):
    if path.is_dir():
        return {str(part.relative_to(path)): part.read_bytes() for part in path.rglob("*") if part.is_file()}
    return path.read_bytes()

def trial(folder, size):
    told = {}
    for name, write in WRITERS.items():
        try:
            write(folder / name, size)
            told[name] = "nothing"
        except VolsegError as error:
            told[name] = [type(error).__name__, error.exit_code, str(error)]
        except BaseException as error:
            told[name] = repr(error)
    return told
"""

# A process of its own writes everything small, makes the disk full, and writes everything large.
FULL = (
    WRITERS
    + """
import resource, signal
folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
for name, write in WRITERS.items():
    write(folder / name, 20)
before = {name: content(folder / name) for name in WRITERS}
if how == "file-size limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
else:
    with open(folder / ".ballast", "wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096 and os.statvfs(folder).f_bavail > 5:
            pass
told = trial(folder, 300)
changed = [name for name in WRITERS if content(folder / name) != before[name]]
left = sorted({p.name for p in folder.iterdir()} - {*WRITERS, ".ballast"})
print(json.dumps({"told": told, "changed": changed, "left": left}))
"""
)

# A folder without the right to write. Root has every right, so it becomes nobody.
LOCKED = (
    WRITERS
    + """
if os.geteuid() == 0:
    os.setuid(65534)
print(json.dumps({"told": trial(pathlib.Path(sys.argv[1]), 20)}))
"""
)


def run(script: str, *words: str, before: tuple[str, ...] = ()) -> dict:
    if sys.platform == "win32":
        pytest.skip("Windows has no limit on the size of files, and other rights")
    command = [*before, sys.executable, "-W", "ignore", "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def on_a_small_disk(folder: Path, size: str) -> tuple[str, ...]:
    """What to put before a command so that it sees a small disk of its own in a folder."""
    mount = f"mount -t tmpfs -o size={size} none '{folder}'"
    unshare = ("unshare", "-rm", "sh", "-c")
    if not shutil.which("unshare") or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount anything, so there is no small disk to fill")
    return (*unshare, f'{mount} && exec "$@"', "sh")


@pytest.mark.parametrize("how", ["file-size limit", pytest.param("tmpfs", marks=pytest.mark.slow)])
def test_a_full_disk_leaves_every_old_file_as_it_was(tmp_path, figure, how):
    found = run(FULL, str(tmp_path), how, before=on_a_small_disk(tmp_path, "2m") if how == "tmpfs" else ())
    assert len(found["told"]) == 13 + bool(importlib.util.find_spec("zarr"))
    for name, what in found["told"].items():
        assert what[:2] == ["ResourceError", 4], f"{name}: {what}"
        assert "the disk is full" in what[2]
        assert "Nothing was changed" in what[2]
    assert found["changed"] == found["left"] == []
    figure(f"disk full ({how}): {len(found['told'])} of as many writers tell it; 0 old files changed")


# Trains for two epochs, makes the disk full, and goes on.
TRAINS = """
import json, os, pathlib, sys
from volseg.cli import main
from volseg.runs.checkpoint import load_checkpoint

data, out, room = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
words = ["train", "bundles/xenopus.json", "configs/smoke.json"]
words += ["--dataset_dir", data, "--output_dir", str(out)]
assert main(words) == 0
before = {p.name: p.read_bytes() for p in out.iterdir() if p.suffix in (".pt", ".csv")}
with open(out.parent / ".ballast", "wb", buffering=0) as file:
    while os.statvfs(out).f_bavail > room and file.write(bytes(4096)) == 4096:
        pass
code = main([*words, "--epochs", "4", "--resume", "True"])
after = {name: (out / name).read_bytes() for name in before}
changed = [name for name in ("last.pt", "progress.csv") if not after[name].startswith(before[name])]
load_checkpoint(out / "model.pt")
iteration = load_checkpoint(out / "last.pt")["iteration"]
print(json.dumps({"code": code, "changed": changed, "iteration": iteration}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 30], ids=lambda room: f"{4 * room} KB left")
def test_a_training_on_a_full_disk_ends_with_its_last_checkpoint(
    tmp_path, make_dataset, root, monkeypatch, room
):
    """Whatever it is that finds no room: the log, the configuration, the curves, or a checkpoint."""
    monkeypatch.chdir(root)
    (tmp_path / "disk").mkdir()
    before = on_a_small_disk(tmp_path / "disk", "20m")
    words = (str(make_dataset()), str(tmp_path / "disk" / "run"), str(room))
    found = run(TRAINS, *words, before=before)
    assert found == {"code": 4, "changed": [], "iteration": 4}


@pytest.fixture
def locked():
    """A folder that may be read and not written to, also by a user who is not root.

    Not one of pytest's: every pytest that starts takes the rights of others away from the folder around them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_written_to_is_told(locked):
    for name, what in run(LOCKED, str(locked))["told"].items():
        assert what[:2] == ["ResourceError", 4], f"{name}: {what}"
        assert "Choose a folder you may write to" in what[2]
    assert list(locked.iterdir()) == []


def test_a_folder_that_is_missing_is_told(tmp_path):
    with pytest.raises(ResourceError, match="the folder .* does not exist. Create it first"):
        write_volume(tmp_path / "no" / "a.nii", np.zeros((3, 4)), Volume(np.zeros((1, 3, 4)), np.eye(3)))


def _write_for_ever(path: Path, value: int) -> None:
    logging.disable(logging.CRITICAL)
    array = np.full((30, 30, 30), value, np.uint8)
    while True:
        write_volume(path, array, Volume(array[None], np.eye(4)), overwrite=True)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", pytest.param("a.tif", marks=pytest.mark.slow)])
def test_two_runs_that_write_one_file_leave_a_whole_one_at_every_moment(tmp_path, name):
    """And when they are killed in the middle of it."""
    path = tmp_path / name
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_write_for_ever, args=(path, value), daemon=True) for value in (1, 2)]
    for run in runs:
        run.start()
    seen = set()
    until = time.monotonic() + 1.0
    while time.monotonic() < until or len(seen) < 2:
        assert time.monotonic() < until + 30, f"only {seen} wrote"
        if path.exists():
            values = np.unique(read_volume(path).array)
            assert len(values) == 1
            seen.add(int(values[0]))
    for run in runs:
        run.kill()
        run.join()
    assert len(np.unique(read_volume(path).array)) == 1
    array = np.zeros((3, 4), np.uint8)
    write_volume(path, array, Volume(array[None], np.eye(3)), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]  # what the killed ones left is removed


def _hold(folder: Path, held) -> None:
    claim(folder)
    held.set()
    time.sleep(600)


def test_a_folder_belongs_to_one_run_at_a_time(make_run):
    """The second is refused and changes nothing; when the first is killed, its folder is free."""
    run = make_run(max_epochs=1)
    run.folder.mkdir()
    (run.folder / "model.pt").write_bytes(b"of the first")
    context = multiprocessing.get_context("fork")
    held = context.Event()
    first = context.Process(target=_hold, args=(run.folder, held), daemon=True)
    first.start()
    assert held.wait(60)
    second = make_run(max_epochs=1, overwrite=True)
    with pytest.raises(RefusedError, match=rf"is in use by another run \(process {first.pid}\). Wait for it"):
        second.engine.run()
    assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "model.pt"]
    first.kill()
    first.join()
    third = make_run(max_epochs=1, overwrite=True)
    third.engine.run()
    claim(run.folder)  # it was given back
    release(run.folder)
    assert (run.folder / "model.pt").stat().st_size > 100


def test_a_name_cannot_leave_the_output_folder(tmp_path, make_dataset):
    """Results are named after images, and a name has no folder in it."""
    from volseg.data import find_images, output_of

    folder = make_dataset(cases=("a", "..b", "c.d"), size=(6, 6))
    for case in find_images(folder):
        for path in output_of(case, tmp_path / "results"):
            assert path.parent == tmp_path / "results"
    with pytest.raises(VolsegError):
        write_volume(
            tmp_path / "nowhere" / ".." / ".." / "x" / "a.nii",
            np.zeros((3, 4)),
            Volume(np.zeros((1, 3, 4)), np.eye(3)),
        )


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.nii.gz", ".nii.gz"),
        ("A.SEG.NRRD", ".seg.nrrd"),
        ("folder.tif/b.nrrd", ".nrrd"),
        ("a.tif.txt", ""),
        ("tif", ""),
    ],
)
def test_a_suffix_is_the_longest_that_a_format_has(name, suffix):
    assert suffix_of(name) == suffix
    assert suffix_of(Path(name)) == suffix
