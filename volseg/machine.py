"""How many threads to compute with: as many as this process may use, not as many as the machine has.

torch asks the processor, and on a cluster that is wrong: a container or a job with two of 64 processors
would run 64 threads that wait for one another.
"""

import logging
import math
import os
from pathlib import Path

import torch

__all__ = ["allowed_processors", "use_allowed_threads"]

logger = logging.getLogger(__name__)

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def use_allowed_threads() -> int:
    """Let torch compute with no more threads than there are processors for it; their number.

    A number that somebody set, by ``OMP_NUM_THREADS`` or ``torch.set_num_threads``, is only ever lowered.
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
