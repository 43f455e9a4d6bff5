"""The painting loop of one volume: paint, learn, see, correct; without any window.

:class:`Session` is what the page of ``volseg paint``, the napari widget and scripts speak to. Its folder is a
result folder of ``volseg densify``.
"""

from volseg.session.painting import ClassInfo
from volseg.session.session import Session

__all__ = ["ClassInfo", "Session"]
