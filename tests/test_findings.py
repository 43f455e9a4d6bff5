"""What is wrong, why and what to do are fields of one class, whoever found it."""

import numpy as np
import pytest

from volseg.annotation import understand_paint
from volseg.annotation.audit import audit
from volseg.data.verification import verify
from volseg.findings import Finding
from volseg.io import Volume, write_volume


@pytest.mark.parametrize(
    ("finding", "message"),
    [
        (Finding("a", "note", "It is odd"), "It is odd."),
        (Finding("a", "note", "It is odd.", "It misleads", "Look"), "It is odd. It misleads. Look."),
        (Finding("a", "note", "Is it odd?", todo="Look", file="a.tif"), "a.tif: Is it odd? Look."),
        (Finding("a", "note", "(It is odd.)", file="a.tif"), "a.tif: (It is odd.)"),
    ],
)
def test_a_message_says_file_what_why_and_what_to_do(finding, message):
    assert finding.message == message


def test_errors_come_first_and_then_files_by_name():
    found = [
        Finding("a", severity, "", file=file) for severity in ("note", "warning", "error") for file in "ba"
    ]
    order = [(one.severity, one.file) for one in sorted(found, key=lambda one: one.rank)]
    assert order[:3] == [("error", "a"), ("error", "b"), ("warning", "a")]


def test_audit_and_verify_report_the_same_class_with_a_remedy_of_its_own(tmp_path):
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[..., 4] = 1
    audited = audit(labels.shape, (1, 1, 1), understand_paint(labels))
    write_volume(tmp_path / "a.nii", np.zeros((4, 4, 4), np.uint8), Volume(np.zeros((1, 4, 4, 4)), np.eye(4)))
    verified = verify(tmp_path)
    assert audited
    assert verified
    for one in (*audited, *verified):
        assert type(one) is Finding
        assert one.todo
        assert one.todo not in one.what
