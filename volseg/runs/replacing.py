"""An old result stays whole until the new one is, and then the new one takes its place as a whole.

What is to replace a result is written into a hidden folder, the *stage*, beside it (in it, where no folder
can be made beside it). When all is there, a *mark* says so, and the two folders change names in one call of
the system. A kill at any moment leaves the old result or the new one under the name, never a mixture; what
it leaves beside is put right when the folder is opened again (:func:`settle`). Where the system cannot
exchange folders (Windows, some network drives, a folder that is mounted, or the current folder of a shell),
the files are replaced one by one, and a kill in between is made up for in the same way.

What a person put into the folder stays in it. A training whose successor is trained inside of its own folder
and a result of ``volseg densify`` are both replaced by this.
"""

import contextlib
import ctypes
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from volseg.arguments import option
from volseg.errors import ResourceError
from volseg.io import is_volume, read_json, write_json
from volseg.io.atomic import put_in_place

__all__ = ["install", "is_decided", "settle", "stage_of"]

logger = logging.getLogger(__name__)

_MARK = ".volseg-complete"
_OURS = (".lock", _MARK)
_AT_CWD = {"linux": -100, "darwin": -2}
_SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS


def stage_of(folder: Path) -> Path:
    """The hidden folder in which the successor of a result is made."""
    where = folder.resolve()
    inside, beside = where / ".volseg-new", where.with_name(f".{where.name}.volseg-new")
    if inside.is_dir() or os.path.ismount(where) or not os.access(where.parent, os.W_OK):
        return inside
    return beside


def install(
    stage: Path,
    folder: Path,
    replaced: Sequence[Path],
    moved: Path | None = None,
    *,
    apart: Sequence[str] = (),
) -> None:
    """Let what is on the stage take the place of a result.

    Args:
        replaced: what belongs to the old result, relative to ``folder``; everything else stays.
        moved: where the file of this name on the stage goes that has its place outside of the folder.
        apart: files on the stage that are not part of the new result.

    Raises:
        ResourceError: if the disk is full; the old result is whole then, and the new one on the stage.
    """
    fresh = [path.relative_to(stage) for path in _files(stage) if path.name not in apart]
    record = {
        "fresh": [path.as_posix() for path in fresh],
        "gone": [path.as_posix() for path in replaced if path not in fresh],
        "moved": None if moved is None else str(moved.resolve()),
    }
    try:
        _keep_others(folder, stage, {folder / path for path in replaced})
    except OSError as error:
        raise ResourceError(
            f"cannot replace {folder}: {error.strerror or error}. It is as it was; the new result lies in "
            f"{stage}. Free some space, and repeat the command with {option('resume', True)}."
        ) from error
    write_json(stage / _MARK, record, indent=None)
    settle(folder, stage)


def is_decided(folder: Path, stage: Path) -> bool:
    """Whether a replacement was decided and is not finished."""
    return (stage / _MARK).is_file() or (folder / _MARK).is_file()


def settle(folder: Path, stage: Path | None = None) -> bool:
    """Finish a replacement that was decided; whether there was one. Also what a kill interrupted.

    Args:
        stage: where it was made; :func:`stage_of` the folder if None.
    """
    stage = stage or stage_of(folder)
    if (stage / _MARK).is_file() and not _exchanged(stage, folder):
        _one_by_one(stage, folder)
    mark = folder / _MARK
    if not mark.is_file():
        return False
    record = read_json(mark)
    if record["moved"] is not None:
        moved = Path(record["moved"])
        with contextlib.suppress(FileNotFoundError):
            put_in_place(folder / moved.name, moved)
    shutil.rmtree(stage, ignore_errors=True)
    mark.unlink()
    logger.debug("%s is replaced.", folder)
    return True


def _exchanged(stage: Path, folder: Path) -> bool:
    """Exchange two folders in one step, if the system can and neither is the current folder of a process."""
    where = folder.resolve()
    if stage.parent != where.parent or Path.cwd().is_relative_to(where):
        return False
    name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform)
    call = None if name is None else getattr(ctypes.CDLL(None), name, None)
    if call is None:
        return False
    at = _AT_CWD[sys.platform]
    return call(at, os.fsencode(stage), at, os.fsencode(where), ctypes.c_uint(_SWAP)) == 0


def _one_by_one(stage: Path, folder: Path) -> None:
    """The same in as many steps as there are files; the mark comes last."""
    record = read_json(stage / _MARK)
    for name in record["gone"]:
        _forget(folder / name)
    for name in (*record["fresh"], _MARK):
        if os.path.lexists(stage / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            put_in_place(stage / name, folder / name)


def _files(folder: Path) -> Iterator[Path]:
    """Every file of a result; a folder that is an image counts as one."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not is_volume(path):
            yield from _files(path)
        elif path.name not in _OURS:
            yield path


def _keep_others(folder: Path, stage: Path, replaced: set[Path]) -> None:
    """Lay what a person put into the old folder onto the stage, too: both names are of the same file.

    A stage inside of the folder is never exchanged with it: what a person put there stays without that.
    """
    if stage.is_relative_to(folder):
        return
    for path in folder.rglob("*"):
        ours = path in replaced or any(parent in replaced for parent in path.parents)
        if ours or path.name in _OURS or ".partial-" in path.name:
            continue
        target = stage / path.relative_to(folder)
        if os.path.lexists(target):
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target, follow_symlinks=False)
        except OSError:  # a disk without hard links
            shutil.copy2(path, target, follow_symlinks=False)


def _forget(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
