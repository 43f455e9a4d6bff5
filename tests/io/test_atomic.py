"""A file under its final name is complete: kills, full disks and exceptions leave the old file or none."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from volseg.errors import RefusedError, ResourceError
from volseg.io import Volume, atomic_write, write_volume


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_file_appears_only_at_the_end(tmp_path):
    target = tmp_path / "a.nii.gz"
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.nii.gz"]


@pytest.mark.parametrize("trouble", [RuntimeError, KeyboardInterrupt, RefusedError])
def test_an_exception_leaves_the_old_file(tmp_path, trouble):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted():
        with atomic_write(target, overwrite=True) as temporary:
            temporary.write_text("half")
            raise trouble("boom")

    with pytest.raises(trouble, match="boom"):
        interrupted()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_what_does_not_verify_is_not_kept(tmp_path):
    def verify(path):
        assert path.read_text() == "new"
        raise ResourceError("reads differently")

    with (
        pytest.raises(ResourceError, match="reads differently"),
        atomic_write(tmp_path / "a", verify=verify) as t,
    ):
        t.write_text("new")
    assert names(tmp_path) == []


def test_permissions_follow_the_umask(tmp_path):
    for umask, mode in [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)]:
        before = os.umask(umask)
        try:
            with atomic_write(tmp_path / "a", overwrite=True) as temporary:
                temporary.write_text("x")
        finally:
            os.umask(before)
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_an_existing_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RefusedError, match="a exists already.*overwrite=True"), atomic_write(tmp_path / "a"):
        pytest.fail("the body ran")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RefusedError, match="link exists already"), atomic_write(tmp_path / "link"):
        pytest.fail("the body ran")


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    def overtaken():
        with atomic_write(tmp_path / "a") as temporary:
            temporary.write_text("mine")
            (tmp_path / "a").write_text("theirs")

    with pytest.raises(RefusedError, match="exists already"):
        overtaken()
    assert (tmp_path / "a").read_text() == "theirs"


def test_folders_are_refused(tmp_path):
    with pytest.raises(RefusedError, match="it is a folder"), atomic_write(tmp_path, overwrite=True):
        pytest.fail("the body ran")
    with (
        pytest.raises(ResourceError, match="folder .*none does not exist"),
        atomic_write(tmp_path / "none" / "a"),
    ):
        pytest.fail("the body ran")


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("old")
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with atomic_write(tmp_path / "a", overwrite=True) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "elsewhere").read_text() == "old"
    assert not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said(tmp_path, code):
    with (
        pytest.raises(ResourceError, match="disk is full or the quota.*MB free"),
        atomic_write(tmp_path / "a"),
    ):
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


def test_a_full_disk_that_a_library_hides_is_said(tmp_path, monkeypatch):
    """torch reports it as 'unexpected pos 576 vs 534'."""
    monkeypatch.setattr("volseg.io.atomic.shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(ResourceError, match="disk is full"), atomic_write(tmp_path / "a"):
        raise RuntimeError("unexpected pos 576 vs 534")


def test_a_forbidden_folder_is_said(tmp_path, monkeypatch):
    def forbidden(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("volseg.io.atomic.os.open", forbidden)
    with (
        pytest.raises(ResourceError, match="Permission denied. Choose a folder"),
        atomic_write(tmp_path / "a"),
    ):
        pytest.fail("the body ran")


def test_other_peoples_errors_pass_unchanged(tmp_path):
    with pytest.raises(PermissionError, match="other"), atomic_write(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "other", "somewhere else")


def test_a_real_limit_on_file_size_leaves_the_old_file(tmp_path):
    """As a full disk: the writer fails half-way."""
    script = """
        import resource, signal, sys, numpy as np
        from volseg.errors import ResourceError
        from volseg.io import Volume, write_volume
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        array = np.random.default_rng(0).integers(0, 255, (30, 30, 30)).astype(np.uint8)
        for name in ("a.nii", "a.nii.gz", "a.tif"):
            try:
                write_volume(sys.argv[1] + "/" + name, array, Volume(array[None], np.eye(4)), overwrite=True)
            except ResourceError as error:
                assert "disk is full" in str(error), error
            else:
                raise SystemExit("no error")
    """
    for name in ("a.nii", "a.nii.gz", "a.tif"):
        (tmp_path / name).write_text("old")
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True, cwd=os.getcwd()
    )
    assert names(tmp_path) == ["a.nii", "a.nii.gz", "a.tif"]
    assert {p.read_text() for p in tmp_path.iterdir()} == {"old"}


def test_long_names_fit(tmp_path):
    target = tmp_path / ("ü" * 120 + ".nii.gz")
    with atomic_write(target) as temporary:
        temporary.write_text("x")
    assert target.exists()


def test_leftovers_of_the_dead_are_removed_and_of_the_living_kept(tmp_path):
    from volseg.io.atomic import _HOST

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid, host in [(dead.pid, _HOST), (os.getppid(), _HOST), (dead.pid, "other1")]:
        (tmp_path / f".a.nii.partial-{host}-{pid}-00000000.nii").write_text("half")
    with atomic_write(tmp_path / "a.nii") as temporary:
        temporary.write_text("x")
    alive, elsewhere = f"{_HOST}-{os.getppid()}", f"other1-{dead.pid}"
    kept = [f".a.nii.partial-{who}-00000000.nii" for who in (alive, elsewhere)]
    assert names(tmp_path) == sorted([*kept, "a.nii"])


@pytest.mark.slow
def test_killed_at_any_moment_the_file_is_whole(tmp_path):
    """SIGKILL while saving in a loop, 14 rounds."""
    script = """
        import sys
        from volseg.io import atomic_write
        for i in range(10**9):
            with atomic_write(sys.argv[1], overwrite=True) as temporary:
                with temporary.open("wb") as file:
                    for _ in range(40):
                        file.write(bytes([i % 256]) * 50_000)
                        file.flush()
            if i == 0:
                print("ready", flush=True)
    """
    target = tmp_path / "a.bin"
    rng = np.random.default_rng(0)
    for _ in range(14):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(target)],
            stdout=subprocess.PIPE,
            cwd=os.getcwd(),
        )
        child.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        data = target.read_bytes()
        assert len(data) == 2_000_000
        assert len(set(data)) == 1
    with atomic_write(target, overwrite=True) as temporary:
        temporary.write_text("x")
    assert names(tmp_path) == ["a.bin"]


def test_volumes_are_written_this_way(tmp_path):
    like = Volume(np.zeros((1, 3, 3), np.uint8), np.eye(3))
    write_volume(tmp_path / "a.tif", like.array, like=like)
    with pytest.raises(RefusedError, match="a.tif exists already"):
        write_volume(tmp_path / "a.tif", like.array, like=like)
    write_volume(tmp_path / "a.tif", like.array + 1, like=like, overwrite=True)
    assert names(tmp_path) == ["a.tif"]
