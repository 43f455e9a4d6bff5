"""A folder belongs to one run at a time."""

import os
from pathlib import Path

from volseg.errors import RefusedError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["claim", "release"]

_HELD: dict[Path, int] = {}  # by this process


def claim(folder: Path, option: str = "--output_dir") -> None:
    """Take a folder; the system gives it back when the process ends, however it ends.

    Args:
        option: that another folder is chosen with.

    Raises:
        RefusedError: if a run of another process has it.
    """
    if fcntl is None or folder.resolve() in _HELD:
        return
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 20, 0).decode(errors="replace")
        os.close(handle)
        raise RefusedError(
            f"{folder} is in use by another run (process {holder}). Wait for it, or choose another {option}."
        ) from None
    except OSError:  # a file system that knows no locks
        os.close(handle)
        return
    if not _is_there(handle, folder / ".lock"):  # the other run has just ended, and taken its file along
        os.close(handle)
        claim(folder, option)
        return
    os.truncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    _HELD[folder.resolve()] = handle


def release(folder: Path) -> None:
    """Give a folder back, if this process has it."""
    handle = _HELD.pop(folder.resolve(), None)
    if handle is not None:
        (folder / ".lock").unlink(missing_ok=True)
        os.close(handle)


def _is_there(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
