"""``volseg evaluate``."""

from volseg.cli.running import add_arguments, run

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "score a trained network on slices it was not trained on"
EXAMPLE = "volseg evaluate xenopus --dataset_dir my_data --output_dir runs/mine"
