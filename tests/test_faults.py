"""The 64 faults of the catalogue (shared/FAULTS.md, sections 2.1 to 2.5), each planted, by its number.

What other tools do about them, often nothing, stands there; here stands what must happen instead. Where a
whole family of damage is meant, tests/test_fuzz.py plants it by the hundred.
"""

import gzip
import multiprocessing
import os
import re
import signal
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - what everybody calls it
import tifffile
import torch
from monai.transforms import Compose

from volseg.data import TrainingPatches, WholeVolumes, find_cases, find_images
from volseg.data.verification import Expectations, verify
from volseg.engines import trainer
from volseg.errors import InputError, VolsegError
from volseg.inferers import OverlapTileInferer
from volseg.io import SUFFIXES, Volume, check_alignment, read_volume, write_volume
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.losses import SparseCrossEntropy, SparseDiceCE
from volseg.metrics import mean_score
from volseg.networks import UNet
from volseg.runs.checkpoint import save_checkpoint
from volseg.transforms import RandDeformedPatchd

ROWS = {}
ARRAY = np.random.default_rng(0).integers(0, 99, (12, 10, 6)).astype(np.int16)
SCHEME = LabelScheme(["a", "b", "c"], [0, 1, 2], 3)


def row(*numbers):
    """Register what plants these faults; it is called with the tools of the test."""

    def register(plant):
        for number in numbers:
            assert number not in ROWS
            ROWS[number] = plant
        return plant

    return register


@pytest.fixture
def tools(tmp_path, caplog, make_dataset):
    class Tools:
        folder = tmp_path
        log = caplog
        dataset = staticmethod(make_dataset)

        def nifti(self, name="a.nii", array=ARRAY, affine=None, **fields):
            """A NIfTI file, some fields of its header overwritten."""
            image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine, dtype=array.dtype)
            image.header.set_xyzt_units("mm")
            path = tmp_path / name
            nib.save(image, path)
            if fields:
                unpack = gzip.decompress if name.endswith(".gz") else bytes
                data = unpack(path.read_bytes())
                header = nib.Nifti1Header(data[:348], check=False)
                for key, value in fields.items():
                    header[key] = value
                data = header.binaryblock + data[348:]
                path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
            return path

        def tiff(self, array, name="a.tif", **options):
            tifffile.imwrite(tmp_path / name, array, **options)
            return tmp_path / name

        def zarr(self, name="a.zarr"):
            pytest.importorskip("zarr")
            write_volume(tmp_path / name, ARRAY, Volume(ARRAY[None], np.eye(4)))
            return tmp_path / name

        def refused(self, path, words, **options):
            """Reading it is an error with these words in it, one to three lines long, that names the file."""
            with pytest.raises(VolsegError, match=words) as caught:
                read_volume(path, **options)
            assert path.name in str(caught.value)
            assert str(caught.value).count(". ") + 1 <= 3

        def said(self, words):
            assert re.search(words, caplog.text), caplog.text
            caplog.clear()

    return Tools()


@pytest.mark.parametrize("number", range(1, 65))
def test_fault(number, tools):
    ROWS[number](tools)


# 2.1 Files that are damaged ---------------------------------------------------------------------------------


