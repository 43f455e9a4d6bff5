"""What is wrong with an annotation: slices, strokes, classes, and whether it lies on its image."""

from volseg.annotation.audit.checks import audit
from volseg.annotation.audit.strokes import check_scribbles
from volseg.findings import Finding

__all__ = ["Finding", "audit", "check_scribbles"]
