"""What the page is answered: slices, acts, news, files; and that each act is done once and by one tab."""

import gzip
import http.client
import json
import time

import numpy as np
import pytest
from painted import CLASSES, Client, image_of, served

from volseg.io import Volume, read_volume, write_volume
from volseg.labels import IGNORE_INDEX
from volseg.session import Session


def plane_of(page, axis, answer, dtype=np.uint8):
    """What was answered as a slice of the session, axes x, y, z."""
    data = answer.content
    if answer.headers.get("Content-Encoding") == "gzip":
        data = gzip.decompress(data)
    across = [n for a, n in enumerate(page.size) if len(page.size) == 2 or a != axis]
    return np.frombuffer(data, dtype).reshape(across[::-1]).T


def places(size):
    return [(2, 0)] if len(size) == 2 else [(axis, n // 2) for axis, n in enumerate(size)]


def test_grey_values_come_over_the_whole_range_of_their_channel(page):
    channel = page.client.state()["channels"][0]
    for axis, index in places(page.size):
        found = plane_of(page, axis, page.client.get(f"/image/{axis}/{index}"), "<u2")
        grey = channel["low"] + found / 65535 * (channel["high"] - channel["low"])
        wanted = page.session.image_slice(axis, index)[0]
        np.testing.assert_allclose(grey, wanted, atol=(channel["high"] - channel["low"]) / 60000)


@pytest.mark.parametrize("packed", [None, "gzip"])
def test_strokes_outlines_and_fills_come_back_as_paint(page, packed):
    for axis, index in places(page.size):
        place = {"axis": axis, "index": index}
        for name, act in {
            "stroke": {"points": [[1.2, 1], [4, 5.5]], "radius": 1.5, "value": 1},
            "polygon": {"points": [[2, 2], [2, 7], [7, 7]], "value": 2},
            "fill": {"point": [0, 0], "tolerance": 40, "value": 0},
        }.items():
            before = page.session.paint_slice(axis, index)
            answer = page.client.act(name, **place, **act)
            assert (answer.status, answer.changed, answer.unsaved) == (200, True, "")
            assert answer.revision == page.session.revision
            shown = page.client.get(f"/layer/paint/{axis}/{index}", headers={"Accept-Encoding": packed})
            assert int(shown.headers["X-Revision"]) == page.session.revision
            found = plane_of(page, axis, shown)
            np.testing.assert_array_equal(found, page.session.paint_slice(axis, index))
            changed = found != before
            assert changed.any()
            assert (found[changed] == act["value"]).all()
        for _ in range(3):
            assert page.client.act("undo").changed
    assert (page.session.labels == IGNORE_INDEX).all()


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("stroke", {"points": [[3, 3]], "radius": 1, "value": 1}),
        ("polygon", {"points": [[2, 2], [2, 7], [7, 7]], "value": 1}),
        ("fill", {"point": [0, 0], "tolerance": 40, "value": 1}),
        ("finish", {}),
    ],
)
def test_an_act_that_is_sent_twice_is_done_once(page, name, act):
    act = {"axis": 2, "index": 0, **act}
    assert page.client.act(name, f"{name} twice", **act).changed
    assert page.client.act("undo", f"undo {name}").changed
    assert not page.client.act("undo", f"undo {name}").changed
    again = page.client.act(name, f"{name} twice", **act)
    assert (again.status, again.changed) == (200, False)
    assert page.client.act("redo", f"redo {name}").changed
    assert not page.client.act("redo", f"redo {name}").changed
    assert page.client.act("undo").changed
    assert (page.session.labels == IGNORE_INDEX).all()


