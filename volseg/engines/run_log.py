"""The log of a run: everything volseg says from the start of the program to the end of the training."""

import logging
from collections import deque
from pathlib import Path

__all__ = ["close_log", "keep_log", "open_log"]

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
    if root.level == logging.NOTSET:  # nobody set up logging, as in a notebook: the file gets it all the same
        root.setLevel(logging.INFO)
