"""Everything that can be wrong with a data set, reported at once and before anything is trained on it."""

from volseg.data.verification.cases import Expectations, expectations
from volseg.data.verification.contents import odd_values
from volseg.data.verification.dataset import default_cache, require_sound, verify

__all__ = [
    "Expectations",
    "default_cache",
    "expectations",
    "odd_values",
    "require_sound",
    "verify",
]
