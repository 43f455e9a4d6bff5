"""The units volseg knows, and the names that programs give them."""

__all__ = ["common_unit"]

_UNITS = {
    "um": (1.0, "um"), "µm": (1.0, "um"), "μm": (1.0, "um"), "micron": (1.0, "um"), "microns": (1.0, "um"),
    "micrometer": (1.0, "um"), "micrometre": (1.0, "um"), "nm": (1e-3, "um"), "nanometer": (1e-3, "um"),
    "å": (1e-4, "um"), "mm": (1.0, "mm"), "millimeter": (1.0, "mm"), "millimetre": (1.0, "mm"),
    "cm": (10.0, "mm"), "m": (1e3, "mm"), "inch": (25.4, "mm"), "in": (25.4, "mm"),
}  # fmt: skip


def common_unit(name: str) -> tuple[float, str]:
    """Factor to, and name of, the unit volseg uses instead: ``"nm"`` becomes ``(0.001, "um")``."""
    name = name.replace("\\u00B5", "µ").replace("\\u00b5", "µ").strip().lower()
    return _UNITS.get(name, (1.0, ""))
