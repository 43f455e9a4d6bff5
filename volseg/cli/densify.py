"""``volseg densify``."""

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from volseg.cli.command import Command, add_paint, add_reading

__all__ = ["DENSIFY", "default_output"]

logger = logging.getLogger(__name__)

_METHODS = ("learner", "interpolate", "random-walker", "network")
_LEARNERS = ("auto", "pixelwise", "unet", "joined")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", type=Path, nargs="?", help="a volume or an image, of which a few slices are painted"
    )
    parser.add_argument(
        "labels",
        type=Path,
        nargs="?",
        help="a file with painted slices of it; may be left out with --apply; with --continue OUT both may, "
        "which knows them",
    )
    parser.add_argument(
        "--channels",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="further channels of the image, one per file, on the same grid (T1.nii.gz beside FLAIR.nii.gz)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="a folder for everything, or the name of the segmentation (out.nii.gz) with the rest in a "
        "folder beside it (out); default: a folder here, named after the image, with _densified",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="for everything (default 15, with a GPU 10; with --continue or --apply a third)",
    )
    add_paint(parser)
    add_reading(parser, labels=True)
    parser.add_argument(
        "--learner",
        choices=_LEARNERS,
        default="auto",
        help="what learns: filter responses and small perceptrons voxel by voxel (pixelwise), a U-Net "
        "(unet), or both, with shares chosen on held-out slices (joined); auto takes what measured best in "
        "the time: joined from 4 minutes on unless the volume is too large for that, else pixelwise; with "
        "--continue, each goes on from its own result, joined from one of pixelwise, too",
    )
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="learner",
        help="learn from the paint (learner, the default; network means the same), interpolate between "
        "painted slices, or let random walkers go out from the paint",
    )
    parser.add_argument(
        "--folds",
        type=int,
        help="in how many turns slices are held out; 0 for no score (default: 3 to 8, as the time allows)",
    )
    parser.add_argument(
        "--no-keep-painted",
        dest="keep_painted",
        action="store_false",
        help="let the result differ from the paint",
    )
    parser.add_argument(
        "--no-compare", dest="compare", action="store_false", help="leave out the methods to compare with"
    )
    parser.add_argument(
        "--suggest",
        dest="suggest_next",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="name the slice to paint next (default: if that was measured to help)",
    )
    parser.add_argument(
        "--continue", dest="continue_from", type=Path, metavar="OUT", help="continue an earlier result"
    )
    parser.add_argument(
        "--apply",
        type=Path,
        metavar="RESULT",
        help="what was learnt from another image of the same kind segments this one, or is where learning "
        "from its own paint starts",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default 0)")
    parser.add_argument("--force", action="store_true", help="go on although the audit found an error")
    parser.add_argument("--resume", action="store_true", help="go on where the same command was stopped")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")


def _run(given: argparse.Namespace, _: Sequence[str]) -> None:
    began = time.monotonic()
    if given.image is None and (given.continue_from is None or given.channels):
        argparse.ArgumentParser(prog="volseg densify", usage="%(prog)s IMAGE LABELS [-o OUT] ...").error(
            "name the image and the file with its paint; both may be left out with --continue OUT only"
        )
    logger.info("Loading libraries.")
    from volseg.densification import densify

    settings = {key: value for key, value in vars(given).items() if key not in _NOT_SETTINGS}
    if given.image is None:
        settings |= _recorded(given.continue_from, given.spacing)
        given.image = settings["image"] if isinstance(settings["image"], Path) else settings["image"][0]
    if settings["output"] is None:
        settings["output"] = default_output(given.image)
        logger.info("Everything goes into the folder %s; -o names another.", settings["output"])
    if channels := settings.pop("channels"):
        settings["image"] = [given.image, *channels]
    done = densify(**settings, command=shlex.join(["volseg", *sys.argv[1:]]), began=began)
    for path in done.written:
        print(path)


def _recorded(folder: Path, spacing: str | None) -> dict[str, object]:
    """Image, paint and voxel size as a session, or an earlier result, has them on record."""
    from volseg.errors import InputError
    from volseg.session.folder import Folder

    known = Folder(folder)
    images, recorded = known.images()
    paint = known.labels_of_result()
    if paint is None:
        raise InputError(
            f"{folder} holds no paint that was learnt from. Name the image and the file with its paint "
            f"before --continue {folder}."
        )
    logger.info("Going on with %s, painted in %s.", ", ".join(map(str, images)), paint[0])
    return {
        "image": images[0] if len(images) == 1 else list(images),
        "labels": paint[0],
        "spacing": spacing or recorded,
    }


def default_output(image: Path) -> Path:
    """A folder in the current one, named after the image."""
    from volseg.io import suffix_of

    name = image.name
    return Path(f"{name[: len(name) - len(suffix_of(name))]}_densified")


_NOT_SETTINGS = ("command", "debug", "run", "version")


DENSIFY = Command(
    "densify",
    "segment a whole volume from a few painted slices, and report how good the result is",
    "volseg densify image.nii.gz painted.nii.gz -o result --names 1=tubule 2=lumen",
    _add_arguments,
    _run,
)
