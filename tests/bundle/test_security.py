"""Files from strangers run nothing, read nothing beside what they are, and write nothing where they like.

Every file here tries to make a canary: a file that exists afterwards if, and only if, the trick worked.
"""

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import volseg as package
from volseg.bundle import read_bundle, runnable
from volseg.bundle.trust import TARGETS, beyond_the_list
from volseg.cli import main
from volseg.data import find_cases
from volseg.errors import InputError, RefusedError
from volseg.io import Volume, read_volume, write_volume
from volseg.runs.checkpoint import load_checkpoint


@pytest.fixture
def canary(tmp_path):
    """The path that every trick tries to write to."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "the trick worked"


@pytest.fixture(autouse=True)
def _quiet(clean_process):
    """The commands set up logging; it is undone."""


class Trick:
    """Pickled, it calls ``open(path, 'w')`` when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


# Checkpoints ------------------------------------------------------------------------------------------------


def test_the_trick_works_on_a_careless_reader(tmp_path):
    pickle.loads(pickle.dumps(Trick(tmp_path / "canary"))).close()
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("forced", [False, True], ids=["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize("kind", ["in a checkpoint", "as a checkpoint", "zip slip"])
def test_a_checkpoint_is_data(tmp_path, canary, monkeypatch, kind, forced):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "model.pt"
    if kind == "in a checkpoint":
        torch.save({"model": {"w": torch.zeros(1)}, "note": Trick(canary)}, path)
    elif kind == "as a checkpoint":
        path.write_bytes(pickle.dumps(Trick(canary)))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../canary", "written")
            archive.writestr("archive/data.pkl", pickle.dumps(Trick(canary)))
            archive.writestr("archive/version", "3")
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)


# Bundles ----------------------------------------------------------------------------------------------------


def bundle(tmp_path, root, **entries):
    """A bundle of this repository with some entries changed or added."""
    folder = tmp_path / "foreign"
    folder.mkdir(exist_ok=True)
    content = json.loads((root / "bundles" / "xenopus.json").read_text(encoding="utf-8")) | entries
    (folder / "bundle.json").write_text(json.dumps(content))
    return folder / "bundle.json"


def tricks(canary):
    make = f"open('{canary}', 'w')"
    return {
        "an import": {"x": "$import antigravity"},
        "two imports": {"x": "$import volseg\nimport this"},
        "an import from": {"imports": ["$from os import system"]},
        "an expression": {"initialize": [f"${make}"]},
        "an import in an expression": {"device": f"$__import__('os').system('touch {canary}')"},
        "a target": {"x": {"_target_": "os.system", "command": f"touch {canary}"}, "initialize": ["@x"]},
        "a target in the network": {"network_def": {"_target_": "builtins.eval", "source": make}},
        "a target by reference": {"y": "os.system", "x": {"_target_": "@y", "command": f"touch {canary}"}},
        "a computed target": {"x": {"_target_": "$'os.' + 'system'", "command": f"touch {canary}"}},
        "a list of targets": {"x": {"_target_": ["os.system"]}},
        "requires": {"x": {"_target_": "volseg.UNet", "_requires_": f"${make}"}},
        "debug mode": {"network_def": {"_target_": "volseg.UNet", "_mode_": "debug"}},
        "disabled": {"x": {"_target_": "volseg.UNet", "_disabled_": f"${make}"}},
        "a way through an attribute": {"x": "$@labels.__class__.__init__.__globals__"},
        "a method of a path": {"x": "$@cases[0].image.unlink()"},
        "a call of what is there": {"x": "$@plan['f']('touch')"},
        "format": {"x": "$'{0.__class__}'.format(@labels)"},
        "an f-string": {"x": f"$f'{{{make}}}'"},
        "a lambda": {"x": f"$(lambda: {make})()"},
        "a comprehension": {"x": f"$[{make} for i in [1]]"},
        "torch.load": {"x": f"$torch.load('{canary}')"},
        "torch.hub": {"x": {"_target_": "torch.hub.load", "repo_or_dir": "x", "model": "y"}},
        "a macro": {"x": "%/etc/passwd"},
        "in the metadata": {"_meta_": {"version": f"${make}", "x": "$import antigravity"}},
        "writing a volume": {
            "x": {"_target_": "volseg.write_volume", "path": str(canary), "array": [[1]], "like": None}
        },
    }


NAMES = sorted(tricks("x"))


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_bundle_is_data(tmp_path, root, canary, name, capsys):
    path = bundle(tmp_path, root, **tricks(canary)[name])
    for command in ("predict", "train", "evaluate"):
        assert main([command, str(path)]) == 5
    said = capsys.readouterr().err
    assert "add --trust-bundle" in said
    assert "foreign/bundle.json is not run" in said
    assert len(said.splitlines()) == 3


def test_what_stands_beside_a_bundle_is_data(tmp_path, root, canary, capsys):
    """metadata.json is merged into a bundle, so an import in it would run."""
    path = bundle(tmp_path, root)
    path.with_name("metadata.json").write_text(json.dumps({"version": f"$open('{canary}', 'w')"}))
    assert main(["predict", str(path)]) == 5
    assert "_meta_#version evaluates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entries", "refused"),
    [
        ({"output_dir": "/tmp/elsewhere"}, True),
        ({"output_dir": "../elsewhere"}, True),
        ({"output_dir": "runs/../../elsewhere"}, True),
        ({"output_dir": "~/elsewhere"}, True),
        ({"output_dir": "C:/elsewhere"}, True),
        ({"output_dir": "\\\\host\\elsewhere"}, True),
        ({"output_dir": "@elsewhere", "elsewhere": "/tmp/elsewhere"}, True),
        ({"output_dir": "$@seed + '/../../elsewhere'"}, True),
        ({"output_dir": "$str('/tmp/elsewhere')"}, True),
        ({"phantom_dir": "/tmp/elsewhere"}, True),
        ({"output_dir": "runs/..hidden"}, True),
        ({"output_dir": "runs/mine"}, False),
        ({"dataset_dir": "/data/kidneys", "images": "/data/kidneys/imagesTs"}, False),
        ({"output_dir": "@bundle_root"}, False),
    ],
)
def test_a_foreign_bundle_writes_below_the_current_folder(tmp_path, root, entries, refused):
    found = beyond_the_list(read_bundle([bundle(tmp_path, root, **entries)]))
    assert bool(found) == refused
    assert all("writes to" in text for text in found)


