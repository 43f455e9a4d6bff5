"""``volseg paint``: the page on which a person paints."""

import argparse
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.cli.command import Command, add_paint, add_reading
from volseg.errors import ResourceError

if TYPE_CHECKING:
    from volseg.session import Session

__all__ = ["PAINT"]

logger = logging.getLogger(__name__)

_PAUSE = 0.5  # seconds between two tries to write what is only in memory


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", type=Path, help="a volume or an image; or the folder of an earlier session or result"
    )
    parser.add_argument("paint", type=Path, nargs="?", help="a file with paint to start from")
    parser.add_argument(
        "--channels", nargs="+", type=Path, default=[], metavar="FILE",
        help="further channels of the image, one per file, on the same grid",
    )  # fmt: skip
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="the folder that everything is kept in, continued if it holds a session (default: a folder "
        "here, named after the image, with _painted)",
    )
    parser.add_argument("--port", type=int, help="of 127.0.0.1 (default: a free one)")
    parser.add_argument(
        "--no-browser", dest="browser", action="store_false", help="print the address, and open no browser"
    )
    add_paint(parser)
    add_reading(parser, labels=True)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default 0)")


def _run(given: argparse.Namespace, _: Sequence[str]) -> int:
    logger.info("Loading libraries.")
    from volseg.data.auditing import names_from
    from volseg.io import is_volume
    from volseg.page import serve
    from volseg.session import Session

    settings = {"device": given.device, "seed": given.seed}
    names = names_from(given.names)
    if given.image.is_dir() and not is_volume(given.image) and given.output is None and given.paint is None:
        session = Session.open(given.image, classes=names, **settings)
    else:
        read = {key: getattr(given, key) for key in ("unlabelled", "painted_only", "finished", "colours")}
        session = Session(
            [given.image, *given.channels] if given.channels else given.image,
            given.output or _default_output(given.image),
            names,
            paint=given.paint,
            read={key: value for key, value in read.items() if value},
            spacing=given.spacing,
            **settings,
        )
    assert session.folder is not None
    place = session.folder.path
    logger.info("Everything is kept in the folder %s. Ctrl-C ends this; nothing is lost.", place)

    def ready(address: str) -> None:
        print(address, flush=True)
        if given.browser and _has_screen():
            import webbrowser

            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    try:
        serve(session, port=given.port, on_ready=ready)
    except KeyboardInterrupt:
        pass
    finally:
        _close(session)
    logger.info("Ended. To go on: volseg paint %s", shlex.quote(str(place)))
    return 0


def _close(session: "Session") -> None:
    """Close a session; while what was painted finds no room on the disk, wait for that until Ctrl-C."""
    is_said = False
    try:
        while True:
            try:
                return session.close()
            except ResourceError as error:
                if not session.trouble:
                    raise
                if not is_said:
                    logger.warning("%s Until then this tries again; Ctrl-C ends it, and loses them.", error)
                is_said = True
            time.sleep(_PAUSE)
    except KeyboardInterrupt:
        if not session.trouble:
            raise
        raise ResourceError(
            f"Ended with acts of painting that could not be written and are lost: {session.trouble}. The "
            "folder holds what was painted before."
        ) from None


def _default_output(image: Path) -> Path:
    """A folder in the current one, named after the image."""
    from volseg.io import suffix_of

    name = image.resolve().name
    return Path(f"{name[: len(name) - len(suffix_of(name))]}_painted")


def _has_screen() -> bool:
    """Whether a browser would open a window: one in the terminal would take that away."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


PAINT = Command(
    "paint",
    "paint on a volume in the browser, and see at once what follows from it",
    "volseg paint image.tif -o painting --names 1=nucleus",
    _add_arguments,
    _run,
)
