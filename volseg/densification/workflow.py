"""`volseg densify`: from a few painted slices to the whole volume, how good it is, and what to paint next."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from volseg.arguments import option
from volseg.densification.inputs import FORMER_METHODS, Choices, ImageLike, Images, names_of
from volseg.densification.reporting import Densified
from volseg.densification.run import Run
from volseg.densification.schedule import Progress
from volseg.runs.log import close_log, keep_log
from volseg.runs.stopping import Stopping

__all__ = ["densify"]


def densify(
    image: Images,
    labels: ImageLike | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    minutes: float | None = None,
    unlabelled: int | None = None,
    painted_only: bool = False,
    finished: bool = False,
    names: Mapping[Any, str] | Sequence[str] | None = None,
    spacing: str | Sequence[float] | None = None,
    colours: str | Mapping[str, int] | None = None,
    method: str = "learner",
    learner: str = "auto",
    folds: int | None = None,
    keep_painted: bool = True,
    compare: bool = True,
    suggest_next: bool | None = None,
    continue_from: str | os.PathLike[str] | None = None,
    apply: str | os.PathLike[str] | None = None,
    device: str | None = None,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    began: float | None = None,
    on_progress: Callable[[float | None, str], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Densified:
    """Segment a whole volume from a few painted slices of it, and report how good the result is.

    What the paint means is found by :func:`volseg.annotation.understand_paint`; an error that the auditor
    finds stops everything. Slices are held out in turn to score the result, then it is learnt from all of
    them. What a person painted comes back as painted.

    Args:
        image: a file, a list of files with a channel each, a :class:`volseg.Volume`, or an array
            ``(C, *spatial)``.
        labels: the same with painted slices; an array is ``(*spatial)``. ``None``: take what ``apply`` has
            learnt as it is.
        output: a folder for everything, or the name of the segmentation, with the rest in a folder of that
            name without suffix; ``None`` writes nothing.
        minutes: for everything; 15 without a GPU, 10 with one, a third of it with ``continue_from``.
        unlabelled: the value of unlabelled voxels; found if None.
        painted_only: 0 is unlabelled everywhere, on painted slices, too.
        finished: 0 on painted slices is background, whatever the paint looks like.
        names: of the classes, by value, or as ``["1=tubule"]``; those of a ``.seg.nrrd`` otherwise.
        spacing: voxel size of both files, where they name none or a wrong one: ``"0.5,0.5,2um"``.
        colours: what the colours of a label picture stand for: ``"000000=0,ff0000=1"``.
        method: ``"learner"``, or one that learns nothing: ``"interpolate"``, ``"random-walker"``.
        learner: ``"pixelwise"`` (filter responses and small perceptrons, voxel by voxel; there in seconds),
            ``"unet"`` (a U-Net on patches; minutes on a GPU, longer without) or ``"joined"`` (both, with
            shares chosen on held-out slices). ``"auto"`` is ``"joined"`` from 4 minutes on, unless the volume
            is too large for that, else ``"pixelwise"``; with an earlier result, the one that learnt it, or
            ``"joined"``, which can start from what ``"pixelwise"`` learnt.
        folds: in how many turns slices are held out, 3 to 8 if not given, as the time and the size of the
            volume allow; 0 for no score and all of the time for the result.
        compare: score methods that learn nothing as well, for the report.
        suggest_next: name the slice to paint next; if None, where that was measured to help.
        continue_from: the folder of an earlier result, with less paint on the same image.
        apply: the folder of a result for another image of the same kind. Without labels, its model segments
            this one, and what can be said of the quality is said; with labels, all models start from it.
        force: go on although the auditor found an error.
        resume: go on where the same request was stopped.
        command: to stand in the report.
        began: when the minutes began to count, by ``time.monotonic()``; now if None.
        on_progress: called about once a second, from another thread, with the share of the time that is gone
            (``None`` if it is not known) and what is being done.
        should_stop: asked after every step; then it ends as by Ctrl-C, and keeps what Ctrl-C keeps.

    Raises:
        KeyboardInterrupt: if ``should_stop`` asked for it.
        InputError: if a file or the paint cannot be used.
        RefusedError: if a result stands at ``output`` already; nothing has been learnt then.
    """
    choices = Choices(
        minutes=minutes,
        unlabelled=unlabelled,
        painted_only=painted_only,
        finished=finished,
        names=names_of(names),
        spacing=spacing,
        colours=colours,
        method=FORMER_METHODS.get(method, method),  # type: ignore[arg-type]
        learner=learner,
        folds=folds,
        keep_painted=keep_painted,
        compare=compare,
        suggest=suggest_next,
        device=device,
        seed=seed,
        force=force,
    )
    _require_output(output, resume or overwrite)
    earlier, applied = _sources(continue_from, apply, labels, None if choices.learns else method)
    keep_log()
    try:
        with (
            Stopping(should_stop=should_stop or (lambda: False)) as stopping,
            Progress(_seconds(choices, labels, earlier or applied), began, on_progress).shown() as progress,
        ):
            run = Run(choices, image, labels, output, earlier, applied, stopping, progress)
            return run(resume=resume, overwrite=overwrite, command=command)
    finally:
        close_log()


def _require_output(output: str | os.PathLike[str] | None, wanted: bool) -> None:
    if output is None and wanted:
        raise ValueError("Without an output nothing is written: there is nothing to resume or to overwrite.")


def _sources(
    continue_from: str | os.PathLike[str] | None,
    apply: str | os.PathLike[str] | None,
    labels: ImageLike | None,
    learning_nothing: str | None,
) -> tuple[Path | None, Path | None]:
    """The folders of the result to continue and of the one to apply, if what is asked for makes sense.

    Args:
        learning_nothing: the method, if it learns nothing.
    """
    earlier = None if continue_from is None else Path(continue_from)
    applied = None if apply is None else Path(apply)
    if earlier is not None and applied is not None:
        raise ValueError(
            f"{option('continue_from', earlier)} and {option('apply', applied)}: continue what was learnt "
            "from this image, or apply what was learnt from another, not both."
        )
    if labels is None and applied is None:
        raise ValueError(
            "there are no labels to learn from: name a file with painted slices, or a result of another "
            f"image ({option('apply')})."
        )
    if (earlier or applied) is not None and learning_nothing is not None:
        raise ValueError(
            f"{option('method', learning_nothing)} learns nothing, so no earlier result can be continued or "
            "applied."
        )
    return earlier, applied


def _seconds(choices: Choices, labels: ImageLike | None, source: Path | None) -> float | None:
    """That learning may take; ``None`` where nothing is learnt."""
    if labels is None or not choices.learns:
        return None
    return choices.seconds(continued=source is not None)
