"""Two runs are not in one folder at once, whatever they do there."""

import errno
import fcntl
import multiprocessing
import os
import time

import pytest
from monai.inferers import SimpleInferer

from volseg.data import WholeVolumes, find_cases, phantoms
from volseg.engines import evaluator
from volseg.errors import RefusedError
from volseg.experiments.campaign import open_campaign
from volseg.labels import LabelScheme
from volseg.networks import UNet
from volseg.runs.claim import claim, release, take_lock


def _hold(folder, lock, held):
    claim(folder, lock=lock)
    held.set()
    time.sleep(600)


@pytest.fixture
def another():
    """Has another process take a folder; gives its number."""
    runs = []

    def take(folder, lock=".lock"):
        folder.mkdir(exist_ok=True)
        context = multiprocessing.get_context("fork")
        held = context.Event()
        runs.append(context.Process(target=_hold, args=(folder, lock, held), daemon=True))
        runs[-1].start()
        assert held.wait(60)
        return runs[-1].pid

    yield take
    for run in runs:
        run.kill()
        run.join()


def score(folder, output):
    labels = LabelScheme(["low", "middle", "high"], [0, 1, 2], 3)
    evaluator(
        device="cpu", dataset=WholeVolumes(find_cases(folder), labels=labels, in_channels=1, held_out=0.2),
        network=UNet(2, 1, 3, channels=[(2, 2)], padding="same"), inferer=SimpleInferer(), output_dir=output,
    ).run()  # fmt: skip


def test_two_evaluations_but_one_beside_a_training(make_dataset, another, tmp_path):
    folder = make_dataset(size=(20, 16), channels=1)
    another(tmp_path / "out")  # a training
    score(folder, tmp_path / "out")
    assert "metrics.json" in {path.name for path in (tmp_path / "out").iterdir()}
    pid = another(tmp_path / "other", ".evaluate.lock")
    with pytest.raises(RefusedError, match=rf"other is in use by another run \(process {pid}\)"):
        score(folder, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == [".evaluate.lock"]


def test_two_experiments(another, tmp_path):
    pid = another(tmp_path / "semi")
    with pytest.raises(
        RefusedError, match=rf"in use by another run \(process {pid}\).*choose another output"
    ):
        open_campaign(tmp_path / "semi", {"experiment": "semi"})
    open_campaign(tmp_path / "auto", {"experiment": "auto"})
    release(tmp_path / "auto")
    assert [path.name for path in (tmp_path / "auto").iterdir()] == ["experiment.json"]


def test_two_that_make_one_phantom(tmp_path, monkeypatch):
    """The second finds what the first has made meanwhile, and leaves it."""
    make = phantoms._IMAGES["cells"].make

    def slow(*words):
        (tmp_path / "cells").mkdir(exist_ok=True)
        (tmp_path / "cells" / "first").touch()
        return make(*words)

    monkeypatch.setitem(phantoms._IMAGES, "cells", phantoms._IMAGES["cells"]._replace(make=slow))
    with pytest.raises(RefusedError, match="was made by another process meanwhile; it stays"):
        phantoms.write_phantom(tmp_path / "cells", "cells", sizes=[(24, 24)])
    assert [path.name for path in tmp_path.rglob("*")] == ["cells", "first"]


def test_a_file_is_locked_once_and_free_when_it_is_closed(tmp_path):
    first, second = (os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert take_lock(first)
    assert not take_lock(second)
    os.close(first)
    assert take_lock(second)
    os.close(second)


def test_where_locks_are_unknown_a_file_counts_as_free(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    handle = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    assert take_lock(handle)
    os.close(handle)
