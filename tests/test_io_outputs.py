"""Every writer under a full disk, a folder that may not be written to, and two writers at once."""

import json
import logging
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from volseg.errors import ResourceError, VolsegError
from volseg.io import Volume, read_volume, write_volume

# Every kind of file that volseg leaves under a name somebody waits for: how it is written, small and large.
WRITERS = """
import json, pathlib, sys
import numpy as np, torch
from volseg.data.verification import verify
from volseg.engines.checkpoint import save_checkpoint
from volseg.errors import VolsegError
from volseg.io import Volume, atomic_write, write_volume
from volseg.labels import LabelScheme
from volseg.report import save_picture

def volume(path, size):
    voxels = np.random.default_rng(size).integers(0, 250, (size, size) + (4,) * (path.suffix != ".png"))
    voxels = voxels.astype(np.uint8)
    write_volume(path, voxels, Volume(voxels[None], np.eye(voxels.ndim + 1), "mm"), overwrite=True)

def text(path, size):
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(list(range(size * size))))

def checkpoint(path, size):
    save_checkpoint(path, {"model": {"w": torch.randn(size, size)}})

def picture(path, size):
    rng = np.random.default_rng(0)
    save_picture(path, rng.integers(0, 255, (size, 3 * size, 3), dtype=np.uint8), LabelScheme(["a"], [0]))

WRITERS = {name: volume for name in ("a.nii", "a.nii.gz", "a.tif", "a.ome.tif", "a.nrrd", "a.mha", "a.png")}
WRITERS |= {"metrics.json": text, "model.pt": checkpoint, "picture.png": picture}
"""

# One process for both, as it takes seconds to start: a limit on the size of files, to a writer a full
# disk, and then a folder without the right to write. Root has every right, so it becomes nobody.
TRIALS = (
    WRITERS
    + """
import os, resource, signal
folder, locked = map(pathlib.Path, sys.argv[1:])
for name, write in WRITERS.items():
    write(folder / name, 20)
before = {name: (folder / name).read_bytes() for name in WRITERS}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

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

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
full = trial(folder, 300)
changed = [name for name in WRITERS if (folder / name).read_bytes() != before[name]]
left = sorted({p.name for p in folder.iterdir()} - set(WRITERS))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
if os.geteuid() == 0:
    os.setuid(65534)
print(json.dumps({"full": full, "changed": changed, "left": left, "locked": trial(locked, 20)}))
"""
)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """What every writer said in both cases, and what it left."""
    if sys.platform == "win32":
        pytest.skip("Windows has no limit on the size of files, and other rights")
    folder, locked = (tmp_path_factory.mktemp(name) for name in ("full", "locked"))
    for parent in locked.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)  # so that nobody can get there, who is not root
    locked.chmod(0o555)
    command = [sys.executable, "-W", "ignore", "-c", TRIALS, str(folder), str(locked)]
    run = subprocess.run(command, capture_output=True, text=True)
    locked.chmod(0o755)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1]) | {"in locked": [p.name for p in locked.iterdir()]}


def test_a_full_disk_leaves_every_old_file_as_it_was(trials):
    assert len(trials["full"]) == 10
    for name, what in trials["full"].items():
        assert what[:2] == ["ResourceError", 4], f"{name}: {what}"
        assert "the disk is full" in what[2]
        assert "Nothing was changed" in what[2]
    assert trials["changed"] == trials["left"] == []


def test_a_folder_that_may_not_be_written_to_is_told(trials):
    for name, what in trials["locked"].items():
        assert what[:2] == ["ResourceError", 4], f"{name}: {what}"
        assert "Choose a folder you may write to" in what[2]
    assert trials["in locked"] == []


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


def test_a_name_cannot_leave_the_output_folder(tmp_path, make_dataset):
    """Results are named after images, and a name has no folder in it."""
    from volseg.data import find_images
    from volseg.engines.run_folder import output_of

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
