"""What an elastic deformation costs: volseg against five peers, in 3D and in 2D, on the processor.

    python3.11 -m venv .venv-peers
    .venv-peers/bin/pip install -c constraints.txt torch==2.13.0 -e . -r benchmarks/peers.txt
    .venv-peers/bin/python benchmarks/deformation.py --threads 2        # some four minutes

In 3D a patch of 132 x 132 x 116 voxels and three channels with its label, in 2D 512 x 512 pixels with
their label; images float32 and linear, labels uint8 and nearest. The deformation is that of the 3D U-Net
(2016), vectors with a standard deviation of 4 voxels every 32, in 2D that of 2015, 3 x 3 vectors with
one of 10 pixels. Peers get the nearest equivalent of their own, as smooth and as strong; what each of them
does beyond deforming is said in the table. All take turns in one process, round
after round, each time in another order: what a method finds in the caches and must ask memory for depends on
the one before it. A ratio is the median of the ratios of the rounds.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from random import Random
from statistics import median

import numpy as np
import torch

from volseg import RandBSplineDeformd, RandDeformedPatchd, bspline_displacement
from volseg.bspline import control_shape
from volseg.transforms import annotated_voxels

PATCH = {3: (132, 132, 116), 2: (512, 512)}
CHANNELS = {3: 3, 2: 1}
STD = {3: 4.0, 2: 10.0}
SPACING = {3: (32.0,) * 3, 2: (511 / 2,) * 2}
ROTATION, SCALING = 15.0, (0.9, 1.1)

Run = Callable[[], object]


def volume(dims: int, margin: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    size = tuple(n + margin for n in PATCH[dims])
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(CHANNELS[dims], *size, generator=generator)
    return image, torch.randint(0, 3, (1, *size), generator=generator).to(torch.uint8)


def grid(dims: int) -> dict[str, object]:
    return {"grid_spacing": 32, "std": 4.0} if dims == 3 else {"grid_points": 3, "std": 10.0}


def volseg_patch(dims: int, mode: str = "linear", context: int = 0) -> Run:
    image, label = volume(dims, margin=16)
    data = {"image": image, "label": label, "label_voxels": annotated_voxels(label)}
    transform = RandDeformedPatchd(
        patch_size=PATCH[dims], context=context, rotation=ROTATION, scaling=SCALING, flip=0.5,
        image_mode=mode, **grid(dims),
    )  # fmt: skip
    transform.set_random_state(0)
    return lambda: transform(data)


def volseg_alone(dims: int, mode: str = "linear") -> Run:
    image, label = volume(dims)
    transform = RandBSplineDeformd(
        ["image", "label"], mode=[mode, "nearest"], outside=["mirror", 255], **grid(dims)
    )  # type: ignore[arg-type]
    transform.set_random_state(0)
    return lambda: transform({"image": image, "label": label})


def monai(dims: int) -> Run:
    from monai.transforms import Rand2DElasticd, Rand3DElasticd

    image, label = volume(dims)
    affine = {
        "rotate_range": math.radians(ROTATION),
        "scale_range": 0.1,
        "prob": 1.0,
        "mode": ["bilinear", "nearest"],
    }
    keys = ["image", "label"]
    if dims == 3:  # as smooth as vectors every 32 voxels, and as strong: 1.2 voxels rms
        transform = Rand3DElasticd(keys, sigma_range=(18, 18), magnitude_range=(1100, 1100), **affine)
    else:
        transform = Rand2DElasticd(keys, spacing=SPACING[2], magnitude_range=(10, 10), **affine)
    transform.set_random_state(0)
    return lambda: transform({"image": image, "label": label})


def batchgenerators(dims: int) -> Run:
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    image, label = volume(dims)
    label = label.to(torch.int16)  # what nnU-Net hands it
    scale = 32 / max(PATCH[dims]) if dims == 3 else 0.5
    transform = SpatialTransform(
        PATCH[dims], 0, False, p_elastic_deform=1, elastic_deform_scale=(scale, scale),
        elastic_deform_magnitude=(0.05, 0.05), p_rotation=1, rotation=math.radians(ROTATION), p_scaling=1,
        scaling=SCALING, mode_seg="nearest",
    )  # fmt: skip
    return lambda: transform(image=image, segmentation=label)


def elasticdeform(dims: int) -> Run:
    from elasticdeform import deform_grid

    image, label = (part.numpy() for part in volume(dims))
    random = np.random.default_rng(0)
    points = [math.ceil((n - 1) / s) + 1 for n, s in zip(PATCH[dims], SPACING[dims], strict=True)]
    axes = tuple(range(1, dims + 1))
    options = {"order": [1, 0], "mode": ["mirror", "constant"], "cval": [0, 255], "axis": [axes, axes]}
    return lambda: deform_grid([image, label], random.normal(0, STD[dims], (dims, *points)), **options)


def torchio(dims: int) -> Run:
    import torchio as tio

    image, label = volume(dims)
    if dims == 2:  # TorchIO knows volumes only: one slice
        image, label = image[..., None], label[..., None]
    points = tuple(max(4, math.ceil((n - 1) / SPACING[dims][0]) + 3) for n in image.shape[1:])
    limit = STD[3] if dims == 3 else (STD[2], STD[2], 0.0)
    transform = tio.RandomElasticDeformation(points, limit, locked_borders=0)
    subject = tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label))
    return lambda: transform(subject)


def simpleitk(dims: int) -> Run:
    import SimpleITK

    image, label = volume(dims)
    image = SimpleITK.GetImageFromArray(np.moveaxis(image.numpy(), 0, -1), isVector=True)
    label = SimpleITK.GetImageFromArray(label[0].numpy())
    cells = [max(1, math.ceil((n - 1) / s)) for n, s in zip(label.GetSize(), SPACING[dims], strict=True)]
    random = np.random.default_rng(0)

    def run() -> object:
        spline = SimpleITK.BSplineTransformInitializer(label, cells, 3)
        spline.SetParameters(random.normal(0, STD[dims], len(spline.GetParameters())).tolist())
        return (
            SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, label, spline, SimpleITK.sitkLinear, 0.0)),
            SimpleITK.GetArrayFromImage(
                SimpleITK.Resample(label, label, spline, SimpleITK.sitkNearestNeighbor, 255)
            ),
        )

    return run


ALL = "drawn, rotated, scaled, flipped, cropped"
PEERS: list[tuple[str, str, str, Callable[[int], Run]]] = [
    ("MONAI `Rand{}DElasticd`", "monai", "rotated, scaled", monai),
    ("batchgeneratorsv2 `SpatialTransform`", "batchgeneratorsv2", "rotated, scaled", batchgenerators),
    ("elasticdeform", "elasticdeform", "", elasticdeform),
    ("SimpleITK `BSplineTransform`", "simpleitk", "", simpleitk),
    ("TorchIO `RandomElasticDeformation`", "torchio", "", torchio),
]
OURS: dict[int, list[tuple[str, str, str, Callable[[int], Run]]]] = {
    3: [
        ("`RandDeformedPatchd`", "", ALL, volseg_patch),
        ("the same, label where the network has output", "", ALL, partial(volseg_patch, context=44)),
        ("`RandBSplineDeformd`", "", "", volseg_alone),
    ],
    2: [
        ("`RandDeformedPatchd`", "", ALL, volseg_patch),
        ("the same, image cubic", "", ALL, partial(volseg_patch, mode="cubic")),
        ("`RandBSplineDeformd`", "", "", volseg_alone),
    ],
}


def field_error(dims: int) -> float:
    """Largest difference to the displacement of SimpleITK's B-spline transform, in voxels."""
    import SimpleITK

    size, spacing = PATCH[dims], SPACING[dims]
    shape = control_shape(size, spacing)
    control = np.random.default_rng(0).normal(0, STD[dims], (dims, *shape))
    ours = bspline_displacement(torch.from_numpy(control).float(), size, spacing).numpy()
    spline = SimpleITK.BSplineTransform(dims, 3)
    spline.SetTransformDomainOrigin([0.0] * dims)
    spline.SetTransformDomainMeshSize([n - 3 for n in shape])
    spline.SetTransformDomainPhysicalDimensions(
        [(n - 3) * step for n, step in zip(shape, spacing, strict=True)]
    )
    order = tuple(range(dims, 0, -1))
    spline.SetParameters(control.transpose(0, *order).ravel().tolist())
    to_field = SimpleITK.TransformToDisplacementFieldFilter()
    to_field.SetSize(size)
    to_field.SetOutputPixelType(SimpleITK.sitkVectorFloat64)
    theirs = SimpleITK.GetArrayFromImage(to_field.Execute(spline)).transpose(dims, *range(dims - 1, -1, -1))
    return float(np.abs(ours - theirs).max())


