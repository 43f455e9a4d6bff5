"""A folder, or a result in it, belongs to one run at a time."""

import os
from contextlib import suppress
from pathlib import Path

from volseg.arguments import option
from volseg.errors import RefusedError, ResourceError
from volseg.io.text import open_shared

__all__ = ["PAINT_LOCK", "claim", "release", "renew", "require_free", "take_lock"]

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_HELD: dict[Path, int] = {}  # by this process
_LOCK = ".lock"
PAINT_LOCK = ".paint.lock"
"""Of a session of painting, which a run of its own may work beside."""


def claim(folder: Path, argument: str = "output_dir", *, lock: str = _LOCK) -> bool:
    """Take a folder; the system gives it back when the process ends, however it ends.

    Args:
        argument: that another folder is chosen with.
        lock: the name of the lock, where several things in the folder can be taken, each by another process.

    Returns:
        whether it was taken now: not if this process has it already, or the system knows no locks.

    Raises:
        RefusedError: if a run of another process has it.
        ResourceError: if the folder cannot be written to.
    """
    path = folder.resolve() / lock
    if fcntl is None or path in _HELD:
        return False
    try:
        handle = open_shared(path)
    except OSError as error:
        raise ResourceError(
            f"cannot write in {folder}: {error.strerror}. Choose a folder you may write to "
            f"({option(argument)})."
        ) from error
    if not take_lock(handle):
        holder = os.pread(handle, 20, 0).decode(errors="replace")
        os.close(handle)
        raise RefusedError(
            f"{folder} is in use by another run (process {holder}). Wait for it, or choose another "
            f"{option(argument)}."
        )
    if not _is_there(handle, path):  # the other run has just ended, and taken its file along
        os.close(handle)
        return claim(folder, argument, lock=lock)
    _HELD[path] = handle
    with suppress(OSError):  # on a full disk no one gets the number
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
    return True


def require_free(folder: Path, argument: str = "output_dir", *, lock: str) -> None:
    """Whether no other process has a folder; it is not taken.

    Two that each take a lock of their own and then ask for the other's are never both let in.

    Raises:
        RefusedError: if a run of another process has it.
        ResourceError: if the folder cannot be written to.
    """
    if claim(folder, argument, lock=lock):
        release(folder, lock=lock)


def renew(folder: Path, argument: str = "output_dir", *, lock: str = _LOCK) -> None:
    """Take a folder that this process has once more, if it was deleted and made again meanwhile.

    Raises:
        RefusedError: if a run of another process has it by now.
    """
    path = folder.resolve() / lock
    handle = _HELD.get(path)
    if handle is None or _is_there(handle, path):
        return
    del _HELD[path]
    try:
        claim(folder, argument, lock=lock)
    except BaseException:
        _HELD[path] = handle
        raise
    os.close(handle)


def release(folder: Path, *, lock: str = _LOCK) -> None:
    """Give a folder back, if this process has it."""
    path = folder.resolve() / lock
    handle = _HELD.pop(path, None)
    if handle is not None:
        path.unlink(missing_ok=True)
        os.close(handle)


def take_lock(handle: int) -> bool:
    """Lock an open file for this process, until it is closed; whether no other process has it.

    Where the system or the file system knows no locks, the file counts as free.
    """
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that knows no locks
        pass
    return True


def _is_there(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