@row(1)
def _(tools):
    path = tools.nifti("a.nii.gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    tools.refused(path, "gzip stream ends early .* bytes on disk.*'gzip -t'")


@row(2)
def _(tools):
    path = tools.nifti()
    path.write_bytes(path.read_bytes()[:1000])
    tools.refused(path, "needs 1792 bytes .* the file of 1000 bytes holds 1000. It was cut")


@row(3)
def _(tools):
    path = tools.nifti("a.nii.gz")
    path.write_bytes(path.read_bytes()[:-8])
    tools.refused(path, "gzip stream ends early")


@row(4)
def _(tools):
    path = tools.nifti("a.nii.gz")
    data = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    data[-500] ^= 1
    path.write_bytes(data)
    tools.refused(path, "checksum of the gzip data is wrong")


@row(5)
def _(tools):
    for suffix in SUFFIXES:
        path = tools.folder / f"a{suffix}"
        path.write_bytes(b"")
        tools.refused(path, "is a folder" if suffix.endswith(".zarr") else "the file is empty")


@row(6)
def _(tools):
    plain, packed = tools.nifti("a.nii"), tools.nifti("b.nii.gz")
    for path, wrong in ((plain, "c.nii.gz"), (packed, "d.nii")):
        path.rename(tools.folder / wrong)
        np.testing.assert_array_equal(read_volume(tools.folder / wrong).array[0], ARRAY)
        tools.said(f"{wrong}: the name says")


@row(7)
def _(tools):
    path = tools.nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    path.write_bytes(path.read_bytes()[:452])
    tools.refused(path, "the header needs 7036.* bytes")


@row(8)
def _(tools):
    tools.refused(tools.nifti(dim=[3, -5, 10, 6, 1, 1, 1, 1]), r"dim\[1\] = -5")


@row(9)
def _(tools):
    tools.refused(tools.nifti(dim=[3, 12, 0, 6, 1, 1, 1, 1]), r"dim\[2\] = 0")


@row(10)
def _(tools):
    tools.refused(tools.nifti(vox_offset=99999), "needs 101439 bytes")


@row(11)
def _(tools):
    tools.refused(tools.nifti(magic=b"n+7"), "magic field is b'n.7")
    tools.refused(tools.nifti(datatype=77), "datatype = 77")


@row(12)
def _(tools):
    text = "ImageJ=1.54f\nimages=5\nslices=5\n"
    path = tools.tiff(ARRAY[..., 0].T.astype(np.uint16), description=text, metadata=None)
    tools.refused(path, "promises 5 slices, 1 found")


@row(13)
def _(tools):
    path = tools.tiff(np.zeros((4, 5), np.uint8))
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    path.write_bytes(data)
    tools.refused(path, "chain of pages loops")


@row(14)
def _(tools):
    path = tools.tiff(np.zeros((4, 5), np.uint8))
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages.first.tags["ImageWidth"].overwrite(2**31 - 1, dtype="I")
        tif.pages.first.tags["ImageLength"].overwrite(2**31 - 1, dtype="I")
    tools.refused(path, "asks for 4611686014132420609 bytes|damaged")


@row(15)
def _(tools):
    with tifffile.TiffWriter(tools.folder / "a.tif") as out:
        for shape in ((40, 48), (20, 20)):
            out.write(np.zeros(shape, np.uint8), photometric="minisblack")
    tools.refused(tools.folder / "a.tif", "pages differ in size or type: there are 2 images .40x48, 20x20.")
    assert read_volume(tools.folder / "a.tif", series=1).spatial_shape == (20, 20)


@row(16)
def _(tools):
    """ImageJ leaves out the directories of a file that is too large for them; we write BigTIFF."""
    stack = ARRAY.transpose(2, 1, 0).astype(np.uint16)
    body = stack.astype(">u2").tobytes()
    text = b"ImageJ=1.54f\nimages=6\nslices=6\n\0"
    size = len(text)
    entries = [
        (256, 4, 1, 12),
        (257, 4, 1, 10),
        (258, 3, 1, 16 << 16),
        (262, 3, 1, 1 << 16),
        (270, 2, size, 8),
    ]
    entries += [(273, 4, 1, 8 + size), (278, 4, 1, 10), (279, 4, 1, len(body) // 6)]
    header = struct.pack(">2sHI", b"MM", 42, 8 + len(text) + len(body))
    pages = struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHII", *e) for e in entries) + bytes(4)
    (tools.folder / "a.tif").write_bytes(header + text + body + pages)
    np.testing.assert_array_equal(read_volume(tools.folder / "a.tif").array[0], ARRAY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("volseg.io.tiff._BIG", 100)
        write_volume(tools.folder / "o.tif", ARRAY, read_volume(tools.folder / "a.tif"))
    with tifffile.TiffFile(tools.folder / "o.tif") as out:
        assert out.is_bigtiff
    np.testing.assert_array_equal(read_volume(tools.folder / "o.tif").array[0], ARRAY)


@row(17)
def _(tools):
    for codec in ("lzw", "zstd", "packbits", "zlib", "lzma"):
        path = tools.tiff(ARRAY.transpose(2, 1, 0), compression=codec, metadata={"axes": "ZYX"})
        np.testing.assert_array_equal(read_volume(path).array[0], ARRAY)


@row(18)
def _(tools):
    for suffix in ("nrrd", "mha"):
        for packed in (False, True):
            path = tools.folder / f"a.{suffix}"
            sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path), packed)
            path.write_bytes(path.read_bytes()[:-20])
            tools.refused(path, "was cut|ends early")


@row(19)
def _(tools):
    """zarr-python reads a chunk that is missing as zeros."""
    path = tools.zarr()
    (path / "0" / "c" / "0" / "0" / "0").unlink()
    tools.refused(
        path,
        r"1 of 1 chunks are missing, such as c/0/0/0, but volseg wrote all of them",
    )


@row(20)
def _(tools):
    """Every chunk that volseg writes has a checksum."""
    path = tools.zarr()
    chunk = path / "0" / "c" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    tools.refused(path, "some of its chunks cannot be read .* damaged; fetch it again")


# 2.2 Geometry and meaning -----------------------------------------------------------------------------------


def label(tools, affine=None, array=ARRAY, name="label.nii"):
    return read_volume(tools.nifti(name, array, affine), labels=True)


@row(21)
def _(tools):
    folder = tools.dataset(suffix=".nii", size=(13, 12, 12))
    image = read_volume(folder / "images" / "a.nii")
    smaller = Volume(image.array[:1, 1:], image.affine, image.unit)
    write_volume(folder / "labels" / "a.nii", np.ones_like(smaller.array, np.uint8), smaller, overwrite=True)
    with pytest.raises(InputError, match="13 x 12 x 12 voxels, the label .* has 12 x 12 x 12"):
        TrainingPatches(find_cases(folder), labels=SCHEME, in_channels=3, transform=None)
    assert "13 x 12 x 12" in verify(folder)[0].what


@row(22)
def _(tools):
    image = read_volume(tools.nifti())
    turned = np.diag([-1.0, -1, 1, 1])
    turned[:2, 3] = 11, 9
    back = check_alignment(image, label(tools, turned, ARRAY[::-1, ::-1]))
    tools.said("another orientation")
    np.testing.assert_array_equal(back.array, image.array)
    with pytest.raises(InputError, match="corners lie up to"):
        check_alignment(image, label(tools, np.diag([-1.0, -1, 1, 1])))


@row(23)
def _(tools):
    image = read_volume(tools.nifti())
    for offset in (1e-8, 1e-5):
        check_alignment(image, label(tools, np.eye(4) + offset * np.eye(4, k=3)))


@row(24)
def _(tools):
    image = nib.Nifti1Image(ARRAY, np.diag([2.0, 2, 2, 1]))
    image.set_qform(np.diag([-2.0, -2, 2, 1]), 1)
    image.set_sform(np.diag([2.0, 2, 2, 1]), 2)
    nib.save(image, tools.folder / "a.nii")
    volume = read_volume(tools.folder / "a.nii")
    tools.said("sform and qform differ by up to .* the sform is used")
    np.testing.assert_array_equal(volume.affine, np.diag([2.0, 2, 2, 1]))
    write_volume(tools.folder / "o.nii", ARRAY, volume)
    back = nib.load(tools.folder / "o.nii")
    np.testing.assert_array_equal(back.get_qform(), image.get_qform())
    assert (int(back.header["sform_code"]), int(back.header["qform_code"])) == (2, 1)


@row(25)
def _(tools):
    read_volume(tools.nifti(sform_code=0, qform_code=0))
    tools.said("stores no orientation .* plain voxel grid")


@row(26)
def _(tools):
    sheared = np.array([[1, 0.3, 0, 4], [0, 1, 0.1, 5], [0, 0, 2, 6], [0, 0, 0, 1.0]])
    volume = read_volume(tools.nifti(affine=sheared))
    tools.said("not at right angles")
    write_volume(tools.folder / "o.nii", ARRAY, volume)
    before, after = nib.load(tools.folder / "a.nii").header, nib.load(tools.folder / "o.nii").header
    for key in ("srow_x", "srow_y", "srow_z"):
        assert before[key].tobytes() == after[key].tobytes()


@row(27)
def _(tools):
    tools.refused(tools.nifti(srow_x=[1, 0, 0, np.nan], sform_code=1), "affine holds NaN")
    plain = read_volume(tools.folder / "a.nii", ignore_affine=True)
    tools.said("position is left aside")
    np.testing.assert_array_equal(plain.affine, np.eye(4))


@row(28)
def _(tools):
    tools.refused(tools.nifti(srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0], sform_code=1), "singular")


@row(29)
def _(tools):
    tools.refused(
        tools.nifti(pixdim=[1, 0, 1, 1, 1, 1, 1, 1], sform_code=0), "voxel size along x is 0|worked out"
    )
    tools.refused(tools.nifti(srow_x=[0, 0, 0, 0], sform_code=1), "voxel size along x is 0")


@row(30)
def _(tools):
    """A wrong voxel size is told, and costs nothing: volumes are never resampled."""
    path = tools.nifti(affine=np.diag([1e-6, 1, 1, 1]))
    assert read_volume(path).spatial_shape == ARRAY.shape
    assert any("1e+06 times as long as wide" in one.what for one in verify(path))


@row(31)
def _(tools):
    affine = np.array([[0, 0, 2, -30], [0.5, 0, 0, 7], [0, -0.7, 0, 101], [0, 0, 0, 1.0]])
    volume = read_volume(tools.nifti(affine=affine))
    for name in ("o.nii.gz", "o.nrrd", "o.mha"):
        write_volume(tools.folder / name, ARRAY, volume)
        np.testing.assert_allclose(read_volume(tools.folder / name).affine, affine, atol=1e-6)


@row(32)
def _(tools):
    volume = read_volume(tools.nifti(sform_code=4, qform_code=3, xyzt_units=3, descrip=b"Jane Doe"))
    write_volume(tools.folder / "o.nii", (ARRAY > 9).astype(np.uint8), volume)
    before, after = nib.load(tools.folder / "a.nii").header, nib.load(tools.folder / "o.nii").header
    for key in ("sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(before[key], after[key])
    assert bytes(after["descrip"]).strip(b"\0") == b""


@row(33)
def _(tools):
    stack = ARRAY[..., :3].transpose(2, 1, 0).astype(np.uint8)
    path = tools.tiff(stack, photometric="rgb", planarconfig="separate")
    tools.refused(path, "axes are unclear.*axes='ZYX'")
    volume = read_volume(path, axes="ZYX")
    assert volume.spatial_shape == (12, 10, 3)
    write_volume(tools.folder / "o.tif", volume.array, volume)
    with tifffile.TiffFile(tools.folder / "o.tif") as out:
        assert out.pages.first.photometric == 1
        assert len(out.pages) == 3


@row(34)
def _(tools):
    stack = np.arange(2 * 4 * 5 * 6, dtype=np.uint8).reshape(4, 2, 5, 6)
    volume = read_volume(tools.tiff(stack, imagej=True, metadata={"axes": "ZCYX"}))
    np.testing.assert_array_equal(volume.array, stack.transpose(1, 3, 2, 0))


@row(35)
def _(tools):
    metadata = {"axes": "ZYX", "spacing": 3.0, "unit": "um"}
    stack = ARRAY.transpose(2, 1, 0).astype(np.uint8)
    volume = read_volume(tools.tiff(stack, imagej=True, resolution=(2.0, 4.0), metadata=metadata))
    assert volume.spacing == pytest.approx((0.5, 0.25, 3))
    assert volume.unit == "um"
    read_volume(tools.tiff(stack, imagej=True, resolution=(2.0, 4.0), metadata={"axes": "ZYX", "unit": "um"}))
    tools.said("gives no distance between slices")


@row(36)
def _(tools):
    stack = ARRAY.transpose(2, 1, 0).astype(np.uint8)
    path = tools.tiff(stack, imagej=True, metadata={"axes": "TYX"})
    assert read_volume(path).spatial_shape == ARRAY.shape
    tools.said("marked as time; it is read as z")
    assert read_volume(path, axes="CYX").channels == 6


@row(37, 38)
def _(tools):
    volume = read_volume(tools.nifti())
    write_volume(tools.folder / "o.tif", ARRAY.astype(np.uint8), volume)
    np.testing.assert_array_equal(tifffile.imread(tools.folder / "o.tif"), ARRAY.transpose(2, 1, 0))
    assert read_volume(tools.folder / "o.tif").spatial_shape == ARRAY.shape


@row(39)
def _(tools):
    half = (ARRAY[..., 0].T / 64).astype(np.float16)
    volume = read_volume(tools.tiff(half))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0].T, half)