def test_what_the_person_says_counts_instead_of_the_bundle(tmp_path, root):
    config = read_bundle([bundle(tmp_path, root, output_dir="/tmp/elsewhere", device="$torch.load('x')")])
    assert len(beyond_the_list(config)) > 2
    assert beyond_the_list(config, ["output_dir", "device"]) == []
    config = read_bundle([bundle(tmp_path, root, train={"x": "$exit()"})])
    assert any("exit" in text for text in beyond_the_list(config))
    assert not any("exit" in text for text in beyond_the_list(config, ["train"]))


def test_a_trusted_bundle_is_run_after_a_word(tmp_path, root, caplog):
    path = bundle(tmp_path, root, x="$print(1)")
    with pytest.raises(RefusedError, match="x evaluates '.print"), runnable([path], trust=False):
        pass
    with runnable([path], trust=True) as files:
        assert files == [path]
    assert "Trusted: x evaluates '$print(1)'" in caplog.text


def test_what_is_run_is_what_was_judged_and_nothing_beside_it(tmp_path, root):
    """MONAI puts a bundle's folder in front of the installed packages; the copy's folder is empty."""
    path = bundle(tmp_path, root)
    path.with_name("tensorboard.py").write_text("raise SystemExit('the trick worked')")
    with runnable([path], trust=False) as (copy,):
        path.write_text("{}")  # changed after it was judged
        assert [p.name for p in copy.parent.iterdir()] == ["bundle.json"]
        assert read_bundle([copy])["in_channels"] == 3
    assert not copy.parent.exists()


@pytest.mark.slow
def test_a_module_beside_a_bundle_is_not_imported(tmp_path, root, make_dataset):
    path = bundle(tmp_path, root)
    trick = "import pathlib; pathlib.Path(r'{}').touch()".format(tmp_path / "canary")
    for name in ("tensorboard", "matplotlib", "skimage"):
        path.with_name(f"{name}.py").write_text(trick)
    words = [str(path), str(root / "configs" / "smoke.json"), "--dataset_dir", str(make_dataset()),
             "--output_dir", str(tmp_path / "run")]  # fmt: skip
    code = f"import sys; from volseg.cli import main; sys.exit(main(['train', *{words!r}]))"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("folder", ["bundles", "configs"])
def test_this_repositorys_own_files_need_no_trust(root, folder):
    for path in sorted((root / folder).glob("*.json")):
        if path.name != "metadata.json":
            under = [root / "bundles" / "xenopus.json"] if folder == "configs" else []
            assert beyond_the_list(read_bundle([*under, path])) == [], path.name


def test_every_public_name_is_judged():
    """A new one goes into the list of volseg/bundle/judging.py, or here, if it could do harm."""
    not_for_strangers = {"volseg.Session", "volseg.load", "volseg.write_volume"}  # they write, or run others
    public = {f"volseg.{name}" for name in package.__all__}
    assert public - TARGETS == not_for_strangers


# Images and data sets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["nhdr", "nrrd", "mhd", "mha"])
def test_a_header_does_not_show_another_file(tmp_path, suffix, capsys):
    secret = tmp_path / "secret"
    secret.write_bytes(b"do not tell" * 20)
    folder = tmp_path / "data"
    folder.mkdir()
    for name in (str(secret), "../secret", "/etc/passwd"):
        nrrd = f"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 5 4\nencoding: raw\ndata file: {name}\n"
        mha = f"NDims = 2\nDimSize = 5 4\nElementType = MET_UCHAR\nElementDataFile = {name}\n"
        path = folder / f"a.{suffix}"
        path.write_text(mha if suffix[0] == "m" else nrrd)
        assert main(["info", str(path)]) == 5
        assert "is not opened" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../secret.nii", "/etc/passwd", "images/../../secret.nii"])
