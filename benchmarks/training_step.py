"""One training step of the 3D U-Net of 2016, as plain PyTorch takes it and as volseg does.

    python benchmarks/training_step.py             # some three minutes of two quiet cores, 6 GB of memory
    python benchmarks/training_step.py --width 0.5

The published patch of 132 x 132 x 116 voxels and three channels, batch of one, SGD. Plain is eager float32 in
torch's own layout; volseg's rows have its layout and all of its step: the bounded gradient, the look at what
is finite. All take turns. The rate is that of a large matrix product on this machine, in the number format
of the row; the work is counted from the convolutions, three times that of a forward pass.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace

import torch

from volseg import RandDeformedPatchd, SparseCrossEntropy, to_device, unet3d_2016, use_bf16
from volseg.engines.profiling import matrix_rate
from volseg.engines.step import Step
from volseg.inferers.planning import operations
from volseg.transforms import annotated_voxels

SIZE = (132, 132, 116)
CPU = torch.device("cpu")


def plain(width: float, image: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
    """Forward, loss, backward, update."""
    torch.manual_seed(0)
    network = unet3d_2016(width=width)
    optimizer, loss = torch.optim.SGD(network.parameters(), 0.01, 0.99), SparseCrossEntropy()

    def step() -> None:
        optimizer.zero_grad()
        loss(network(image), target).backward()
        optimizer.step()

    return step


def ours(width: float, image: torch.Tensor, target: torch.Tensor, *, amp: bool) -> Callable[[], object]:
    """The step of volseg's trainer."""
    torch.manual_seed(0)
    network = to_device(unet3d_2016(width=width), CPU)
    step = Step(network, amp=amp, average=None)
    state = SimpleNamespace(device=CPU, iteration=1, epoch_length=1000)
    engine = SimpleNamespace(
        network=network, optimizer=torch.optim.SGD(network.parameters(), 0.01, 0.99), state=state,
        loss_function=SparseCrossEntropy(),
    )  # fmt: skip
    return lambda: step(engine, {"image": image, "label": target})


def augmentation(image: torch.Tensor, target: torch.Tensor) -> Callable[[], object]:
    """A patch of the published size, drawn and deformed."""
    data = {"image": image[0], "label": torch.zeros_like(image[0, :1], dtype=torch.uint8)}
    data["label_voxels"] = annotated_voxels(data["label"])  # type: ignore[assignment]
    context = tuple((n - m) // 2 for n, m in zip(SIZE, target.shape[2:], strict=True))
    transform = RandDeformedPatchd(patch_size=SIZE, context=context, grid_spacing=32, flip=0.5)
    return lambda: transform(data)


def main() -> None:
    """Time them and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=float, default=1.0, help="of the network (1.0)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    network = unet3d_2016(width=given.width)
    work = 3 * 2 * operations(network, SIZE)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *SIZE, generator=generator)
    target = torch.randint(0, 3, (1, 1, *network.output_size(SIZE)), generator=generator)
    chosen = use_bf16(to_device(network, CPU), CPU)
    runs: dict[str, tuple[torch.dtype, Callable[[], object]]] = {
        "plain PyTorch, float32": (torch.float32, plain(given.width, image, target)),
        "volseg, float32": (torch.float32, ours(given.width, image, target, amp=False)),
        "volseg, bfloat16": (torch.bfloat16, ours(given.width, image, target, amp=True)),
        "drawing and deforming the patch": (torch.float32, augmentation(image, target)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    rates = {dtype: matrix_rate(CPU, dtype) for dtype in (torch.float32, torch.bfloat16)}
    for turn in range(given.rounds + 1):
        for name, (_, run) in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first one allocates and compiles
                seconds[name].append(time.perf_counter() - start)
    first = next(iter(runs))
    print(f"{given.threads} thread(s), {work / 1e12:.2f} TFLOP a step.")
    for dtype, rate in rates.items():
        print(f"A large matrix product in {dtype} has {rate / 1e9:.0f} GFLOP/s.")
    print(f"volseg chooses {'bfloat16' if chosen else 'float32'} here.\n")
    print("| | s | times faster than the first | of the matrix rate |")
    print("|---|---|---|---|")
    for name, (dtype, _) in runs.items():
        middle = median(seconds[name])
        ratio = median(a / b for a, b in zip(seconds[first], seconds[name], strict=True))
        share = f"{work / middle / rates[dtype]:.0%}" if name.startswith(("plain", "volseg")) else ""
        print(f"| {name} | {middle:.3g} | {ratio:.3g} | {share} |")


if __name__ == "__main__":
    main()