def test_classes_are_added_renamed_recoloured_and_locked(page):
    stroke = {"axis": 2, "index": 0, "points": [[3, 3]], "radius": 1}
    answer = page.client.act("class", value=9, name="nerve", colour=[1, 2, 3])
    assert {"value": 9, "name": "nerve", "colour": [1, 2, 3], "locked": False} in answer.classes
    assert page.client.act("stroke", **stroke, value=9).changed
    assert page.client.act("class", value=9, locked=True).status == 200
    assert page.client.act("stroke", **stroke, value=9).status == 409
    assert not page.client.act("stroke", **stroke, value=1).changed
    assert not page.client.act("stroke", **stroke, value=IGNORE_INDEX).changed
    assert page.client.act("class", value=9, locked=False).status == 200
    assert page.client.act("stroke", **stroke, value=IGNORE_INDEX).changed
    for wrong in (
        {"name": "lumen"},
        {"name": " "},
        {"name": "x" * 81},
        {"colour": [1, 2]},
        {"colour": [1, 2, 256]},
    ):
        assert page.client.act("class", value=9, **wrong).status == 400
    assert page.client.act("class", value=0, locked=True).status == 400


def test_a_finished_slice_is_background_where_it_is_blank(page):
    axis, index = places(page.size)[0]
    page.client.act("stroke", axis=axis, index=index, points=[[3, 3]], radius=1, value=1)
    answer = page.client.act("finish", axis=axis, index=index)
    assert [axis, index] in answer.finished
    plane = page.session.paint_slice(axis, index)
    assert (np.isin(plane, (0, 1))).all()
    page.client.act("undo")
    assert page.client.act("undo").finished == []


def test_one_tab_paints_and_another_looks_until_it_takes_over(page):
    act = {"axis": 2, "index": 0, "points": [[3, 3]], "radius": 1, "value": 1}
    assert page.client.act("stroke", **act).changed
    other = page.client.act("stroke", client="another tab", **act)
    assert (other.status, other.error) == (
        409,
        "Another tab is painting. Take over there, or go on in that one.",
    )
    assert page.client.get("/layer/paint/2/0").status == 200
    claim = {"client": "another tab", "force": False}
    assert json.loads(page.client.post("/claim", claim).content)["painter"] == "a tab"
    assert json.loads(page.client.post("/claim", claim | {"force": True}).content)["painter"] == "another tab"
    assert page.client.act("undo").status == 409
    assert page.client.act("undo", client="another tab").changed
    page.client.post("/claim", {"client": "a tab", "force": True})


def test_the_file_that_is_saved_holds_the_paint_voxel_for_voxel(page, tmp_path):
    page.client.act("stroke", axis=2, index=0, points=[[3, 3], [8, 6]], radius=1.5, value=2)
    for suffix in page.client.state()["formats"]:
        if suffix == ".ome.zarr":
            pytest.importorskip("zarr")
        path = tmp_path / f"a file{suffix}"
        body = {"client": "a tab", "what": "paint", "path": str(path), "overwrite": False}
        answer = page.client.post("/save", body)
        assert answer.status == 200, answer.text
        if suffix != ".seg.nrrd":  # there 0 is no segment: it holds the same in other numbers
            np.testing.assert_array_equal(read_volume(path, labels=True).array[0], page.session.labels)
        assert page.client.post("/save", body).status == 409
        assert page.client.post("/save", body | {"overwrite": True}).status == 200
    page.client.act("undo")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"path": "a.jpg"}, 400), ({"path": "a"}, 400), ({"path": "/no/such/folder/a.tif"}, 507),
        ({"path": "\0.tif"}, 400), ({"what": "all"}, 400), ({"path": ""}, 400),
        ({"path": "x" * 300 + ".tif"}, 507), ({"path": "/proc/x.tif"}, 507),
        ({"path": "x" * 5000}, 400), ({"overwrite": "yes"}, 400), ({"path": "paint.jsonl"}, 400),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_an_error_in_words(page, change, status):
    body = {"client": "a tab", "what": "paint", "path": "a.tif", "overwrite": False}
    answer = page.client.post("/save", body | change)
    assert answer.status in (status, 400)
    said = json.loads(answer.content)["error"]
    assert said.endswith(".")
    assert "disk is full" not in said


