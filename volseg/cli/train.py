"""``volseg train``."""

from volseg.cli.running import add_arguments, run

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "train on annotated slices, as a bundle says"
EXAMPLE = "volseg train xenopus --dataset_dir my_data --output_dir runs/mine --epochs 20"
