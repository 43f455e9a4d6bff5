"""What volseg raises when the trouble is not a bug: in the data, the machine, or a request it refuses.

All of them are ``ValueError``s, so plain Python code may catch that. ``exit_code`` is what the
command line ends with: 3 for bad input, 4 for missing memory or disk, 5 for a refusal. It ends with 1 for
a fault of volseg itself, with 2 for a command that is not understood, and with 130 when it is interrupted.
"""

import errno
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = [
    "DISK",
    "InputError",
    "RefusedError",
    "ResourceError",
    "VolsegError",
    "brief",
    "cause",
    "end_like_ctrl_c",
    "in_words",
    "theirs",
]


_OUT_OF_MEMORY = ("OutOfMemoryError", "can't allocate memory")  # torch's words, on a GPU and on a CPU
# MONAI's words about an entry, and the modules in which a bundle has begun to run.
_IN_A_BUNDLE = re.compile(r"Failed to (?:instantiate component ('[^']*')|evaluate \w+:\s*(.{1,120}))")
# What MONAI's networks and losses can do without until they are used.
_INSTALLED_BY = {name: f"pip install {name}" for name in ("einops", "scipy", "transformers")} | {
    "skimage": "pip install scikit-image",
    "torchvision": "install the build that fits your torch, from where torch came",
}
_MISSING = re.compile(r"No module named '([\w.]+)'")
_RUNNING = ("ignite.", "volseg.densification")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""The error numbers of a disk that is full, may not be written to, or fails."""


class VolsegError(ValueError):
    """A message of one to three sentences: what is wrong, why it matters, what to do."""

    exit_code = 3


class InputError(VolsegError):
    """A file, a dataset or a value in it cannot be used as it is."""


class ResourceError(VolsegError):
    """Memory or disk does not suffice."""

    exit_code = 4


class RefusedError(VolsegError):
    """The request would overwrite something, or run or read what it should not."""

    exit_code = 5


def cause(error: BaseException | None) -> BaseException | None:
    """The user-fixable error that ``error`` came from, if there is one in its chain.

    That is one of ours, or a ``ValueError`` that our own code raised about an argument, whatever MONAI
    wrapped it in.
    """
    while error is not None:
        if isinstance(error, VolsegError) or (type(error) is ValueError and _raised_here(error)):
            return error
        error = error.__cause__ or error.__context__
    return None


def in_words(error: BaseException, traceback: str = "its traceback") -> tuple[str, int]:
    """What to say to a person about an error, in one to three sentences, and the exit code.

    The code is 1 where it is a fault of ours, about which a person can do no more than report it.

    Args:
        traceback: what to report it with, by the way in which it is shown.
    """
    if isinstance(error, KeyboardInterrupt):
        return "interrupted.", 130
    fixable = cause(error)
    if fixable is not None:
        return str(fixable), getattr(fixable, "exit_code", VolsegError.exit_code)
    chain = list(_chain(error))
    for one in chain:
        if _of_memory(one):
            return "memory does not suffice. Close other programs, or take smaller patches or tiles.", 4
        if isinstance(one, OSError) and (one.filename is not None or one.errno in DISK):
            place = "" if one.filename is None else f"{one.filename}: "
            return f"{place}{one.strerror}. Check the disk, the folder and your rights.", 4
    parts = _of_a_bundle(chain, traceback)
    if parts is not None:
        return parts, VolsegError.exit_code
    return (
        f"{brief(chain[-1])}. This is a fault of volseg, not of your data: please report "
        f"it, with {traceback}.",
        1,
    )


@contextmanager
def theirs(entry: str, thing: object, deed: str) -> Iterator[None]:
    """Report what an object that a user chose raises as its own, with the entry of the bundle to look at.

    What volseg itself raises passes as it is, and so does want of memory or a file.

    Args:
        entry: of the bundle, such as ``loss``; ``thing`` is what stands there.
        deed: what it did, such as ``"refused an input of shape (1, 1, 8, 8)"``.
    """
    try:
        yield
    except Exception as error:
        chain = list(_chain(error))
        if cause(error) is not None or _raised_here(chain[-1]) or any(map(_of_the_machine, chain)):
            raise
        name = getattr(thing, "__name__", type(thing).__name__)
        raise InputError(f"{entry}: {name} {deed} ({brief(chain[-1])}). Change this entry.") from error


def brief(error: BaseException) -> str:
    """The kind of an error and the first line of what it says; of a package that is missing, which it is."""
    missing = _MISSING.search(str(error)) if isinstance(error, ImportError) else None
    if missing:
        package = missing[1].partition(".")[0]
        how = _INSTALLED_BY.get(package, "it is not installed, or lies in another folder")
        return f"it needs the package {package}: {how}"
    lines = (str(error).strip() or "no message").splitlines()
    return f"{type(error).__name__}: {lines[0][:300].rstrip('.')}"


def end_like_ctrl_c() -> None:
    """From now on SIGTERM, and SIGHUP of a terminal that is closed, interrupt as Ctrl-C does.

    So what is half-written is removed, and the exit code is 130. Who ignores a signal (``nohup``) or handles
    it is left alone; so are threads, in which no signal can be caught.
    """
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            try:
                signal.signal(number, _interrupt)
            except ValueError:
                return


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, as a traceback shows it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(text in repr(error) for text in _OUT_OF_MEMORY)


def _of_the_machine(error: BaseException) -> bool:
    return _of_memory(error) or isinstance(error, OSError)


def _of_a_bundle(chain: Sequence[BaseException], traceback: str) -> str | None:
    """What to say where MONAI could not build or evaluate an entry of a bundle, while nothing ran yet."""
    if any(name.startswith(_RUNNING) for name in _modules_of(chain[-1])):
        return None
    for one in reversed(chain):
        found = _IN_A_BUNDLE.match(str(one))
        if found:
            return (
                f"The bundle's {found[1] or found[2]} cannot be built ({brief(chain[-1])}). Change that "
                "entry; 'volseg check' says which it is. If it is right, please report this, with "
                f"{traceback}."
            )
    return None


def _modules_of(error: BaseException) -> Iterator[str]:
    """The modules that an error came through."""
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame.f_globals.get("__name__", "")
        traceback = traceback.tb_next


def _raised_here(error: BaseException) -> bool:
    """Whether the line that raised the error is one of this package."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith("volseg.")
