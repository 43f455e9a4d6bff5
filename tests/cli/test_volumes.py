"""``volseg convert`` mends what the readers refuse, and ``volseg export`` hands weights on."""

import hashlib

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch

from volseg.cli import main
from volseg.errors import InputError
from volseg.io import Volume, check_alignment, read_volume, write_volume, write_weights
from volseg.networks import UNet
from volseg.runs.checkpoint import export_weights, load_checkpoint, load_weights, save_checkpoint

pytestmark = pytest.mark.usefixtures("clean_process")

ARRAY = np.random.default_rng(0).integers(0, 99, (8, 7, 3)).astype(np.uint8)


def remedy(message, target):
    """The command that an error message gives, as it stands but for the name of the new file."""
    words = message.partition("'volseg ")[2].partition("'")[0].split()
    assert words[-1].startswith("NEW."), words  # a name that can be written
    return [*words[:-1], str(target)]


def mend(path, target, **options):
    """Read; do what the message says; read again."""
    with pytest.raises(InputError) as caught:
        read_volume(path, **options)
    assert main(remedy(str(caught.value), target)) == 0
    return read_volume(target, **options)


def test_unclear_axes_of_a_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ARRAY.transpose(2, 1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(mend(tmp_path / "a.tif", tmp_path / "b.tif").array[0], ARRAY)


def test_unclear_axes_of_a_nifti(tmp_path):
    nib.save(nib.Nifti1Image(np.stack([ARRAY, ARRAY + 1], -1), np.eye(4)), tmp_path / "a.nii.gz")
    volume = mend(tmp_path / "a.nii.gz", tmp_path / "b.nii")
    np.testing.assert_array_equal(volume.array, [ARRAY, ARRAY + 1])


def test_unclear_axes_of_an_nrrd(tmp_path):
    text = "NRRD0004\ntype: uchar\ndimension: 4\nsizes: 2 8 7 3\nencoding: raw\n\n"
    both = np.stack([ARRAY, ARRAY + 1])
    (tmp_path / "a.nrrd").write_bytes(text.encode() + both.tobytes(order="F"))
    np.testing.assert_array_equal(mend(tmp_path / "a.nrrd", tmp_path / "b.nrrd").array, both)


def test_the_wanted_image_of_a_tiff(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        for z, size in ((0, 0.5), (1, 0.25)):  # micrometres
            out.write(
                ARRAY[: 8 - z, :, z].T, photometric="minisblack", resolution=(1e4 / size,) * 2,
                resolutionunit="CENTIMETER",
            )  # fmt: skip
    np.testing.assert_array_equal(mend(tmp_path / "a.tif", tmp_path / "b.tif").array[0], ARRAY[..., 0])
    words = ["convert", str(tmp_path / "a.tif"), "--series", "1", "-o", str(tmp_path / "c.tif")]
    assert main(words) == 0
    second = read_volume(tmp_path / "c.tif")
    np.testing.assert_array_equal(second.array[0], ARRAY[:7, :, 1])
    np.testing.assert_allclose(second.spacing, 0.25e-3)  # mm; its own, not the first one's
    with pytest.raises(ValueError, match=r"has no image 2: it holds 2 \(7x8, 7x7\), counted from 0"):
        read_volume(tmp_path / "a.tif", series=2)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_a_position_that_cannot_be_used(tmp_path, suffix):
    path, image = tmp_path / f"a{suffix}", tmp_path / "image.nii"
    affine = np.diag([0.5, 0.5, 2, 1]) + np.eye(4, k=3) * 7
    write_volume(path, ARRAY, Volume(ARRAY[None], affine, "mm"))
    write_volume(image, ARRAY, Volume(ARRAY[None], affine, "mm"))
    if suffix == ".nii":
        broken = nib.load(path)
        fields = broken.header.copy()
        fields["srow_x"], fields["qform_code"] = np.nan, 0
        path.write_bytes(fields.binaryblock + b"\0" * 4 + ARRAY.tobytes(order="F"))
    else:
        path.write_bytes(path.read_bytes().replace(b"-0.5", b"nan ").replace(b"-7.0", b"nan "))
    plain = mend(path, tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(plain.array[0], ARRAY)
    np.testing.assert_allclose(plain.affine[:3, 3], 0)
    assert np.isfinite(plain.affine).all()
    words = ["convert", str(path), "--ignore-affine", "--like", str(image), "-o", str(tmp_path / "c.nii")]
    assert main(words) == 0
    np.testing.assert_allclose(read_volume(tmp_path / "c.nii").affine, affine)


def test_what_a_file_cannot_be_told(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ARRAY[..., 0])
    with pytest.raises(ValueError, match=r"ignore_affine=True says nothing about a.tif: it is for .nii"):
        read_volume(tmp_path / "a.tif", ignore_affine=True)
    nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"series=0 says nothing about a.nii: it is for .tif, .tiff"):
        read_volume(tmp_path / "a.nii", series=0)


def test_values_that_are_not_finite(tmp_path):
    array = ARRAY.astype(np.float32) + 1
    array[1, 2, 0] = np.nan
    write_volume(tmp_path / "a.nii", array, Volume(array[None], np.eye(4), "mm"))
    assert mend(tmp_path / "a.nii", tmp_path / "b.nii").array[0, 1, 2, 0] == 1


def test_a_label_without_the_place_of_its_image(tmp_path):
    image, label = (tmp_path / name for name in ("image.nii.gz", "label.nii.gz"))
    write_volume(image, ARRAY, Volume(ARRAY[None], np.diag([2.0, 2, 3, 1]), "mm"))
    write_volume(label, ARRAY, Volume(ARRAY[None], np.eye(4), "mm"))
    with pytest.raises(InputError) as caught:
        check_alignment(read_volume(image), read_volume(label, labels=True))
    assert main(remedy(str(caught.value), tmp_path / "new.nii.gz")) == 0
    mended = read_volume(tmp_path / "new.nii.gz", labels=True)
    np.testing.assert_array_equal(check_alignment(read_volume(image), mended).array[0], ARRAY)
    before, after = nib.load(image).header, nib.load(tmp_path / "new.nii.gz").header
    assert before["srow_x"].tobytes() == after["srow_x"].tobytes()


def test_channels_are_joined(tmp_path):
    for i in range(2):
        write_volume(tmp_path / f"a_{i}.nrrd", ARRAY + i, Volume(ARRAY[None], np.eye(4), "mm"))
    words = ["convert", *(str(tmp_path / f"a_{i}.nrrd") for i in range(2)), "-o", str(tmp_path / "a.tif")]
    assert main(words) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, [ARRAY, ARRAY + 1])


def test_what_does_not_belong_together_and_what_exists_is_refused(tmp_path, capsys):
    write_volume(tmp_path / "a.nrrd", ARRAY, Volume(ARRAY[None], np.eye(4), "mm"))
    write_volume(tmp_path / "b.nrrd", ARRAY[1:], Volume(ARRAY[None, 1:], np.eye(4), "mm"))
    a, b = str(tmp_path / "a.nrrd"), str(tmp_path / "b.nrrd")
    assert main(["convert", a, "--like", b, "-o", str(tmp_path / "c.nrrd")]) == 3
    assert "They do not lie on one grid" in capsys.readouterr().err.replace("they", "They")
    assert main(["convert", a, "-o", b]) == 5
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", a, "-o", b, "--overwrite"]) == 0
    array = ARRAY + 0.5
    write_volume(b, array, Volume(array[None], np.eye(4), "mm"), overwrite=True)
    assert main(["convert", b, "--labels", "-o", a, "--overwrite"]) == 3
    assert "fractional label" in capsys.readouterr().err


@pytest.fixture
def trained(tmp_path):
    """A checkpoint, and its network."""
    network = UNet(2, 1, 2, channels=[[2, 3]], norm="batch")
    trained_on = {"a" * 64: {"name": "kidney", "held_out": {"x": [3]}}}
    content = {"model": network.state_dict(), "iteration": 7, "trained_on": trained_on}
    save_checkpoint(tmp_path / "model.pt", content)
    return tmp_path / "model.pt", network


def test_what_densify_learnt_is_no_network_to_export(root, tmp_path, capsys):
    target = tmp_path / "w.safetensors"
    assert main(["export", str(root / "tests/stored/densified"), "-o", str(target)]) == 3
    assert "was learnt by volseg densify" in capsys.readouterr().err
    assert not target.exists()


def test_exported_weights_are_the_checkpoint(trained, tmp_path, capsys):
    checkpoint, network = trained
    target = tmp_path / "w.safetensors"
    assert main(["export", str(checkpoint), "-o", str(target)]) == 0
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    assert f"SHA-256 {digest}" in capsys.readouterr().out
    before, after = load_checkpoint(checkpoint), load_checkpoint(target)
    assert after.keys() == before.keys()
    assert after["trained_on"] == before["trained_on"]
    other = UNet(2, 1, 2, channels=[[2, 3]], norm="batch")
    load_weights(other, target)
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert main(["info", str(target)]) == 0
    said = capsys.readouterr().out
    assert "after 7 iterations" in said
    assert digest in said
    assert "trained on kidney" in said
    assert main(["export", str(checkpoint), "-o", str(target)]) == 5
    with pytest.raises(ValueError, match="does not end in .safetensors"):
        export_weights(before, tmp_path / "w.pt")


def test_what_is_needed_to_resume_stays_behind(trained, tmp_path):
    content = load_checkpoint(trained[0])
    content |= {"optimizer": {"state": {0: torch.zeros(3)}}, "average": None, "lr_scheduler": {}}
    export_weights(content, tmp_path / "w.safetensors")
    assert load_checkpoint(tmp_path / "w.safetensors").keys() == {"model", "iteration", "trained_on"}


def test_weights_of_other_programs_are_read_and_strange_notes_refused(trained, tmp_path):
    path, weights = tmp_path / "w.safetensors", trained[1].state_dict()
    write_weights(path, weights, {"format": "pt"})
    assert load_checkpoint(path)["format"] == "pt"
    for note in ("[1]", '{"a": 3}', '{"a": {}}', "[" * 9999):
        write_weights(path, weights, {"trained_on": note}, overwrite=True)
        with pytest.raises(InputError, match="note 'trained_on' was not written by volseg"):
            load_checkpoint(path)


# --- said on the command line --------------------------------------------------------------------------


def test_a_label_in_colours_is_written_as_numbers(tmp_path, capsys):
    colours = np.zeros((6, 5, 3), np.uint8)
    colours[2:4] = 255, 0, 0
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    words = ["convert", str(tmp_path / "a.tif"), "--labels", "-o", str(tmp_path / "b.tif")]
    assert main(words) == 3
    value = "000000=0,ff0000=1"
    assert f"--colours {value}" in capsys.readouterr().err
    for option in ("--colours", "--colors"):
        assert main([*words, "--overwrite", option, value]) == 0
        assert read_volume(tmp_path / "b.tif", labels=True).array[0, 0].tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("suffix", ["tif", "ome.tif", "nii.gz", "nrrd", "mha", "zarr"])
def test_a_spacing_that_is_told_is_written(tmp_path, suffix):
    if suffix == "zarr":
        pytest.importorskip("zarr")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 6), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    target = tmp_path / f"b.{suffix}"
    assert main(["convert", str(tmp_path / "a.tif"), "--spacing", "4,5,50nm", "-o", str(target)]) == 0
    found = read_volume(target)
    assert (found.spacing, found.unit) == (pytest.approx((0.004, 0.005, 0.05)), "um")


