"""How soon the fast recipe is as good as the bundle's own: IoU on the phantom after so many iterations.

    python benchmarks/fast_recipe.py -o runs/fast_recipe      # an hour of one core; again to go on
    python benchmarks/fast_recipe.py -o runs/fast_recipe --seeds 0

The recipe of the paper is that of ``bundles/xenopus.json`` (SGD, polynomial decay), the fast one that of
``configs/fast.json`` (AdamW, one cycle). Each figure is a run of its own, because a schedule is made for the
length of its run. Scored are the held-out slices, and the voxels that nobody annotated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

BUNDLE, FAST = "bundles/xenopus.json", "configs/fast.json"
EPOCH = 50  # iterations, at the scale for machines without a GPU
RUNS = [("fast", 100), ("paper", 100), ("fast", 200), ("paper", 200), ("paper", 400)]


def score(recipe: str, iterations: int, seed: int, folder: Path, settings: list[str]) -> dict[str, float]:
    """Train and evaluate, unless that is done; the mean IoU of both kinds of voxels."""
    run = folder / f"{recipe}_{iterations}_seed{seed}"
    if not (run / "metrics.json").exists():
        volseg = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "from volseg.cli import main; raise SystemExit(main())",
        ]
        words = [BUNDLE, *([FAST] if recipe == "fast" else []), "--output_dir", str(run), *settings]
        length = ["--epochs", str(iterations // EPOCH), "--seed", str(seed), "--overwrite", "True"]
        subprocess.run([*volseg, "train", *words, *length], check=True)
        subprocess.run([*volseg, "evaluate", *words, "--overwrite", "True"], check=True)
    metrics = json.loads((run / "metrics.json").read_text())
    return {kind: metrics[kind]["mean IoU"] for kind in ("held out", "never annotated") if kind in metrics}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    given, settings = parser.parse_known_args()
    table: dict[tuple[str, int], list[dict[str, float]]] = {}
    for seed in given.seeds:
        for recipe, iterations in RUNS:
            found = score(recipe, iterations, seed, given.output, settings)
            table.setdefault((recipe, iterations), []).append(found)
            print(recipe, iterations, "seed", seed, found, file=sys.stderr)
    kinds = list(next(iter(table.values()))[0])
    print(f"| recipe | iterations | {' | '.join(kinds)} |\n|---|---|{'---|' * len(kinds)}")
    for (recipe, iterations), rows in sorted(table.items()):
        cells = (", ".join(f"{row[kind]:.3f}" for row in rows) for kind in kinds)
        print(f"| {recipe} | {iterations} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
