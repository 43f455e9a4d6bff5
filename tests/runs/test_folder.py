"""A training that replaces another does so when it is complete; one that goes on says what has changed."""

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from volseg.errors import InputError, RefusedError, ResourceError
from volseg.io import read_volume, write_volume
from volseg.runs import folder
from volseg.runs.checkpoint import load_checkpoint
from volseg.runs.claim import claim, release
from volseg.runs.folder import tidy_up
from volseg.runs.log import while_running

pytestmark = pytest.mark.usefixtures("clean_process")


def at(iteration, action):
    def handler(engine):
        if engine.state.iteration == iteration:
            action(engine)

    return handler


def content(folder: Path) -> dict[str, bytes]:
    """Of the files that a result consists of."""
    kinds = (".pt", ".csv", ".json")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in kinds}


def assert_same_weights(one: Path, other: Path, **tolerance: float) -> None:
    first, second = (load_checkpoint(folder / "model.pt")["model"] for folder in (one, other))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        torch.testing.assert_close(tensor, second[key], **({"rtol": 0, "atol": 0} | tolerance))


def die(_):
    raise RuntimeError("killed")


def test_the_earlier_result_stays_until_the_new_one_is_complete(make_run, tmp_path):
    first = make_run(max_epochs=2)
    first.engine.run()
    (first.folder / "best.pt").write_bytes(b"of the first")
    before = content(first.folder)
    second = make_run(max_epochs=3, overwrite=True)
    second.engine.add_event_handler(Events.ITERATION_STARTED, at(5, die))
    with pytest.raises(RuntimeError, match="killed"):
        second.engine.run()
    assert content(first.folder) == before
    assert load_checkpoint(first.folder / "unfinished" / "last.pt")["iteration"] == 4
    resumed = make_run(max_epochs=3, resume=True)  # continues with the new one
    resumed.engine.run()
    assert load_checkpoint(first.folder / "last.pt")["iteration"] == 6
    names = {"data.json", "last.pt", "last_1.pt", "log.txt", "model.pt", "progress.csv", "tensorboard"}
    assert {path.name for path in first.folder.iterdir()} == {*names, "versions.json"}
    whole = make_run("whole", max_epochs=3)
    whole.engine.run()
    assert_same_weights(first.folder, whole.folder)
    after = content(first.folder)
    assert after["progress.csv"].count(b"loss") == 3
    assert (
        f"Trained. The weights are in {first.folder / 'model.pt'}" in (first.folder / "log.txt").read_text()
    )


def test_one_that_never_saved_anything_is_begun_again_or_given_up(make_run):
    first = make_run(max_epochs=1)
    first.engine.run()
    before = content(first.folder)
    second = make_run(max_epochs=1, overwrite=True)
    second.engine.add_event_handler(Events.ITERATION_STARTED, at(1, die))
    with pytest.raises(RuntimeError, match="killed"):
        second.engine.run()
    with pytest.raises(InputError, match="holds no checkpoint yet. Begin it again by overwrite=True, or"):
        make_run(max_epochs=2, resume=True)
    with pytest.raises(RefusedError, match="holds a training already, complete or stopped"):
        make_run(max_epochs=2).engine.run()
    assert content(first.folder) == before
    make_run(max_epochs=1, overwrite=True).engine.run()
    assert not (first.folder / "unfinished").exists()


