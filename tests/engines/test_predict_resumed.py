"""What belongs to an image appears together, of one image only, and a stopped run goes on with the others."""

import errno
import logging
import multiprocessing
import os
import time
from importlib import import_module
from itertools import product

import numpy as np
import pytest
import torch
from monai.transforms import Compose, NormalizeIntensityd

from volseg.data import WholeVolumes, find_images
from volseg.engines import predictor
from volseg.engines.predictor import Batch, described
from volseg.errors import InputError, RefusedError, ResourceError
from volseg.inferers import OverlapTileInferer
from volseg.io import Volume, stamp, tiff, write_volume
from volseg.io.blocks import open_blocks
from volseg.labels import LabelScheme
from volseg.networks import UNet
from volseg.runs.checkpoint import save_checkpoint
from volseg.streaming.journal import Journal

ROOM = import_module("volseg.engines.predictor")  # beside it there is the function
SCHEME = LabelScheme(["a", "b", "c"], [10, 20, 30], 3)
CHANGED = "was changed, replaced or removed while it was being segmented, so no result is written"
WAYS = pytest.mark.parametrize("blockwise", [False, True], ids=["memory", "blocks"])


@pytest.fixture
def segment(tmp_path):
    """Segments what lies in the folder ``images``; gives the folder of the results."""
    (tmp_path / "images").mkdir()

    def run(seed=0, **options):
        torch.manual_seed(seed)
        network = UNet(3, 1, 3, channels=[(3, 4), (4, 5)], norm="batch")
        save_checkpoint(tmp_path / "model.pt", {"model": network.state_dict(), "iteration": 1})
        dataset = WholeVolumes(
            find_images(tmp_path / "images"), labels=SCHEME, in_channels=1,
            preprocessing=NormalizeIntensityd(keys="image", channel_wise=True),
        )  # fmt: skip
        predictor(
            device="cpu", dataset=dataset, network=network,
            inferer=OverlapTileInferer(8, batch_norm="volume"),
            checkpoint=tmp_path / "model.pt", output_dir=tmp_path / "out", **options,
        ).run()  # fmt: skip
        return tmp_path / "out"

    return run


def put_image(path, seed=0, size=(21, 17, 12)):
    array = np.random.default_rng(seed).integers(0, 200, size).astype(np.uint8)
    write_volume(path, array, Volume(array[None], np.diag([0.5, 0.5, 2.0, 1.0]), "mm"), overwrite=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# --- an image that changes meanwhile ---------------------------------------------------------------


def replace(path):
    put_image(path, seed=9)


def overwrite_in_place(path):
    file = (
        next(p for p in sorted(path.rglob("*")) if "c" in p.parts[-4:] and p.is_file())
        if path.is_dir()
        else path
    )
    content = file.read_bytes()
    with file.open("r+b") as handle:
        handle.seek(len(content) // 2)
        handle.write(bytes(64))


def cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def remove(path):
    path.rename(path.with_name("elsewhere"))


def same_size_and_date(path):
    """Another file in its place that nobody can tell apart by looking at the folder."""
    state = path.stat()
    put_image(path, seed=9)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        *product([".nii", ".tif", ".mha"], [replace, overwrite_in_place, cut, remove, same_size_and_date]),
        *product([".ome.zarr"], [replace, overwrite_in_place, remove]),  # a folder
    ],
)
@pytest.mark.parametrize("after", [1, 17])
def test_of_an_image_that_changes_under_the_tiles_there_is_no_result(
    tmp_path, segment, monkeypatch, change, suffix, after
):
    """The last of the 18 tiles has been read ahead by then: that is found out at the end."""
    if "zarr" in suffix:
        pytest.importorskip("zarr")
    image = tmp_path / "images" / f"a{suffix}"
    put_image(image)
    note = Journal.note

    def noting(self, tile):
        note(self, tile)
        if len(self.done) == after:
            change(image)

    monkeypatch.setattr(Journal, "note", noting)
    with pytest.raises(InputError, match=CHANGED):
        segment(blockwise=True, probabilities=True)
    assert [name for name in names(tmp_path / "out") if not name.startswith(".predict")] == []


@pytest.mark.slow
@pytest.mark.parametrize("change", [replace, overwrite_in_place, cut, remove])
def test_nor_of_one_that_changes_while_it_is_in_memory(tmp_path, segment, monkeypatch, change):
    image = tmp_path / "images" / "a.tif"
    put_image(image)
    plain = ROOM.segment

    def changing(*words):
        change(image)
        return plain(*words)

    monkeypatch.setattr(ROOM, "segment", changing)
    with pytest.raises(InputError, match=CHANGED):
        segment(probabilities=True)
    assert [name for name in names(tmp_path / "out") if not name.startswith(".predict")] == []