def measure(dims: int, rounds: int) -> None:
    runs, missing = {}, []
    for name, package, what, make in [*OURS[dims], *PEERS]:
        try:
            run = make(dims)
            run()  # compiles and allocates
        except ImportError:
            missing.append(package)
            continue
        runs[f"{name.format(dims)} {version(package) if package else ''}"] = (run, what)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = Random(0)
    for _ in range(rounds):
        for name in order.sample(list(runs), len(runs)):
            start = time.perf_counter()
            runs[name][0]()
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(runs))
    size = " x ".join(map(str, (*PATCH[dims], CHANNELS[dims])))
    print(f"\n{size}, {torch.get_num_threads()} thread(s), {rounds} rounds\n")
    print("| | what it does besides | median ms | least ms | times the first row |")
    print("|---|---|---|---|---|")
    for name, (_, what) in runs.items():
        ratio = median(a / b for a, b in zip(seconds[name], seconds[first], strict=True))
        middle, least = 1000 * median(seconds[name]), 1000 * min(seconds[name])
        print(f"| {name} | {what} | {middle:.1f} | {least:.1f} | {ratio:.1f} |")
    if missing:
        print(f"\nNot installed: {', '.join(missing)}.")


def main() -> None:
    """Time all of them and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dims", type=int, choices=(2, 3), nargs="+", default=(3, 2))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    try:
        import SimpleITK
    except ImportError:
        print("SimpleITK is not installed: the field is not compared.")
    else:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(given.threads)
        for dims in given.dims:
            print(f"{dims}D field against SimpleITK's: at most {field_error(dims):.1e} voxel apart.")
    for dims in given.dims:
        measure(dims, given.rounds)


if __name__ == "__main__":
    main()
