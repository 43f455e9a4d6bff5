"""``session.json``: on which image a session paints, and which files of its folder it has written itself.

A folder may hold files of the person, too, even the image. So a session replaces only what it wrote, and what
was not changed since: it notes a hash of every file. Of the image it notes a hash of the middle of some
slices, so that its paint is not shown on another one of the same size, and size and time of its files, so
that a change elsewhere in them is reported.
"""

import hashlib
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from volseg.arguments import option
from volseg.errors import InputError, ResourceError
from volseg.io import digest, read_json, write_json
from volseg.session.folder import Folder, Image

__all__ = ["About", "same_file"]

logger = logging.getLogger(__name__)

_WINDOW = 512  # voxels along the axes of a slice that are looked at
_SLICES = 5


class About:
    """What ``session.json`` of a folder says, and a session notes there.

    Attributes:
        spacing: voxel size that was given for the image, of a session or a result of densify.
        paint: the file with paint that the session started from.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        found = read_json(folder.about) if folder.about.is_file() else {"written": {}}
        self._content: dict[str, Any] = found if isinstance(found, dict) else {}
        self.spacing: str | Sequence[float] | None = self._content.get("spacing")
        if not folder.about.is_file():
            self.spacing = folder.spacing_of_result()
        paint = self._content.get("paint")
        self.paint = Path(paint) if isinstance(paint, str) else None

    def check(self, image: Image) -> None:
        """Whether a session here is one on this image.

        Raises:
            InputError: if it is on another one.
        """
        size, channels = self._content.get("size"), self._content.get("channels")
        if size is not None and list(size) != list(image.size):
            raise InputError(
                f"{self.folder.path} holds paint for an image of {' x '.join(map(str, size))} voxels, and "
                f"{image.name} has {' x '.join(map(str, image.size))}. Choose another folder "
                f"({option('output')})."
            )
        if channels is not None and channels != image.channels:
            raise InputError(
                f"{self.folder.path} holds paint for an image of {channels} channels, and {image.name} has "
                f"{image.channels}. Choose another folder ({option('output')})."
            )
        before, now = self._paths(), [str(path.resolve()) for path in image.files]
        if self._content.get("content") not in (None, _content_of(image)):
            raise InputError(
                f"{self.folder.path} holds paint for an image with other values: {_in_words(before)} when it "
                f"was painted, {_in_words(now)} now. Choose another folder ({option('output')}); if the "
                f"paint belongs to both, start there from the file with paint in {self.folder.path}."
            )
        if before == now and any(map(_is_changed, image.files, self._content.get("image") or [])):
            logger.warning(
                "%s was written again since it was painted on. It is the same on the slices that are "
                "compared; if it is another image elsewhere, choose another folder (%s).",
                _in_words(now),
                option("output"),
            )
        if before and now and before != now:
            logger.info("%s is now at %s; it is the same image.", _in_words(before), _in_words(now))

    def note(self, image: Image, spacing: str | Sequence[float] | None, paint: Path | None) -> None:
        """Note which image it is, how it is read, and the paint to start from; nothing if that is noted."""
        self.paint = paint
        content: dict[str, Any] = {"image": [_facts_of(path) for path in image.files]}
        content |= {"size": list(image.size), "channels": image.channels, "content": _content_of(image)}
        content |= {"spacing": spacing if spacing is None or isinstance(spacing, str) else list(spacing)}
        content |= {"paint": None if paint is None else str(paint.resolve())}
        if self._content != self._content | content or not self.folder.about.is_file():
            self._content |= content
            with suppress(ResourceError) if self.folder.about.is_file() else nullcontext():
                write_json(self.folder.about, self._content)  # on a full disk the folder opens all the same

    def may_replace(self, path: Path) -> bool:
        """Whether a file of the folder is not there, or as this session wrote it."""
        if not os.path.lexists(path):
            return True
        if same_file(path, self.paint, *map(Path, self._paths())):
            return False
        written = self._content.get("written")
        if written is None:  # an earlier volseg did not note it
            return True
        return path.name in written and written[path.name] in (None, digest(path))

    def free_name(self, stem: str, suffix: str) -> Path:
        """The first name that may be used: with ``_2``, ``_3`` where a file of the person has it."""
        numbers = ("", *(f"_{number}" for number in range(2, 1000)))
        names = (self.folder.path / f"{stem}{number}{suffix}" for number in numbers)
        return next(filter(self.may_replace, names))

    def is_result_replaceable(self) -> bool:
        """Whether what densify would replace here is of densify or of this session."""
        settings = self.folder.path / "settings.json"
        if self.may_replace(settings):
            return settings.is_file()
        with suppress(InputError, OSError):
            content = read_json(settings)
            return isinstance(content, dict) and "choices" in content
        return False

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """A file of the folder is written within; it is known for this session's own from then on."""
        known: dict[str, str | None] = self._content.setdefault("written", {})
        before = dict(known)
        known[path.name] = None  # a kill leaves the old file or the new one
        try:
            write_json(self.folder.about, self._content)
            yield
            known[path.name] = digest(path)
        except BaseException:
            self._content["written"] = before
            with suppress(ResourceError):
                write_json(self.folder.about, self._content)
            raise
        write_json(self.folder.about, self._content)

    def _paths(self) -> list[str]:
        entries = self._content.get("image") or []
        return [str(one["path"]) for one in entries if isinstance(one, dict) and "path" in one]


def same_file(path: Path, *others: Path | None) -> bool:
    """Whether a file is one of some others, by whatever name."""
    return os.path.exists(path) and any(  # also of names that no file can have
        other is not None and other.exists() and path.samefile(other) for other in others
    )


def _facts_of(path: Path) -> dict[str, Any]:
    """Where a file lies, its bytes, and when it was written last, in nanoseconds."""
    facts = path.stat()
    return {"path": str(path.resolve()), "bytes": facts.st_size, "modified": facts.st_mtime_ns}


def _is_changed(path: Path, before: Any) -> bool:
    """Whether a file is not as it was noted; an earlier volseg did not note it."""
    return isinstance(before, dict) and "modified" in before and before != _facts_of(path)


def _content_of(image: Image) -> str:
    """A hash of some slices of an image, quick for one of any size; it does not depend on how values are
    stored."""
    window = [slice((n - min(n, _WINDOW)) // 2, (n + min(n, _WINDOW)) // 2) for n in image.size[:2]]
    layers: list[list[slice]] = [[]]
    if len(image.size) == 3:
        places = np.linspace(0, image.size[2] - 1, _SLICES).astype(int)
        layers = [[slice(place, place + 1)] for place in map(int, np.unique(places))]
    found = hashlib.sha256(f"{image.channels} {image.size}".encode())
    for layer in layers:
        block = tuple(itertools.chain([slice(0, image.channels)], window, layer))
        with np.errstate(all="ignore"):
            values = np.ascontiguousarray(image.voxels[block], np.float32)
        found.update(values.tobytes())
    return found.hexdigest()


def _in_words(paths: Sequence[str]) -> str:
    return ", ".join(paths) or "an array in memory"