def test_a_file_becomes_shorter_while_it_is_read(tmp_path):
    put_image(tmp_path / "a.nii")
    source = open_blocks(tmp_path / "a.nii")
    with (tmp_path / "a.nii").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="has become shorter while it was read"):
        source[(slice(0, 1), slice(0, 21), slice(0, 17), slice(6, 12))]


def test_a_stamp_changes_with_whatever_is_written(tmp_path):
    folder = tmp_path / "a.zarr"
    (folder / "c").mkdir(parents=True)
    (folder / "c" / "0").write_bytes(b"1")
    seen = {stamp(folder), stamp(folder / "c" / "0"), stamp(tmp_path / "none")}
    (folder / "c" / "1").write_bytes(b"2")
    seen.add(stamp(folder))
    time.sleep(0.02)  # the system's clock for files has steps
    (folder / "c" / "1").write_bytes(b"3")
    seen.add(stamp(folder))
    assert len(seen) == 5
    assert stamp(folder) in seen


# --- one that was stopped --------------------------------------------------------------------------


@pytest.mark.slow
@WAYS
def test_the_same_command_goes_on_with_the_images_that_are_left(
    tmp_path, segment, monkeypatch, caplog, blockwise
):
    caplog.set_level(logging.INFO)
    for seed, name in enumerate("abc"):
        put_image(tmp_path / "images" / f"{name}.nii", seed)
    whole = segment(blockwise=blockwise, probabilities=True).rename(tmp_path / "whole")
    finish, begin = Batch.finish, Batch.begin

    def interrupted(self, number):
        begin(self, number)
        if number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            segment(blockwise=blockwise, probabilities=True)
    assert "The same command goes on with the images that are left" in caplog.text
    first = (tmp_path / "out" / "a.nii").stat()
    done = []
    monkeypatch.setattr(Batch, "finish", lambda self, number: [done.append(number), finish(self, number)])
    out = segment(blockwise=blockwise, probabilities=True)
    assert done == [1, 2]
    assert "a.nii is finished already: passed over" in caplog.text
    assert (out / "a.nii").stat().st_mtime_ns == first.st_mtime_ns
    assert names(out) == names(whole)
    for path in whole.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(RefusedError, match=r"a\.nii exists already and is not overwritten"):
        segment(blockwise=blockwise, probabilities=True)  # everything was done: nothing is left to go on with


def test_killed_between_two_files_of_an_image_it_is_done_again(tmp_path, segment, monkeypatch):
    put_image(tmp_path / "images" / "a.tif")
    whole = segment(probabilities=True).rename(tmp_path / "whole")
    plain = ROOM.write_volume

    def killed(path, *words, **more):
        plain(path, *words, **more)
        if "probabilities" in path.name:
            raise KeyboardInterrupt  # it has its name, the classes do not

    with monkeypatch.context() as patch:
        patch.setattr(ROOM, "write_volume", killed)
        with pytest.raises(KeyboardInterrupt):
            segment(probabilities=True)
    assert "a_probabilities.tif" in names(tmp_path / "out")
    out = segment(probabilities=True)
    assert names(out) == names(whole)
    for path in whole.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("other", ["weights", "image", "result", "settings"])
def test_what_another_command_has_made_is_not_passed_over_and_not_replaced(
    tmp_path, segment, monkeypatch, other
):
    for seed, name in enumerate("ab"):
        put_image(tmp_path / "images" / f"{name}.nii", seed)
    plain = ROOM.segment

    def interrupted(image, *words):
        if (tmp_path / "out" / "a.nii").exists():
            raise KeyboardInterrupt
        return plain(image, *words)

    with monkeypatch.context() as patch:
        patch.setattr(ROOM, "segment", interrupted)
        with pytest.raises(KeyboardInterrupt):
            segment()
    if other == "image":
        put_image(tmp_path / "images" / "a.nii", 7)
    if other == "result":
        (tmp_path / "out" / "a.nii").unlink()
        (tmp_path / "out" / "a.nii").write_bytes(b"somebody else's")
        book = next((tmp_path / "out").glob(".predict*.journal"))
        book.write_bytes(b"")
    before = (tmp_path / "out" / "a.nii").read_bytes()
    options = {"seed": 5} if other == "weights" else {"blockwise": True} if other == "settings" else {}
    with pytest.raises(RefusedError, match=r"a\.nii exists already and is not overwritten"):
        segment(**options)
    assert (tmp_path / "out" / "a.nii").read_bytes() == before
    segment(**options, overwrite=True)
    assert names(tmp_path / "out") == ["a.nii", "b.nii"]


