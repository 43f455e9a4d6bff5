"""A user without a name or a home, as in a container that is started for a user of another number.

Libraries ask who runs them and keep small things below HOME. MONAI cannot even be imported where the user
is a number only, and matplotlib, which MONAI draws in, reports at every start that it found no folder and
lists all fonts again; elsewhere it announces at its first start that it does so. Nothing of this is a reason
not to segment: before either is imported, they are given a name and a folder of the user's own among the
temporary files.
"""

import logging
import os
import stat
from functools import cache
from pathlib import Path

__all__ = ["has_home", "make_do", "own_temporary"]


def make_do() -> None:
    """Set LOGNAME and MPLCONFIGDIR where nothing else helps, here and for processes started from here.

    What matplotlib says of its list of fonts, at its first start, is not passed on; its warnings are.
    """
    logging.getLogger("matplotlib.font_manager").addFilter(_is_not_of_the_font_cache)
    if not any(map(os.environ.get, ("LOGNAME", "USER", "LNAME", "USERNAME"))):  # where getpass looks first
        try:
            import pwd

            pwd.getpwuid(os.getuid())
        except (KeyError, ImportError):
            os.environ["LOGNAME"] = str(os.getuid())
    if "MPLCONFIGDIR" not in os.environ and not _keeps(os.environ.get("XDG_CONFIG_HOME") or "~/.config"):
        folder = own_temporary()
        if folder is not None:
            os.environ["MPLCONFIGDIR"] = str(Path(folder, "matplotlib"))


def _is_not_of_the_font_cache(record: logging.LogRecord) -> bool:
    return "building the font cache" not in record.getMessage()


def has_home() -> bool:
    """Whether ``~`` means a folder; else it would be one called ``~`` in the current folder."""
    return os.path.isabs(os.path.expanduser("~"))


@cache
def own_temporary() -> str | None:
    """A folder among the temporary files that no one else can write to: what lies in it is run."""
    import tempfile  # as "volseg --help" need not wait for it

    folder = Path(tempfile.gettempdir(), f"volseg-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return str(folder) if own else None


def _keeps(place: str) -> bool:
    """Whether something can be made in a folder, which need not be there yet."""
    path = os.path.expanduser(place)
    if not os.path.isabs(path):
        return False
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
