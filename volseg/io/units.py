"""Units of length: the names that programs give them, and how each format of ours names its own.

Inside volseg a length is in ``"um"`` or ``"mm"`` (``"m"`` where a NIfTI file says so), or has no unit,
``""``. Names are those of OME-XML, OME-Zarr (UDUNITS), NRRD, NIfTI, MetaImage, ImageJ and people: symbols,
both spellings, plurals. "pixel" is a word for no unit.
"""

import re
import unicodedata

from volseg.io.volume import Notes

__all__ = ["METRES", "NGFF_UNITS", "OME_UNITS", "common_unit"]

METRES = {"um": 1e-6, "mm": 1e-3, "m": 1.0}
OME_UNITS = {"um": "µm", "mm": "mm", "m": "m", "": "pixel"}
NGFF_UNITS = {"um": "micrometer", "mm": "millimeter", "m": "meter"}

_PREFIXES = {  # powers of ten
    ("Y", "yotta"): 24, ("Z", "zetta"): 21, ("E", "exa"): 18, ("P", "peta"): 15, ("T", "tera"): 12,
    ("G", "giga"): 9, ("M", "mega"): 6, ("k", "kilo"): 3, ("h", "hecto"): 2, ("da", "deca"): 1, ("", ""): 0,
    ("d", "deci"): -1, ("c", "centi"): -2, ("m", "milli"): -3, ("u", "micro"): -6, ("n", "nano"): -9,
    ("p", "pico"): -12, ("f", "femto"): -15, ("a", "atto"): -18, ("z", "zepto"): -21, ("y", "yocto"): -24,
}  # fmt: skip
_SYMBOLS = {f"{symbol}m": power for (symbol, _), power in _PREFIXES.items()}
_WORDS = {
    f"{prefix}{word}": power for (_, prefix), power in _PREFIXES.items() for word in ("meter", "metre")
} | {"micron": -6, "mic": -6, "mu": -6, "u": -6, "angstrom": -10, "å": -10, "ångstrom": -10, "ångström": -10}
_OTHERS = {  # metres
    "inch": 0.0254, "inches": 0.0254, "in": 0.0254, '"': 0.0254, "thou": 2.54e-5, "foot": 0.3048,
    "feet": 0.3048, "ft": 0.3048, "yard": 0.9144, "yd": 0.9144, "mile": 1609.344,
}  # fmt: skip
_NONE = {
    "", "pixel", "pix", "px", "voxel", "vox", "reference frame", "none", "null", "unknown", "unitless", "?",
    "pixel unit", "a.u.", "arbitrary", "arbitrary unit", "gray value",
}  # fmt: skip


def common_unit(name: str, source: object = None, notes: Notes | None = None) -> tuple[float, str]:
    """Factor to, and name of, the unit volseg uses instead: ``"nm"`` becomes ``(0.001, "um")``.

    ``(1.0, "")`` where the name stands for no unit, or is not known, which is noted.

    Args:
        source: the file that says so, for that note.
    """
    metres = _metres(name)
    if metres is None and notes is not None:
        notes.warning(
            "%s: %r is no unit of length that is known; its sizes are taken as plain numbers without a unit.",
            source, name,
        )  # fmt: skip
    if not metres:
        return 1.0, ""
    unit = "um" if metres < 0.9e-3 else "mm"
    return float(f"{metres / METRES[unit]:.12g}"), unit


def _metres(name: str) -> float | None:
    """How long a unit is; 0 where the name stands for none, ``None`` where it is not known."""
    plain = re.sub(r"\\u00[bB]5", "u", name)  # as ImageJ writes it
    plain = unicodedata.normalize("NFKC", plain.replace("Âµ", "u").replace("Î¼", "u")).strip().strip("\0")
    plain = plain.replace("μ", "u")
    if plain in _SYMBOLS:  # "Mm" and "mm" differ
        return 10.0 ** _SYMBOLS[plain]
    lower = plain.lower()
    if lower in _SYMBOLS:
        return 10.0 ** _SYMBOLS[lower]
    for word in (lower, lower.rstrip("."), lower.removesuffix("s"), lower.removesuffix("es")):
        if word in _NONE:
            return 0.0
        if word in _WORDS:
            return 10.0 ** _WORDS[word]
        if word in _OTHERS:
            return _OTHERS[word]
    return None
