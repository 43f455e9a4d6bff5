"""What the page knows of a session, as JSON: small, and apart from the server, which knows requests only."""

from dataclasses import asdict
from typing import Any

from volseg.geometry import AXES
from volseg.page.planes import Pictures
from volseg.session import Session

__all__ = ["paint_state", "whole_state"]

_FORMATS = (".nii.gz", ".tif", ".nrrd", ".seg.nrrd", ".mha", ".ome.zarr")
_FORMATS_2D = (".png", ".tif", ".nrrd", ".seg.nrrd", ".mha", ".ome.zarr")


def paint_state(session: Session) -> dict[str, Any]:
    """What changes as a person paints."""
    return {
        "revision": session.revision,
        "undo": session.can_undo,
        "redo": session.can_redo,
        "finished": sorted(session.finished),
        "painted": session.painted(),
        "counts": session.counts(),
        "classes": [
            {"value": value, "name": info.name, "colour": list(info.colour), "locked": info.locked}
            for value, info in session.classes.items()
        ],
        "unsaved": session.trouble,
    }


def whole_state(session: Session, pictures: Pictures) -> dict[str, Any]:
    """All of it, for a page that is opened."""
    image, folder = session.image, session.folder
    return paint_state(session) | {
        "name": image.name,
        "folder": None if folder is None else str(folder.path.resolve()),
        "size": list(session.size),
        "spacing": list(session.spacing),
        "unit": image.like.unit.replace("um", "µm"),
        "channels": [asdict(channel) for channel in pictures.channels],
        "planes": [
            {
                "name": plane.name,
                "h": plane.across,
                "v": plane.down,
                "axis": 2 if plane.normal is None else plane.normal,
                "letter": "" if plane.normal is None else AXES[plane.normal],
                "flip": list(plane.flipped),
                "letters": list(plane.letters),
            }
            for plane in pictures.planes
        ],
        "formats": list(_FORMATS if len(session.size) == 3 else _FORMATS_2D),
        "report": folder is not None and (folder.path / "report.html").is_file(),
    }
