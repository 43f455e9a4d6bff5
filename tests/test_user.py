"""A user who is only a number, has no home, or cannot write to it, can use all of volseg."""

import logging
import os
import stat
import subprocess
import sys

import pytest

from volseg import user
from volseg.user import has_home, make_do, own_temporary

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture(autouse=True)
def somebody(monkeypatch, tmp_path):
    """A user with a name and a home of this test; temporary files go beside it."""
    for folder in ("home", "temporary"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for name in (*NAMES, "MPLCONFIGDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    own_temporary.cache_clear()
    yield
    own_temporary.cache_clear()


@pytest.fixture
def number(monkeypatch):
    """The user has no entry in the system's list."""
    pwd = pytest.importorskip("pwd", reason="Windows has names only")

    def fail(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("USER")
    monkeypatch.setattr(pwd, "getpwuid", fail)


def test_of_somebody_with_a_name_and_a_home_nothing_is_changed(tmp_path):
    before = dict(os.environ)
    make_do()
    assert dict(os.environ) == before
    assert not list((tmp_path / "temporary").iterdir())


def test_a_user_without_a_name_gets_that_of_the_number(number):
    make_do()
    assert os.environ.pop("LOGNAME") == str(os.getuid())  # pop: monkeypatch knows nothing of it


@pytest.mark.parametrize("home", [None, "relative", "/proc/no one", "/dev/null/home"])
def test_without_a_home_pictures_keep_their_fonts_in_a_folder_of_ones_own(
    monkeypatch, number, tmp_path, home
):
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(user.os, "access", lambda path, _: not path.startswith("/proc"))
    make_do()
    del os.environ["LOGNAME"]
    folder = tmp_path / "temporary" / f"volseg-{os.getuid()}"
    assert os.environ.pop("MPLCONFIGDIR") == str(folder / "matplotlib")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_was_chosen_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/no one")
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    make_do()
    assert os.environ["MPLCONFIGDIR"] == "mine"
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "not there yet"))
    make_do()
    assert "MPLCONFIGDIR" not in os.environ


def test_a_home_is_known_by_its_path(monkeypatch, number):
    assert has_home()
    monkeypatch.delenv("HOME")
    assert not has_home()


@pytest.mark.slow
def test_such_a_user_can_import_monai(root):
    """MONAI asks for a name at import; the system's list of users is replaced before that."""
    code = (
        "import pwd\n"
        "def fail(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
        "pwd.getpwuid = fail\n"
        "import volseg, monai.config.deviceconfig as found\n"
        "print(found.USER)"
    )
    environment = {name: text for name, text in os.environ.items() if name not in (*NAMES, "HOME")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{os.getuid()}\n", "")


def test_the_first_start_of_matplotlib_is_not_announced_and_its_warnings_are(caplog):
    fonts = logging.getLogger("matplotlib.font_manager")
    fonts.warning("Matplotlib is building the font cache; this may take a moment.")
    fonts.warning("findfont: Font family not found.")
    assert [record.getMessage() for record in caplog.records] == ["findfont: Font family not found."]
