"""The reference: one page per room, made from the docstrings. ``python docs/reference/make.py build/docs``.

A room's page shows what the room exports (its ``__all__``); a room that exports nothing has a page for each
of its modules. What pdoc warns of is an error.
"""

import sys
import warnings
from pathlib import Path
from pkgutil import iter_modules

import volseg

ROOMS_INSIDE = ("annotation.audit", "data.verification")  # rooms within rooms that have a page, too


def rooms() -> list[str]:
    """Every room by its dotted name, but for the command line, which describes itself."""
    outer = [name for _, name, _ in iter_modules(volseg.__path__) if name not in ("__main__", "cli")]
    return [f"volseg.{name}" for name in sorted([*outer, *ROOMS_INSIDE])]


def write(folder: Path) -> None:
    """A page for each room, one for the package, and a search."""
    import pdoc

    for name in volseg.__all__:  # they are imported on first use, which pdoc does not wait for
        setattr(volseg, name, getattr(volseg, name))
    pdoc.render.configure(
        docformat="google",
        math=True,
        footer_text=f"volseg {volseg.__version__}",
        template_directory=Path(__file__).parent,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        pdoc.pdoc("volseg", *rooms(), output_directory=folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
