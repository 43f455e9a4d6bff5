"""Everything that is wrong with a data set is found in one pass, and remembered by content."""

import json
import os
import re
import shutil
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - what everybody calls it
import tifffile
from monai.transforms import Compose

from volseg.bundle import read_bundle
from volseg.cli import main
from volseg.data import TrainingPatches, find_cases
from volseg.data.verification import (
    Expectations,
    default_cache,
    expectations,
    require_sound,
    verify,
)
from volseg.data.verification.cases import check_case
from volseg.errors import InputError
from volseg.findings import Finding, table
from volseg.instances import InstanceScheme
from volseg.io import Volume, read_volume, write_volume
from volseg.labels import LabelScheme

GEOMETRY = ["sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "srow_y", "srow_z", "quatern_b"]
GEOMETRY += ["quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]
SCHEME = LabelScheme(["a", "b", "c"], [0, 1, 2], 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch, clean_process):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def rewrite(path, change):
    """Put a changed array into a file."""
    volume = read_volume(path)
    write_volume(path, change(volume.array.copy()), volume, overwrite=True)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def other_grid(path):
    volume = read_volume(path)
    write_volume(
        path, volume.array[:, 1:], Volume(volume.array[:, 1:], volume.affine, volume.unit), overwrite=True
    )


def with_value(value):
    def change(array):
        array[0, 0, 0, 1] = value
        return array

    return change


# What is done to case b of three, which file is named, the level, what is said, what is said to do.
FAULTS = {
    "a cut image": ("images/b", cut, "error", "gzip stream ends early", "Fetch it again"),
    "a cut label": ("labels/b", cut, "error", "gzip stream ends early", "Fetch it again"),
    "NaN": (
        "images/b",
        lambda p: rewrite(p, with_value(np.nan)),
        "error",
        "1 NaN or infinite voxel",
        "Repair",
    ),
    "another grid": ("labels/b", other_grid, "error", "They cannot belong together", ""),
    "an unknown value": (
        "labels/b",
        lambda p: rewrite(p, with_value(9)),
        "error",
        "holds 9 (1 voxel)",
        "Correct",
    ),
    "a constant channel": (
        "images/b",
        lambda p: rewrite(p, np.zeros_like),
        "warning",
        "channel 0: it is 0 every",
        "Check",
    ),
    "no annotation": (
        "labels/b",
        lambda p: rewrite(p, lambda a: 0 * a + 3),
        "warning",
        "no voxel is annot",
        "Paint",
    ),
    "fewer channels": (
        "images/b",
        lambda p: rewrite(p, lambda a: a[:2]),
        "error",
        "has 2 channel",
        "in_channels",
    ),
    "a file of no known format": (
        "images/b",
        lambda p: p.with_name("x.czi").write_bytes(b"x"),
        "warning",
        "format is not read",
        "Convert",
    ),
    "the same image twice": (
        "images/b",
        lambda p: shutil.copy(p.parent / "a.nii.gz", p),
        "warning",
        "same file as",
        "Remove one",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_the_sound_cases_are_not_blamed(make_dataset, name):
    place, spoil, level, what, todo = FAULTS[name]
    folder = make_dataset(cases=("a", "b", "c"), suffix=".nii.gz", size=(8, 8, 8))
    for i, image in enumerate(sorted((folder / "images").iterdir())):
        rewrite(image, lambda a, i=i: a + np.float32(i))  # three different files
    expected = Expectations(SCHEME, 3, 3)
    assert verify(folder, expected=expected) == []
    spoil(folder / f"{place}.nii.gz")
    found = verify(folder, expected=expected)
    assert any(one.severity == level and what in one.message and todo in one.message for one in found), found
    assert not [one for one in found if "/c." in one.file or "/a." in one.file]


def test_all_faults_are_found_in_one_pass(make_dataset):
    folder = make_dataset(cases=("a", "b", "c"), suffix=".nii.gz", size=(8, 8, 8))
    cut(folder / "images" / "a.nii.gz")
    cut(folder / "labels" / "a.nii.gz")
    other_grid(folder / "labels" / "b.nii.gz")
    rewrite(folder / "labels" / "c.nii.gz", with_value(77))
    errors = [one for one in verify(folder, expected=Expectations(SCHEME)) if one.severity == "error"]
    assert [one.file.removeprefix(f"{folder}/") for one in errors] == [
        "images/a.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"images/a.nii.gz: the gzip .* \(3 more above\)"):
        require_sound(find_cases(folder), Expectations(SCHEME))


def test_what_is_odd_beside_the_others_is_told(make_dataset):
    folder = make_dataset(cases=("a", "b", "c"), suffix=".nii.gz", size=(8, 8, 8))
    for part in ("images", "labels"):
        path = folder / part / "c.nii.gz"
        volume = read_volume(path)
        larger = Volume(volume.array[:1], volume.affine @ np.diag([1, 1, 40, 1]), "um")
        write_volume(path, larger.array, larger, overwrite=True)
    said = [one.message for one in verify(folder)]
    for text in ("it has 1 channel(s), most of the others 3", "it has um as unit, most of the others mm",
                 "20 long along z, in most others 0.5", "40 times as long as wide"):  # fmt: skip
        assert any(text in message for message in said), text


def test_slices_that_cannot_be_held_out_are_told(make_dataset):
    folder = make_dataset(held_out={"z": [99]}, size=(8, 8, 8))
    (one,) = verify(folder, expected=Expectations(SCHEME))
    assert (one.severity, one.file) == ("error", str(folder / "labels" / "a.tif"))
    assert "99" in one.what


def test_a_folder_that_cannot_be_paired_is_read_all_the_same(make_dataset):
    folder = make_dataset(cases=("a", "b"), suffix=".nii.gz", size=(8, 8, 8))
    (folder / "images" / "a.nii.gz").unlink()
    cut(folder / "labels" / "b.nii.gz")
    said = [one.message for one in verify(folder)]
    assert len(said) == 2
    assert "has no image" in said[0] + said[1]
    assert "gzip stream ends early" in said[0] + said[1]


def test_a_file_and_any_folder_can_be_verified(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.arange(40, dtype=np.uint8).reshape(5, 8))
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 7, np.uint8), None), tmp_path / "b.nii.gz")
    assert verify(tmp_path / "a.tif") == []
    found = verify(tmp_path)
    assert {one.file for one in found} == {str(tmp_path / "b.nii.gz")}
    assert {one.what for one in found} >= {"it is 7 everywhere"}
    assert any("stores no orientation" in one.what for one in found)
    with pytest.raises(InputError, match="nowhere does not exist"):
        verify(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert [one.what for one in verify(tmp_path / "empty")] == ["there is no image"]
    with pytest.raises(ValueError, match="jobs = 0"):
        verify(tmp_path, jobs=0)


def test_the_number_of_jobs_changes_nothing(make_dataset):
    folder = make_dataset(cases=("a", "b", "c", "d"), suffix=".nii.gz", size=(8, 8, 8))
    for name in "abd":
        cut(folder / "labels" / f"{name}.nii.gz")
    assert verify(folder, jobs=1) == verify(folder, jobs=4) != []


def test_an_unchanged_case_is_not_read_again(make_dataset, tmp_path, monkeypatch):
    folder = make_dataset(cases=("a", "b"), suffix=".nii.gz", size=(8, 8, 8))
    cut(folder / "labels" / "b.nii.gz")
    cache = tmp_path / "cache"
    first = verify(folder, cache=cache)
    read = []
    for room in ("data.verification.cases", "io.files"):
        monkeypatch.setattr(f"volseg.{room}.read_volume", lambda p, **_: read.append(p) or read_volume(p))
    assert verify(folder, cache=cache) == first
    assert read == []
    verify(folder, cache=cache, expected=Expectations(SCHEME))
    assert len(read) == 4  # other expectations, other findings


def test_a_case_that_changed_is_read_again_whatever_its_date_and_size_say(make_dataset, tmp_path):
    folder = make_dataset(suffix=".nii", size=(8, 8, 8))
    path = folder / "labels" / "a.nii"
    expected = Expectations(SCHEME)
    assert verify(folder, cache=tmp_path / "cache", expected=expected) == []
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] = 99
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert "holds 99" in verify(folder, cache=tmp_path / "cache", expected=expected)[0].what


def test_a_damaged_memory_is_made_anew_and_none_is_needed(make_dataset, tmp_path):
    folder = make_dataset(suffix=".nii", size=(8, 8, 8))
    rewrite(folder / "images" / "a.nii", np.zeros_like)
    cache = tmp_path / "cache"
    first = verify(folder, cache=cache)
    for text in ("", "{}", "[]", '{"findings": 3, "facts": 4}', "\0"):
        for kept in cache.iterdir():
            kept.write_text(text)
        assert verify(folder, cache=cache) == first
    (tmp_path / "file").write_text("")
    assert verify(folder, cache=tmp_path / "file" / "no folder") == first


def test_what_nobody_asks_for_is_forgotten(make_dataset, tmp_path):
    folder, cache = make_dataset(suffix=".nii", size=(8, 8, 8)), tmp_path / "cache"
    verify(folder, cache=cache)
    (wanted,) = cache.iterdir()
    (cache / "other.json").write_text("{}")
    for place in cache.iterdir():
        os.utime(place, (0, 0))
    verify(folder, cache=cache)
    assert list(cache.iterdir()) == [wanted]


def test_what_a_bundle_expects_is_read_as_data(root):
    found = expectations(read_bundle([root / "bundles" / "xenopus.json"]))
    assert found == Expectations(LabelScheme(["inside tubule", "tubule", "background"], [0, 1, 2], 3), 3, 3)
    cells = expectations(read_bundle([root / "bundles" / "cells.json"]))
    assert isinstance(cells.labels, InstanceScheme)
    assert cells.spatial_dims == 2
    assert expectations({"labels": "@a#b", "a": {"b": None}, "in_channels": "$1 + 2"}) == Expectations()
    assert expectations({"in_channels": "@in_channels"}) == Expectations()
    with pytest.raises(InputError, match="entry 'labels' cannot be read"):
        expectations({"labels": {"_target_": "volseg.LabelScheme", "names": "$exit()", "values": [1]}})


def test_a_table_shows_errors_first_and_nothing_is_cut_off(tmp_path):
    found = [
        Finding("one", "warning", "odd " * 30, "thus " * 25, "look", file=str(tmp_path / "b.tif")),
        Finding(
            "two",
            "error",
            "bad",
            todo="repair " * 20,
            file=str(tmp_path / "folder" / ("x" * 50 + ".tif")),
        ),
        Finding("three", "note", "wide " * 40, file="c.tif"),
    ]
    lines = list(table(found, tmp_path))
    text = "\n".join(lines)
    assert (text.count("odd"), text.count("thus"), text.count("wide")) == (30, 25, 40)
    assert text.count("repair") == 20
    assert text.count("x") == 50
    assert text.index("error: bad") < text.index("warning: odd") < text.index("note: wide")
    assert max(map(len, lines)) <= 140


def test_the_command_ends_with_3_if_there_is_an_error(make_dataset, capsys, root):
    folder = make_dataset(suffix=".nii.gz", size=(8, 8, 8))
    bundle = ["--bundle", str(root / "bundles" / "xenopus.json")]
    assert main(["verify", str(folder), *bundle]) == 0
    assert "1 case(s), 0 error(s), 0 warning(s)" in capsys.readouterr().out
    assert len(list(default_cache().iterdir())) == 1
    rewrite(folder / "labels" / "a.nii.gz", with_value(9))
    assert main(["verify", str(folder), "--no-cache"]) == 0
    assert len(list(default_cache().iterdir())) == 1
    assert main(["verify", str(folder), *bundle]) == 3
    said = capsys.readouterr().out
    assert "labels/a.nii.gz" in said
    assert "1 case(s), 1 error(s), 0 warning(s)" in said
    (folder / "dataset.json").write_text(json.dumps({"training": 3}))
    assert main(["verify", str(folder)]) == 3


# --- before a training --------------------------------------------------------------------------------------


class NoStep:
    """A transform that must not be asked for a patch."""

    patch_size = (8, 8, 8)

    def __call__(self, item):
        raise AssertionError("a step was taken")


def training(folder, transform=None, **options):
    options = {"labels": SCHEME, "in_channels": 3} | options
    return TrainingPatches(find_cases(folder), transform=transform or NoStep(), **options)


@pytest.mark.parametrize("name", [name for name, (_, _, level, _, _) in FAULTS.items() if level == "error"])
def test_a_fault_stops_a_training_before_its_first_step_with_a_table(make_dataset, caplog, name):
    place, spoil, *_ = FAULTS[name]
    folder = make_dataset(cases=("a", "b", "c"), suffix=".nii.gz", size=(8, 8, 8))
    cut(folder / "labels" / "c.nii.gz")
    spoil(folder / f"{place}.nii.gz")
    with pytest.raises(InputError) as caught:
        training(folder)
    lines = caplog.text.splitlines()
    rows = [line for line in lines if re.search(r"(images|labels)/[abc].nii.gz .*error: ", line)]
    assert len(rows) == 2, caplog.text
    assert f"{place}.nii.gz" in rows[0] + rows[1]
    assert str(caught.value).endswith("(1 more above)")
    assert len(str(caught.value).splitlines()) == 1


def test_a_bundle_for_volumes_is_not_trained_on_images(make_dataset):
    folder = make_dataset(suffix=".nii.gz", size=(8, 8))
    with pytest.raises(InputError, match="it is 2D, the bundle's network is 3D"):
        training(folder)
    with pytest.raises(InputError, match="it is 2D, the bundle's network is 3D"):
        training(folder, transform=Compose([NoStep()]))
    assert len(training(folder, transform=lambda item: item).cases) == 1


def test_warnings_are_said_once_and_the_training_goes_on(make_dataset, caplog):
    folder = make_dataset(suffix=".nii", size=(8, 8, 8))
    path = folder / "images" / "a.nii"
    data = bytearray(path.read_bytes())
    struct.pack_into("<hh", data, 252, 0, 0)  # neither qform nor sform
    path.write_bytes(data)
    label = folder / "labels" / "a.nii"
    write_volume(label, read_volume(label).array, read_volume(path), overwrite=True)
    for _ in range(2):  # read, and remembered
        caplog.clear()
        assert len(training(folder).cases) == 1
        assert caplog.text.count("a.nii: it stores no orientation") == 2  # of the image, of the label
        assert caplog.text.count("stores no orientation") == 2


def test_what_was_verified_for_a_training_is_not_verified_again_unless_it_changed(make_dataset, monkeypatch):
    folder = make_dataset(cases=("a", "b"), suffix=".nii", size=(8, 8, 8))
    checked = []
    monkeypatch.setattr(
        "volseg.data.verification.dataset.check_case",
        lambda case, expected: checked.append(case.name) or check_case(case, expected),
    )
    training(folder)
    assert sorted(checked) == ["a", "b"]
    training(folder)
    assert len(checked) == 2
    rewrite(folder / "images" / "b.nii", lambda a: a + 1)
    training(folder)
    assert checked[2:] == ["b"]
    training(folder, labels=LabelScheme(["x", "b", "c"], [0, 1, 2], 3))
    assert len(checked) == 5
    rewrite(folder / "labels" / "b.nii", with_value(9))
    for _ in range(2):
        with pytest.raises(InputError, match=r"labels/b.nii: it holds 9 \(1 voxel\)"):
            training(folder)


def test_volseg_train_stops_with_the_table_and_exit_code_3(make_dataset, tmp_path, capfd, root):
    folder = make_dataset(cases=("a", "b"), suffix=".nii.gz", size=(12, 12, 12))
    cut(folder / "images" / "a.nii.gz")
    rewrite(folder / "labels" / "b.nii.gz", with_value(9))
    bundle, smoke = (str(root / path) for path in ("bundles/xenopus.json", "configs/smoke.json"))
    words = ["train", bundle, smoke, "--dataset_dir", str(folder), "--output_dir", str(tmp_path / "run")]
    assert main(words) == 3
    said = capfd.readouterr().err
    assert "step/s" not in said
    assert "Traceback" not in said
    assert [line.split()[0] for line in said.splitlines() if " error: " in line] == [
        "images/a.nii.gz", "labels/b.nii.gz",
    ]  # fmt: skip
    assert said.splitlines()[-1].startswith(f"volseg train: {folder}/images/a.nii.gz: the gzip stream ends")
    assert not (tmp_path / "run").exists()


def place_of_itk(image):
    """Voxel index to RAS position, as SimpleITK understood a file."""
    dims = image.GetDimension()
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = np.reshape(image.GetDirection(), (dims, dims)) * image.GetSpacing()
    affine[:-1, -1] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0][:dims] + [1.0]) @ affine


