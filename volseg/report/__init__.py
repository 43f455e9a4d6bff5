"""What a person looks at: one picture of a case, and a page about a result.

`save_picture` draws parts side by side. `write_report` writes one HTML file that opens from the disk
without a network: views through the volume with layers to switch, the scores, and how they came about.
`write_figures` writes the same as PNG, for slides.
"""

from volseg.report.colours import class_colours, coloured
from volseg.report.figures import write_figures
from volseg.report.gallery import write_gallery
from volseg.report.page import write_report
from volseg.report.parts import (
    Amount,
    Calibration,
    CaseRow,
    ClassScore,
    LearningCurve,
    MethodScores,
    Report,
    Suggestion,
    readable,
)
from volseg.report.picture import grey_or_rgb, panel, save_picture

__all__ = [
    "Amount",
    "Calibration",
    "CaseRow",
    "ClassScore",
    "LearningCurve",
    "MethodScores",
    "Report",
    "Suggestion",
    "class_colours",
    "coloured",
    "grey_or_rgb",
    "panel",
    "readable",
    "save_picture",
    "write_figures",
    "write_gallery",
    "write_report",
]
