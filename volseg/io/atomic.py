"""Files that are whole: written at once, and known again by what they hold.

The new content goes to a temporary file beside the target, is flushed to the disk, read back where the
caller says how, and only then takes the target's name. A kill, a full disk or Ctrl-C leaves the old
file or none. Volumes, checkpoints and reports all use this.
"""

import contextlib
import errno
import hashlib
import logging
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from volseg.arguments import option
from volseg.errors import RefusedError, ResourceError, VolsegError

__all__ = ["atomic_write", "digest", "put_in_place", "stamp"]

logger = logging.getLogger(__name__)

_MARK = ".partial"
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
)  # also where the system shows files, as /proc
_TRIES = 20  # to remove a folder
_ZARR = ("zarr.json", ".zgroup", ".zarray")  # a folder with one of these is an image


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    verify: Callable[[Path], object] | None = None,
    folder: bool = False,
) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there appears under ``path`` on success.

    With ``folder`` it is an empty folder, for an image in Zarr.

    The temporary file has the target's suffixes (so that writers which look at them work) and the
    permissions an ordinary new file would have. ``verify`` is called with the temporary path after the
    data are on the disk; if it raises, the target is left as it was.

    Leftovers of killed processes of this machine are removed when the same target is written again.
    """
    target = Path(path)
    _check_target(target, overwrite, folder)
    _remove_leftovers(target)
    temporary = _temporary_path(target)
    try:
        if folder:
            temporary.mkdir()
        else:
            mode = 0o666  # less the umask
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        yield temporary
        for part in temporary.rglob("*") if folder else (temporary,):
            if part.is_file():
                _flush(part)
        if verify is not None:
            verify(temporary)
        _check_target(target, overwrite, folder)
        put_in_place(temporary, target)
    except Exception as error:
        reason = error.__cause__ if isinstance(error, ResourceError) else error
        if not isinstance(reason, Exception) or isinstance(reason, VolsegError):
            raise
        trouble = _disk_trouble(reason, temporary, target)
        if trouble is None:
            raise
        raise trouble from error
    finally:
        _remove(temporary)


def put_in_place(temporary: Path, target: Path) -> None:
    """Give a complete file or Zarr folder its name; one that has the name already goes.

    A folder cannot replace another in one step: a kill between the two leaves none, never half of one.
    """
    if target.is_dir():
        old = _temporary_path(target)
        os.rename(target, old)
        os.rename(temporary, target)
        _remove(old)
    else:
        os.replace(temporary, target)
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        _flush(target.parent)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return
    for _ in range(_TRIES):  # where a chunk failed, Zarr's threads may still be writing others
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
        time.sleep(0.05)
        if not path.exists():
            return


def _check_target(target: Path, overwrite: bool, folder: bool) -> None:
    try:
        target.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ResourceError(
                f"cannot write {target}: the name is too long. Choose a shorter one."
            ) from error
    if folder and target.exists() and not any((target / name).is_file() for name in _ZARR):
        raise RefusedError(
            f"cannot write {target}: what stands there is no image in Zarr. Choose another name."
        )
    if target.is_dir() and not folder:
        raise RefusedError(f"cannot write {target}: it is a folder. Name a file.")
    if not overwrite and os.path.lexists(target):
        raise RefusedError(
            f"{target} exists already. Choose another name, or add {option('overwrite', True)} to replace it."
        )
    if not target.parent.is_dir():
        raise ResourceError(
            f"cannot write {target}: the folder {target.parent} does not exist. Create it first."
        )


def _temporary_path(target: Path) -> Path:
    """A hidden name that says which process on which machine it belongs to."""
    suffixes = "".join(s for s in target.suffixes[-2:] if len(s) <= 8)
    return target.with_name(f"{_prefix(target)}{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{suffixes}")


def _prefix(target: Path) -> str:
    """What the temporary names of one target share; long names are cut, then distinguished by a hash."""
    name = target.name
    raw = os.fsencode(name)  # a name may be no UTF-8
    if len(raw) > 120:
        name = name[:30] + hashlib.sha256(raw).hexdigest()[:16]
    return f".{name}{_MARK}-"


def _remove_leftovers(target: Path) -> None:
    """Delete temporary files of this target whose process, on this machine, no longer runs."""
    prefix = f"{_prefix(target)}{_HOST}-"
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if not entry.name.startswith(prefix):
                continue
            pid = entry.name[len(prefix) :].partition("-")[0]
            if pid.isdigit() and not _runs(int(pid)):
                _remove(Path(entry.path))
                logger.info("removed %s, left by a process that was killed", entry.name)


def _runs(pid: int) -> bool:
    if os.name != "posix":  # signal 0 would end the process on Windows
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _flush(path: Path) -> None:
    """Ask the system to put the file, or the folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDWR if os.name != "posix" and path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _trouble_with_more(path: Path) -> int | None:
    """The error number of writing a little more to a file, if that fails: torch, for one, gives none."""
    try:
        with (path / ".more" if path.is_dir() else path).open("ab") as file:
            file.write(bytes(1 << 20))
            file.flush()
    except OSError as error:
        return error.errno
    return None


def _disk_trouble(error: Exception, temporary: Path, target: Path) -> ResourceError | None:
    """The error in the user's words if the disk is to blame; some libraries hide ENOSPC in others."""
    number = error.errno if isinstance(error, OSError) else _trouble_with_more(temporary)
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError:
        free = None
    if number in _FULL or (number not in _REFUSED and free is not None and free < 1 << 16):
        left = "unknown" if free is None else f"{free / 1e6:.1f} MB"
        return ResourceError(
            f"cannot write {target}: the disk is full or the quota used up ({left} free in {target.parent}). "
            "Nothing was changed. Free some space or choose another folder."
        )
    ours = isinstance(error, OSError) and error.filename in (str(temporary), temporary, str(target), target)
    if ours and number in _REFUSED:
        return ResourceError(
            f"cannot write {target}: {os.strerror(number)}. Choose a folder you may write to."
        )
    return None


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the names and hashes of its files."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file_path in sorted(path.rglob("*")):
        if file_path.is_file():
            name = os.fsencode(file_path.relative_to(path).as_posix())
            whole.update(name + f"\0{digest(file_path)}\n".encode())
    return whole.hexdigest()


def stamp(path: Path) -> str:
    """What changes when a file is written to, or to one in a folder; quick, it reads no content.

    A file that is not there has a stamp, too.
    """
    facts = hashlib.sha256()
    for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            state = part.stat()
            known = f"{state.st_size} {state.st_mtime_ns} {state.st_ino}" if not part.is_dir() else ""
        except OSError:
            known = "gone"
        facts.update(os.fsencode(part) + f"\0{known}\n".encode())
    return facts.hexdigest()
