"""Compiled functions find a folder to be kept in, or do without one; nothing of that ends a program."""

import logging
import os
import stat

import numba
import pytest
from numba.core import caching

from volseg import compiled, user


@pytest.fixture(autouse=True)
def nothing_known_yet(monkeypatch, tmp_path):
    """No folder was found and nothing was said before; temporary files go into a folder of this test."""
    user.own_temporary.cache_clear()
    compiled._say_once.cache_clear()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield
    user.own_temporary.cache_clear()
    compiled._say_once.cache_clear()


@pytest.fixture
def nowhere(monkeypatch):
    """Neither beside the source nor below HOME can anything be written."""
    refuse = classmethod(lambda cls, *_: None)
    for name in ("InTreeCacheLocator", "UserWideCacheLocator"):
        monkeypatch.setattr(getattr(caching, name), "from_function", refuse)


def double(x):
    return 2 * x


def test_numba_itself_ends_there(nowhere):
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(double)


def test_where_there_is_a_place_numba_chooses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "mine"))
    assert compiled.njit()(double)(3) == 6
    assert list((tmp_path / "mine").rglob("*.nbc"))
    assert not list((tmp_path / "temporary").iterdir())


def test_without_a_place_a_folder_of_ones_own_among_the_temporary_files_is_taken(nowhere, tmp_path, caplog):
    before = numba.config.CACHE_DIR
    function = compiled.njit(fastmath={"nsz"})(double)
    assert function(4) == 8
    (folder,) = (tmp_path / "temporary").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.rglob("*.nbc"))
    assert before == numba.config.CACHE_DIR
    assert caplog.text == ""


def others_can_write(folder):
    folder.mkdir()
    folder.chmod(0o777)


def is_a_link(folder):
    (folder.parent.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent.parent / "elsewhere")


def is_a_file(folder):
    folder.write_text("")


@pytest.mark.parametrize("made", [others_can_write, is_a_link, is_a_file])
def test_code_is_not_kept_where_somebody_else_could_put_some(nowhere, tmp_path, caplog, made):
    made(tmp_path / "temporary" / f"volseg-{os.getuid()}")
    with caplog.at_level(logging.WARNING):
        functions = [compiled.njit()(double) for _ in range(3)]
    assert [function(5) for function in functions] == [10, 10, 10]
    assert not [*tmp_path.rglob("*.nbc")]
    assert caplog.text.count("Compiled functions are not kept: there is no folder") == 1
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_a_full_disk_or_a_damaged_file_costs_time_only(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert compiled.njit()(double)(3) == 6
    for path in tmp_path.rglob("*.nb[ic]"):
        path.write_bytes(path.read_bytes()[:20])
    monkeypatch.setattr(caching.IndexDataCacheFile, "save", _full)
    with caplog.at_level(logging.WARNING):
        function = compiled.njit()(double)
        assert (function(3), function(0.5)) == (6, 1.0)
    assert "cannot be written to (No space left on device)" in caplog.text


def _full(*_):
    raise OSError(28, "No space left on device")


def test_without_a_home_no_folder_of_that_name_appears(tmp_path, monkeypatch, nowhere):
    """As for a user who is a number only, in a container without HOME."""
    from volseg.data.verification import default_cache

    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert compiled._numbas_own() is not None
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert compiled._numbas_own() is None
    assert compiled.njit()(double)(3) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    assert default_cache() is None
