"""What readers notice travels with the volume, and is logged once."""

import logging

import nibabel as nib
import numpy as np
import pytest

from volseg.errors import InputError
from volseg.io import Notes, check_alignment, read_channels, read_volume, with_spacing, write_volume
from volseg.io.mapped import map_volume

NO_ORIENTATION = "stores no orientation"


@pytest.fixture
def path(tmp_path):
    """A NIfTI file without a position, which is worth a note."""
    return save(tmp_path / "a.nii")


def save(path, size=(6, 5, 4)):
    array = np.arange(np.prod(size), dtype=np.int16).reshape(size)
    nib.save(nib.Nifti1Image(array, None), path)
    return path


def texts(notes):
    return [note.text for note in notes]


def test_a_note_is_in_the_volume_and_in_the_log(path, caplog):
    (note,) = read_volume(path).notes
    assert note.level == logging.WARNING
    assert NO_ORIENTATION in note.text
    assert [record.getMessage() for record in caplog.records] == [note.text]


def test_the_same_of_the_same_file_is_logged_once(path, caplog):
    notes = [read_volume(path).notes for _ in range(3)] + [map_volume(path).like.notes]
    assert len(set(notes)) == 1
    assert caplog.text.count(NO_ORIENTATION) == 1
    save(path, (7, 5, 4))
    read_volume(path)
    assert caplog.text.count(NO_ORIENTATION) == 2


def test_whoever_collects_notes_gets_them_instead_of_the_log(path, caplog):
    notes = Notes()
    assert read_volume(path, notes=notes).notes == tuple(notes)
    assert notes
    assert not caplog.records
    read_volume(path)
    assert NO_ORIENTATION in caplog.text


def test_what_was_noticed_before_a_file_was_refused_is_not_lost(path, caplog):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) + np.nan, None), path)
    notes = Notes()
    with pytest.raises(InputError, match="NaN or infinite"):
        read_volume(path, notes=notes)
    assert NO_ORIENTATION in notes[0].text
    with pytest.raises(InputError, match="NaN or infinite"):
        read_volume(path)
    assert NO_ORIENTATION in caplog.text


def test_what_is_written_is_not_noticed_again(path, tmp_path, caplog):
    volume = read_volume(path)
    caplog.clear()
    write_volume(tmp_path / "b.nii", volume.array, volume)
    assert not caplog.records


def test_notes_stay_with_what_is_made_of_a_volume(path, tmp_path):
    (note,) = read_volume(path).notes
    sized = with_spacing(read_volume(path), "2um")
    assert sized.notes[0] == note
    assert "as given" in sized.notes[1].text
    both = read_channels([path, save(tmp_path / "b.nii")])
    assert texts(both.notes) == [note.text, note.text.replace("a.nii", "b.nii")]


def test_notes_about_a_pair_are_collected_too(tmp_path, caplog):
    affine = np.diag([1.0, 1, 2, 1])
    array = np.zeros((4, 5, 6), np.uint8)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "image.nii")
    nib.save(nib.Nifti1Image(array[::-1], affine @ [[-1, 0, 0, 3], *np.eye(4)[1:]]), tmp_path / "label.nii")
    image, label = (read_volume(tmp_path / f"{name}.nii") for name in ("image", "label"))
    notes = Notes()
    check_alignment(image, label, notes=notes)
    assert "in another orientation; it was turned" in notes[0].text
    assert not caplog.records
    for _ in range(2):
        check_alignment(image, label)
    assert caplog.text.count("in another orientation") == 1
