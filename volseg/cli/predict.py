"""``volseg predict``."""

from volseg.cli.running import add_arguments, run

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]

SUMMARY = "segment whole volumes with a trained network"
EXAMPLE = "volseg predict xenopus --images new_volume.tif --output_dir runs/mine"
