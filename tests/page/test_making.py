"""The whole volume is made beside the page: its progress, its end, its report."""

import json
import time

import numpy as np
import pytest
from painted import CLASSES, Client, image_of, served

from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX
from volseg.session import Session

PATIENCE = 120  # seconds


@pytest.fixture
def page(tmp_path):
    """A session with two painted slices, and a client of it."""
    with Session(image_of((24, 20, 12)), tmp_path / "session", CLASSES) as session:
        for z in (3, 8):
            half = np.zeros((24, 20), bool)
            half[:12] = True
            session.paint(2, z, half, 1)
            session.paint(2, z, ~half, 2)
        with served(session) as serving:
            client = Client(serving.address)
            client.enter()
            client.session = session
            yield client


def make(page, minutes):
    return page.post("/densify", {"client": "a tab", "minutes": minutes})


def ended(page):
    """The state when it has ended."""
    end = time.monotonic() + PATIENCE
    while (state := page.state()["densify"])["running"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    return state


@pytest.mark.slow
def test_the_volume_is_made_with_its_result_and_report(page):
    assert page.get("/report").status == 404
    assert make(page, 0.1).status == 200
    assert make(page, 0.1).status == 409
    assert page.act("stroke", axis=2, index=5, points=[[3, 3]], radius=1, value=1).changed
    state = ended(page)
    assert (state["ended"], state["minutes"]) == ("made", 0.1)
    assert state["seconds"] > 0
    report = page.get("/report")
    assert report.status == 200
    assert report.headers["Content-Security-Policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in report.headers["Content-Security-Policy"]
    assert page.get("/layer/result/2/6").headers["X-Model"] == "0"
    result = page.session.slice(2, 6).values
    assert (result[:10] == 1).mean() > 0.9
    assert (result[14:] == 2).mean() > 0.9


@pytest.mark.slow
def test_it_can_be_stopped_and_begun_again(page):
    make(page, 30)
    time.sleep(2)
    assert page.post("/densify/stop", {"client": "a tab"}).status == 200
    assert ended(page)["ended"] == "stopped"
    make(page, 0.1)
    assert ended(page)["ended"] == "made"


def test_why_it_cannot_be_made_is_said(page, monkeypatch):
    def densify(*_, **__):
        raise InputError("The paint holds one class. Paint another.")

    monkeypatch.setattr(page.session, "densify", densify)
    make(page, 5)
    assert ended(page)["ended"] == "The paint holds one class. Paint another."


@pytest.mark.parametrize("minutes", [0, -1, 1e9, "5", None])
def test_minutes_that_are_none_are_refused(page, minutes):
    assert make(page, minutes).status == 400
    assert not page.state()["densify"]["running"]


def test_where_to_paint_next_is_asked_for(page):
    answer = page.get("/suggestion")
    if answer.status == 409:  # nothing has been learnt yet
        assert "Paint two classes first" in json.loads(answer.content)["error"]
        page.session.learn(steps=5)
        answer = page.get("/suggestion")
    place = json.loads(answer.content)
    assert place["text"].startswith("Paint near")
    plane = page.session.paint_slice(place["axis"], place["index"])
    assert plane[tuple(place["point"])] == IGNORE_INDEX
