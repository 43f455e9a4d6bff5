"""Whole commands disturbed at random moments: kills, changed input, a clock that jumps.

    python benchmarks/disturbed.py kill|change|clock|convert [--tries 20] [--seed 1]

Each try is a process of its own on a phantom of 20³ voxels (``convert``: 96³ numbers over an older file). A
line is printed for each, and at the end how many were disturbed before they were done, and how many went
wrong: a result that is neither the old nor the new one whole, files left over, a traceback, an exit code that
says something else.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from volseg.io import Volume, read_volume, write_volume

AFFINE = np.diag([0.5, 0.5, 0.5, 1.0])
VOLSEG = """
import datetime, signal, sys, time
real, jump = time.time, [0.0]
time.time, time.time_ns = (lambda: real() + jump[0]), (lambda: int((real() + jump[0]) * 1e9))
signal.signal(signal.SIGUSR1, lambda *_: jump.__setitem__(0, float(sys.argv[1])))
from volseg.cli import main
code = main(sys.argv[2:])
signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Python puts back what kills it before it ends
sys.exit(code)
"""
JUMPS = (-86400, 86400, -3600, 3600, -3e8, 3e8, -0.5, 90)
CHANGES = ("replace", "in place", "cut", "remove")
SUFFIXES = (".nii", ".nii.gz", ".tif", ".nrrd", ".mha", ".ome.zarr")


def run(
    words: list[str], after: float | None = None, do: Callable[[int], None] = lambda _: None, jump: float = 0
):
    """A command's exit code and messages; ``do`` is called with its process after some seconds."""
    command = [sys.executable, "-W", "ignore", "-c", VOLSEG, str(jump), *words]
    began = time.monotonic()
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        if after is not None:
            time.sleep(after)
            if process.poll() is None:
                do(process.pid)
        code = process.wait()
        log.seek(0)
        return code, log.read().decode("utf-8", "replace"), time.monotonic() - began


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def faults(code: int, said: str, allowed: set[int]) -> list[str]:
    found = [f"exit code {code}"] if code not in allowed else []
    return found + [word for word in ("Traceback", "fault of volseg") if word in said]


def scene(folder: Path) -> list[str]:
    """Files to segment; the command for it."""
    rng = np.random.default_rng(0)
    truth = (np.hypot(*(np.indices((20, 20, 20))[:2] - 10)) < 6).astype(np.uint8)
    for name, seed, slices in (("", 0, [4, 10, 15]), ("other_", 5, [4, 9, 10, 15])):
        image = (rng.normal(0, 10, truth.shape) + 60 * truth + 60 + seed).clip(0, 255).astype(np.uint8)
        paint = np.full_like(truth, 255)
        paint[..., slices], paint[slices] = truth[..., slices], truth[slices]
        like = Volume(image[None], AFFINE, "um")
        write_volume(folder / f"{name}image.tif", image, like, overwrite=True)
        write_volume(folder / f"{name}paint.tif", paint, like, overwrite=True)
    words = [str(folder / "image.tif"), str(folder / "paint.tif"), "-o", str(folder / "out")]
    return ["densify", *words, "--unlabelled", "255", "--minutes", "0.05", "--no-compare"]


def change(path: Path, how: str) -> None:
    other = path.with_name(f"other_{path.name}")
    if how == "replace":
        os.replace(other, path)
    elif how == "in place":
        path.write_bytes(other.read_bytes())
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()


