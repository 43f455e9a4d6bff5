/* The frame of a view: its caption, its slider through the slices, and marks of those that carry paint. */
import { element } from "./side.js";
import { View } from "./view.js";

export function makeView(app, plane) {
  const stage = element("div", { className: "stage" }, element("canvas", { className: "picture" }),
    element("canvas", { className: "over", tabIndex: 0, role: "application", "aria-roledescription": "view to paint in" }));
  const output = element("output");
  const caption = element("figcaption", {}, element("b", { textContent: plane.name }), output);
  const figure = element("figure", { className: "view", "data-view": plane.name }, caption, stage);
  const view = new View(app, plane, figure);
  view.show = () => {
    const where = app.numbered(view.axis, view.index);
    output.textContent = where;
    view.over.setAttribute("aria-label", `${plane.name} ${where}`);
  };
  if (app.size.length === 3) {
    const n = app.size[plane.axis];
    caption.append(element("button", { type: "button", textContent: "⤢", title: "Enlarge this view (v)", "aria-label": `enlarge ${plane.name}`, onclick: () => app.enlarge(view) }));
    const slider = element("input", { type: "range", min: 0, max: n - 1, "aria-label": `slice along ${plane.letter}` });
    slider.addEventListener("input", () => app.goTo(plane.axis, Number(slider.value)));
    const track = element("div", { className: "track" }, slider);
    const jump = (text, direction, what) => element("button", { type: "button", textContent: text, title: `${what} painted slice`, "aria-label": `${what} painted slice along ${plane.letter}`, onclick: () => app.toPainted(view, direction) });
    figure.append(element("div", { className: "slide" }, jump("‹", -1, "previous"), track, jump("›", 1, "next")));
    const showPlane = view.show;
    view.show = () => {
      showPlane();
      slider.value = view.index;
      slider.setAttribute("aria-valuetext", app.numbered(view.axis, view.index));
      const key = JSON.stringify([app.painted[view.axis], [...app.finished], app.suggestion]);
      if (view.marked === key) return;
      view.marked = key;
      const mark = (first, last, kind) => {
        const made = element("span", { className: kind }), share = (i) => i / Math.max(1, n - 1);
        made.style.left = `calc(8px + ${share(first)} * (100% - 16px))`;
        if (last > first) made.style.width = `calc(2px + ${share(last - first)} * (100% - 16px))`;
        return made;
      };
      const runs = []; // of painted slices that follow one another
      for (const i of app.painted[view.axis]) {
        if (runs.at(-1)?.[1] === i - 1) runs.at(-1)[1] = i;
        else runs.push([i, i]);
      }
      const marks = runs.map((run) => mark(...run, "mark"));
      for (const one of app.finished) {
        const [axis, index] = one.split("/").map(Number);
        if (axis === view.axis) marks.push(mark(index, index, "mark done"));
      }
      if (app.suggestion?.axis === view.axis) marks.push(mark(app.suggestion.index, app.suggestion.index, "mark next"));
      track.replaceChildren(slider, ...marks);
    };
  }
  return view;
}