@row(40)
def _(tools):
    tools.refused(
        tools.nifti(array=np.stack([ARRAY, ARRAY], -1)), "does not say what the last is.*axes='XYZC'"
    )
    tools.refused(tools.nifti(array=ARRAY.astype(np.complex64)), "complex64 voxels are not supported")
    assert read_volume(tools.nifti(array=ARRAY[..., None])).array.shape == (1, *ARRAY.shape)
    colours = np.zeros(ARRAY.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert read_volume(tools.nifti(array=colours)).channels == 3


@row(41)
def _(tools):
    text = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n\n"
    (tools.folder / "a.nrrd").write_bytes(text.encode() + bytes(24))
    assert read_volume(tools.folder / "a.nrrd").spatial_shape == (2, 3, 4)
    tools.said("stores no orientation")


# 2.3 Values -------------------------------------------------------------------------------------------------


@row(42)
def _(tools):
    array = ARRAY.astype(np.float32)
    array[5, 5, 5], array[6, 5, 5] = np.nan, np.inf
    path = tools.nifti(array=array)
    tools.refused(path, "2 NaN or infinite voxels .the first at voxel 5, 5, 5.*nonfinite='replace'")
    assert np.isfinite(read_volume(path, nonfinite="replace").array).all()
    tools.said("2 NaN or infinite voxels .* replaced")


@row(43)
def _(tools):
    path = tools.nifti(array=np.full_like(ARRAY, 7))
    assert [(one.severity, one.what) for one in verify(path)] == [("warning", "it is 7 everywhere")]


@row(44)
def _(tools):
    for slope, inter in ((1 / 255, 0), (1, 5)):
        tools.refused(tools.nifti(scl_slope=slope, scl_inter=inter), "scales the stored numbers", labels=True)
    label_0 = read_volume(tools.nifti(scl_slope=0, scl_inter=5), labels=True)
    np.testing.assert_array_equal(label_0.array[0], ARRAY)


@row(45)
def _(tools):
    array = ARRAY.astype(np.float32)
    array[0, 0, 0] = 2.9999997
    assert read_volume(tools.nifti(array=array), labels=True).array[0, 0, 0, 0] == 3
    array[0, 0, 0] = 1.5
    tools.refused(tools.nifti(array=array), "1 fractional label .*such as 1.5", labels=True)


@row(46)
def _(tools):
    array = np.full((3, 4, 5), 2**24 + 1, np.int32)
    assert (read_volume(tools.nifti(array=array), labels=True).array == 2**24 + 1).all()


@row(47)
def _(tools):
    for value in (255, 4, -1):
        array = np.zeros((4, 4), np.int16)
        array[1, 2] = value
        with pytest.raises(InputError, match=rf"a.nii holds {value} \(1 voxel\).* knows 0 = a, 1 = b"):
            SCHEME.encode(array, source="a.nii")


@row(48)
def _(tools):
    indices = np.array([[0, 1], [2, 255]], np.uint8)
    for values, blank, dtype in (((0, 1, 300), 2, "u2"), ((-1, 0, 1), 255, "i2"), ((0, 1, 40000), 3, "u2")):
        scheme = LabelScheme(["a", "b", "c"], values, blank)
        decoded = scheme.decode(indices)
        assert decoded.dtype == np.dtype(dtype)
        for name in ("a.nii.gz", "a.tif", "a.nrrd", "a.mha"):
            write_volume(tools.folder / name, decoded, Volume(indices[None], np.eye(3)), overwrite=True)
            back = read_volume(tools.folder / name, labels=True).array
            assert back.dtype == decoded.dtype
            np.testing.assert_array_equal(back[0], decoded)


@row(49)
def _(tools):
    for dtype in (">u2", ">i8", ">f4", "<i8"):
        volume = read_volume(tools.nifti(array=ARRAY.astype(dtype)[::-1]))
        assert volume.array.dtype.isnative
        assert volume.array.flags.c_contiguous
        torch.from_numpy(volume.array)
        np.testing.assert_array_equal(volume.array[0], ARRAY[::-1])


@row(50)
def _(tools):
    tools.nifti()
    tools.refused(tools.folder / "b.nii", "there is no file .*Did you mean a.nii")
    (tools.folder / "volume").write_bytes(b"")
    tools.refused(tools.folder / "volume", "format cannot be known from the name")


# 2.4 Training -----------------------------------------------------------------------------------------------


def small_trainer(dataset, folder, **changes):
    torch.manual_seed(0)
    network = UNet(3, 3, 3, channels=[[2, 2]], norm="batch")
    settings = {"max_epochs": 1, "epoch_length": 4, "loss": SparseCrossEntropy(), "network": network}
    settings |= {"optimizer": torch.optim.SGD(network.parameters(), 0.01), "output_dir": folder}
    return trainer(device="cpu", dataset=dataset, **(settings | changes))


def patches(folder, transform=None, **options):
    transform = transform or RandDeformedPatchd(["image", "label"], patch_size=[12, 12, 12], context=4)
    return TrainingPatches(find_cases(folder), labels=SCHEME, in_channels=3, transform=transform, **options)


@row(51, 52)
def _(tools):
    for loss in (SparseCrossEntropy(), SparseDiceCE()):
        logits = torch.full((1, 3, 4, 4), torch.nan, requires_grad=True)
        value = loss(logits, torch.full((1, 1, 4, 4), IGNORE_INDEX))
        value.backward()
        assert value == 0
        assert (logits.grad == 0).all()
        target = torch.full((1, 1, 4, 4), IGNORE_INDEX)
        target[..., 0] = 1
        logits = torch.zeros((1, 3, 4, 4)).index_fill_(3, torch.tensor([2]), torch.nan).requires_grad_()
        value = loss(logits, target)
        value.backward()
        assert value.isfinite()
        assert (logits.grad[..., 1:] == 0).all()


@row(53)
def _(tools):
    folder = tools.dataset(cases=("a", "b"), suffix=".nii", size=(12, 12, 12))
    path = folder / "labels" / "b.nii"
    volume = read_volume(path, labels=True)
    write_volume(path, np.full_like(volume.array, 3), volume, overwrite=True)
    assert len(patches(folder).cases) == 1
    tools.said("b.nii has no annotated voxel")
    assert [one.what for one in verify(folder, expected=Expectations(SCHEME))] == ["no voxel is annotated"]


@row(54)
def _(tools):
    for size in ((5, 4, 3), (1, 7, 2)):
        image = torch.arange(float(np.prod(size))).reshape(1, *size)
        labels = torch.ones((1, *size), dtype=torch.uint8)
        draw = RandDeformedPatchd(["image", "label"], patch_size=[20, 20, 20], context=2, std=0.0)
        patch = draw.set_random_state(seed=0)({"image": image, "label": labels})
        assert patch["image"].shape == (1, 20, 20, 20)
        assert set(patch["label"].unique().tolist()) <= {1, IGNORE_INDEX}


@row(55)
def _(tools):
    """A slice is an image: a bundle for volumes says so; odd sizes fit any network."""
    folder = tools.dataset(suffix=".nii", size=(12, 12))
    said = [one.message for one in verify(folder, expected=Expectations(SCHEME, 3, 3))]
    assert any("it is 2D, the bundle's network is 3D" in message for message in said)
    with pytest.raises(ValueError, match="spatial|axes|2D|sizes"):
        patches(folder)[0]
    network = UNet(3, 1, 2, channels=[[2, 2], [2, 2]], norm="instance")
    for size in ((13, 7, 5), (9, 9, 1)):
        assert OverlapTileInferer()(torch.zeros(1, 1, *size), network).shape == (1, 2, *size)


@row(56)
def _(tools):
    network = UNet(2, 1, 2, channels=[[2, 2], [2, 2]], norm=None).eval()
    image = torch.rand(1, 1, 2, 3)
    assert OverlapTileInferer()(image, network).shape == (1, 2, 2, 3)


@row(57)
def _(tools):
    network = UNet(2, 1, 2, channels=[[2, 2]], norm=None)
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        OverlapTileInferer()(torch.rand(1, 1, 8, 8), network)
    with pytest.raises(ValueError, match="not finite"):
        save_checkpoint(tools.folder / "model.pt", {"model": network.state_dict()})
    assert not (tools.folder / "model.pt").exists()


@row(58)
def _(tools):
    assert mean_score(np.array([0.5, np.nan, 1.0])) == 0.75


@row(59)
def _(tools):
    dataset = patches(tools.dataset(size=(12, 12, 12)))
    with pytest.raises(ValueError, match="0 iterations: both must be 1 or more"):
        small_trainer(dataset, tools.folder / "run", epoch_length=0)


class _Dies(RandDeformedPatchd):
    """Ends the process that draws the third patch, if that is a worker."""

    def __call__(self, item):
        if multiprocessing.parent_process() is not None:
            self.drawn = getattr(self, "drawn", 0) + 1
            if self.drawn == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(item)


@row(60)
def _(tools):
    """Without the worker it goes on, to the same weights; tests/data/test_loader.py has crashes and hangs."""
    folder = tools.dataset(size=(12, 12, 12))
    weights = []
    for workers in (0, 1):
        transform = _Dies(["image", "label"], patch_size=[12, 12, 12], context=2)
        engine = small_trainer(
            patches(folder, transform), tools.folder / f"run{workers}", num_workers=workers
        )
        engine.run()
        weights.append(torch.cat([part.flatten() for part in engine.network.parameters()]))
    assert torch.equal(*weights)
    tools.said(
        r"SIGKILL, probably for lack of memory, while it drew a patch of .*images/a.tif; .* GB of memory"
    )


def _broken(item):
    raise KeyError("gone")


@row(61)
def _(tools):
    folder = tools.dataset(suffix=".nii", size=(12, 12, 12))
    with pytest.raises(
        InputError, match=r"images/a.nii: train#preprocessing: .* failed on a patch \(.*'gone'"
    ):
        patches(folder, Compose([_broken]))[0]
    with pytest.raises(InputError, match=r"images/a.nii: preprocessing: .* failed on an image \(.*'gone'"):
        WholeVolumes(find_cases(folder), labels=SCHEME, in_channels=3, preprocessing=Compose([_broken]))[0]
    (folder / "labels" / "a.nii").write_bytes(b"")
    with pytest.raises(InputError, match="a.nii"):
        patches(folder)
    with pytest.raises(InputError, match="labels/a.nii"):
        WholeVolumes(find_cases(folder), labels=SCHEME, in_channels=3)[0]


@row(62)
def _(tools):
    folder = tools.dataset(suffix=".nii", size=(12, 12, 12))
    path, cache = folder / "images" / "a.nii", tools.folder / "cache"
    assert verify(folder, cache=cache) == []
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-4:] = struct.pack("<f", np.nan)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "NaN" in verify(folder, cache=cache)[0].what
    for kept in cache.iterdir():
        kept.write_bytes(kept.read_bytes()[:9])
    assert "NaN" in verify(folder, cache=cache)[0].what