def densify(kind: str, folder: Path, tries: int, draw: random.Random) -> None:
    words = scene(folder)
    variants = (["--folds", "0"], ["--folds", "3"])
    whole, seconds = [], []
    for more in variants:
        code, said, took = run([*words, *more])
        assert code == 0, said
        whole.append(files(folder / "out"))
        seconds.append(took)
        shutil.rmtree(folder / "out")
    hit = wrong = 0
    for number in range(tries):
        which = number % 4 == 3
        command, after = [*words, *variants[which]], draw.uniform(0.02, 1) * seconds[which]
        scene(folder)
        shutil.rmtree(folder / "out", ignore_errors=True)
        if kind == "kill":
            end = (signal.SIGKILL, signal.SIGTERM)[number % 2]
            what = end.name
            code, said, _ = run(command, after, lambda pid, end=end: os.kill(pid, end))
            was_hit, found = code != 0, faults(code, said, {0, 130, -signal.SIGKILL, -signal.SIGTERM})
            if was_hit:
                again, said, _ = run([*command, "--resume"])
                if again != 0:  # it had not begun: there is nothing to resume
                    again, said, _ = run([*command, "--overwrite"])
                found += faults(again, said, {0})
            same = files(folder / "out") == whole[which]
        elif kind == "change":
            target, how = folder / ("image.tif", "paint.tif")[number % 2], CHANGES[number // 2 % 4]
            what = f"{target.name}, {how}"
            changed: list[int] = []

            def meddle(pid: int, done: list[int] = changed, target: Path = target, how: str = how) -> None:
                change(target, how)
                done.append(pid)

            code, said, _ = run(command, after, meddle)
            was_hit, found = bool(changed), faults(code, said, {0, 3})
            same = code == 3 or (code == 0 and files(folder / "out") == whole[which])
            same &= code == 0 or not (folder / "out" / "image_segmentation.tif").exists()
        else:
            jump = draw.choice(JUMPS)
            what = f"{jump:+g} s"
            after = max(after, 0.3)
            code, said, _ = run(command, after, lambda pid: os.kill(pid, signal.SIGUSR1), jump)
            was_hit, found = True, faults(code, said, {0})
            same = files(folder / "out") == whole[which]
        left = [name for name in files(folder) if "partial" in name or "volseg-new" in name]
        bad = bool(found) or not same or bool(left)
        hit, wrong = hit + was_hit, wrong + bad
        print(
            number,
            what,
            f"{after:.1f} of {seconds[which]:.1f} s",
            code,
            *(["WRONG", found, left] if bad else []),
            flush=True,
        )
    print(f"{kind}: {tries} tries, {hit} hit, {wrong} wrong")


def convert(folder: Path, tries: int, draw: random.Random) -> None:
    large = np.random.default_rng(0).normal(size=(96, 96, 96)).astype(np.float32)
    small = large[:24, :24, :24]
    write_volume(folder / "in.nii", large, Volume(large[None], AFFINE, "um"))
    for suffix in SUFFIXES:
        target = folder / f"out{suffix}"
        words = ["convert", str(folder / "in.nii"), "-o", str(target), "--overwrite"]
        code, said, seconds = run(words)
        assert code == 0, said
        hit = wrong = 0
        for number in range(tries):
            write_volume(target, small, Volume(small[None], AFFINE, "um"), overwrite=True)
            end = (signal.SIGKILL, signal.SIGTERM)[number % 2]
            code, said, _ = run(words, draw.uniform(0, 1) * seconds, lambda pid, end=end: os.kill(pid, end))
            found = faults(code, said, {0, 130, -signal.SIGKILL, -signal.SIGTERM})
            array = read_volume(target).array[0]
            whole = any(array.shape == one.shape and np.array_equal(array, one) for one in (small, large))
            found += faults(*run(words)[:2], {0})
            left = [name for name in os.listdir(folder) if "partial" in name]
            hit, wrong = hit + (code != 0), wrong + (bool(found) or not whole or bool(left))
            if found or not whole or left:
                print(suffix, number, code, found, whole, left, flush=True)
        print(f"convert over {suffix}: {tries} tries, {hit} hit, {wrong} wrong", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("kill", "change", "clock", "convert"))
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.what == "convert":
            convert(Path(name), given.tries, random.Random(given.seed))
        else:
            densify(given.what, Path(name), given.tries, random.Random(given.seed))


if __name__ == "__main__":
    main()