def test_a_fill_begins_at_the_voxel_that_the_point_lies_in_as_a_stroke_does(page):
    place = {"axis": 2, "index": 0, "value": 1}
    assert page.client.act("fill", **place, point=[2.6, -0.4], tolerance=0).changed
    assert np.argwhere(page.session.paint_slice(2, 0) == 1).tolist() == [[3, 0]]
    assert page.client.act("undo").changed
    assert page.client.act("fill", **place, point=[page.size[0] - 0.4, 0], tolerance=0).status == 400


def news(client, kind, act):
    """The first news of a kind after an act."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    connection.request("GET", "/events?client=listener", headers={"Cookie": client.cookie})
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    answer.readline()
    act()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        line = answer.readline().decode()
        if line.startswith("data: ") and json.loads(line[6:])["kind"] == kind:
            answer.close()
            connection.close()
            return json.loads(line[6:])
    raise AssertionError(f"no news of the kind {kind}")


def test_paint_is_news_for_other_tabs(page):
    act = {"axis": 2, "index": 0, "points": [[3, 3]], "radius": 1, "value": 1}
    found = news(page.client, "paint", lambda: page.client.act("stroke", **act))
    assert found["revision"] == page.session.revision
    page.client.act("undo")


@pytest.mark.slow
def test_two_strokes_later_there_is_a_result_that_can_be_adopted(page):
    axis, index = places(page.size)[-1]
    place = {"axis": axis, "index": index}
    assert page.client.get(f"/layer/result/{axis}/{index}").status in (200, 204)
    low, high = ([1, 1], [page.size[0] - 2, 1])
    position = dict(zip("xyz", [n // 2 for n in page.size], strict=False))
    assert page.client.post("/look", {"client": "a tab", **position, "axis": axis}).status == 200

    def paint():
        page.client.act("stroke", **place, points=[low, [1, 6]], radius=1, value=1)
        page.client.act("stroke", **place, points=[high, [high[0], 6]], radius=1, value=2)

    news(page.client, "model", paint)
    end = time.monotonic() + 30
    while (answer := page.client.get(f"/layer/result/{axis}/{index}")).status == 204:
        assert time.monotonic() < end
        time.sleep(0.05)
    result = plane_of(page, axis, answer)
    assert {1, 2} <= {*np.unique(result)}
    doubt = plane_of(page, axis, page.client.get(f"/layer/doubt/{axis}/{index}"))
    assert (doubt[1, 1:6] == 255).all()
    assert page.client.act("adopt", **place).changed
    assert (page.session.paint_slice(axis, index) != IGNORE_INDEX).all()
    for _ in range(3):
        page.client.act("undo")


def test_a_server_that_comes_back_knows_what_was_done(tmp_path):
    act = {"axis": 2, "index": 3, "points": [[3, 3]], "radius": 1, "value": 1}
    for changed in (True, False):
        with (
            Session(image_of((9, 8, 7)), tmp_path / "session", CLASSES) as session,
            served(session) as serving,
        ):
            client = Client(serving.address)
            client.enter()
            assert client.act("stroke", "the one", **act).changed is changed
    assert (session.labels == 1).sum() == 5


def test_the_image_is_never_written_over(tmp_path):
    path = tmp_path / "image.tif"
    write_volume(path, image_of((9, 8, 7))[0], Volume(image_of((9, 8, 7)), np.eye(4), "um"))
    before = path.read_bytes()
    with Session(path, tmp_path / "session", CLASSES) as session, served(session) as serving:
        client = Client(serving.address)
        client.enter()
        body = {"client": "a tab", "what": "paint", "path": "image.tif", "overwrite": True}
        answer = client.post("/save", body)
        assert (answer.status, "would be lost" in answer.text) == (409, True)
        assert client.post("/save", body | {"path": "other.tif"}).status == 200
    assert path.read_bytes() == before
    assert read_volume(tmp_path / "other.tif", labels=True).spatial_shape == (9, 8, 7)


def test_a_folder_gets_the_same_port_again(tmp_path):
    ports = []
    for _ in range(2):
        with Session(image_of((9, 8)), tmp_path / "session") as session, served(session) as serving:
            ports.append(Client(serving.address).port)
    assert ports[0] == ports[1]
