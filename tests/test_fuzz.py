"""Damaged files of every format, read by the thousand: no crash, no hang, no other error than our own.

The mutants are seeded, so a failure can be repeated. They are read in a process of its own, because a
decoder that is written in C may take the whole process with it.
"""

import contextlib
import json
import random
import subprocess
import sys
import zlib
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - what everybody calls it
import tifffile

from volseg.errors import InputError
from volseg.io import read_volume

ARRAY = np.random.default_rng(0).integers(0, 50, (12, 10, 6)).astype(np.int16)
HANG = 5.0  # seconds that one file may take


def _itk(path: Path, *, packed: bool) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path), packed)


def _tiff(path: Path, **options: object) -> None:
    tifffile.imwrite(path, ARRAY.transpose(2, 1, 0).astype(np.uint16), photometric="minisblack", **options)


def _jpeg(path: Path) -> None:
    smooth = (np.add.outer(np.arange(40), np.arange(48)) * 3 % 256).astype(np.uint8)
    path.write_bytes(imagecodecs.jpeg8_encode(np.stack([smooth, smooth[::-1], smooth // 2], 2)))


FORMATS = {
    "nii.gz": lambda p: nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), p),
    "nii": lambda p: nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), p),
    "imagej.tif": lambda p: _tiff(p, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"}),
    "ome.tif": lambda p: _tiff(p, ome=True, metadata={"axes": "ZYX", "PhysicalSizeZ": 2.0}),
    "lzw.tif": lambda p: _tiff(p, compression="lzw", metadata={"axes": "ZYX"}),
    "zstd.tif": lambda p: _tiff(p, compression="zstd", metadata={"axes": "ZYX"}),
    "nrrd": lambda p: _itk(p, packed=False),
    "gz.nrrd": lambda p: _itk(p, packed=True),
    "mha": lambda p: _itk(p, packed=False),
    "zlib.mha": lambda p: _itk(p, packed=True),
    "png": lambda p: p.write_bytes(imagecodecs.png_encode(ARRAY[..., 0].astype(np.uint8))),
    "jpg": _jpeg,
}
SEALED = {"nii.gz", "png"}  # a checksum covers the header, too
CHECKED = {"nii.gz", "gz.nrrd", "zlib.mha", "png"}  # a checksum covers every voxel


@pytest.fixture(params=FORMATS)
def whole(request, tmp_path):
    """A good file of a format."""
    path = tmp_path / f"whole.{request.param}"
    FORMATS[request.param](path)
    return path


def test_no_cut_is_accepted(whole, figure):
    """At 49 places; and of the last bytes only those that were filling may be missing."""
    data = whole.read_bytes()
    voxels = read_volume(whole).array
    for end in (len(data) * i // 50 for i in range(1, 50)):
        whole.write_bytes(data[:end])
        with pytest.raises(InputError):
            read_volume(whole)
    for end in range(len(data) - 8, len(data)):
        whole.write_bytes(data[:end])
        with contextlib.suppress(InputError):
            np.testing.assert_array_equal(read_volume(whole).array, voxels)
    figure(f"cut {whole.name.removeprefix('whole.')}: 49 of 49 refused")


@pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
def test_no_cut_beside_a_header_is_accepted(tmp_path, suffix, packed):
    path = tmp_path / f"a.{suffix}"
    _itk(path, packed=packed)
    assert read_volume(path).spatial_shape == ARRAY.shape[::-1]
    (voxels,) = (other for other in tmp_path.iterdir() if other != path)
    for part in (path, voxels):
        data = part.read_bytes()
        for end in (len(data) * i // 50 for i in range(1, 50)):
            part.write_bytes(data[:end])
            with pytest.raises(InputError):
                read_volume(path)
        part.write_bytes(data)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut out, double or exchange a few places, headers more often than voxels."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        where = rng.randrange(min(len(out), rng.choice((64, 400, len(out)))))
        kind = rng.randrange(6)
        if kind <= 1:
            out[where] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[where] = rng.choice((0, 1, 127, 128, 255, 0x30 + rng.randrange(10), rng.randrange(256)))
        elif kind == 3:
            out[where : where + 4] = rng.choice(
                (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"9999")
            )
        elif kind == 4:
            del out[where : where + rng.randrange(1, 9)]
        else:
            out[where:where] = out[where : where + rng.randrange(1, 9)]
    return bytes(out)


READER = """
import json, logging, pathlib, sys, time, zlib
from volseg.errors import VolsegError
from volseg.io import read_volume

logging.disable(logging.CRITICAL)
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    began = time.perf_counter()
    try:
        result = zlib.crc32(read_volume(path, nonfinite="replace").array.tobytes())
    except VolsegError as error:
        result = "refused" if 1 <= len(str(error).splitlines()) <= 3 else f"many lines: {error}"
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    print(json.dumps([path.name, result, time.perf_counter() - began]), flush=True)
"""


def outcomes(folder: Path) -> dict[str, tuple[object, float]]:
    """What a process of its own makes of each file in a folder, and in how many seconds."""
    command = [sys.executable, "-W", "ignore", "-c", READER, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    last = run.stdout.splitlines()[-1:]
    assert run.returncode == 0, f"the reader died ({run.returncode}) after {last}: {run.stderr[-800:]}"
    return {name: (result, seconds) for name, result, seconds in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("rounds", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_no_mutant_crashes_hangs_or_raises_what_is_not_ours(tmp_path, figure, rounds):
    mutants = tmp_path / "mutants"
    mutants.mkdir()
    for name, write in FORMATS.items():
        path = tmp_path / f"whole.{name}"
        write(path)
        data, rng = path.read_bytes(), random.Random(f"{name} {rounds}")
        for i in range(rounds):
            (mutants / f"{i:04d}.{name}").write_bytes(mutate(data, rng))
    found = outcomes(mutants)
    assert len(found) == rounds * len(FORMATS)
    wrong = {
        name: result for name, (result, _) in found.items() if isinstance(result, str) and result != "refused"
    }
    assert not wrong, wrong
    assert max(seconds for _, seconds in found.values()) < HANG
    for name in FORMATS:
        results = [found[f"{i:04d}.{name}"][0] for i in range(rounds)]
        assert results.count("refused") > rounds // 10, f"{name}: hardly anything was refused"
        if name in SEALED:
            assert set(results) <= {"refused", zlib.crc32(read_volume(tmp_path / f"whole.{name}").array)}, (
                name
            )
        slowest = max(found[f"{i:04d}.{name}"][1] for i in range(rounds))
        told = f"{results.count('refused')} refused, the others read; the slowest took {slowest:.2f} s"
        figure(f"{rounds} mutants of {name}: {told}")


@pytest.mark.parametrize("rounds", [60, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(CHECKED))
def test_no_damage_changes_a_voxel_where_there_is_a_checksum(tmp_path, figure, name, rounds):
    """One flipped bit each, anywhere: refused, or the voxels are what they were."""
    path = tmp_path / f"a.{name}"
    FORMATS[name](path)
    data, rng = path.read_bytes(), random.Random(name)
    voxels = read_volume(path).array
    begin = {"gz.nrrd": data.find(b"\n\n"), "zlib.mha": data.find(b"LOCAL")}.get(name, 0)
    refused = 0
    for _ in range(rounds):
        mutant = bytearray(data)
        mutant[rng.randrange(begin, len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(mutant)
        try:
            back = read_volume(path).array
        except InputError:
            refused += 1
            continue
        np.testing.assert_array_equal(back, voxels)
    assert refused > rounds // 2
    figure(f"one bit of {name}, {rounds} times: {refused} refused, {rounds - refused} read, 0 other voxels")
