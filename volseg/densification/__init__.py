"""From a few painted slices to the whole volume in one call: learnt, scored, written, reported."""

from volseg.densification.reporting import Densified
from volseg.densification.workflow import densify

__all__ = ["Densified", "densify"]
