"""``volseg paint`` as a person runs it: an address on a line of its own, one server a folder, Ctrl-C."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from painted import Client, image_of

from volseg.io import Volume, read_volume, write_volume
from volseg.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send there")]


def paint(*words):
    command = [sys.executable, "-m", "volseg", "paint", *map(str, words), "--no-browser"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def client_of(process):
    client = Client(process.stdout.readline().strip())
    client.enter()
    client.post("/claim", {"client": "a tab", "force": True})
    return client


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image of cells.tif"
    write_volume(path, image_of((12, 10, 8))[0], Volume(np.zeros((1, 12, 10, 8)), np.eye(4), "um"))
    return path


def test_it_serves_until_ctrl_c_and_goes_on_where_it_was(image, tmp_path):
    folder = tmp_path / "painting"
    process = paint(image, "-o", folder, "--names", "1=nucleus")
    try:
        client = client_of(process)
        assert client.get("/state", without=["Cookie"]).status == 403
        assert client.state()["classes"][-1]["name"] == "nucleus"
        assert client.act("stroke", axis=2, index=4, points=[[3, 3], [8, 3]], radius=1, value=1).changed
        second = paint(image, "-o", folder)
        out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (5, "")
        assert "is in use" in err
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert f"To go on: volseg paint {folder}" in err
    assert "Traceback" not in err
    process = paint(folder)
    try:
        assert len(client_of(process).state()["painted"][0]) == 8
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_kill_loses_nothing_that_was_answered(image, tmp_path):
    process = paint(image, "-o", tmp_path / "painting", "--names", "1=nucleus")
    client = client_of(process)
    for x in range(3, 9):
        assert client.act("stroke", axis=2, index=x - 3, points=[[x, 5]], radius=1, value=1).changed
    process.kill()
    process.communicate()
    with Session.open(tmp_path / "painting") as session:
        assert [session.labels[x, 5, x - 3] for x in range(3, 9)] == [1] * 6


@pytest.mark.skipif(sys.platform != "linux", reason="no prlimit elsewhere")
@pytest.mark.parametrize("again", [False, True])
def test_on_a_full_disk_ctrl_c_waits_for_room_and_a_second_one_says_what_is_lost(image, tmp_path, again):
    import resource

    process = paint(image, "-o", tmp_path / "painting", "--names", "1=nucleus")
    client = client_of(process)
    size = (tmp_path / "painting" / "paint.jsonl").stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    answer = client.act("stroke", axis=2, index=2, points=[[3, 5]], radius=1, value=1)
    assert (answer.changed, answer.unsaved) == (True, "File too large")
    process.send_signal(signal.SIGINT)
    with process:
        said = iter(process.stderr.readline, "")
        assert any("1 acts of painting are only in memory: File too large" in line for line in said)
        if again:
            process.send_signal(signal.SIGINT)
        else:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        rest = process.stderr.read()
    assert process.returncode == (4 if again else 0)
    assert (
        "could not be written and are lost: File too large" if again else "To go on: volseg paint"
    ) in rest
    with Session.open(tmp_path / "painting") as session:
        assert session.labels[3, 5, 2] == (255 if again else 1)


def test_a_file_with_paint_is_where_it_starts(image, tmp_path):
    labels = np.full((12, 10, 8), 255, np.uint8)
    labels[:, :, 2] = np.where(np.arange(12) < 6, 1, 2)[:, None]
    write_volume(tmp_path / "paint.tif", labels, read_volume(image))
    process = paint(image, tmp_path / "paint.tif", "-o", tmp_path / "painting")
    try:
        state = client_of(process).state()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert state["painted"][2] == [2]
    assert {one["value"] for one in state["classes"]} >= {0, 1, 2}


def test_a_port_that_is_taken_is_refused(image, tmp_path, volseg):
    from socket import create_server

    with create_server(("127.0.0.1", 0)) as server:
        code, out, err = volseg(
            "paint", image, "-o", tmp_path / "a", "--port", server.getsockname()[1], "--no-browser"
        )
    assert (code, out) == (5, "")
    assert "--port" in err
    assert "cannot be had" in err
