"""JSON of strangers: what Python's reader takes or trips over is a sentence, or read as it is meant."""

import json

import pytest

from volseg.bundle import read_bundle
from volseg.data import find_cases
from volseg.errors import InputError
from volseg.io import parse_json, read_json, read_volume

CONTENT = {"a": [1, -2.5e-3, True, None, "ä"], "b": {"c": "\ufeff"}}
HARMFUL = {
    "brackets 100,000 deep": ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper than 100"),
    "objects 900 deep": ('{"a":' * 900 + "1" + "}" * 900, "nested deeper than 100"),
    "a number of 5,000 digits": ('{"a":%s}' % ("9" * 5000), "number of 5000 digits"),
    "a number beyond floating point": ('{"a":1e999}', "1e999, which is too large"),
    "half a file": ('{"a": [1, 2', "not valid JSON"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_byte_order_mark_changes_nothing(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(CONTENT, ensure_ascii=False).encode(encoding))
    assert read_json(path) == CONTENT


def test_a_text_may_begin_with_the_mark_too():
    assert parse_json("\ufeff[1]", "text") == [1]


@pytest.mark.parametrize(("text", "told"), HARMFUL.values(), ids=HARMFUL)
def test_what_trips_a_reader_is_refused_with_the_name(text, told):
    with pytest.raises(InputError, match=f"here.json .*{told}"):
        parse_json(text, "here.json")


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_constants_are_refused_unless_somebody_can_use_them(name):
    with pytest.raises(InputError, match=f"holds {name}, which JSON does not have"):
        parse_json(f"[{name}]", "here")
    assert str(parse_json(f"[{name}]", "here", constant=float)[0]) == str(float(name))


def test_one_hundred_levels_and_three_hundred_digits_are_read():
    content = parse_json("[" * 100 + "]" * 100, "here")
    for _ in range(99):
        (content,) = content
    assert content == []
    assert parse_json("9" * 300, "here") == 10**300 - 1


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        parse_json(b'"\xff\xff"', "here")


def test_a_file_too_large_for_a_description_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" + " " * 100 + "]")
    with pytest.raises(InputError, match="too large for a description"):
        read_json(path, most=50)


@pytest.mark.parametrize("text", [text for text, _ in HARMFUL.values()], ids=HARMFUL)
def test_every_door_says_so(tmp_path, text):
    """Bundles, data sets and Zarr images are described in JSON; each is refused with its file's name."""
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InputError, match=r"b\.json"):
        read_bundle([tmp_path / "b.json"])
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.json"):
        find_cases(tmp_path)
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text(text)
    with pytest.raises(InputError, match=r"zarr\.json"):
        read_volume(tmp_path / "a.zarr")