def test_a_list_of_cases_names_files_of_the_data_set_only(make_dataset, tmp_path, name):
    folder = make_dataset()
    (tmp_path / "secret.nii").write_bytes(b"")
    (folder / "dataset.json").write_text(json.dumps({"training": [{"image": name, "label": "labels/a.tif"}]}))
    with pytest.raises(RefusedError, match="outside the dataset, so it is not opened"):
        find_cases(folder)
    assert main(["info", str(folder)]) == 5


def archive(path, canary, kind):
    """An archive with a file that wants out of the folder it is unpacked into, and a link to do the same."""
    names = ("../canary", str(canary), "images/../../canary", "..\\canary")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, "written")
    else:
        with tarfile.open(path, "w:gz") as file:
            link = tarfile.TarInfo("out")
            link.type, link.linkname = tarfile.SYMTYPE, str(canary.parent)
            file.addfile(link)
            for name in (*names, "out/canary"):
                entry = tarfile.TarInfo(name)
                entry.size = 7
                file.addfile(entry, io.BytesIO(b"written"))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".json", ".pt", ".safetensors", ".nii.gz", ".tif"])
def test_an_archive_is_not_unpacked_whatever_it_is_called(tmp_path, canary, kind, suffix):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    path = archive(folder / "images" / f"a{suffix}", canary, kind)
    for words in (["predict", str(path)], ["check", str(path)], ["info", str(path)], ["verify", str(folder)],
                  ["verify", str(path)], ["export", str(path), "-o", str(tmp_path / "w.safetensors")],
                  ["convert", str(path), "-o", str(tmp_path / "a.nii")]):  # fmt: skip
        assert main(words) == 3, words
    assert {other.relative_to(folder) for other in folder.rglob("*")} == {
        Path("images"), Path("images") / path.name,
    }  # fmt: skip


def test_a_link_under_the_name_of_a_result_is_not_followed(tmp_path):
    precious = tmp_path / "precious.nii"
    precious.write_bytes(b"precious")
    (tmp_path / "results").mkdir()
    result = tmp_path / "results" / "a.nii"
    result.symlink_to(precious)
    array = np.zeros((3, 4), np.uint8)
    with pytest.raises(RefusedError, match="exists already"):
        write_volume(result, array, Volume(array[None], np.eye(3)))
    write_volume(result, array, Volume(array[None], np.eye(3)), overwrite=True)
    assert precious.read_bytes() == b"precious"
    assert not result.is_symlink()


def test_the_voxels_of_a_numpy_file_are_not_read_at_all(tmp_path, canary):
    np.save(tmp_path / "a.npy", np.array([Trick(canary)], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="the format cannot be known"):
        read_volume(tmp_path / "a.npy")


def test_entities_in_ome_metadata_are_not_expanded(tmp_path):
    xml = (
        '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "3.5">]><OME xmlns="http://www.openmicroscopy.org/'
        'Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" SizeX="5" '
        'SizeY="4" SizeZ="1" SizeC="1" SizeT="1" Type="uint8" PhysicalSizeX="&a;" PhysicalSizeY="&a;">'
        "<TiffData/></Pixels></Image></OME>"
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((4, 5), np.uint8), description=xml, metadata=None)
    assert read_volume(path).spacing == (1.0, 1.0)
    plain = xml.replace("&a;", "3.5").replace('<!DOCTYPE x [<!ENTITY a "3.5">]>', "")
    tifffile.imwrite(path, np.zeros((4, 5), np.uint8), description=plain, metadata=None)
    assert read_volume(path).spacing == (3.5, 3.5)


@pytest.mark.parametrize(
    "forbidden",
    ["extractall", "unpack_archive", "tarfile", "zipfile", "pickle.load", "weights_only=False", "import yaml",
     "shell=True", "os.system", "urlopen", "import SimpleITK", "LoadImage", "SaveImage"],
)  # fmt: skip
def test_the_package_has_no_such_door(root, forbidden):
    """It unpacks no archive, unpickles nothing, opens no shell and no address, and has readers of its own."""
    for path in (root / "volseg").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        if (path.parent.name, path.name) != ("bundle", "trust.py"):  # which names what it refuses
            assert not [line for line in lines if forbidden in line], path


def test_a_bomb_is_refused_before_it_goes_off(tmp_path):
    """A small file that unpacks to more than the header speaks of costs no memory."""
    import gzip
    import tracemalloc

    header = bytearray(352)
    struct.pack_into("<i8h", header, 0, 348, 0, 0, 0, 0, 0, 0, 0, 0)
    struct.pack_into("<8h", header, 40, 3, 4, 4, 4, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        file.write(bytes(header) + bytes(64))
        for _ in range(30):
            file.write(bytes(1 << 20))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(buffer.getvalue())
    tracemalloc.start()
    assert read_volume(path).spatial_shape == (4, 4, 4)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