@pytest.mark.slow
def test_all_real_files_are_sound_and_survive_a_second_library(shared_data, tmp_path, figure):
    """Read and written by us, read by nibabel, tifffile and SimpleITK: the same voxels in the same place."""
    for folder in sorted(path for path in shared_data.iterdir() if path.is_dir()):
        found = verify(folder)
        mixed = [one for one in found if one.severity == "error" and "most of the others" in one.what]
        assert [one for one in found if one.severity == "error" and one not in mixed] == []
        assert len(mixed) == (12 if folder.name == "dsb2018_nuclei_2d" else 0)  # grey and colour, indeed
        told = f"0 damaged files, {len(mixed)} unlike the others, {len(found) - len(mixed)} warning(s)"
        figure(f"volseg verify {folder.name}: {told}")
    files = [path for path in sorted(shared_data.rglob("*")) if path.name.endswith((".nii.gz", ".tif"))]
    assert len(files) > 250
    for path in files:
        volume = read_volume(path)
        suffix = ".nii.gz" if path.suffix == ".gz" else path.suffix
        for out in (tmp_path / f"o{end}" for end in (suffix, ".nrrd", ".mha")):
            write_volume(out, volume.array, volume, overwrite=True)
        theirs_and_mine(path, tmp_path / f"o{suffix}")
        np.testing.assert_allclose(
            read_volume(tmp_path / f"o{suffix}").affine, volume.affine, rtol=1e-6, err_msg=str(path)
        )
        for out in (tmp_path / "o.nrrd", tmp_path / "o.mha"):
            image = sitk.ReadImage(str(out))
            array = sitk.GetArrayFromImage(image)
            array = array if volume.channels > 1 else array[..., None]
            np.testing.assert_array_equal(array.transpose(), volume.array, err_msg=str(path))
            np.testing.assert_allclose(
                place_of_itk(image), volume.affine, rtol=1e-6, atol=1e-6, err_msg=str(path)
            )
    figure(
        f"{len(files)} real files read, written, read by nibabel or tifffile and by SimpleITK: 0 differences"
    )


def theirs_and_mine(source, copy):
    """Both, as nibabel or tifffile reads them."""
    if source.suffix == ".gz":
        theirs, mine = nib.load(source), nib.load(copy)
        np.testing.assert_array_equal(
            np.squeeze(np.asanyarray(mine.dataobj)), np.squeeze(np.asanyarray(theirs.dataobj))
        )
        for key in GEOMETRY:
            np.testing.assert_array_equal(mine.header[key], theirs.header[key], err_msg=f"{source} {key}")
        return
    with tifffile.TiffFile(source) as theirs, tifffile.TiffFile(copy) as mine:
        a, b = theirs.series[0], mine.series[0]
        array = a.asarray()
        if a.axes.endswith("S"):
            array = np.moveaxis(array, -1, -3)
        np.testing.assert_array_equal(np.squeeze(b.asarray()), np.squeeze(array), err_msg=str(source))
