"""Stop and go on: what is on the disk is noted, and after a kill the rest is done to the same bytes."""

import os
import subprocess
import sys

import pytest

from volseg.errors import RefusedError, ResourceError
from volseg.streaming.journal import Journal


def begin(journal, plan=None, there=True):
    journal.open(lambda: plan, lambda: None, lambda: there)
    return journal


def test_other_settings_start_anew_and_a_second_process_is_refused(tmp_path, caplog):
    target = tmp_path / "out.nii"
    first = begin(Journal(target, "one"), {"tile": [8]})
    first.note(3)
    with pytest.raises(RefusedError, match="another process is writing"):
        begin(Journal(target, "one"))
    second = Journal(target, "one")  # shares the work
    second.join(first.plan, first.done)
    second.note(7)
    second.close()
    first.close()
    with first.path.open("a") as file:
        file.write("\n4")  # cut off by a kill: not certain
    again = begin(Journal(target, "one"))
    assert (again.plan, again.done) == ({"tile": [8]}, {3, 7})
    again.note(45)
    again.close()
    again = begin(Journal(target, "one"))
    assert again.done == {3, 7, 45}, "not 445"
    again.close()
    lost = begin(Journal(target, "one"), {"tile": [32]}, there=False)
    lost.close()
    assert (lost.plan, lost.done) == ({"tile": [32]}, set()), "the unfinished file has gone"
    assert "starts again" in caplog.text
    other = begin(Journal(target, "two"), {"tile": [16]})
    assert (other.plan, other.done) == ({"tile": [16]}, set())
    other.finish()
    assert not list(tmp_path.iterdir())


def test_a_head_that_was_cut_off_is_no_journal(tmp_path):
    target = tmp_path / "out.nii"
    Journal(target, "one").path.write_text('{"work": "one", "plan": {"ti')
    journal = begin(Journal(target, "one"), {"tile": [8]})
    journal.close()
    assert journal.plan == {"tile": [8]}


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ResourceError, match="cannot write .*No such file"):
        begin(Journal(tmp_path / "no" / "out.nii", "one"))


KILLED = """
import os, random, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from test_run import *
from volseg.streaming.journal import Journal
torch.set_num_threads(1)
folder, suffix = Path(sys.argv[1]), sys.argv[3]
inferer = OverlapTileInferer(8, batch_norm="volume")
if suffix == ".zarr":
    inferer = RotationAveragingInferer(inferer, [((0, 1, 2), (False,) * 3), ((1, 0, 2), (True, False, True))])
draw = random.Random(0)
note = Journal.note

def in_child(work):
    pid = os.fork()  # before anything in this process has started threads
    if pid == 0:
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def content(path):
    if path.is_file():
        return path.read_bytes()
    files = [file for file in path.rglob("*") if file.is_file() and file.parent != path]
    assert len(files) > 18
    return {str(file.relative_to(path)): file.read_bytes() for file in files}

def segment(target):
    image = folder / f"image{suffix}"
    options = dict(network=network_for(3), inferer=inferer, preprocessing=NORMALISE)
    predict_streamed(image, target, probabilities=maps(target), **options)

def maps(target):
    return target.with_name("maps_" + target.name)

whole = folder / f"whole{suffix}"
assert in_child(lambda: make_image(folder, suffix, (24, 20, 16))) == 0
assert in_child(lambda: segment(whole)) == 0

for round in range(10):
    target = folder / f"out{round}{suffix}"
    at, noted = draw.randrange(18), draw.random() < 0.5

    def dying(self, tile):
        if noted:
            note(self, tile)
        if len(self.done) >= at:
            os.kill(os.getpid(), signal.SIGKILL)
        if not noted:
            note(self, tile)

    def begin():
        Journal.note = dying
        segment(target)

    assert in_child(begin) == signal.SIGKILL
    assert not target.exists() and not maps(target).exists()
    assert len(Journal(target, "").path.read_text().split(";")) > at
    assert in_child(lambda: segment(target)) == 0
    assert content(target) == content(whole)
    assert content(maps(target)) == content(maps(whole))
print("10 of 10")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed after a fork")
@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_after_kill_9_the_run_goes_on_and_ends_with_the_same_bytes(tmp_path, suffix):
    here = os.path.dirname(__file__)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), here, suffix]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "10 of 10", done.stderr