@pytest.mark.parametrize("after", range(5))
def test_a_kill_while_the_new_result_takes_its_place_is_made_up_for(make_run, monkeypatch, after):
    first = make_run(max_epochs=2)
    first.engine.run()
    (first.folder / "best.pt").write_bytes(b"of the first")
    moves = []
    move = os.replace

    def killed(source, target):
        if Path(source).parent.name == "unfinished" and Path(target).parent == first.folder:
            if len(moves) == after:
                raise KeyboardInterrupt
            moves.append(target)
        move(source, target)

    second = make_run(max_epochs=1, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            second.engine.run()
    release(first.folder)
    third = make_run(max_epochs=3, resume=True)
    assert not (first.folder / "unfinished").exists()
    assert not (first.folder / "best.pt").exists()
    assert load_checkpoint(first.folder / "last.pt")["iteration"] == 2
    assert load_checkpoint(first.folder / "model.pt")["iteration"] == 2
    third.engine.run()
    assert load_checkpoint(first.folder / "last.pt")["iteration"] == 6


@pytest.mark.parametrize("moved", [(), ("model.pt",), ("model.pt", "tensorboard")])
def test_a_move_that_an_earlier_volseg_began_is_ended(tmp_path, moved):
    """It left the names of the new result in ``unfinished/complete``, and moved them one by one."""
    new = {"last.pt": "new", "model.pt": "new", "tensorboard/events.new": "new"}
    old = {"best.pt": "old", "last.pt": "old", "metrics.json": "old", "tensorboard/events.old": "old"}
    mine = {"segmentations/a.tif": "mine"}
    if "tensorboard" in moved:
        del old["tensorboard/events.old"]
    for name, text in (old | mine).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name, text in new.items():
        stage = tmp_path if name.split("/")[0] in moved else tmp_path / "unfinished"
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_text(text)
    (tmp_path / "unfinished" / "complete").write_text('["last.pt", "model.pt", "tensorboard"]')
    tidy_up(tmp_path)
    files = {p.relative_to(tmp_path).as_posix(): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == new | mine


# --- what has changed --------------------------------------------------------------------------------------


def test_what_changed_is_said_and_the_description_kept_until_there_is_something_new(make_run, caplog):
    caplog.set_level(logging.INFO)
    settings = {"lr": 0.05, "train": {"trainer": {"max_epochs": 1}}, "resume": False}
    first = make_run(max_epochs=1)
    with while_running({**settings, "_meta_": {}}):
        first.engine.run()
    before = content(first.folder)
    settings |= {"lr": 0.5, "resume": True}
    path = first.cases[0].label
    label = read_volume(path, labels=True)
    write_volume(path, label.array[0][::-1], replace(label, array=label.array[:, ::-1]), overwrite=True)
    second = make_run(max_epochs=2, resume=True)
    seen = []
    second.engine.add_event_handler(
        Events.ITERATION_STARTED, at(3, lambda _: seen.append(content(first.folder)))
    )
    with while_running(settings):
        second.engine.run()
    assert "Settings changed since: lr was 0.05, now 0.5." in caplog.text
    assert "Data changed since: a#label was" in caplog.text
    assert "a: voxels that were learnt from have another class now" in caplog.text
    assert seen[0]["config.json"] == before["config.json"]
    assert "_meta_" not in json.loads(before["config.json"])
    assert seen[0]["data.json"] == before["data.json"]
    assert json.loads((first.folder / "config.json").read_text())["lr"] == 0.5
    assert content(first.folder)["data.json"] != before["data.json"]
    caplog.clear()
    with while_running(settings):
        make_run(max_epochs=3, resume=True).engine.run()
    assert "changed since" not in caplog.text


# --- machines --------------------------------------------------------------------------------------


def test_another_number_of_threads_is_said_and_the_result_is_close(make_run, caplog):
    make_run("whole").engine.run()
    stopped = make_run("parts")
    stopped.engine.add_event_handler(
        Events.ITERATION_STARTED, at(3, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with pytest.raises(SystemExit):
            stopped.engine.run()
        torch.set_num_threads(2)
        resumed = make_run("parts", resume=True)
        resumed.engine.run()
    finally:
        torch.set_num_threads(before)
    assert (
        "last.pt has threads = 1, now it is 2: the result is not that of an uninterrupted run" in caplog.text
    )
    one, other = (
        load_checkpoint(resumed.folder.with_name(name) / "model.pt")["model"] for name in ("parts", "whole")
    )
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, other[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("jump", [-1e8, 1e8])
def test_a_clock_that_is_put_back_or_forward_changes_nothing(make_run, monkeypatch, jump):
    make_run("whole", max_minutes=60).engine.run()
    run = make_run("jump", max_minutes=60)
    real = __import__("time").time
    run.engine.add_event_handler(
        Events.ITERATION_STARTED, at(2, lambda _: monkeypatch.setattr("time.time", lambda: real() + jump))
    )
    run.engine.run()
    assert run.engine.state.iteration == 6
    one, other = (
        load_checkpoint(run.folder.with_name(name) / "model.pt")["model"] for name in ("jump", "whole")
    )
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, other[key], rtol=0, atol=0)


def test_a_folder_that_may_not_be_written_to_is_told_before_anything_is_learnt(make_run, monkeypatch):
    run = make_run()
    run.folder.mkdir()
    plain = os.open

    def read_only(path, flags, *more, **other):
        if flags & os.O_CREAT and Path(path).parent == run.folder:
            raise OSError(30, "Read-only file system", str(path))
        return plain(path, flags, *more, **other)

    monkeypatch.setattr("os.open", read_only)
    with pytest.raises(ResourceError, match=r"cannot write in .*run: Read-only file system. Choose a folder"):
        run.engine.run()
    with pytest.raises(ResourceError, match=r"Choose a folder you may write to \(-o\)"):
        claim(run.folder, "-o")
    assert run.engine.state.iteration == 0


def put_figures(folder: Path, iteration: int) -> list[Path]:
    """What an evaluation leaves, and a segmentation."""
    (folder / "segmentations").mkdir(parents=True)
    paths = [folder / name for name in ("metrics.csv", "picture.png", "report.html", "report_best.html")]
    for path in (*paths, folder / "segmentations" / "a.tif"):
        path.write_text("of the earlier weights")
    (folder / "metrics.json").write_text(json.dumps({"iteration": iteration}))
    return [*paths, folder / "metrics.json"]


def test_figures_of_earlier_weights_go_with_them(make_run, caplog):
    first = make_run(max_epochs=2)
    first.engine.run()
    figures = put_figures(first.folder, 4)
    second = make_run(max_epochs=2, overwrite=True)
    second.engine.add_event_handler(Events.ITERATION_STARTED, at(3, die))
    with pytest.raises(RuntimeError, match="killed"):
        second.engine.run()
    assert all(path.exists() for path in figures)  # the earlier weights are still there
    caplog.clear()
    make_run(max_epochs=2, overwrite=True).engine.run()
    assert not any(path.exists() for path in figures)
    assert (first.folder / "segmentations" / "a.tif").exists()
    assert "segmentations was made with earlier weights. Segment again" in caplog.text


def test_a_training_that_goes_on_says_that_the_figures_are_older(make_run, caplog):
    first = make_run(max_epochs=1)
    first.engine.run()
    figures = put_figures(first.folder, 2)
    make_run(max_epochs=2, resume=True).engine.run()
    assert all(path.exists() for path in figures)
    assert "are those of iteration 2, not of these weights. Evaluate again" in caplog.text


def test_no_training_begins_beside_figures_of_other_weights(make_run):
    run = make_run(max_epochs=1)
    figures = put_figures(run.folder, 7)
    with pytest.raises(RefusedError, match=r"holds metrics\.json, figures of other weights"):
        run.engine.run()
    make_run(max_epochs=1, overwrite=True).engine.run()
    assert not any(path.exists() for path in figures)


@pytest.mark.parametrize("monais", [True, False])
def test_settings_that_cannot_be_kept_are_missed_aloud_where_there_is_a_bundle(
    make_run, caplog, monkeypatch, monais
):
    """MONAI's command runs a bundle that calls no ``volseg.begin``; in Python there is none to keep."""
    monkeypatch.setattr(folder, "is_monais_command", lambda: monais)
    run = make_run(max_epochs=1)
    run.engine.run()
    assert not (run.folder / "config.json").exists()
    assert ("does not call volseg.begin" in caplog.text) == monais
