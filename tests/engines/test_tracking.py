"""What a run leaves besides its weights: curves, pictures, its log, and all that is needed to repeat it."""

import copy
import hashlib
import json
import logging
import re
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from volseg.runs.log import begin

pytestmark = pytest.mark.usefixtures("clean_process")


def test_tensorboard_shows_a_patch_of_every_epoch(make_run):
    run = make_run()
    run.engine.run()
    curves = EventAccumulator(str(run.folder / "tensorboard"))
    curves.Reload()
    pictures = curves.Images("patch")
    assert [picture.step for picture in pictures] == [2, 4, 6]
    assert len({picture.encoded_image_string for picture in pictures}) == 3
    assert [point.step for point in curves.Scalars("loss")] == [2, 4, 6]


def test_a_runs_folder_tells_all_that_is_needed_to_repeat_it(make_run):
    run = make_run(seed=5, amp=True)
    run.engine.run()
    facts = json.loads((run.folder / "versions.json").read_text())
    assert facts | {"seed": 5, "precision": "bfloat16", "device": "cpu", "processes": 1} == facts
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    listed = json.loads((run.folder / "data.json").read_text())
    assert [entry["name"] for entry in listed] == ["a", "b"]
    for entry, case in zip(listed, run.cases, strict=True):
        for part in ("image", "label"):
            path = getattr(case, part)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert entry[part] == {"path": str(path), "sha256": digest}
        assert "truth" not in entry


def test_what_is_said_before_the_training_starts_is_in_its_log(make_run):
    logger = logging.getLogger("volseg.data")
    begin(0)
    logger.info("A phantom is made.")
    logger.debug("Nobody wants to know.")
    first = make_run("first", max_epochs=1)
    first.engine.run()
    logger.info("Between two runs.")
    second = make_run("second", max_epochs=1)
    second.engine.run()
    log = (first.folder / "log.txt").read_text()
    assert log.count("A phantom is made.") == 1
    assert log.index("A phantom is made.") < log.index("2 case(s) to train on") < log.index("Trained.")
    assert "Nobody wants" not in log
    assert "phantom" not in (second.folder / "log.txt").read_text()


def test_only_so_much_is_remembered_for_the_log(make_run):
    begin(0)
    for number in range(1200):
        logging.getLogger("volseg").info("line %d", number)
    run = make_run(max_epochs=1)
    run.engine.run()
    log = (run.folder / "log.txt").read_text()
    assert "line 1199" in log
    assert "line 0\n" not in log
    assert log.count("line ") <= 1000


def test_beginning_twice_writes_no_line_twice(make_run):
    begin(0)
    begin(0)
    run = make_run(max_epochs=1)
    run.engine.run()
    assert (run.folder / "log.txt").read_text().count("2 case(s) to train on") == 1


def mlflow_settings():
    """MONAI's own, with something that only listens in the place of MLflow, which is not needed here."""
    settings = copy.deepcopy(DEFAULT_MLFLOW_SETTINGS)
    for name in settings["handlers_id"]:
        settings["configs"][name]["_target_"] = "unittest.mock.Mock"
    return settings


def test_monais_tracking_option_finds_trainer_and_evaluator(make_dataset, tmp_path, root, monkeypatch):
    monkeypatch.chdir(root)
    workflow = ConfigWorkflow(
        ["bundles/xenopus.json", "configs/smoke.json"],
        logging_file=False,
        tracking=mlflow_settings(),
        dataset_dir=str(make_dataset(held_out={"z": [5]})),
        output_dir=str(tmp_path / "run"),
        val_interval=1,
    )
    workflow.initialize()
    parts = {
        name: workflow.parser.get_parsed_content(name) for name in ("train#trainer", "validate#evaluator")
    }
    (training,) = workflow.parser.get_parsed_content("train#trainer#train_handlers")
    (validating,) = workflow.parser.get_parsed_content("validate#evaluator#val_handlers")
    seen = {"losses": [], "metrics": []}
    trainer, evaluator = parts["train#trainer"], parts["validate#evaluator"]
    assert isinstance(training, Mock)
    training.attach.assert_called_once_with(trainer)
    validating.attach.assert_called_once_with(evaluator)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen["losses"].append(training.output_transform(engine.state.output)),
    )
    evaluator.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda engine: seen["metrics"].append((engine.state.epoch, dict(engine.state.metrics))),
    )
    trainer.run()
    assert len(seen["losses"]) == 4
    assert np.isfinite(seen["losses"]).all()
    assert [epoch for epoch, _ in seen["metrics"]] == [1, 2]
    assert all(re.fullmatch(r"[\w\-. :/]+", name) for _, metrics in seen["metrics"] for name in metrics)
    assert "mean IoU: held out" in seen["metrics"][0][1]
