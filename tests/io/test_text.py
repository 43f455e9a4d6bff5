"""Text, arrays and journals: whole or grown line by line."""

import numpy as np
import pytest

from volseg.errors import RefusedError
from volseg.io import append_text, read_json, read_text, text, write_json, write_text
from volseg.io.text import Lines, lines_of, read_arrays, write_arrays


def test_text_comes_back_to_the_byte(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "Größe\r\n\u2028x\n")
    append_text(path, "more\n")
    assert read_text(path) == "Größe\r\n\u2028x\nmore\n"
    with pytest.raises(RefusedError, match="exists already"):
        write_text(path, "other", overwrite=False)
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udcff")
    assert read_text(path).startswith("Größe")
    write_text(path, "\udcff", errors="backslashreplace")
    assert read_text(path) == "\\udcff"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_what_json_has_not_is_made_of_what_it_has(tmp_path):
    write_json(tmp_path / "a.json", {"where": tmp_path, "ö": 1}, default=str)
    assert read_json(tmp_path / "a.json") == {"where": str(tmp_path), "ö": 1}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"where": tmp_path})
    assert read_json(tmp_path / "a.json")["ö"] == 1


def test_a_line_has_reached_the_disk_when_the_call_returns(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(text.os, "fsync", lambda handle: asked.append((handle, lines_of(tmp_path / "a"))))
    with Lines(tmp_path / "a") as journal:
        journal.append("one")
        assert asked == [(journal.handle, [b"one"])]


def test_arrays_come_back_by_their_names(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.float32([0.5])}
    write_arrays(tmp_path / "a.npz", arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_line_that_a_kill_cut_off_costs_no_other(tmp_path, cut):
    path = tmp_path / "a.journal"
    with Lines(path) as lines:
        lines.append("one;")
        lines.append("two;")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Lines(path) as lines:
        lines.append("three;")
        found = lines.read()
    assert found == lines_of(path)
    assert [line for line in found if line.endswith(b";")] == [b"one;", *[b"two;"][: cut < 2], b"three;"]


def test_several_add_to_one_journal_and_it_can_begin_again(tmp_path):
    path = tmp_path / "a.journal"
    with Lines(path) as one, Lines(path) as other:
        one.append("a")
        other.append("b")
        one.append("c")
        assert other.read() == [b"a", b"b", b"c"]
        one.clear()
        other.append("d")
        assert one.read() == [b"d"]
