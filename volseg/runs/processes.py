"""Several processes train one network: each on patches of its own, all with the same weights.

Started by ``torchrun`` with ``configs/multi_gpu.json``. The loss is that of all patches of a step
together, so n processes with one patch each take the same step as one process with n patches. Only the
first process writes. Everything here does nothing where there is one process.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from volseg.errors import InputError

__all__ = [
    "alone",
    "any_of",
    "count",
    "from_first",
    "gather",
    "join_processes",
    "leave_processes",
    "local_device",
    "parallel",
    "rank",
    "share",
    "together",
    "wait",
]

T = TypeVar("T")


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0; 0 is the one that writes."""
    return dist.get_rank() if count() > 1 else 0


def local_device() -> torch.device:
    """The GPU of this process on its machine, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def join_processes(device: torch.device | str) -> None:
    """Meet the other processes that ``torchrun`` started: by nccl on GPUs, by gloo on CPUs.

    Raises:
        InputError: if this process was not started by ``torchrun``.
    """
    device = torch.device(device)
    if "WORLD_SIZE" not in os.environ:
        raise InputError(
            "configs/multi_gpu.json is for several processes, but this one was started alone. Start it by "
            "'torchrun --nproc_per_node N -m monai.bundle run ...', or leave the overlay out."
        )
    if dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if dist.get_rank() > 0:  # everybody would say the same
        logging.getLogger("volseg").setLevel(logging.ERROR)


def leave_processes() -> None:
    """The end of what :func:`join_processes` began."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Until all processes have come here."""
    if count() > 1:
        dist.barrier()


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether it is so for any process; all must ask, at the same iteration."""
    if count() == 1:
        return flag
    answer = torch.tensor(float(flag), device=device)
    dist.all_reduce(answer, dist.ReduceOp.MAX)
    return bool(answer)


def gather(value: Any) -> list[Any]:
    """The values of all processes, plain Python or NumPy, in the order of their ranks."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, for all; also the error, if there is one."""
    if count() == 1:
        return make()
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [(make(), None)]
        except Exception as error:  # raised by every process below: one that missed it would wait for ever
            box = [(None, error)]
    dist.broadcast_object_list(box, src=0)
    found, trouble = box[0]
    if trouble is not None:
        raise trouble
    value: T = found
    return value


def share(number: int) -> range:
    """The part of so many things that falls to this process; never nothing, for whom nothing is left."""
    return range(rank(), number, count()) or range(min(1, number))


def parallel(network: nn.Module, device: torch.device, *, sync_batch_norm: bool) -> nn.Module:
    """What to call instead of the network, so that gradients are averaged over the processes.

    Args:
        sync_batch_norm: statistics over the patches of all processes; torch has it on GPUs only.
    """
    if sync_batch_norm and device.type == "cpu":
        raise ValueError("sync_batch_norm = True needs GPUs: torch has no synchronised batch norm on a CPU.")
    if count() == 1:
        return network
    if sync_batch_norm:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def together(logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, target and weight of all processes as one batch; gradients flow to one's own logits.

    The gradient of the loss over this batch, summed over the processes, is exact: also for a loss that
    is normalised by the annotated voxels of the batch, or pools over it, as Dice does.
    """
    if count() == 1:
        return logits, target, weight
    own = logits.float()
    everyone = _all(own.detach())
    everyone[rank()] = own
    joint = None if weight is None else torch.cat(_all(weight))
    return torch.cat(everyone), torch.cat(_all(target)), joint


def _all(tensor: Tensor) -> list[Tensor]:
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(count())]
    dist.all_gather(parts, tensor)
    return parts


@contextmanager
def alone(network: nn.Module) -> Iterator[None]:
    """While it lasts, synchronised batch norms of the network do not wait for other processes."""
    norms = [part for part in network.modules() if isinstance(part, nn.SyncBatchNorm)]
    before = [part.process_group for part in norms]
    groups = [dist.new_group([number]) for number in range(count())] if norms else []
    for part in norms:
        part.process_group = groups[rank()]
    try:
        yield
    finally:
        for part, group in zip(norms, before, strict=True):
            part.process_group = group
