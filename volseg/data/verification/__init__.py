"""Everything that can be wrong with a data set, reported at once and before anything is trained on it."""

from volseg.data.verification.contents import odd_values
from volseg.data.verification.dataset import default_cache, require_sound, verify
from volseg.data.verification.expectations import Expectations, expectations

__all__ = [
    "Expectations",
    "default_cache",
    "expectations",
    "odd_values",
    "require_sound",
    "verify",
]
