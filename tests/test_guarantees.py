"""docs/guarantees.md is a list of promises; each has tests, and these exist."""

import ast
import re

import pytest

from volseg.cli import main

PROMISE = re.compile(r"^\*\*G(\d+) ([^*]+)\.\*\*(.*?)(?=^\*\*G|\Z|^Not promised)", re.M | re.S)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FAULT = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|([^|]*)\|$", re.M)


@pytest.fixture(scope="module")
def promises(root):
    page = (root / "docs" / "guarantees.md").read_text(encoding="utf-8")
    return {int(number): (name, TEST.findall(text)) for number, name, text in PROMISE.findall(page)}


def missing(root, tests):
    """Those of the tests that are not there, or are always skipped."""
    found = []
    for file, name in tests:
        path = root / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.parse("")
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        marks = (
            [ast.unparse(mark) for mark in functions[name].decorator_list] if name in functions else ["skip("]
        )
        if any(re.search(r"skip\b(?!if)|xfail", mark) for mark in marks):
            found.append(f"{file}::{name}")
    return found


def test_promises_are_numbered_from_one(promises):
    assert list(promises) == list(range(1, len(promises) + 1))
    assert len(promises) >= 15


def test_every_promise_has_a_test(promises, root):
    for number, (name, tests) in promises.items():
        assert tests, f"G{number} {name} has no test"
        assert not missing(root, tests), f"G{number} {name} names tests that are not there"


def test_a_test_that_is_not_there_is_noticed(root):
    assert missing(root, [("tests/test_guarantees.py", "test_every_promise_has_a_test")]) == []
    for wrong in (("tests/test_guarantees.py", "test_nothing"), ("tests/test_nowhere.py", "test_x")):
        assert missing(root, [wrong]) == ["::".join(wrong)]


def test_every_fault_has_a_row_and_its_tests(root):
    page = (root / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = FAULT.findall(page.partition("## Situations")[0])
    assert [int(number) for number, *_ in rows] == list(range(1, 65))
    for number, fault, answer, tests in rows:
        assert fault.strip()
        assert answer.strip()
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert len(named) == tests.count("`") // 2, f"row {number}: what is that: {tests}"
        assert missing(root, [(f"tests/{file}", name) for file, name in named]) == [], f"row {number}"


def test_every_situation_says_where_it_was_met_and_names_tests_that_are_there(root):
    page = (root / "docs" / "faults.md").read_text(encoding="utf-8").partition("## Situations")[2]
    rows = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0].strip() != "situation"]
    assert len(rows) >= 50
    for row in rows:
        assert len(row) == 4, row
        assert all(cell.strip() for cell in row), row
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row[3])
        assert len(named) == row[3].count("`") // 2 > 0, row
        assert all((root / "tests" / file).exists() for file, _ in named), row
        assert missing(root, [(f"tests/{file}", name) for file, name in named if name]) == [], row


def test_the_page_on_security_names_what_exists(root):
    page = (root / "SECURITY.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:volseg|tests|docs)/[\w/.]+)`", page):
        assert (root / path).exists(), path
    assert "--trust-bundle" in page


def test_a_traceback_is_shown_with_debug_only(tmp_path, capsys, clean_process):
    path = tmp_path / "a.nii"
    path.write_bytes(b"nothing")
    assert main(["info", str(path)]) == 3
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    with pytest.raises(ValueError, match="not a NIfTI file"):
        main(["--debug", "info", str(path)])
