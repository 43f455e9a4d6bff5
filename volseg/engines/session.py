"""What happens before a bundle builds anything: seeds, and errors that a person can read."""

import logging
import sys
import warnings
from types import TracebackType

from monai.utils import set_determinism

from volseg.engines.run_log import keep_log
from volseg.engines.threads import use_allowed_threads
from volseg.errors import end_like_ctrl_c, in_words

__all__ = ["begin"]

logger = logging.getLogger(__name__)


def begin(seed: int) -> None:
    """Seed every generator, and let bad input end a bundle run with its message instead of a traceback.

    MONAI reports whatever goes wrong while it builds a component as "Failed to instantiate", forty
    lines below the cause. Here the cause is what is shown, if it is one that a user can mend.
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