def test_nan_in_a_label_becomes_unlabelled(tmp_path):
    paint = np.full((4, 5, 6), np.nan, np.float32)
    paint[2] = 1
    tifffile.imwrite(tmp_path / "a.tif", paint, metadata={"axes": "ZYX"}, photometric="minisblack")
    for more in ([], ["--nonfinite", "replace"]):
        words = ["convert", str(tmp_path / "a.tif"), "--labels", *more, "-o", str(tmp_path / "b.tif")]
        assert main([*words, "--overwrite"]) == 0
        found = read_volume(tmp_path / "b.tif", labels=True).array[0, 0, 0]
        assert found.tolist() == [255, 255, 1, 255]


@pytest.mark.parametrize("made", ["a.tif", "link.tif", "hard.tif"])
def test_what_is_read_is_never_written_over(tmp_path, capsys, made):
    image, other = tmp_path / "a.tif", tmp_path / "b.tif"
    volume = Volume(np.zeros((1, 3, 4, 5), np.uint8), np.eye(4))
    write_volume(image, volume.array, volume)
    write_volume(other, volume.array + 1, volume)
    (tmp_path / "link.tif").symlink_to(image)
    (tmp_path / "hard.tif").hardlink_to(image)
    before, target = image.read_bytes(), str(tmp_path / made)
    for words in (
        ["convert", str(image), "-o", target],
        ["convert", str(other), "--like", str(image), "-o", target],
        ["convert", str(other), str(image), "--stack", "c", "-o", target],
        ["sparsify", str(image), "--unlabelled", "9", "--slices", "1,1,1", "-o", target],
    ):
        assert main([*words, "--overwrite"]) == 5
        assert "is a file that is read here, and would be lost" in capsys.readouterr().err
        assert image.read_bytes() == before


