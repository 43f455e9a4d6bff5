"""A lab engineer installs the wheel on a machine without a compiler, and nothing else of volseg is there.

Commands explain themselves, bundles are found by name, MONAI's own command runs them, a missing library is
named by a line that works, and a read-only installation works without a home.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from traveller import expect, nuclei, python, volseg

expect(not any(map(shutil.which, ("gcc", "cc", "clang"))), "no compiler on the path")
where = Path(python("-c", "import volseg; print(volseg.__file__)").strip())
expect("site-packages" in where.parts, f"the installed package, not {where}")

# It explains itself.
told = volseg(code=2)
expect("start here" in told and "MONAI" not in told, "commands and where to start", told)
docs = Path(next(line.split()[-1] for line in told.splitlines() if "documentation" in line))
expect((docs / "tutorial.md").is_file(), "documentation beside the package", told)
expect("torch" in volseg("--version"), "what it runs on")
expect("xenopus" in python("-m", "volseg", "init"), "python -m volseg")
told = volseg("train", "xenopos", code=3)
expect("Did you mean xenopus?" in told, "the names of the bundles", told)

# A bundle by name, on two small stacks.
for number in range(2):
    image, inside = nuclei((32, 30, 28), seed=number)
    label = np.full(inside.shape, 255, np.uint8)
    label[:, :, 4::5] = inside[:, :, 4::5]
    for part, array in (("images", image), ("labels", label)):
        Path("my_data", part).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), f"my_data/{part}/stack_{number}.nii.gz")
data = ["--dataset_dir", "my_data", "--held_out", 0.2]
volseg("check", "medulla", "--config", "smoke")
told = volseg("train", "medulla", "--config", "smoke", *data, "--output_dir", "runs/first")
expect("which came with volseg" in told, "which bundle was taken", told)
volseg("evaluate", "medulla", "smoke", *data, "--output_dir", "runs/first")
expect(Path("runs/first/metrics.json").is_file(), "scores")
told = volseg("info", "runs/first/model.pt")
expect("classes 0 = " in told and "None" not in told, "what the weights are for", told)

# The same through MONAI, with the paths that volseg tells.
bundle, overlay = (volseg("init", name, "--path").strip() for name in ("medulla", "smoke"))
python(
    "-W", "ignore", "-m", "monai.bundle", "run", "training", "--config_file", f"['{bundle}','{overlay}']",
    *data, "--output_dir", "runs/monai",
)  # fmt: skip
expect(Path("runs/monai/model.pt").is_file(), "MONAI's own command trains the bundle")

# What is not installed is named by what can be installed.
image, inside = nuclei((24, 24, 16), seed=4)
nib.save(nib.Nifti1Image(image, np.eye(4)), "image.nii.gz")
told = volseg("convert", "image.nii.gz", "-o", "image.zarr", code=3)
expect("pip install 'zarr>=3.1'" in told and "volseg[" not in told, "a line that works", told)

# In a container: an installation that cannot be written to, and a home in which nothing can be made.
painted = np.full(inside.shape, 255, np.uint8)
painted[:, :, [4, 8, 12]] = inside[:, :, [4, 8, 12]]
nib.save(nib.Nifti1Image(painted, np.eye(4)), "painted.nii.gz")
mount = 'd=$1; shift; /bin/mount --bind "$d" "$d" && /bin/mount -o remount,ro,bind "$d" && exec "$@"'
read_only = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", mount, "sh", str(where.parents[1])]
try:
    subprocess.run([*read_only, "/bin/true"], check=True, capture_output=True)
except (OSError, subprocess.CalledProcessError):
    read_only = []  # that takes rights which not everybody has
environment = {name: text for name, text in os.environ.items() if not name.startswith(("XDG_", "NUMBA_"))}
before = {path.name for path in Path().iterdir()}
program = str(Path(sys.executable).with_name("volseg"))
done = subprocess.run(
    [
        *read_only, program, "densify", "image.nii.gz", "painted.nii.gz",
        "-o", "result", "--names", "0=background", "1=nucleus", "--minutes", "0.5", "--folds", "0",
    ],
    env=environment | {"HOME": "/sys"}, capture_output=True, text=True,
)  # fmt: skip
expect(done.returncode == 0, "a result without a place for anything else", done.stderr)
expect(Path("result/image_segmentation.nii.gz").is_file(), "the segmentation", done.stderr)
expect({path.name for path in Path().iterdir()} == before | {"result"}, "nothing else in the folder")
