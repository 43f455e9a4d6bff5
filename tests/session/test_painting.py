"""The paint of a session: what acts do to it, in 2D and 3D, and that a journal gives it again bit for bit."""

import base64
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from volseg.errors import InputError, RefusedError, ResourceError
from volseg.io import Volume, read_volume, write_volume
from volseg.runs.claim import take_lock
from volseg.session import Session
from volseg.session.about import About
from volseg.session.bricks import BrickLabels
from volseg.session.folder import Folder
from volseg.session.journal import Journal, read_journal
from volseg.session.painting import Painting
from volseg.session.shapes import brush, flooded, outline

SIZES = ((70, 40, 12), (30, 25))
CLASSES = {1: "tubule", 2: "lumen"}


@pytest.fixture(params=SIZES, ids=["3D", "2D"])
def size(request):
    return request.param


@pytest.fixture
def session(size):
    return Session(np.zeros((1, *size), np.uint8), classes=CLASSES)


def planes(size):
    return [(axis, n // 2) for axis, n in enumerate(size)] if len(size) == 3 else [(2, 0)]


def cut(labels, axis, index):
    return labels.take(index, axis) if labels.ndim == 3 else labels


def shape_of(size, axis):
    return tuple(n for a, n in enumerate(size) if len(size) == 2 or a != axis)


def test_a_mask_is_painted_where_it_is_true_and_nowhere_else(session, size):
    expected = np.full(size, 255, np.uint8)
    random = np.random.default_rng(0)
    for axis, index in planes(size):
        for value in (1, 2, 0):
            mask = random.random(shape_of(size, axis)) < 0.2
            assert session.paint(axis, index, mask, value)
            cut(expected, axis, index)[mask] = value
            if expected.ndim == 3:
                expected[(slice(None),) * axis + (index,)][mask] = value
    np.testing.assert_array_equal(session.labels, expected)
    for axis, index in planes(size):
        np.testing.assert_array_equal(session.paint_slice(axis, index), cut(expected, axis, index))
    assert session.counts() == {v: int((expected == v).sum()) for v in (0, 1, 2)}
    counted = [np.flatnonzero((expected != 255).sum(tuple(b for b in range(len(size)) if b != a))).tolist()
               for a in range(len(size))]  # fmt: skip
    assert session.painted() == counted


def test_undo_goes_back_step_by_step_and_redo_forth(session, size):
    states = [session.labels]
    random = np.random.default_rng(1)
    for number in range(200):
        axis, index = planes(size)[number % len(planes(size))]
        value = (0, 1, 2, 255)[number % 4]
        if session.paint(axis, index, random.random(shape_of(size, axis)) < 0.1, value):
            states.append(session.labels)
    for state in states[-2::-1]:
        assert session.undo()
        np.testing.assert_array_equal(session.labels, state)
    assert not session.undo()
    for state in states[1:]:
        assert session.redo()
        np.testing.assert_array_equal(session.labels, state)
    assert not session.redo()
    session.undo()
    session.paint(*planes(size)[0], np.ones(shape_of(size, planes(size)[0][0]), bool), 2)
    assert not session.can_redo


def test_a_finished_slice_has_background_where_it_was_blank_until_it_is_opened_again(session, size):
    axis, index = planes(size)[-1]
    mask = np.zeros(shape_of(size, axis), bool)
    mask[3:9, 4:8] = True
    session.paint(axis, index, mask, 1)
    session.finish_slice(axis, index)
    assert session.finished == {(axis, index)}
    np.testing.assert_array_equal(cut(session.labels, axis, index), np.where(mask, 1, 0))
    assert np.count_nonzero(session.labels != 255) == mask.size
    session.erase(axis, index, mask)
    assert not session.finished
    session.undo()
    assert session.finished == {(axis, index)}
    session.undo()
    assert not session.finished
    np.testing.assert_array_equal(cut(session.labels, axis, index), np.where(mask, 1, 255))


def test_a_locked_class_is_neither_painted_over_nor_with(session, size):
    axis, index = planes(size)[0]
    mask = np.zeros(shape_of(size, axis), bool)
    mask[2:6] = True
    session.paint(axis, index, mask, 1)
    session.set_class(1, locked=True)
    session.paint(axis, index, np.ones_like(mask), 2)
    session.erase(axis, index, np.ones_like(mask))
    session.paint(axis, index, np.ones_like(mask), 2)
    np.testing.assert_array_equal(cut(session.labels, axis, index), np.where(mask, 1, 2))
    with pytest.raises(RefusedError, match=r"tubule is locked\. Unlock it"):
        session.paint(axis, index, mask, 1)
    session.set_class(1, locked=False)
    session.paint(axis, index, mask, 2)
    assert not (session.labels == 1).any()


def test_classes_are_added_renamed_and_recoloured(session):
    session.set_class(7, name="wall", colour=(1, 2, 3))
    session.set_class(1, name="epithelium")
    assert {v: c.name for v, c in session.classes.items()} == {
        0: "background", 1: "epithelium", 2: "lumen", 7: "wall",
    }  # fmt: skip
    assert session.classes[7].colour == (1, 2, 3)
    assert len({c.colour for c in session.classes.values()}) == 4
    with pytest.raises(ValueError, match="the name 'wall' is empty or that of another class"):
        session.set_class(2, name="wall")
    with pytest.raises(ValueError, match="value = 255 must be a whole number from 0 to 254"):
        session.set_class(255, name="x")


def test_what_cannot_be_painted_is_refused_and_changes_nothing(session, size):
    axis, index = planes(size)[0]
    mask = np.ones(shape_of(size, axis), bool)
    for arguments, match in (
        ((axis, index, mask, 9), r"value = 9 is not a class; there are \[0, 1, 2\]"),
        ((axis, index, mask[:-1], 1), "mask has the shape"),
        ((axis, 10**6, mask, 1), "outside|one plane"),
        ((axis, -1, mask, 1), "outside|one plane"),
        ((5, 0, mask, 1), "must be 0 \\(x\\)|one plane|index 0"),
    ):
        with pytest.raises(ValueError, match=match):
            session.paint(*arguments)
    for points in ([[0, float("nan")]], [1, 2, 3], [[1, 2, 3]], []):
        with pytest.raises(ValueError, match="two finite numbers per point"):
            session.stroke(axis, index, points, 1, 1)
    with pytest.raises(ValueError, match="radius = -1 must be a length"):
        session.stroke(axis, index, [[1, 1]], -1, 1)
    with pytest.raises(ValueError, match="is outside of the slice"):
        session.fill(axis, index, (10**6, 0), 1, 5)
    assert session.revision == 0
    assert (session.labels == 255).all()


def test_the_same_act_sent_twice_is_done_once(session, size):
    axis, index = planes(size)[0]
    mask = np.ones(shape_of(size, axis), bool)
    assert session.paint(axis, index, mask, 1, id="a")
    session.undo()
    assert not session.paint(axis, index, mask, 1, id="a")
    assert (session.labels == 255).all()


class TestShapes:
    @given(st.integers(0, 2**32 - 1))
    def test_a_brush_covers_what_lies_within_its_radius_of_the_line(self, seed):
        random = np.random.default_rng(seed)
        shape, spacing = (23, 31), random.uniform(0.3, 2, 2)
        points = random.uniform(-4, 33, (random.integers(1, 5), 2))
        radius = random.uniform(0, 6)
        found = brush(shape, points, radius, spacing)
        grid = np.stack(np.indices(shape), -1) * spacing
        line = np.concatenate(
            [np.linspace(a, b, 400) for a, b in zip(points, [*points[1:], points[-1]], strict=True)]
        )
        distance = np.sqrt(((grid[:, :, None] - line * spacing) ** 2).sum(-1)).min(-1)
        assert not np.any(found & (distance > radius + 0.1) & ~brush(shape, points, 0, spacing))
        assert not np.any(~found & (distance < radius - 0.1))

    def test_a_click_paints_the_voxel_under_it(self):
        assert brush((5, 5), [[2.2, 3.4]], 0.01).sum() == 1
        assert brush((5, 5), [[2.2, 3.4]], 0.01)[2, 3]
        assert not brush((5, 5), [[9.0, 9.0]], 1).any()

    def test_an_outline_is_filled(self):
        found = outline((20, 20), [[2, 2], [2, 10], [12, 10], [12, 2]])
        assert found[2:12, 3:10].all()
        assert not found[14:].any()
        assert not found[:, 12:].any()

    def test_a_flood_ends_where_the_contrast_is_too_large(self):
        image = np.zeros((1, 10, 10))
        image[0, :, 5] = 9
        image[0, :, 6:] = 1
        assert flooded(image, (0, 0), 2)[:, :5].all()
        assert not flooded(image, (0, 0), 2)[:, 5:].any()
        assert flooded(image, (0, 0), 9).all()


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
def test_bricks_hold_what_an_array_would(data):
    size = data.draw(st.lists(st.integers(1, 150), min_size=2, max_size=3))
    bricks, array = BrickLabels(size), np.full(size, 255, np.uint8)
    for _ in range(4):
        block = []
        for n in size:
            low = data.draw(st.integers(0, n - 1))
            block.append(slice(low, data.draw(st.integers(low + 1, n))))
        values = (
            np.random.default_rng(0).integers(254, 256, [b.stop - b.start for b in block]).astype(np.uint8)
        )
        bricks.write(block, values)
        array[tuple(block)] = values
        np.testing.assert_array_equal(bricks.read(block), array[tuple(block)])
    np.testing.assert_array_equal(bricks.dense(), array)
    places, values = bricks.voxels()
    again = np.full(size, 255, np.uint8)
    again[tuple(places.T)] = values
    np.testing.assert_array_equal(again, array)


def full(handle, content):
    """As ``os.write`` does it on a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_taken(folder):
    """Whether another process could not open a folder."""
    handle = os.open(folder / ".paint.lock", os.O_RDWR | os.O_CREAT)
    free = take_lock(handle)
    os.close(handle)
    return not free


def said_by_another(folder):
    """What another process says that opens a folder; empty if it can."""
    code = "import numpy as np; from volseg.session import Session; "
    code += f"Session(np.zeros((1, 9, 9)), {str(folder)!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr


class TestJournal:
    def paint_some(self, session, size, seed):
        random = np.random.default_rng(seed)
        for number in range(30):
            axis, index = planes(size)[number % len(planes(size))]
            match number % 6:
                case 0 | 1 | 2:
                    session.paint(axis, index, random.random(shape_of(size, axis)) < 0.1, number % 3)
                case 3:
                    session.stroke(axis, index, random.uniform(0, 20, (5, 2)), 2.5, 2)
                case 4:
                    session.undo()
                case 5:
                    session.finish_slice(axis, index) if number > 20 else session.polygon(
                        axis, index, random.uniform(0, 20, (5, 2)), 1
                    )

    def test_a_session_opened_again_has_the_same_paint_bit_for_bit(self, size, tmp_path):
        image = np.zeros((1, *size), np.uint8)
        with Session(image, tmp_path / "s", CLASSES) as session:
            self.paint_some(session, size, 0)
            session.set_class(2, name="hole", colour=(9, 9, 9), locked=True)
            labels, classes, finished = session.labels, session.classes, session.finished
        with Session(image, tmp_path / "s") as again:
            np.testing.assert_array_equal(again.labels, labels)
            assert (again.classes, again.finished) == (classes, finished)
            while again.undo():
                pass
            assert (again.labels == 255).all()

    def test_a_start_that_a_kill_cut_off_is_made_again(self, tmp_path):
        image, paint = np.zeros((1, 20, 18, 9), np.float32), np.zeros((20, 18, 9), np.uint8)
        paint[3:9, 4:8, 2:7] = 1
        like = Volume(image, np.eye(4))
        write_volume(tmp_path / "p.nii.gz", paint, like)
        given = {"paint": tmp_path / "p.nii.gz", "read": {"painted_only": True}}
        with Session(like, tmp_path / "s", **given) as session:
            labels = session.labels
        lines = (tmp_path / "s" / "paint.jsonl").read_bytes().splitlines(keepends=True)
        assert (labels == 1).sum() == 120
        for kept in range(1, len(lines) - 1):
            shutil.rmtree(tmp_path / "s")
            (tmp_path / "s").mkdir()
            (tmp_path / "s" / "paint.jsonl").write_bytes(b"".join(lines[:kept]))
            if b'"begin"' in b"".join(lines[:kept]):
                break
            with Session(like, tmp_path / "s", **given) as session:
                np.testing.assert_array_equal(session.labels, labels)
            with Session(like, tmp_path / "s") as session:
                np.testing.assert_array_equal(session.labels, labels)
        assert kept > 6

    def test_a_line_that_a_kill_cut_off_costs_no_other(self, size, tmp_path):
        image = np.zeros((1, *size), np.uint8)
        with Session(image, tmp_path, CLASSES) as session:
            self.paint_some(session, size, 1)
            labels = session.labels
            session.paint(*planes(size)[0], np.ones(shape_of(size, planes(size)[0][0]), bool), 1)
        whole = (tmp_path / "paint.jsonl").read_bytes()
        start = whole.rindex(b"\n", 0, -1) + 1
        for end in range(start, len(whole), 17):
            (tmp_path / "paint.jsonl").write_bytes(whole[:end])
            with Session(image, tmp_path) as session:
                np.testing.assert_array_equal(session.labels, labels)
                session.paint(*planes(size)[0], np.ones(shape_of(size, planes(size)[0][0]), bool), 1)
                after = session.labels
            with Session(image, tmp_path) as session:
                np.testing.assert_array_equal(session.labels, after)

    def test_damage_is_reported_and_the_rest_is_read(self, tmp_path, caplog):
        journal = Journal(tmp_path / "j")
        for number in range(5):
            journal.append({"do": "learn", "steps": number})
        journal.close()
        lines = [line for line in (tmp_path / "j").read_bytes().split(b"\n") if line]
        lines[2] = lines[2].replace(b"steps", b"stepz")
        (tmp_path / "j").write_bytes(b"\n".join(lines))
        assert [record["steps"] for record in read_journal(tmp_path / "j")] == [0, 1, 3, 4]
        assert "record 2 cannot be read" in caplog.text

    def test_another_file_is_not_taken_for_a_journal(self, tmp_path):
        (tmp_path / "j").write_text("a\nb\n")
        with pytest.raises(InputError, match="holds no record of painting"):
            list(read_journal(tmp_path / "j"))

    def test_records_that_make_no_sense_are_refused(self):
        painting = Painting((5, 5))
        bomb = base64.b64encode(zlib.compress(bytes(10**6))).decode()
        one = base64.b64encode(zlib.compress(b"\x80")).decode()
        whole = {"do": "paint", "axis": 2, "index": 0, "box": [[0, 5], [0, 5]], "bits": bomb, "value": 1}
        for record, match in (
            ({"do": "dance"}, "does not know"),
            ({"do": "paint"}, "cannot be used"),
            (whole | {"box": [[0, 9], [0, 5]]}, "outside"),
            (whole, "other than 4 bytes"),
            (whole | {"bits": "!"}, "cannot be used"),
            (whole | {"box": [[0, 1], [0, 1]], "bits": one, "value": 1.5}, "whole number"),
            ({"do": "finish", "axis": 7, "index": 0}, "one plane"),
        ):
            with pytest.raises(InputError, match=match):
                painting.apply(record)
        assert (painting.labels.dense() == 255).all()

    def test_on_a_full_disk_painting_goes_on_in_memory_and_is_written_when_there_is_room(
        self, tmp_path, monkeypatch
    ):
        image = np.zeros((1, 20, 20), np.uint8)
        session = Session(image, tmp_path, CLASSES)
        write = os.write
        monkeypatch.setattr(os, "write", lambda handle, content: write(handle, content[: len(content) // 2]))
        for number in range(3):
            session.paint(2, 0, np.eye(20, k=number, dtype=bool), 1)
            assert "No space left" in session.trouble
        labels = session.labels
        monkeypatch.undo()
        session.paint(2, 0, np.eye(20, k=-4, dtype=bool), 2)
        assert not session.trouble
        after = session.labels
        session.close()
        assert np.count_nonzero(labels == 1) == 57
        with Session(image, tmp_path) as again:
            np.testing.assert_array_equal(again.labels, after)

    def test_a_second_process_on_the_same_folder_is_refused(self, tmp_path):
        with Session(np.zeros((1, 9, 9)), tmp_path):
            assert "is in use by another run" in said_by_another(tmp_path)
        assert said_by_another(tmp_path) == ""

    def test_a_folder_that_is_opened_again_in_the_program_belongs_to_who_came_last(self, tmp_path):
        image, mask = np.zeros((1, 9, 9)), np.eye(9, dtype=bool)
        first = Session(image, tmp_path, CLASSES)
        first.paint(2, 0, mask, 1)
        second = Session(image, tmp_path)
        np.testing.assert_array_equal(second.labels, first.labels)
        with pytest.raises(
            RefusedError, match=r"its folder was opened again in this program.*Open the folder"
        ):
            first.paint(2, 0, mask[::-1], 2)
        first.close()
        second.paint(2, 0, mask[::-1], 2)
        expected = second.labels
        second.close()
        with pytest.raises(RefusedError, match="This session is closed"):
            second.undo()
        with Session(image, tmp_path) as again:
            np.testing.assert_array_equal(again.labels, expected)

    def test_on_a_full_disk_it_stays_open_until_there_is_room(self, tmp_path, monkeypatch):
        image = np.zeros((1, 20, 20), np.uint8)
        session = Session(image, tmp_path, CLASSES)
        monkeypatch.setattr(os, "write", full)
        for number in range(3):
            session.paint(2, 0, np.eye(20, k=number, dtype=bool), 1)
        for _ in range(2):
            with pytest.raises(
                ResourceError, match=r"^3 acts .* only in memory: No space .*Make room .* close"
            ):
                session.close()
        with pytest.raises(ResourceError, match=r"^3 acts of painting are only in memory"):
            Session(image, tmp_path)
        session.paint(2, 0, np.eye(20, k=-4, dtype=bool), 2)
        monkeypatch.undo()
        labels = session.labels
        session.close()
        with Session(image, tmp_path) as again:
            np.testing.assert_array_equal(again.labels, labels)

    def test_where_only_the_file_of_the_paint_finds_no_room_the_journal_is_whole(self, tmp_path, monkeypatch):
        image = np.zeros((1, 20, 20), np.uint8)
        session = Session(image, tmp_path, CLASSES)
        session.paint(2, 0, np.eye(20, dtype=bool), 1)

        def write(*_, **__):
            raise ResourceError("cannot write it.")

        monkeypatch.setattr("volseg.session.session.write_labels", write)
        with pytest.raises(
            ResourceError, match=r"cannot write it. What was painted is whole, in .*paint.jsonl"
        ):
            session.close()
        monkeypatch.undo()
        with Session(image, tmp_path) as again:
            np.testing.assert_array_equal(again.labels, session.labels)

    @pytest.mark.parametrize("gone", ["folder", "journal", "replaced", "moved"])
    def test_what_is_deleted_while_it_is_open_is_written_again(self, tmp_path, gone, caplog):
        image, folder = np.zeros((1, 20, 20), np.uint8), tmp_path / "s"
        session = Session(image, folder, CLASSES)
        session.paint(2, 0, np.eye(20, dtype=bool), 1)
        match gone:
            case "journal":
                (folder / "paint.jsonl").unlink()
            case "replaced":
                (folder / "paint.jsonl").unlink()
                (folder / "paint.jsonl").write_text("another")
            case "moved":
                folder.rename(tmp_path / "t")
            case _:
                shutil.rmtree(folder)
        session.paint(2, 0, np.eye(20, k=1, dtype=bool), 2)
        if gone in ("folder", "moved"):
            assert "is not there any more: move it back, or make it again" in session.trouble
            with pytest.raises(
                ResourceError, match=r"acts of painting are only in memory: the folder .* is not"
            ):
                session.close()
            (tmp_path / "t").rename(folder) if gone == "moved" else folder.mkdir()
            assert session.flush()
        session.paint(2, 0, np.eye(20, k=2, dtype=bool), 2)
        assert not session.trouble
        copy = tmp_path / "copy"  # as a kill would leave it
        shutil.copytree(folder, copy)
        with Session(image, copy) as again:
            np.testing.assert_array_equal(again.labels, session.labels)
        assert (copy / "session.json").exists()
        others = [path.read_text() for path in copy.glob("paint.jsonl.*")]
        assert others == (["another"] if gone == "replaced" else [])
        assert is_taken(folder)
        session.close()
        assert not (folder / ".paint.lock").exists()

    def test_who_has_the_folder_that_was_made_again_keeps_it(self, tmp_path):
        session = Session(np.zeros((1, 9, 9), np.uint8), tmp_path / "s", CLASSES)
        shutil.rmtree(tmp_path / "s")
        (tmp_path / "s").mkdir()
        other = os.open(tmp_path / "s" / ".paint.lock", os.O_RDWR | os.O_CREAT)
        assert take_lock(other)
        session.paint(2, 0, np.eye(9, dtype=bool), 1)
        assert "is in use by another run" in session.trouble
        assert not (tmp_path / "s" / "paint.jsonl").exists()
        os.close(other)
        assert session.flush()
        session.close()

    def test_a_folder_that_cannot_be_opened_again_stays_with_who_has_it(self, tmp_path):
        image, mask = np.zeros((1, 9, 9)), np.eye(9, dtype=bool)
        write_volume(tmp_path / "p.nii.gz", np.eye(9, dtype=np.uint8), Volume(image, np.eye(3)))
        folder = tmp_path / "s"
        session = Session(image, folder, CLASSES)
        for wrong, match in (
            ({"image": np.zeros((1, 9, 8))}, "9 x 8"),
            ({"paint": tmp_path / "p.nii.gz"}, "holds a session already"),
            ({"classes": {5: "new", 6: "new"}}, "that of another class"),
        ):
            with pytest.raises(ValueError, match=match):
                Session(**{"image": image, "folder": folder} | wrong)
            assert is_taken(folder)
            assert session.paint(2, 0, mask, 1)
            mask = np.roll(mask, 1, 0)
        expected = session.labels
        session.close()
        with Session(image, folder) as again:
            np.testing.assert_array_equal(again.labels, expected)

    def test_a_run_of_another_process_in_the_folder_is_respected(self, tmp_path):
        running = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
        assert take_lock(running)
        with pytest.raises(RefusedError, match="is in use by another run"):
            Session(np.zeros((1, 9, 9)), tmp_path)
        os.close(running)
        Session(np.zeros((1, 9, 9)), tmp_path).close()

    def test_a_closed_session_writes_nothing(self, tmp_path):
        session = Session(np.zeros((1, 9, 9)), tmp_path, CLASSES)
        session.paint(2, 0, np.eye(9, dtype=bool), 1)
        session.close()
        (tmp_path / "image_paint.nii.gz").unlink()
        before = sorted(tmp_path.iterdir())
        for act in (session.save, session.densify):
            with pytest.raises(RefusedError, match="This session is closed"):
                act()
        assert sorted(tmp_path.iterdir()) == before

    def test_a_folder_of_another_image_is_refused(self, tmp_path):
        Session(np.zeros((1, 9, 9)), tmp_path).close()
        with pytest.raises(InputError, match="holds paint for an image of 9 x 9 voxels, and image has 9 x 8"):
            Session(np.zeros((1, 9, 8)), tmp_path)

    def test_a_folder_of_an_image_with_other_values_or_channels_is_refused_and_a_moved_one_is_not(
        self, size, tmp_path, caplog
    ):
        random = np.random.default_rng(0)
        one, other = (random.integers(0, 99, (1, *size)).astype(np.uint8) for _ in range(2))
        paths = [tmp_path / name / "im.tif" for name in "abc"]
        for path, array in zip(paths, (one, other, one), strict=True):
            path.parent.mkdir()
            write_volume(path, array[0], Volume(array, np.eye(len(size) + 1)))
        axis, index = planes(size)[0]
        mask = np.ones(shape_of(size, axis), bool)
        with Session(paths[0], tmp_path / "s", CLASSES) as session:
            session.paint(axis, index, mask, 1)
            labels = session.labels
        with pytest.raises(
            InputError, match=rf"{paths[0]} when .* {paths[1]} now.*start there from the file"
        ):
            Session(paths[1], tmp_path / "s")
        with pytest.raises(InputError, match="holds paint for an image of 1 channels, and im.tif has 2"):
            Session([paths[0], paths[2]], tmp_path / "s")
        assert not (tmp_path / "s" / ".paint.lock").exists()
        caplog.set_level("INFO")
        for image in (paths[2], one.astype(np.float32)):
            with Session(image, tmp_path / "s") as session:
                np.testing.assert_array_equal(session.labels, labels)
        assert f"{paths[0]} is now at {paths[2]}; it is the same image." in caplog.text

    def test_an_image_that_was_written_again_is_reported(self, tmp_path, caplog):
        path, image = tmp_path / "im.tif", np.zeros((1, 9, 8, 20), np.uint8)
        for value in (0, 0, 5):
            image[0, 2, 3, 1] = value  # on none of the slices that are compared
            if value or not path.exists():
                write_volume(path, image[0], Volume(image, np.eye(4)), overwrite=True)
                os.utime(path, ns=(value, value))
            Session(path, tmp_path / "s", CLASSES).close()
            assert (f"{path} was written again since it was painted on" in caplog.text) == bool(value)

    def test_a_folder_of_an_earlier_version_opens(self, tmp_path):
        image, mask = np.zeros((1, 20, 20), np.uint8), np.eye(20, dtype=bool)
        with Session(image, tmp_path, CLASSES) as session:
            session.paint(2, 0, mask, 1)
        earlier = {"image": [], "size": [20, 20], "channels": 1, "spacing": None}
        (tmp_path / "session.json").write_text(json.dumps(earlier))
        for number in range(2):
            with Session(image, tmp_path) as session:
                session.paint(2, 0, np.roll(mask, number + 1, 0), 2)
                labels = session.labels
        np.testing.assert_array_equal(read_volume(tmp_path / "image_paint.nii.gz").array[0], labels)
        assert len(list(tmp_path.glob("*_paint*"))) == 1
        with pytest.raises(InputError, match="with other values: an array in memory when it was painted"):
            Session(image + 1, tmp_path)

    def test_a_folder_of_an_earlier_version_opens_on_a_full_disk(self, tmp_path, monkeypatch):
        def full(*_):
            raise ResourceError("no room")

        image, mask = np.zeros((1, 20, 20), np.uint8), np.eye(20, dtype=bool)
        with Session(image, tmp_path, CLASSES) as session:
            session.paint(2, 0, mask, 1)
            labels = session.labels
        (tmp_path / "session.json").write_text(json.dumps({"image": [], "size": [20, 20]}))
        with monkeypatch.context() as patch:
            patch.setattr("volseg.session.about.write_json", full)
            session = Session(image, tmp_path)
            np.testing.assert_array_equal(session.labels, labels)
        session.close()

    def test_a_spacing_that_was_given_once_is_known(self, tmp_path):
        image = np.zeros((1, 9, 9, 5), np.uint8)
        write_volume(tmp_path / "i.tif", image[0], Volume(image, np.eye(4)))
        for size_given, expected in (
            ("0.5,0.5,2", (0.5, 0.5, 2)), (None, (0.5, 0.5, 2)), ((1, 1, 3), (1, 1, 3)), (None, (1, 1, 3))
        ):  # fmt: skip
            with Session(tmp_path / "i.tif", tmp_path / "s", spacing=size_given) as session:
                assert session.spacing == pytest.approx(expected)
        with Session.open(tmp_path / "s") as session:
            assert session.spacing == pytest.approx((1, 1, 3))
        (tmp_path / "made").mkdir()
        choices = {"choices": {"spacing": "2,2,5"}}  # as a result of densify has them, without a session
        (tmp_path / "made" / "settings.json").write_text(json.dumps(choices))
        with Session(tmp_path / "i.tif", tmp_path / "made") as session:
            assert session.spacing == pytest.approx((2, 2, 5))

    def test_files_of_the_person_stay(self, tmp_path):
        """The folder of the image, in which names that a session writes are taken."""
        image = np.random.default_rng(0).integers(0, 99, (1, 20, 18, 5)).astype(np.uint8)
        like, paint = Volume(image, np.eye(4)), np.full((20, 18, 5), 255, np.uint8)
        paint[:9, :, 2], paint[9:, :, 2] = 1, 2
        write_volume(tmp_path / "st.tif", image[0], like)
        write_volume(tmp_path / "st_paint.tif", paint, like)
        (tmp_path / "settings.json").write_text('{"mine": 1}')
        mine = {path: path.read_bytes() for path in tmp_path.iterdir()}
        for number in range(3):
            given = {} if number else {"paint": tmp_path / "st_paint.tif"}
            with Session(tmp_path / "st.tif", tmp_path, **given) as session:
                session.paint(2, number, np.eye(20, 18, dtype=bool), 1)
                session.learn(steps=1)
                labels = session.labels
                for path in (tmp_path / "st_paint.tif", tmp_path / "st.tif", tmp_path / "session.json"):
                    with pytest.raises(RefusedError, match="is read by this session, and would be lost"):
                        session.export(path, "paint", overwrite=True)
                with pytest.raises(RefusedError, match=r"settings.json exists already"):
                    session.densify(0.01)
        assert {path: path.read_bytes() for path in mine} == mine
        assert sorted(path.name for path in tmp_path.glob("*_paint*")) == ["st_paint.tif", "st_paint_2.tif"]
        np.testing.assert_array_equal(read_volume(tmp_path / "st_paint_2.tif").array[0], labels)
        edited = np.roll(labels, 1, 0)
        write_volume(tmp_path / "st_paint_2.tif", edited, like, overwrite=True)
        with Session(tmp_path / "st.tif", tmp_path) as session:
            np.testing.assert_array_equal(session.labels, labels)
        np.testing.assert_array_equal(read_volume(tmp_path / "st_paint_2.tif").array[0], edited)
        np.testing.assert_array_equal(read_volume(tmp_path / "st_paint_3.tif").array[0], labels)

    def test_a_file_whose_writing_failed_is_not_taken_for_its_own(self, tmp_path, monkeypatch):
        about = About(Folder(tmp_path))
        with pytest.raises(KeyboardInterrupt), about.writing(tmp_path / "a"):
            raise KeyboardInterrupt
        (tmp_path / "a").write_text("of the person")
        assert not about.may_replace(tmp_path / "a")
        (tmp_path / "a").unlink()
        with about.writing(tmp_path / "a"):
            assert About(Folder(tmp_path)).may_replace(tmp_path / "a")  # as after a kill
            (tmp_path / "a").write_text("ours")
        assert About(Folder(tmp_path)).may_replace(tmp_path / "a")

    @pytest.mark.slow
    def test_a_kill_costs_at_most_the_stroke_in_progress(self, tmp_path):
        code = (
            "import numpy as np\n"
            "from volseg.session import Session\n"
            f"session = Session(np.zeros((1, 40, 40, 9)), {str(tmp_path)!r}, {{1: 'a'}})\n"
            "done = int(session.counts()[1])\n"
            "print('ready', done, flush=True)\n"
            "for n in range(done, 40 * 40 * 9):\n"
            "    mask = np.zeros((40, 40), bool)\n"
            "    mask[n % 1600 // 40, n % 40] = True\n"
            "    session.paint(2, n // 1600, mask, 1)\n"
            "    print(n + 1, flush=True)\n"
        )
        random = np.random.default_rng(0)
        drawn = 0
        for _ in range(6):
            child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            _, found = child.stdout.readline().split()
            assert drawn <= int(found) <= drawn + 1
            for _ in range(random.integers(1, 60)):
                drawn = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            rest, _ = child.communicate()
            drawn = max([drawn, *(int(word) for word in rest.split())])
        records = [
            json.loads(line[9:]) for line in (tmp_path / "paint.jsonl").read_bytes().split(b"\n") if line[9:]
        ]
        assert len(records) > 6
