"""Compiled functions, kept on disk wherever there is a place for them.

numba compiles a loop for seconds and keeps the result in NUMBA_CACHE_DIR, beside the source or below HOME. In
a container none of the three may be there: the installation is read-only, HOME is missing, full or somebody
else's, the user is a number without a name. numba then fails at import, or at the first call. Nothing of
this is a reason not to segment, so it goes on here with a folder of one's own among the temporary files, and
without any in the end.
"""

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numba

from volseg.user import has_home, own_temporary

__all__ = ["njit"]

logger = logging.getLogger(__name__)

_config: Any = numba.config


def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``numba.njit`` without the interpreter's lock, whose results are kept on disk if that is possible.

    Args:
        options: further ones of ``numba.njit``, such as ``fastmath``.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        given = _config.CACHE_DIR
        for find in (_numbas_own, own_temporary):
            folder = find()
            if folder is None:
                continue
            _config.CACHE_DIR = folder
            try:
                return _forgiving(numba.njit(nogil=True, cache=True, **options)(function))
            except (RuntimeError, OSError):  # "cannot cache function: no locator available"
                continue
            finally:
                _config.CACHE_DIR = given
        _say_once("there is no folder to keep them in")
        return numba.njit(nogil=True, **options)(function)

    return decorate


def _numbas_own() -> str | None:
    """The folder numba is given to use, empty if it shall choose; None if it would choose badly."""
    given: str = _config.CACHE_DIR
    return given if given or "XDG_CACHE_HOME" in os.environ or has_home() else None


def _forgiving(function: Any) -> Any:
    """The function, with a cache that does without where a file of it is damaged, or cannot be written."""
    kept = function._cache
    load, save = kept.load_overload, kept.save_overload

    def load_overload(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # of a damaged file numba and pickle raise anything
            return None

    def save_overload(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError as error:
            kept.disable()
            _say_once(f"their folder cannot be written to ({error.strerror})")

    kept.load_overload, kept.save_overload = load_overload, save_overload
    return function


@cache
def _say_once(why: str) -> None:
    logger.warning(
        "Compiled functions are not kept: %s. Every start compiles them again, which takes about 20 "
        "seconds; set NUMBA_CACHE_DIR to a folder that can be written to.",
        why,
    )
