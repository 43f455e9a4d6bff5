"""The beginning of a run: seeds, errors that a person can read, and the log of what is said."""

import logging
import sys
import warnings
from collections import deque
from pathlib import Path
from types import TracebackType

from monai.utils import set_determinism

from volseg.errors import end_like_ctrl_c, in_words
from volseg.machine import use_allowed_threads

__all__ = ["begin", "close_log", "keep_log", "open_log"]

logger = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_KEPT = 1000  # log records, at most, from before the file is open


class _Keeper(logging.Handler):
    """Log records from before there is a file for them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def keep_log() -> None:
    """From now on what volseg says is remembered, until a run's folder is open: it belongs into that log."""
    root = logging.getLogger("volseg")
    _forget()
    root.addHandler(_Keeper())
    _listen(root)


def open_log(path: Path) -> None:
    """What volseg says goes into this file, too, and what was remembered comes first."""
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter(_FORMAT))
    close_log()
    root = logging.getLogger("volseg")
    for record in _forget():
        handler.handle(record)
    root.addHandler(handler)
    _listen(root)


def close_log() -> None:
    """The run is over: what the program does afterwards is not part of its log."""
    root = logging.getLogger("volseg")
    for old in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(old)
        old.close()


def _forget() -> list[logging.LogRecord]:
    root = logging.getLogger("volseg")
    records: list[logging.LogRecord] = []
    for handler in [handler for handler in root.handlers if isinstance(handler, _Keeper)]:
        root.removeHandler(handler)
        records += handler.records
    return records


def _listen(root: logging.Logger) -> None:
    if root.level == logging.NOTSET:  # no one set up logging, as in a notebook: the file gets it all the same
        root.setLevel(logging.INFO)


def begin(seed: int) -> None:
    """Seed every generator, and let bad input end a bundle run with its message instead of a traceback.

    MONAI reports whatever goes wrong while it builds a component as "Failed to instantiate", forty
    lines below the cause. Here the cause is what is shown, if it is one that a user can fix.
    What is said from now on is remembered, for the log of the run. Threads are as many as allowed.
    """
    set_determinism(seed)
    end_like_ctrl_c()
    keep_log()
    use_allowed_threads()
    warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning)
    sys.excepthook = _show


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """A traceback for faults of ours only; the exit code is that of the command ``volseg``."""
    words, code = in_words(error)
    if code == 1:
        sys.__excepthook__(kind, error, traceback)
    else:
        logger.error("%s", words)
    sys.exit(code)