# 2.5 Resources: a full disk is planted for every writer in tests/io/test_outputs.py -------------------------


@row(63)
def _(tools):
    volume = read_volume(tools.nifti())
    write_volume(tools.folder / "o.nii", ARRAY, volume)
    before = (tools.folder / "o.nii").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(VolsegError, match="disk is full .* free in .*Nothing was changed") as caught:
            write_volume(tools.folder / "o.nii", ARRAY + 1, volume, overwrite=True)
    assert caught.value.exit_code == 4
    assert (tools.folder / "o.nii").read_bytes() == before
    assert sorted(path.name for path in tools.folder.glob("o*")) == ["o.nii"]


@row(64)
def _(tools):
    """Tiles shrink to the memory allowed, the result is the same, and the input is left alone."""
    network = UNet(2, 1, 2, channels=[[4, 4], [4, 4]], norm="batch").eval()
    image = torch.rand(1, 1, 200, 210)
    before = image.clone()
    whole = OverlapTileInferer()(image, network)
    torch.testing.assert_close(
        OverlapTileInferer(max_memory=2 << 20)(image, network), whole, atol=1e-5, rtol=0
    )
    assert torch.equal(image, before)
    with pytest.raises(VolsegError, match="memory") as caught:
        OverlapTileInferer(max_memory=1000)(image, network)
    assert caught.value.exit_code == 4


def test_two_images_of_one_name_are_refused(tools):
    """Of two inputs with the same name, one result would take the place of the other."""
    folder = tools.folder / "images"
    folder.mkdir()
    tools.nifti("images/a.nii")
    tools.nifti("images/a.nii.gz")
    with pytest.raises(InputError, match="share one name"):
        find_images(tools.folder)
