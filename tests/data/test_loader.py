"""Workers that draw patches may die, hang or fail: a training goes on, or ends with the name of the image."""

import faulthandler
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from volseg import cli
from volseg.arguments import come_through, option
from volseg.cli.command import door
from volseg.data import PatchLoader, TrainingPatches, find_cases
from volseg.errors import InputError, ResourceError, VolsegError
from volseg.labels import LabelScheme

SCHEME = LabelScheme(["a", "b", "c"], [0, 1, 2], 3)
HERE = os.getpid()


class Cut:
    """Cuts a corner out of a case, and does ``trick`` first."""

    def __init__(self, trick):
        self.trick = trick

    def set_random_state(self, state):
        self.random = state

    def __call__(self, item):
        self.trick(self.patch)
        return {"image": item["image"][:, :4, :4] + self.random.rand(), "label": item["label"][:, :4, :4]}


class Patches(TrainingPatches):
    """Tells its transform the number of the patch."""

    def __getitem__(self, index):
        self.transform.patch = index
        return super().__getitem__(index)


def in_a_worker(act, *, once=None):
    """What to do in a worker at patch 2; ``once`` is a file that remembers it was done."""

    def trick(patch):
        if patch == 2 and os.getpid() != HERE and not (once is not None and once.exists()):
            if once is not None:
                once.touch()
            act()

    return trick


def nothing(patch):
    """No trick."""


@pytest.fixture
def patches(make_dataset):
    folder = make_dataset(size=(8, 8))
    return lambda trick: Patches(find_cases(folder), labels=SCHEME, in_channels=3, transform=Cut(trick))


def drawn(dataset, workers, **options):
    loader = PatchLoader(dataset, [[i] for i in range(12)], num_workers=workers, **options)
    return torch.stack([batch["image"] for batch in loader])


@pytest.fixture
def expected(patches):
    """What comes without any trick, without any worker."""
    return drawn(patches(nothing), 0)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def crash():
    faulthandler.disable()  # pytest would print where
    os.kill(os.getpid(), signal.SIGSEGV)


def test_workers_change_nothing(patches, expected):
    assert torch.equal(drawn(patches(nothing), 2), expected)


@pytest.mark.parametrize(
    ("act", "words"),
    [(kill, "SIGKILL, probably for lack of memory"), (crash, "SIGSEGV"), (lambda: os._exit(3), "code 3")],
    ids=["killed", "crashed", "exited"],
)
def test_a_worker_that_dies_once_is_made_up_for(patches, expected, tmp_path, caplog, act, words):
    began = time.monotonic()
    assert torch.equal(drawn(patches(in_a_worker(act, once=tmp_path / "once")), 2), expected)
    assert time.monotonic() - began < 20
    (said,) = [record.getMessage() for record in caplog.records if "worker" in record.getMessage()]
    assert words in said
    assert "images/a.tif" in said
    assert "GB of memory" in said
    assert "Going on with 1 worker" in said


def test_where_memory_does_not_suffice_for_workers_there_are_none(patches, expected, caplog):
    assert torch.equal(drawn(patches(in_a_worker(kill)), 2), expected)
    assert "Going on with 0 worker" in caplog.text


def test_an_image_that_crashes_a_worker_twice_is_named_and_spares_the_main_process(patches):
    with pytest.raises(ResourceError, match=r"images/a.tif: a worker process was ended by SIGSEGV .* twice"):
        drawn(patches(in_a_worker(crash)), 1)


def test_a_worker_that_hangs_is_not_waited_for(patches, expected, tmp_path, caplog):
    trick = in_a_worker(lambda: time.sleep(600), once=tmp_path / "once")
    began = time.monotonic()
    assert torch.equal(drawn(patches(trick), 1, timeout=1.0), expected)
    assert time.monotonic() - began < 20
    assert "brought nothing for too long while it drew a patch of" in caplog.text


def say(patch):
    """Fail with an argument in the message."""
    raise InputError(f"Set {option('resume', True)}.")


def test_a_worker_that_inherits_nothing_names_arguments_as_its_parent_does(patches, monkeypatch):
    """As on macOS, where workers are started and not forked."""
    parser, (command,) = cli._parser()[1]["train"], [one for one in cli.COMMANDS if one.name == "train"]
    come_through(door(parser, takes_entries=command.takes_entries))
    spawned = multiprocessing.get_context("spawn").Process
    monkeypatch.setattr("volseg.data.loader.multiprocessing.Process", spawned)
    with pytest.raises(InputError, match=r"Set --resume\."):
        drawn(patches(say), 1)


def test_workers_end_with_the_loop(patches):
    batches = iter(PatchLoader(patches(nothing), [[i] for i in range(12)], num_workers=2))
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    batches.close()
    assert not any(worker.is_alive() for worker in workers)


SMALL = """
import logging, sys, torch
from pathlib import Path
from volseg.data import Case, PatchLoader
logging.basicConfig(format="%(message)s")

class Large:
    transform = None

    def __getitem__(self, index):
        return {"image": torch.full((1 << 20,), float(index))}

    def source_of(self, index):
        return Case("a", Path("a.tif"))

for i, batch in enumerate(PatchLoader(Large(), [[i] for i in range(9)], num_workers=2)):
    assert (batch["image"] == i).all()
print("all there")
"""


@pytest.mark.slow
def test_where_shared_memory_does_not_suffice_for_workers_there_are_none(root):
    mount = "mount -t tmpfs -o size=2m none /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this system lets no one mount anything, so /dev/shm cannot be made small")
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", SMALL]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert run.stdout == "all there\n", run.stderr
    assert re.search("had no room for its result|SIGBUS", run.stderr)
    assert "a.tif" in run.stderr
    assert "Going on with 0 worker" in run.stderr


def _raise(error):
    raise error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (InputError("the patch is cursed."), InputError, "images/a.tif: the patch is cursed"),
        (ResourceError("no room."), ResourceError, "images/a.tif: no room"),
        (
            KeyError("x"),
            InputError,
            r"images/a.tif: train#preprocessing: .* failed on a patch \(KeyError: 'x'\)",
        ),
    ],
    ids=["ours", "resources", "theirs"],
)
def test_an_error_in_the_pipeline_names_the_image_in_one_line(patches, workers, error, kind, message):
    with pytest.raises(kind, match=message) as caught:
        drawn(patches(lambda _: _raise(error)), workers)
    assert len(str(caught.value).splitlines()) == 1
    assert isinstance(caught.value, VolsegError)
