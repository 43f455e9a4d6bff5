"""The widget: a session on an image of the viewer, learning as the person paints.

The session's own worker learns and segments in its thread; what takes long at once (making the volume, saving
a result) is a ``thread_worker`` of napari, which asks before it is closed while that runs. Both report to the
thread of the window by a signal of Qt.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui import widgets
from napari.layers import Image
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, QObject, Signal
from qtpy.QtWidgets import QFileDialog

from volseg.errors import InputError, ResourceError, in_words
from volseg.napari.layers import across, volume_of
from volseg.napari.painted import PaintLayer, ResultLayers, Slices
from volseg.session import Session
from volseg.session.worker import Worker

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["PaintPanel"]

_KEPT: set[Path] = set()  # folders of the sessions of all panels of this process
_FORMATS = "volumes (*.nii.gz *.tif *.nrrd *.seg.nrrd *.mha *.ome.zarr *.png)"


class _Bridge(QObject):
    """Carries news from any thread into that of the window; notices that the panel was taken out of it."""

    came = Signal(object)
    closed = Signal()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - of Qt
        if event.type() == QEvent.Type.ParentChange and watched.parent() is None:
            self.closed.emit()
        return False


class PaintPanel(widgets.Container):
    """Choose an image, paint in the layer ``paint``, see ``result`` and ``doubt``.

    Args:
        napari_viewer: the viewer, which npe2 hands over.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        self._viewer = napari_viewer
        self.session: Session | None = None
        self.paint: PaintLayer | None = None
        self.results: ResultLayers | None = None
        self._worker: Worker | None = None
        self._job: Any = None
        self._place: Mapping[str, Any] = {}
        self.image = widgets.ComboBox(label="image", choices=self._images)
        self.folder = widgets.FileEdit(label="keep in", mode="d", nullable=True)
        self.names = widgets.LineEdit(
            label="classes", value="object", tooltip="names, with a comma between two"
        )
        self.start_button = _button("Start", self.start)
        self.chosen = widgets.ComboBox(label="paint with", choices=self._classes)
        self.live = widgets.CheckBox(text="learn while I paint", value=True)
        self.finish_button = _button("Slice is finished", self.finish, "what is blank on it is background")
        self.adopt_button = _button("Adopt the result", self.adopt, "of this slice as paint, to correct it")
        self.score = widgets.Label(label="score", value="")
        self.suggestion = widgets.Label(value="")
        self.go_button = _button("Go there", self.go)
        self.minutes = widgets.FloatSpinBox(label="minutes", value=15, min=0.1, max=10000, step=1)
        self.make_button = _button("Make the volume", self.make)
        self.cancel_button = _button("Cancel", self.cancel)
        self.save_paint_button = _button("Save paint", lambda: self.save("paint"))
        self.save_result_button = _button("Save result", lambda: self.save("result"))
        self.doing = widgets.Label(value="")
        self.status = widgets.Label(value="Choose an image, name the classes, and start.")
        for text in (self.score, self.suggestion, self.status):
            text.native.setWordWrap(True)
        super().__init__(
            widgets=[
                self.image, self.folder, self.names, self.start_button, self.chosen, self.live,
                _row(self.finish_button, self.adopt_button), self.score, self.suggestion, self.go_button,
                self.minutes, _row(self.make_button, self.cancel_button),
                _row(self.save_paint_button, self.save_result_button), self.doing, self.status,
            ]
        )  # fmt: skip
        self.chosen.changed.connect(self._choose)
        self.live.changed.connect(self._rest)
        self._bridge = _Bridge()
        self._bridge.came.connect(self._on_news)
        for event in ("current_step", "order", "ndisplay"):
            getattr(self._viewer.dims.events, event).connect(self._look)
        self._bridge.closed.connect(self.end)
        self.native.installEventFilter(self._bridge)
        self.native.destroyed.connect(lambda: self.end())
        self._enable()

    def start(self) -> None:
        """Begin a session on the chosen image, or continue the one in the folder."""
        self.end()
        if (layer := self.image.value) is None:
            raise InputError("There is no image. Open one, or a sample, and choose it.")
        data, about, _ = layer.as_layer_data_tuple()
        volume = volume_of(data[0] if layer.multiscale else data, about | {"rgb": layer.rgb})
        names = [name.strip() for name in self.names.value.split(",") if name.strip()]
        folder = self.folder.value
        if folder is not None and Path(folder).resolve() in _KEPT:
            raise InputError(f"{folder} is open in another panel. Close that, or choose another folder.")
        is_new = folder is None or not (Path(folder) / "paint.jsonl").exists()
        session = Session(volume, folder, dict(enumerate(names, 1)) if is_new else None)
        try:
            self.paint = PaintLayer(session, self._painted, self._say)
            self.results = ResultLayers(session)
        except BaseException:
            session.close()
            raise
        self.session = session
        if session.folder is not None:
            _KEPT.add(session.folder.path.resolve())
        for one in (self.results.doubt, self.results.result, self.paint.layer):
            self._viewer.add_layer(one)
        self._viewer.layers.selection.active = self.paint.layer
        self.paint.layer.mode = "paint"
        self.paint.layer.events.selected_label.connect(self._picked)
        self._worker = Worker(session, self._bridge.came.emit)
        self._look()
        self._rest()
        self._worker.start()
        self.chosen.reset_choices()
        self.chosen.value = next((value for value in session.classes if value), 0)
        self._say("Paint two classes, background is one; the eraser leaves a voxel unlabelled.")
        self._enable()

    def end(self) -> None:
        """Close the session, which is on the disk then if it is kept; its layers stay as they are."""
        session = self.session
        if session is not None and not session.flush():
            raise ResourceError(f"Paint is only in memory: {session.trouble}. Make room, then close it.")
        if self._job is not None:
            self._job.quit()
        if self._worker is not None:
            self._worker.stop()
        if self.paint is not None:
            self.paint.release()
            self.paint.layer.events.selected_label.disconnect(self._picked)
        if session is not None:
            if session.folder is not None:
                _KEPT.discard(session.folder.path.resolve())
            session.close()
        self.session = self.paint = self.results = self._worker = None

    def finish(self) -> None:
        """Blank is background on the slice that is shown."""
        session, where = self._slice()
        session.finish_slice(*where)
        self._changed([where])

    def adopt(self) -> None:
        """The result of the slice that is shown becomes paint where it is blank."""
        session, where = self._slice()
        if session.known_slice(*where) is None:
            raise InputError("This slice has no result yet. Paint two classes, and wait for it.")
        session.adopt(*where)
        self._changed([where])

    def go(self) -> None:
        """Show the place that was suggested."""
        if self.session is None or self.paint is None or not self._place or not self._is_shown():
            return
        dims, axis = len(self.session.size), self._place["axis"]
        voxel = list(self._place["point"])
        if dims == 3:
            voxel.insert(axis, self._place["index"])
            normal = across(axis, dims)
            self._viewer.dims.order = (normal, *(a for a in range(dims) if a != normal))
        world = self.paint.layer.data_to_world(voxel[::-1])
        self._viewer.dims.set_point(range(dims), world)
        scene = getattr(self._viewer, "scene", self._viewer)  # the viewer itself before napari 0.9
        scene.camera.center = [world[a] for a in self._viewer.dims.displayed]

    def make(self) -> None:
        """Segment the whole volume with a score, for the minutes given; painting goes on meanwhile."""
        session, minutes = self._session(), self.minutes.value

        def progress(share: float | None, what: str) -> None:
            self._bridge.came.emit({"kind": "doing", "what": what, "share": share})

        def done(result: Any) -> None:
            if self.results is not None and result is not None:
                self.results.show_known()
                self._say("The volume is made." + (f" See {session.folder.path}." if session.folder else ""))

        self._run(lambda stop: session.densify(minutes, on_progress=progress, should_stop=stop), done)

    def save(self, what: str, path: str | None = None) -> None:
        """Save paint or result; asks for the name if none is given, and before it replaces a file."""
        session = self._session()
        if path is None:
            path, _ = QFileDialog.getSaveFileName(self.native, f"Save {what}", "", _FORMATS)
        if path:
            name: str = path
            self._run(
                lambda _: session.export(name, what, overwrite=True), lambda file: self._say(f"Saved {file}.")
            )

    def cancel(self) -> None:
        """Stop what is being done: the volume that is made, or else learning."""
        if self._job is not None:
            self._job.quit()
        elif self._worker is not None:
            self.live.value = False

    def _run(self, work: Callable[[Callable[[], bool]], Any], done: Callable[[Any], object]) -> None:
        """Do something that takes long in a thread of its own; learning rests."""
        if self._job is not None:
            raise InputError("Something is being done already. Wait for it, or cancel it.")

        def stopped() -> bool:
            return bool(job.abort_requested)

        def working() -> Any:
            with contextlib.suppress(KeyboardInterrupt):
                return work(stopped)
            return None

        def over() -> None:
            self._job = None
            self._rest()
            self._enable()

        self._job = job = create_worker(working, _ignore_errors=True)
        job.returned.connect(done)
        job.errored.connect(lambda error: self._say(in_words(error)[0], show_error))
        job.finished.connect(over)
        self._rest()
        job.start()
        self._enable()

    def _rest(self, _: object = None) -> None:
        """Learning rests if it is asked to, and while something else needs the processor."""
        if self._worker is not None:
            self._worker.rest(self._job is not None or not self.live.value)

    def _session(self) -> Session:
        if self.session is None:
            raise InputError("There is no session. Choose an image and start.")
        return self.session

    def _slice(self) -> tuple[Session, tuple[int, int]]:
        """The slice that is shown, as the session names it."""
        session, dims = self._session(), len(self._session().size)
        if not self._is_shown():
            raise InputError("The layer that was painted on is gone. Start again.")
        if dims == 2:
            return session, (2, 0)
        if self._viewer.dims.ndisplay == 3:
            raise InputError("The volume is shown in 3D. Show slices to work on one.")
        axis = self._normal()
        return session, (axis, self._position()[axis])

    def _is_shown(self) -> bool:
        return self.paint is not None and self.paint.layer in self._viewer.layers

    def _normal(self) -> int:
        """The session's axis across the slices that are shown."""
        dims = len(self._session().size)
        hidden = [a - (self._viewer.dims.ndim - dims) for a in self._viewer.dims.not_displayed]
        return across(next(a for a in hidden[::-1] if a >= 0), dims)

    def _position(self) -> list[int]:
        """The voxel that is looked at, x, y(, z)."""
        assert self.paint is not None
        size = self._session().size
        point = self.paint.layer.world_to_data(np.array(self._viewer.dims.point)[-len(size) :])
        return [min(max(round(float(p)), 0), n - 1) for p, n in zip(point[::-1], size, strict=True)]

    def _look(self, _: object = None) -> None:
        if self.session is None or self._worker is None or not self._is_shown():
            return
        flat = len(self.session.size) == 3 and self._viewer.dims.ndisplay == 2
        self._worker.look(self._position(), self._normal() if flat else None)
        if self.results is not None and flat:
            where = self._slice()[1]
            if self.session.known_slice(*where) is not None:
                self.results.show([where])

    def _painted(self, slices: Slices) -> None:
        """The layer was painted on."""
        if self.results is not None and self._worker is not None and self.session is not None:
            self.results.show(slices)
            self._worker.painted()
            if len(self.session.classes) != len(self.chosen.choices):
                self._new_class()
            if self.session.trouble:
                self._say(self.session.trouble, show_error)

    def _changed(self, slices: Slices) -> None:
        """The session was painted on."""
        if self.paint is not None:
            self.paint.show(slices)
        self._painted(slices)

    def _on_news(self, news: Mapping[str, Any]) -> None:
        if self.session is None or self.results is None:
            return
        match news["kind"]:
            case "plane":
                self.results.show([(news["axis"], news["index"])])
            case "doing":
                share = news.get("share")
                self.doing.value = news["what"] + ("" if share is None else f" ({share:.0%})")
            case "suggestion":
                self._place = news if "point" in news else {}
                self.suggestion.value = str(news.get("text", ""))
                self._enable()
            case "score":
                self.score.value = _in_figures(news)
            case "trouble" if news["what"]:
                self._say(news["what"], show_error)

    def _images(self, _: object = None) -> list[Image]:
        own = [] if self.results is None else [self.results.doubt]
        return [one for one in self._viewer.layers if isinstance(one, Image) and one not in own]

    def _classes(self, _: object = None) -> list[tuple[str, int]]:
        known = {} if self.session is None else self.session.classes
        return [(f"{value}: {info.name}", value) for value, info in sorted(known.items())]

    def _new_class(self) -> None:
        if self.results is not None and self.paint is not None:
            self.results.show_classes()
            self.chosen.reset_choices()
            self._picked()

    def _choose(self, value: int | None) -> None:
        if self.paint is not None and value is not None:
            self.paint.layer.selected_label = value

    def _picked(self, _: object = None) -> None:
        """Another label was chosen in napari's own controls."""
        if self.paint is not None and self.paint.layer.selected_label in self.chosen.choices:
            self.chosen.value = self.paint.layer.selected_label

    def _say(self, text: str, show: Callable[[str], object] = show_info) -> None:
        self.status.value = text
        show(text)

    def _enable(self) -> None:
        """Only what can be done now can be pressed."""
        on = self.session is not None
        for button in (
            self.finish_button,
            self.adopt_button,
            self.save_paint_button,
            self.save_result_button,
        ):
            button.enabled = on
        self.make_button.enabled = on and self._job is None
        self.cancel_button.enabled = on
        self.go_button.enabled = on and bool(self._place)


def _row(*buttons: widgets.PushButton) -> widgets.Container:
    row = widgets.Container(widgets=list(buttons), layout="horizontal", labels=False)
    row.margins = (0, 0, 0, 0)
    return row


def _button(text: str, act: Callable[[], object], tooltip: str = "") -> widgets.PushButton:
    """A button that shows what is user-fixable in words; napari shows other errors with their traceback."""

    def pressed() -> None:
        try:
            act()
        except Exception as error:
            sentence, code = in_words(error)
            if code == 1:
                raise
            show_error(sentence)

    button = widgets.PushButton(text=text, tooltip=tooltip)
    button.changed.connect(pressed)
    return button


def _in_figures(score: Mapping[str, Any]) -> str:
    if score.get("value") is None:
        return str(score.get("reason", ""))
    return f"IoU {score['value']:.2f} (95 %: {score['low']:.2f} to {score['high']:.2f})"
