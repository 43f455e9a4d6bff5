"""The templates in ``templates/``, filled in; apart from the page, as its charts are templates, too.

Whatever a person named or wrote is escaped, in attributes and in the scripts' JSON (jinja2's autoescape).
A name that a template asks for and does not get is an error.
"""

import math
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from volseg.annotation import numbered
from volseg.geometry import AXES
from volseg.report.colours import MARK, SERIES, SERIES_ON_BLACK, line_style

__all__ = ["render"]

_MAX_SLICES = 6  # that a finding offers to jump to


def render(template: str, **values: Any) -> str:
    """The text that a template makes of values."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("volseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters |= {"figure": _figure, "line_style": line_style}
    environment.globals |= {"AXES": AXES, "MAX_SLICES": _MAX_SLICES, "numbered": numbered}
    environment.globals |= {"MARK": MARK, "SERIES": SERIES, "SERIES_ON_BLACK": SERIES_ON_BLACK, "zip": zip}
    return environment


def _figure(value: float | None) -> str:
    """A score as the page shows it."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"
