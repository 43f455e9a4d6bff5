"""What volseg raises when the trouble is not a bug: in the data, the machine, or a request it refuses.

All of them are ``ValueError``s, so plain Python code may catch that. ``exit_code`` is what the
command line ends with: 3 for bad input, 4 for missing memory or disk, 5 for a refusal.
"""

__all__ = ["InputError", "RefusedError", "ResourceError", "VolsegError"]


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
