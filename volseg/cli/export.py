"""``volseg export``."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "write the weights of a checkpoint as safetensors, to hand on"
EXAMPLE = "volseg export runs/mine/model.pt -o kidney.safetensors"

_MUCH = 0.02  # of a score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="model.pt or best.pt of a run, or its folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a name that ends in .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.runs.checkpoint import batch_norm_of, export_weights, load_checkpoint

    path = given.checkpoint / "model.pt" if given.checkpoint.is_dir() else given.checkpoint
    content = load_checkpoint(path)
    batch_norm = batch_norm_of(path, content.get("iteration"))
    if batch_norm:
        content["batch_norm"] = batch_norm
    told = export_weights(content, given.output, overwrite=given.overwrite)
    print(f"{given.output}: SHA-256 {told}")
    for line in _about(batch_norm):
        print(line)


def _about(batch_norm: Mapping[str, Any]) -> Iterator[str]:
    """What another program will get with these weights, where that is not what predict gives."""
    mode = batch_norm.get("mode", "running")
    if mode == "running":
        return
    yield (
        f'Batch norm: predict computes with batch_norm = "{mode}", which takes statistics from each image. '
        "A program that loads these weights in evaluation mode does without them and gets another result."
    )
    if "score" in batch_norm and "running" in batch_norm:
        with_image, without = batch_norm["score"], batch_norm["running"]
        verdict = "WARNING, that is much worse" if with_image - without > _MUCH else "about as good"
        yield f"Held-out score: {with_image:.3f} with predict, {without:.3f} in evaluation mode: {verdict}."
    else:
        yield "How good that is, is not known: volseg evaluate into the folder of the run, then export again."
