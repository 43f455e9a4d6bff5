"""One HTML page about a result, whole in itself: it opens from the disk, asks no network for anything.

It is made of the templates in ``templates/``, which escape whatever a person named or wrote. The page also
forbids itself any connection and any script but its own (Content-Security-Policy), so that a class name or a
path with markup in it stays text even if an escape were forgotten.
"""

import base64
import hashlib
import os
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from volseg.annotation import annotated_slices
from volseg.io import write_text
from volseg.report.colours import class_colours
from volseg.report.embedding import Embedded, embed
from volseg.report.gallery import gallery
from volseg.report.parts import Report
from volseg.report.picture import planes_of
from volseg.report.rendering import render
from volseg.report.sections import sections, unit_of, viewer

__all__ = ["write_report"]

_MAX_BYTES = 15_000_000
_LEAST = 50_000  # bytes for the volumes


def write_report(
    path: str | os.PathLike[str], report: Report, *, overwrite: bool = False, max_bytes: int = _MAX_BYTES
) -> Path:
    """Write a page about a result, and give its path.

    Large volumes are shown at every second, third, … voxel, so that the page stays below ``max_bytes``;
    the page says so. Where ``path`` exists and ``overwrite`` is not set, nothing is written.
    """
    target = Path(path)
    write_text(target, _page(report, max_bytes), overwrite=overwrite, errors="replace")
    return target


def _page(report: Report, max_bytes: int) -> str:
    script = _script()
    values = {
        **sections(report),
        "report": report,
        "style": _resource("base.css") + _resource("page.css"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        "gallery": gallery(report),
    }
    text = render("page.html", **values, views=None, meta={}, data=[])
    taken = len(text.encode("utf-8", errors="replace"))
    room = max_bytes - taken - _LEAST  # the views need a few thousand bytes more
    if room < _LEAST:
        raise ValueError(
            f"max_bytes = {max_bytes} leaves no room for pictures: the text of this page takes {taken}. "
            f"Allow {taken + 2 * _LEAST} or more."
        )
    embedded = embed(report, max_bytes=room)
    painted: list[list[int]] = [[] for _ in report.size]
    if report.painted is not None:
        painted = [list(map(int, indices)) for indices in report.painted or painted]
    elif report.paint is not None:
        painted = [list(map(int, indices)) for indices in annotated_slices(report.paint)]
    values |= viewer(report, embedded, painted)
    return render("page.html", **values, meta=_meta(report, embedded, painted), data=_data(embedded))


def _meta(report: Report, embedded: Embedded, painted: list[list[int]]) -> dict[str, Any]:
    """What the page's script must know."""
    sheets = {}
    for name, found in embedded.pictures.items():
        sheets[name] = [{k: v for k, v in asdict(sheet).items() if k != "data"} for sheet in found]
    dims = len(report.size)
    colours = class_colours(len(report.labels)).tolist()
    return {
        "size": report.size,
        "shape": embedded.shape,
        "steps": embedded.steps,
        "spacing": [float(s) for s in report.spacing or (1.0,) * dims],
        "unit": unit_of(report),
        "start": [*(n // 2 for n in report.size), 0][:3],
        "channels": 1 if report.image.shape[0] == 1 else 3,
        "classes": [
            {"name": name, "colour": colour}
            for name, colour in zip(report.labels.names, colours, strict=True)
        ],
        "labels": list(embedded.labels),
        "sheets": sheets,
        "painted": painted,
        "views": [
            {
                "name": plane.name,
                "h": plane.across,
                "v": plane.down,
                "n": plane.normal,
                "flip": plane.flipped,
                "letters": plane.letters or None,
            }
            for plane in planes_of(report.size, report.orientation)
        ],
    }


def _data(embedded: Embedded) -> list[tuple[str, str]]:
    """The volumes by name, as text."""
    pictures = [
        (f"{name}-{i}", sheet.data)
        for name, sheets in embedded.pictures.items()
        for i, sheet in enumerate(sheets)
    ]
    return [*embedded.labels.items(), *pictures]


def _script() -> str:
    """In a block of its own: what a part declares, the next may use, and nothing else sees it."""
    parts = map(_resource, ("volumes.js", "shared.js", "drawing.js", "page.js"))
    return '"use strict";\n{\n' + "\n".join(parts) + "}\n"


def _resource(name: str) -> str:
    return files("volseg.report").joinpath(name).read_text(encoding="utf-8")
