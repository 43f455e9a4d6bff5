"""Paint that a session has saved is read back as it was, and nothing is asked where the file can say it."""

import numpy as np
import pytest

from volseg import Session
from volseg.annotation import understand_paint
from volseg.data.auditing import look_at, understood
from volseg.densification.inputs import Choices, read_inputs
from volseg.errors import InputError
from volseg.io import Volume, read_volume, write_volume
from volseg.labels import IGNORE_INDEX

SUFFIXES = [".nii.gz", ".nii", ".tif", ".ome.tif", ".nrrd", ".mha", ".ome.zarr"]


@pytest.fixture(params=[(24, 20), (24, 20, 12)], ids=["2d", "3d"])
def session(request, tmp_path):
    """A few strokes of two classes and background."""
    image = np.random.default_rng(0).integers(0, 99, (1, *request.param)).astype(np.uint8)
    write_volume(tmp_path / "i.nii.gz", image[0], Volume(image, np.eye(image.ndim)))
    session = Session(tmp_path / "i.nii.gz", classes={1: "spot", 7: "wall"})
    for value, place in ((0, 3), (1, 9), (7, 15)):
        mask = np.zeros((24, 20), bool)
        mask[place : place + 3, 4:15] = True
        session.paint(2, 0 if len(request.param) == 2 else value, mask, value)
    return session


def values_of(paint):
    """Values as a session has them."""
    return np.array([*paint.values, *[IGNORE_INDEX] * (256 - len(paint.values))])[paint.labels]


@pytest.mark.parametrize(
    ("suffix", "in_pieces"),
    [*((suffix, False) for suffix in SUFFIXES), *((s, True) for s in SUFFIXES if not s.endswith(".gz"))],
)  # a packed file is not written in pieces
def test_saved_paint_is_read_without_a_question(session, tmp_path, monkeypatch, suffix, in_pieces):
    if in_pieces:
        monkeypatch.setattr("volseg.session.session.DENSE", 1)
    if suffix.endswith("zarr"):
        pytest.importorskip("zarr")
    path = session.export(tmp_path / f"p{suffix}", "paint")
    audited = look_at(tmp_path / "i.nii.gz", path)
    assert any("One value marks what is unlabelled (255)" in text for text in understood(audited.paint))
    assert not [finding for finding in audited.findings if finding.kind == "unlabelled_value"]
    learnt = read_inputs(tmp_path / "i.nii.gz", path, Choices(force=True)).paint
    again = Session(tmp_path / "i.nii.gz", paint=path)
    monkeypatch.undo()
    for found in (values_of(audited.paint), values_of(learnt), again.labels):
        np.testing.assert_array_equal(found, session.labels)


def test_a_png_cannot_say_it_so_it_is_asked(tmp_path):
    image = np.random.default_rng(0).integers(0, 99, (1, 24, 20)).astype(np.uint8)
    write_volume(tmp_path / "i.png", image[0], Volume(image, np.eye(3)))
    session = Session(tmp_path / "i.png")
    session.paint(None, 0, np.arange(480).reshape(24, 20) < 60, 1)
    session.paint(None, 0, np.arange(480).reshape(24, 20) > 420, 0)
    path = session.export(tmp_path / "p.png", "paint")
    with pytest.raises(InputError, match=r"255 fills .* Is it the value for unlabelled, or a class\?"):
        read_inputs(tmp_path / "i.png", path, Choices())


@pytest.mark.parametrize("suffix", SUFFIXES[:1])
def test_words_of_another_array_are_not_believed(session, tmp_path, suffix):
    """A program that copies the header to labels in which 0 is what was not looked at."""
    path = session.export(tmp_path / f"p{suffix}", "paint")
    assert read_volume(path, labels=True).blank == IGNORE_INDEX
    edited = np.where(session.labels == IGNORE_INDEX, 0, session.labels)
    write_volume(
        path, edited, Volume(edited[None], np.eye(edited.ndim + 1), blank=IGNORE_INDEX), overwrite=True
    )
    label = read_volume(path, labels=True)
    assert label.blank is None
    assert understand_paint(label.array[0], blank=label.blank).rule == "slices"


def test_what_is_said_beats_what_the_file_says(session, tmp_path):
    path = session.export(tmp_path / "p.nrrd", "paint")
    paint = look_at(tmp_path / "i.nii.gz", path, painted_only=True).paint
    np.testing.assert_array_equal(
        values_of(paint) == IGNORE_INDEX, np.isin(session.labels, (0, IGNORE_INDEX))
    )
