"""The beginning of a run: seeds, errors that a person can read, the log, and which bundle is running.

The bundle is handed over by whoever runs it, and kept with the results. MONAI gives components the parts of
a configuration, never the whole, and no expression of a bundle can name the whole (a reference to everything
refers to itself). The workflow that runs it knows: its ``run`` is wrapped, once, so that it says what it runs
for as long as it runs.
"""

import functools
import logging
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from volseg.arguments import as_entry, come_through
from volseg.errors import end_like_ctrl_c, in_words
from volseg.machine import use_allowed_threads

__all__ = [
    "announce_bundles",
    "begin",
    "close_log",
    "is_monais_command",
    "keep_log",
    "open_log",
    "report_errors_briefly",
    "running_bundle",
    "while_running",
]

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
    """Begin the run of a bundle: every generator seeded, threads as many as allowed, what is said remembered.

    The log of the run begins with what was said since, and its folder keeps the bundle, see
    :mod:`volseg.runs.log`. Where MONAI's command is the program, and only there, see also
    :func:`report_errors_briefly`.
    """
    set_determinism(seed)
    keep_log()
    use_allowed_threads()
    announce_bundles()
    if is_monais_command():
        report_errors_briefly()


def report_errors_briefly() -> None:
    """Let bad input and signals end this program with their message and exit code instead of a traceback.

    MONAI reports whatever goes wrong while it builds a component as "Failed to instantiate", forty
    lines below the cause. Here the cause is what is shown, if it is one that a user can fix.
    Messages name arguments as entries of the bundle.
    """
    come_through(as_entry)
    end_like_ctrl_c()
    warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning)
    sys.excepthook = _show


def is_monais_command() -> bool:
    """Whether this program is ``python -m monai.bundle``, by torchrun or not."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "monai.bundle.__main__"


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """A traceback for faults of ours only; the exit code is that of the command ``volseg``."""
    words, code = in_words(error)
    if code == 1:
        sys.__excepthook__(kind, error, traceback)
    else:
        logger.error("%s", words)
    sys.exit(code)


_running: ContextVar[dict[str, Any] | None] = ContextVar("volseg_running_bundle", default=None)


def running_bundle() -> dict[str, Any] | None:
    """The configuration that was handed over, overlays and overrides applied; ``None`` outside a bundle."""
    return _running.get()


@contextmanager
def while_running(config: Mapping[str, Any]) -> Iterator[None]:
    """Within, trainings keep this as their ``config.json``; what MONAI calls ``_meta_`` aside."""
    token = _running.set({key: value for key, value in config.items() if key != "_meta_"})
    try:
        yield
    finally:
        _running.reset(token)


def announce_bundles() -> None:
    """From now on each bundle that MONAI's workflow runs is handed over while it runs."""
    plain = ConfigWorkflow.run
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def run(workflow: ConfigWorkflow) -> Any:
        with while_running(workflow.parser.get()):
            return plain(workflow)

    ConfigWorkflow.run = run
