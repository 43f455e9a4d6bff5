"""``volseg export``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "write the weights of a checkpoint as safetensors, to hand on"
EXAMPLE = "volseg export runs/mine/model.pt -o kidney.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="model.pt or best.pt of a run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a name that ends in .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run(given: argparse.Namespace, _: Sequence[str]) -> None:
    from volseg.engines.checkpoint import load_checkpoint
    from volseg.engines.exchange import export_weights

    told = export_weights(load_checkpoint(given.checkpoint), given.output, overwrite=given.overwrite)
    print(f"{given.output}: SHA-256 {told}")
