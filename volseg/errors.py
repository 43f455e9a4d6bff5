"""What volseg raises when the trouble is not a bug: in the data, the machine, or a request it refuses.

All of them are ``ValueError``s, so plain Python code may catch that. ``exit_code`` is what the
command line ends with: 3 for bad input, 4 for missing memory or disk, 5 for a refusal.
"""

__all__ = ["InputError", "RefusedError", "ResourceError", "VolsegError", "cause"]


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
    """The mendable error that ``error`` came from, if there is one in its chain.

    That is one of ours, or a ``ValueError`` that our own code raised about an argument, whatever MONAI
    wrapped it in.
    """
    while error is not None:
        if isinstance(error, VolsegError) or (type(error) is ValueError and _raised_here(error)):
            return error
        error = error.__cause__ or error.__context__
    return None


def _raised_here(error: BaseException) -> bool:
    """Whether the line that raised the error is one of this package."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith("volseg.")
