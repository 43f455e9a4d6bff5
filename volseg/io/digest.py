"""The hash of what a file, or a folder that is an image, holds, and what changes when it is written to."""

import hashlib
import os
from pathlib import Path

__all__ = ["digest", "stamp"]


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
    """What changes when somebody writes to a file, or to one in a folder; quick, it reads no content.

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
