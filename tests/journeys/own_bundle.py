"""A PhD student with twenty sparsely annotated NIfTI volumes, and ideas of her own about network and loss.

She copies a bundle, changes it in an editor that indents by four blanks, puts a network and a loss of MONAI
into it, and trains, scores and segments; what she gets wrong on the way is found before anything is trained.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from traveller import expect, nuclei, volseg

SIZE, AFFINE = (32, 30, 28), np.diag([-0.8, -0.8, 1.2, 1])
data = Path("my_data")
for part in ("images", "labels", "later"):
    (data / part if part != "later" else Path(part)).mkdir(parents=True)
later = {}
for number in range(22):
    image, inside = nuclei(SIZE, seed=100 + number)
    folder = data / "images" if number < 20 else Path("later")
    nib.save(nib.Nifti1Image(image, AFFINE), folder / f"case_{number:02}.nii.gz")
    if number < 20:
        label = np.full(SIZE, 255, np.uint8)
        label[:, :, 5::9] = inside[:, :, 5::9]
        nib.save(nib.Nifti1Image(label, AFFINE), data / "labels" / f"case_{number:02}.nii.gz")
    else:
        later[f"case_{number:02}.nii.gz"] = inside

volseg("init", "hippocampus", "-o", "mine.json")
mine = Path("mine.json")
bundle = json.loads(mine.read_text(encoding="utf-8"))
bundle["labels"] |= {"names": ["background", "nucleus"], "values": [0, 1]}
bundle["held_out"] = 0.2
bundle["network_def"] = {
    "_target_": "monai.networks.nets.UNet", "spatial_dims": 3, "in_channels": "@in_channels",
    "out_channels": "$len(@labels)", "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1,
}  # fmt: skip
bundle["loss"] = {"_target_": "monai.losses.DiceCELoss", "softmax": True, "to_onehot_y": True}


def save(**slips: object) -> None:
    mine.write_text(json.dumps(bundle | slips, indent=4), encoding="utf-8")


save(network_def=bundle["network_def"] | {"chanels": [8]})
told = volseg("check", mine, code=3)
expect("did you mean 'channels'" in told, "a slip is found without training", told)
save()
expect(len(mine.read_text(encoding="utf-8").splitlines()) > 120, "a bundle of any length")
volseg("check", mine)
volseg("verify", data, "--bundle", mine)

run = ["--dataset_dir", data, "--output_dir", "runs/mine"]
small = ["--patch_size", "[24, 24, 24]", "--epochs", 3, "--epoch_length", 40, "--device", "cpu"]
volseg("train", mine, *run, *small)
for name in ("model.pt", "config.json", "log.txt"):
    expect((Path("runs/mine") / name).is_file(), f"runs/mine/{name}")
told = volseg("train", mine, *run, *small, code=5)
expect("--resume" in told, "nothing is trained over, and how to go on", told)
told = volseg("evaluate", mine, *run, *small)
scores = json.loads(Path("runs/mine/metrics.json").read_text(encoding="utf-8"))
expect(scores["held out"]["voxels"] > 0, "a score on slices that were held out", told)

volseg("predict", mine, *run, "--images", "later")
for name, inside in later.items():
    result = nib.load(Path("runs/mine/segmentations") / name)
    expect(np.allclose(result.affine, AFFINE), "a result that lies on its image")
    found = np.asarray(result.dataobj) == 1
    iou = (found & inside).sum() / (found | inside).sum()
    expect(iou > 0.5, f"nuclei found in a volume of later, not an IoU of {iou:.2f}", str(scores))
