"""The hash of what a file, or a folder that is an image, holds."""

import hashlib
import os
from pathlib import Path

__all__ = ["digest"]


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
