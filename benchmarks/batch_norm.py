"""Whose statistics batch normalisation should use: each choice, on whole images and crops of other content.

    python benchmarks/batch_norm.py bundles/isbi2012.json runs/isbi2012/model.pt data/isbi2012 [options]

Scores are IoU, mean over the classes that make up at least 0.2 % of what is scored, over the held-out images
(``--test DIR``: those of another data set), each as a whole and in four crops: the richest and the poorest in
foreground of 40, a corner, one at random; ``--crops 6`` adds the opposite corner and another at random. Crops
are normalised by themselves, as a file of a user's would be. ``--skip`` passes over the first images, so that
what was chosen on these can be checked on others.
``tile``: tiles as large as the output of a training patch. ``frozen``: the last tenth of the same training
with batch norm in evaluation mode at its averaged running statistics; ``--frozen`` names its weights.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from volseg import OverlapTileInferer
from volseg.engines.state import undeformed_blocks
from volseg.inferers.statistics import clean_statistics, load_statistics, statistics_of
from volseg.runs.checkpoint import load_checkpoint

MODES = ("running", "clean", "volume", "mix of clean", "mix of running", "frozen", "tile")
PRESENT = 0.002  # share of the voxels


def crops(
    truth: Any, size: list[int], random: np.random.Generator
) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Places of different content; the first class that is not the most frequent is foreground."""
    starts = [
        [int(random.integers(0, n - s + 1)) for n, s in zip(truth.shape, size, strict=True)]
        for _ in range(40)
    ]
    background = np.bincount(truth.reshape(-1)[truth.reshape(-1) != 255]).argmax()
    places = [tuple(slice(a, a + s) for a, s in zip(start, size, strict=True)) for start in starts]
    places = [place for place in places if (truth[place] != 255).mean() > 0.5]
    if not places:
        return
    foreground = [float(((truth[p] != background) & (truth[p] != 255)).mean()) for p in places]
    yield "rich", places[int(np.argmax(foreground))]
    yield "poor", places[int(np.argmin(foreground))]
    corner = tuple(slice(0, s) for s in size)
    far = tuple(slice(n - s, n) for n, s in zip(truth.shape, size, strict=True))
    for name, place in (("corner", corner), ("random", places[0]), ("corner", far), ("random", places[-1])):
        if (truth[place] != 255).any():
            yield name, place


def score(prediction: Any, truth: Any, classes: int) -> float:
    known = truth != 255
    found = []
    for c in range(classes):
        wanted, got = (truth == c) & known, (prediction == c) & known
        if wanted.sum() >= PRESENT * known.sum():
            found.append((wanted & got).sum() / (wanted | got).sum())
    return float(np.mean(found))


def segment(image: Any, network: Any, mode: str, tile: Any) -> Any:
    batch_norm = mode.split()[0]
    batch_norm = "running" if batch_norm in ("clean", "frozen") else batch_norm
    inferer = OverlapTileInferer(tile if mode == "tile" else None, batch_norm=batch_norm)
    return inferer(torch.as_tensor(image)[None], network)[0].argmax(0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data")
    parser.add_argument("--test")
    parser.add_argument("--frozen", type=Path)
    parser.add_argument("--images", type=int, default=4, help="at most so many are scored")
    parser.add_argument("--skip", type=int, default=0, help="so many images at the start")
    parser.add_argument("--crops", type=int, default=4, help="of each image, at most 6")
    parser.add_argument("--output", "-o", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    config = ConfigParser()
    config.read_config(given.bundle)
    config["dataset_dir"] = given.data
    config.parse()
    network = config.get_parsed_content("network").eval()
    patches = config.get_parsed_content("train#dataset")
    content = load_checkpoint(given.checkpoint)
    weights, both = content["model"], content.get("statistics", {})
    network.load_state_dict(weights)
    kept = both.get("running") or statistics_of(network)
    clean = both.get("clean") or clean_statistics(network, undeformed_blocks(patches, given.seed))
    if given.test:
        config["dataset_dir"] = given.test
        config["held_out"] = 0.0
        config.parse()
    cases = config.get_parsed_content("validate#dataset")
    preprocessing = config.get_parsed_content("preprocessing")
    size = np.array(patches[0]["image"].shape[1:])
    stride = np.array(network.stride)
    tile = [int(n) for n in np.maximum((size - 2 * np.array(network.context)) // stride, 1) * stride]
    random = np.random.default_rng(given.seed)
    found: dict[str, dict[str, list[float]]] = {mode: {"whole": [], "crops": []} for mode in MODES}
    seen, used, kinds = 0, 0, ("truth", "label" if given.test else "held")
    for item in cases:
        truth = next((item[k] for k in kinds if k in item and (item[k] != 255).any()), None)
        if truth is None or (truth != 255).float().mean() < 0.5 or used == given.images:
            continue
        seen += 1
        if seen <= given.skip:
            continue
        used += 1
        truth, image = truth[0].numpy(), item["image"].numpy()
        length = [max(min(160 if truth.ndim == 2 else 64, int(n / 1.6)), 1) for n in truth.shape]
        places = [("whole", (slice(None),) * truth.ndim), *islice(crops(truth, length, random), given.crops)]
        for mode in MODES:
            frozen = given.frozen and mode == "frozen"
            if mode == "frozen" and not frozen:
                continue
            network.load_state_dict(load_checkpoint(given.frozen)["model"] if frozen else weights)
            if not frozen:
                load_statistics(network, clean if "clean" in mode else kept)
            for name, place in places:
                part = image[(slice(None), *place)]
                if name != "whole":
                    part = np.asarray(preprocessing({"image": torch.from_numpy(part.copy())})["image"])
                result = score(segment(part, network, mode, tile), truth[place], network.out_channels)
                found[mode]["whole" if name == "whole" else "crops"].append(result)
                print(item["name"], mode, name, f"{result:.3f}", flush=True)
    print("| statistics | whole, mean (worst) | crops, mean (worst) |\n|---|---|---|")
    for mode, parts in found.items():
        if parts["whole"]:
            cells = [f"{np.mean(v):.3f} ({np.min(v):.3f})" for v in parts.values()]
            print(f"| {mode} | {' | '.join(cells)} |")
    if given.output:
        given.output.write_text(json.dumps({"images": used, **found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
