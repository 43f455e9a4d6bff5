"""A biologist with one confocal stack, painted section by section in ITK-SNAP.

The stack is a TIFF from Fiji, in micrometres. ITK-SNAP, which knows no micrometres and saves no TIFF, wrote
the paint as NIfTI: 16 bit, millimetres, the position that ITK gives to a file without one. She paints a few
sections, looks at the result, paints two more and goes on.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from traveller import expect, nuclei, volseg

SPACING = (0.5, 0.5, 1.0)
SECTIONS = [4, 9, 14, 19]


def paint(name: str, truth: np.ndarray, sections: list[int]) -> None:
    """What ITK-SNAP saves: 1 on the nuclei of some sections, and 0 everywhere else."""
    painted = np.zeros(truth.shape, np.uint16)
    painted[:, :, sections] = truth[:, :, sections]
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1])  # ITK's axes point left and back
    image = nib.Nifti1Image(painted, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, name)


def overlap(result: Path, truth: np.ndarray, where: np.ndarray) -> float:
    """IoU of the nuclei, on some sections of a result that opens over the stack."""
    found = tifffile.imread(result).transpose(2, 1, 0)
    expect(found.shape == truth.shape, f"a result of the size of the stack, not {found.shape}")
    expect(set(np.unique(found)) <= {0, 1}, "the numbers that were painted with, and 0")
    found, truth = found[:, :, where] == 1, truth[:, :, where]
    return float((found & truth).sum() / (found | truth).sum())


def headline(folder: Path) -> dict:
    """What the result says of itself: the IoU of the nuclei, on sections that were held out."""
    found = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return found["scores"]["volseg"]["headline"]["IoU"]


stack, truth = nuclei((48, 48, 24), seed=1)
tifffile.imwrite(
    "embryo.tif", stack.transpose(2, 1, 0), imagej=True, resolution=(2, 2),
    metadata={"axes": "ZYX", "unit": "um", "spacing": SPACING[2]},
)  # fmt: skip
paint("painted.nii.gz", truth, SECTIONS)
unpainted = np.setdiff1d(np.arange(24), SECTIONS)

told = volseg("audit", "embryo.tif", "painted.nii.gz", "--names", "1=nucleus")
expect("xy: 4, 9, 14, 19" in told, "the sections that were painted", told)
expect("5, 10, 15, 20" in told, "the same as ITK-SNAP counts them", told)

told = volseg(
    "densify", "embryo.tif", "painted.nii.gz", "-o", "result", "--names", "1=nucleus", "--minutes", 1.5
)
result = Path("result")
for name in ("embryo_segmentation.tif", "embryo_confidence.tif", "report.html", "scores.json", "model.pt"):
    expect((result / name).is_file(), f"result/{name}", told)
iou = overlap(result / "embryo_segmentation.tif", truth, unpainted)
expect(iou > 0.6, f"nuclei found between the painted sections, not an IoU of {iou:.2f}", told)
first = headline(result)
expect(first["value"] is not None, "a score, though all paint lies in one direction", str(first))
expect(0 <= first["low"] <= first["value"] <= first["high"] <= 1, "an interval around it", str(first))

paint("more.nii.gz", truth, [*SECTIONS, 2, 22])
told = volseg(
    "densify", "embryo.tif", "more.nii.gz", "-o", "more", "--names", "1=nucleus", "--minutes", 0.75,
    "--continue", "result",
)  # fmt: skip
again = overlap(Path("more/embryo_segmentation.tif"), truth, np.setdiff1d(unpainted, [2, 22]))
expect(again > iou - 0.1, f"a result no worse than {iou:.2f} after more paint, not {again:.2f}", told)
