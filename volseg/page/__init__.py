"""The painting page: a server for this machine's browser, and what runs in the browser.

:func:`serve` is what ``volseg paint`` does. The page shows slices that it fetches one by one, never the
volume, so how large that is matters to the server alone.
"""

from volseg.page.serving import serve

__all__ = ["serve"]