def test_a_name_without_a_known_suffix_is_refused_with_those_that_are_known(tmp_path):
    volume = Volume(np.zeros((1, 3, 4, 5), np.uint8), np.eye(4))
    for name in ("a", "a.xyz", "a.tif.gz"):
        with pytest.raises(InputError, match=r"Known are \.nii.* name the output with one of them"):
            write_volume(tmp_path / name, volume.array, volume)
    for name in ("A.TIF", "A.NII.GZ"):
        write_volume(tmp_path / name, volume.array, volume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A.NII.GZ", "A.TIF"]


def test_the_name_of_the_output_is_looked_at_before_anything_is_done(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[np.nan, 1.0], [2.0, 3.0]], np.float32))
    assert (
        main(["convert", str(tmp_path / "a.tif"), "--nonfinite", "replace", "-o", str(tmp_path / "NEW")]) == 3
    )
    said = capsys.readouterr().err
    assert "NEW: the format cannot be known from the name" in said
    assert "replaced" not in said


def test_a_voxel_size_is_shown_with_the_digits_of_a_header(tmp_path, capsys):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([1.0000000142492353, 0.3, 2, 1]))
    nib.save(image, tmp_path / "a.nii")
    assert main(["info", str(tmp_path / "a.nii")]) == 0
    assert "voxel (1.0, 0.3, 2.0) " in capsys.readouterr().out
