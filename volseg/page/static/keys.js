/* Keys, those of ITK-SNAP and napari where they have any, and the overlay that lists them. */
import { TOOLS } from "./tools.js";
import { element } from "./side.js";

const byId = (id) => document.getElementById(id);

const GROUPS = {
  "In a view": {
    "← → ↑ ↓": "move the cross (with Shift: ten voxels)",
    "Page Up, Page Down, wheel": "next and previous slice (with Shift: ten)",
    ", .": "previous and next painted slice",
    "Enter": "use the tool at the cross: a dot, a corner, a fill",
    "Shift + Enter": "a line from the last dot; close the outline",
    "Esc": "drop the outline",
    "Ctrl + wheel, + −": "zoom",
    "Space + drag, middle button": "move the picture",
    "Home": "show the whole slice",
    "right button": "erase",
    "Shift + click": "move the cross",
  },
  "Tools": Object.fromEntries(TOOLS.map(({ key, label }) => [key, label.toLowerCase()])),
  "Everywhere": {
    "0 – 9": "class to paint with; 0 is background",
    "[ ]": "smaller and larger brush",
    "Ctrl + Z": "undo",
    "Ctrl + Y, Ctrl + Shift + Z": "redo",
    "k": "this slice is finished: blank is background",
    "j": "adopt the result of this slice",
    "n": "go to where painting helps most",
    "m": "add a class",
    "s": "hide or show paint and result",
    "r, t": "result, doubt on or off",
    "a, d": "paint and result fainter, stronger",
    "x": "hide or show the cross",
    "v": "enlarge the next view",
    "Ctrl + S": "save as",
    "?": "this list",
  },
};

export function showKeys() {
  byId("keys").replaceChildren(...Object.entries(GROUPS).map(([title, list]) =>
    element("div", {}, element("h3", { textContent: title }), element("dl", { className: "keys" },
      ...Object.entries(list).flatMap(([key, text]) => [element("dt", {}, element("kbd", { textContent: key })), element("dd", { textContent: text })])))));
}

export function keys(app) {
  const inView = (view) => {
    const walk = (axis, by, shift) => app.goTo(axis, app.position[axis] + by * (shift ? 10 : 1));
    const [right, down] = view.flip.map((flipped) => (flipped ? -1 : 1));
    return {
      ArrowLeft: (e) => walk(view.h, -right, e.shiftKey), ArrowRight: (e) => walk(view.h, right, e.shiftKey),
      ArrowUp: (e) => walk(view.v, -down, e.shiftKey), ArrowDown: (e) => walk(view.v, down, e.shiftKey),
      PageUp: (e) => app.step(view, e.shiftKey ? 10 : 1), PageDown: (e) => app.step(view, e.shiftKey ? -10 : -1),
      ",": () => app.toPainted(view, -1), ".": () => app.toPainted(view, 1),
      Enter: (e) => app.hands.use(view, e.shiftKey), Home: () => view.fit(), Escape: () => app.hands.drop(),
      "+": () => view.zoomBy(1.25), "=": () => view.zoomBy(1.25), "-": () => view.zoomBy(0.8),
    };
  };
  const anywhere = {
    "[": () => app.resize(-5), "]": () => app.resize(5), k: () => app.finish(), j: () => app.adopt(),
    n: () => app.goToSuggestion(), m: () => app.addClass(), x: () => { app.cross = !app.cross; app.draw(); },
    r: () => app.switchLayer("result", !app.layers.result.on), t: () => app.switchLayer("doubt", !app.layers.doubt.on),
    s: () => { const on = !(app.layers.paint.on || app.layers.result.on); app.switchLayer("paint", on); app.switchLayer("result", on); },
    a: () => app.fade(-0.1), d: () => app.fade(0.1), "?": () => byId("help-box").showModal(),
    v: () => {
      const next = app.views[(app.views.findIndex((one) => one.element.classList.contains("main")) + 1) % app.views.length];
      app.enlarge(next);
      next.over.focus();
    },
  };
  for (const { key, name } of TOOLS) anywhere[key] = () => app.use(name);
  const space = (isDown) => {
    app.hands.isSpace = isDown;
    document.documentElement.classList.toggle("panning", isDown);
  };

  addEventListener("keydown", (event) => {
    const on = event.target, isInBox = document.querySelector("dialog[open]");
    if (isInBox || (on.matches?.("input:not([type=range], [type=checkbox], [type=color]), select") && !event.ctrlKey)) return;
    if (event.ctrlKey || event.metaKey) {
      const key = event.key.toLowerCase();
      const deed = { z: () => (event.shiftKey ? app.redo() : app.undo()), y: () => app.redo(), s: () => byId("save").click() }[key];
      if (!deed || (on.matches?.("input[type=text]") && key !== "s")) return;
      event.preventDefault();
      deed();
      return;
    }
    if (event.altKey) return;
    const view = app.views.find((one) => one.over === on);
    if (event.key === " " && view) { event.preventDefault(); space(true); return; }
    const deed = (view && inView(view)[event.key]) ?? anywhere[event.key] ?? (/^\d$/.test(event.key) ? () => app.choose(Number(event.key)) : null);
    if (!deed) return;
    event.preventDefault();
    deed(event);
  });
  addEventListener("keyup", (event) => { if (event.key === " ") space(false); });
  addEventListener("blur", () => space(false));
}