@WAYS
@pytest.mark.parametrize("then", ["fewer", "more", "others", "anew"])
def test_other_images_go_on_with_what_is_finished_and_leave_no_journal(
    tmp_path, segment, monkeypatch, caplog, then, blockwise
):
    caplog.set_level(logging.INFO)
    for seed, name in enumerate("abc"):
        put_image(tmp_path / "images" / f"{name}.nii", seed)
    begin = Batch.begin

    def damaged(self, number):
        begin(self, number)
        if number == 1:
            raise InputError("b.nii is damaged.")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "begin", damaged)
        with pytest.raises(InputError, match="is damaged"):
            segment(blockwise=blockwise)
    assert any(name.endswith(".journal") for name in names(tmp_path / "out"))
    first = (tmp_path / "out" / "a.nii").stat().st_mtime_ns
    if then == "fewer":
        (tmp_path / "images" / "b.nii").unlink()  # the one that is damaged
    if then == "more":
        put_image(tmp_path / "images" / "d.nii", 3)
    if then == "others":
        (tmp_path / "images").rename(tmp_path / "first")
        (tmp_path / "images").mkdir()
        put_image(tmp_path / "images" / "d.nii", 3)
        assert len([name for name in names(segment(blockwise=blockwise)) if "journal" in name]) == 1
        (tmp_path / "images" / "d.nii").unlink()
        (tmp_path / "images").rmdir()
        (tmp_path / "first").rename(tmp_path / "images")
    out = segment(blockwise=blockwise, overwrite=then == "anew", seed=5 if then == "anew" else 0)
    assert all(name.endswith(".nii") for name in names(out))
    if then != "anew":
        assert "a.nii is finished already: passed over" in caplog.text
        assert (out / "a.nii").stat().st_mtime_ns == first


def _hold(folder, held):
    book = Batch(folder, ["0"], [[folder / "a.nii"]])
    book.start()
    held.set()
    time.sleep(600)


def test_two_commands_that_segment_the_same_images_are_not_at_it_at_once(tmp_path, segment):
    put_image(tmp_path / "images" / "a.nii")
    context = multiprocessing.get_context("fork")
    held = context.Event()
    first = context.Process(target=_hold, args=(tmp_path / "out", held), daemon=True)
    first.start()
    assert held.wait(60)
    with pytest.raises(
        RefusedError, match=rf"in use by another run \(process {first.pid}\).*the same images"
    ):
        segment()
    first.kill()
    first.join()
    assert names(segment()) == ["a.nii"]


# --- a full disk -----------------------------------------------------------------------------------


def test_where_the_probabilities_find_no_room_no_classes_are_left(tmp_path, segment, monkeypatch):
    put_image(tmp_path / "images" / "a.tif")
    plain = tiff.tifffile.imwrite

    def full(path, *words, **more):
        if "_probabilities" in os.path.basename(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return plain(path, *words, **more)

    monkeypatch.setattr(tiff.tifffile, "imwrite", full)
    with pytest.raises(
        ResourceError, match=r"cannot write .*a_probabilities.tif: the disk is full.*Nothing was ch"
    ):
        segment(probabilities=True)
    assert [name for name in names(tmp_path / "out") if not name.startswith(".predict")] == []
    monkeypatch.undo()
    assert names(segment(probabilities=True)) == ["a.tif", "a_probabilities.tif"]


def test_where_tiles_find_no_room_it_is_said_what_is_kept(tmp_path, segment, monkeypatch):
    put_image(tmp_path / "images" / "a.nii")
    note = Journal.note

    def full(self, tile):
        if len(self.done) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        note(self, tile)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "note", full)
        with pytest.raises(
            ResourceError,
            match=r"cannot write .*out/a.nii: No space left.*3 tiles are kept in .*\.a\.nii\.unfinished\.nii "
            r"and \.a\.nii\.journal; the same command resumes",
        ):
            segment(blockwise=True)
    assert names(segment(blockwise=True)) == ["a.nii"]


def test_where_the_packed_file_finds_no_room_its_beginning_goes(tmp_path, segment, monkeypatch):
    put_image(tmp_path / "images" / "a.nii.gz")

    def full(source, into, *_):
        into.write(source.read(99))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        with pytest.raises(
            ResourceError, match=r"cannot write .*a\.nii\.gz: No space left.*18 tiles are kept"
        ):
            segment(blockwise=True)
    kept = [name for name in names(tmp_path / "out") if not name.startswith(".predict")]
    assert kept == [".a.nii.gz.journal", ".a.nii.gz.unfinished.nii"]
    assert names(segment(blockwise=True)) == ["a.nii.gz"]


def test_where_nothing_could_be_begun_nothing_is_kept(tmp_path, segment, monkeypatch):
    put_image(tmp_path / "images" / "a.nii")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(ResourceError, match=r"cannot make .*unfinished\.nii, which needs .* GB"):
        segment(blockwise=True)
    assert [name for name in names(tmp_path / "out") if not name.startswith(".predict")] == []


# --- what a result depends on ----------------------------------------------------------------------


def test_settings_are_told_in_the_same_words_every_time():
    def make(nonzero):
        return Compose([NormalizeIntensityd(keys="image", nonzero=nonzero), torch.nn.Identity(), len])

    assert described(make(False)) == described(make(False))
    assert described(make(False)) != described(make(True))
    assert described(OverlapTileInferer(8)) != described(OverlapTileInferer(16))
