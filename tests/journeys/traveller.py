"""What the journeys share: type a command as a person would, look at what comes back."""

import subprocess
import sys
from pathlib import Path

import numpy as np

__all__ = ["expect", "nuclei", "python", "volseg"]


def volseg(*words: object, code: int = 0) -> str:
    """Runs ``volseg``, expects an exit code, gives what it printed."""
    return _run([str(Path(sys.executable).with_name("volseg")), *map(str, words)], code)


def python(*words: object, code: int = 0) -> str:
    """The same for ``python``."""
    return _run([sys.executable, *map(str, words)], code)


def _run(command: list[str], code: int) -> str:
    shown = " ".join([Path(command[0]).name, *command[1:]])
    sys.stdout.write(f"$ {shown}\n")
    sys.stdout.flush()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    told = done.stdout + done.stderr
    expect(done.returncode == code, f"exit code {code}, not {done.returncode}", told)
    expect("fault of volseg" not in told, "no fault of volseg", told)
    expect("Traceback" not in told, "no traceback", told)
    return told


def expect(holds: object, wanted: str, told: str = "") -> None:
    """Ends the journey where something is not as a person would expect it."""
    if not holds:
        sys.exit(f"{told}\nWANTED: {wanted}")


def nuclei(size: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A made-up image, uint8, x, y, z, of bright balls in noise, and which voxels belong to them."""
    random = np.random.default_rng(seed)
    grid = np.indices(size)
    inside = np.zeros(size, bool)
    for _ in range(6):
        centre = [random.uniform(5, n - 5) for n in size]
        inside |= sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < random.uniform(4, 7) ** 2
    image = 60 + 70 * inside + random.normal(0, 15, size)
    return image.clip(0, 255).astype(np.uint8), inside
