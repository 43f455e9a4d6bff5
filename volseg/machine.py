"""What the machine at hand allows: processors, memory, number formats; and the versions of what runs on it.

Each is what *this process* may have. torch asks the processor, and on a cluster that is wrong: a container or
a job with two of 64 processors would run 64 threads that wait for one another.
"""

import contextlib
import ctypes
import logging
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "allowed_processors",
    "free_memory",
    "release_freed_memory",
    "has_bf16",
    "library_versions",
    "use_allowed_threads",
]

logger = logging.getLogger(__name__)

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_UNKNOWN = 4 * 2**30
_M_MMAP_THRESHOLD = -3  # of mallopt
_LIBRARIES = ("volseg", "torch", "monai", "numpy", "scipy", "pytorch-ignite", "nibabel", "tifffile")


def use_allowed_threads() -> int:
    """Let torch compute with no more threads than there are processors for it; their number.

    A number that was set, by ``OMP_NUM_THREADS`` or ``torch.set_num_threads``, is only ever lowered.
    """
    allowed = allowed_processors()
    if torch.get_num_threads() > allowed:
        logger.info("Computing with %d thread(s): this process may not use more processors.", allowed)
        torch.set_num_threads(allowed)
    return torch.get_num_threads()


def allowed_processors(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Processors that the system lets this process use: by affinity, and by the quotas of its groups."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups(cgroups, own) if (quota := _quota(folder)) is not None]
    return max(1, min([affinity, *(math.ceil(quota) for quota in quotas)]))


def _groups(cgroups: Path, own: Path) -> list[Path]:
    """The control groups this process is in, and those around them; in a container its root is its own."""
    found = [cgroups, cgroups / "cpu"]
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        root = cgroups / "cpu" if kinds else cgroups
        group = root / path.lstrip("/")
        found += [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return found


def _quota(folder: Path) -> float | None:
    """Processors' worth of time per period that a group may have; version 2 in one file, version 1 in two."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):  # "max": no limit
        return None


def free_memory(device: torch.device) -> int:
    """What can be had on a device; on the CPU as the kernel and the container see it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = _UNKNOWN
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    return free


def release_freed_memory() -> None:
    """Have large blocks of memory go back to the system as soon as they are freed, for this whole process.

    Left to itself, glibc keeps blocks of up to 32 MB and cuts them up, so that a long run comes to hold a
    multiple of what it needs. Elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def has_bf16(device: torch.device | str) -> bool:
    """Whether the device multiplies bfloat16 natively."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)


def library_versions() -> dict[str, Any]:
    """Of volseg and what it computes with, of Python, and the kind of machine."""
    found: dict[str, Any] = {name: version(name) for name in _LIBRARIES}
    return found | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """Its name, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
