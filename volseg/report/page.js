/* Last of four parts: what is said beside the views, and what can be done with them. What is shown stands
   in the address (#x=…&y=…&z=…&overlay=result,paint) and in data-state of #viewer. */
/* --- what is said --- */
const className = (k) => (k === UNLABELLED ? "none" : meta.classes[k].name);
function valuesHere() {
  const at = shown(0) + shown(1) * X + shown(2) * X * Y;
  const values = {};
  for (const name of ["paint", "result", "truth"]) if (volumes[name]) values[name] = volumes[name][at];
  if (volumes.confidence) values.confidence = Math.round(volumes.confidence[at] / 2.55);
  return values;
}

/* From 0, and in brackets from 1 as Fiji and ITK-SNAP count. */
const numbered = (axis) => `${"xyz"[axis]} = ${position[axis]} (${position[axis] + 1} of ${meta.size[axis]})`;

function announce() {
  const values = valuesHere(), dims = meta.size.length;
  const readout = byId("readout");
  readout.replaceChildren();
  const say = (name, value, colour) => {
    const item = document.createElement("span"), what = document.createElement("i"), figure = document.createElement("b");
    what.textContent = name;
    figure.textContent = value;
    item.append(what);
    if (colour) {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = `rgb(${colour})`;
      item.append(swatch, " ");
    }
    item.append(figure);
    readout.append(item);
  };
  say("voxel", position.slice(0, dims).map((p, axis) => `${"xyz"[axis]} ${p}`).join("  "));
  if (meta.unit)
    say("at", meta.spacing.map((s, axis) => (position[axis] * s).toPrecision(4)).join(" × ") + ` ${meta.unit}`);
  for (const name of ["paint", "result", "truth"])
    if (name in values) say(name, className(values[name]), meta.classes[values[name]]?.colour);
  if ("confidence" in values) say("confidence", `${values.confidence} %`);
  for (const view of views) {
    const where = view.n === null ? "" : numbered(view.n);
    if (view.slider) {
      view.slider.value = position[view.n];
      view.slider.setAttribute("aria-valuetext", `slice ${numbered(view.n)}`);
      view.output.textContent = where;
      const painted = meta.painted[view.n];
      view.previous.disabled = !painted.some((i) => i < position[view.n]);
      view.next.disabled = !painted.some((i) => i > position[view.n]);
    }
    view.canvas.setAttribute("aria-label", `${view.name} view ${where}, layers: ${switchedOn().join(", ")}`);
  }
  for (const layer of Object.values(layers)) layer.output.textContent = layer.amount.value;
  byId("viewer").dataset.state = JSON.stringify({ position: position.slice(0, dims), layers: switchedOn(), values });
}

const switchedOn = () => Object.keys(layers).filter((name) => layers[name].on.checked);
function address() {
  const axes = meta.size.map((_, axis) => `${"xyz"[axis]}=${position[axis]}`);
  return "#" + [...axes, "overlay=" + switchedOn().filter((name) => name !== "image").join(",")].join("&");
}

let asked = false, later = 0;
function refresh() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    views.forEach(draw);
    announce();
  });
}
function changed() {
  refresh();
  clearTimeout(later);
  later = setTimeout(() => history.replaceState(null, "", address()), 250);
}

/* --- what can be done --- */
function move(axis, index) {
  position[axis] = clamp(Math.round(index), 0, meta.size[axis] - 1);
  changed();
}
function toPainted(axis, direction) {
  const found = meta.painted[axis].filter((i) => direction * (i - position[axis]) > 0);
  if (found.length) move(axis, direction > 0 ? found[0] : found[found.length - 1]);
}
function readAddress(fragment) {
  clearTimeout(later);
  const wanted = new URLSearchParams(fragment.slice(1));
  meta.size.forEach((size, axis) => {
    const index = Number.parseInt(wanted.get("xyz"[axis]) ?? "", 10);
    if (Number.isInteger(index)) position[axis] = clamp(index, 0, size - 1);
  });
  if (wanted.has("overlay")) {
    const names = wanted.get("overlay").split(",");
    for (const name of Object.keys(layers)) if (name !== "image") layers[name].on.checked = names.includes(name);
  }
  if (wanted.has("image")) layers.image.on.checked = wanted.get("image") !== "0";
  const opacity = Number.parseInt(wanted.get("opacity") ?? "", 10);
  for (const [name, layer] of Object.entries(layers)) {
    if (name !== "image" && Number.isInteger(opacity)) layer.amount.value = clamp(opacity, 0, 100);
    if (layer.style && ["filled", "outline"].includes(wanted.get("style"))) layer.style.value = wanted.get("style");
  }
  refresh();
}

function connect(view) {
  const point = (event) => {
    const box = view.canvas.getBoundingClientRect();
    const at = (axis, fraction) => {
      const i = clamp(Math.floor(fraction * meta.shape[axis]), 0, meta.shape[axis] - 1);
      move(axis, across(view, axis, i) * meta.steps[axis]);
    };
    at(view.h, (event.clientX - box.left) / box.width);
    at(view.v, (event.clientY - box.top) / box.height);
  };
  view.canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    view.canvas.setPointerCapture(event.pointerId);
    view.canvas.focus({ preventScroll: true });
    point(event);
  });
  view.canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) point(event); });
  view.canvas.addEventListener("wheel", (event) => {
    if (view.n === null || document.activeElement !== view.canvas || event.ctrlKey) return;
    event.preventDefault();
    move(view.n, position[view.n] + Math.sign(event.deltaY) * meta.steps[view.n]);
  }, { passive: false });
  view.canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = (axis, by) => move(axis, position[axis] + by * meta.steps[axis] * (event.shiftKey ? 10 : 1));
    const [right, down] = view.flip.map((flipped) => (flipped ? -1 : 1));
    const keys = {
      ArrowLeft: () => step(view.h, -right), ArrowRight: () => step(view.h, right),
      ArrowUp: () => step(view.v, -down), ArrowDown: () => step(view.v, down),
      c: () => { crosshair = !crosshair; refresh(); },
    };
    if (view.n !== null)
      Object.assign(keys, {
        PageUp: () => step(view.n, 1), PageDown: () => step(view.n, -1),
        n: () => toPainted(view.n, 1), p: () => toPainted(view.n, -1),
      });
    Object.values(layers).forEach((layer, i) => { keys[i + 1] = () => layer.on.click(); });
    if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  if (view.slider) {
    view.slider.addEventListener("input", () => move(view.n, Number(view.slider.value)));
    view.previous.addEventListener("click", () => toPainted(view.n, -1));
    view.next.addEventListener("click", () => toPainted(view.n, 1));
  }
}

function connectPage() {
  for (const layer of Object.values(layers))
    for (const control of [layer.on, layer.amount, layer.style]) control?.addEventListener("input", changed);
  for (const box of classBoxes) box.addEventListener("input", refresh);
  for (const button of document.querySelectorAll("button.jump"))
    button.addEventListener("click", () => {
      for (const [axis, index] of JSON.parse(button.dataset.to)) move(axis, index);
      const sliced = JSON.parse(button.dataset.to)[0][0];
      const view = views.find((one) => one.n === sliced) ?? views[0];
      byId("viewer").scrollIntoView();
      view.canvas.focus({ preventScroll: true });
    });
  new ResizeObserver(refresh).observe(byId("views"));
  addEventListener("hashchange", (event) => readAddress(new URL(event.newURL).hash));
}

for (const button of document.querySelectorAll("button.copy"))
  button.addEventListener("click", async () => {
    const source = byId(button.dataset.from);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });

(async () => {
  refuseBlankCanvas();
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old (before 2023).");
  volumes.image = await assemble("image", meta.channels);
  if (meta.sheets.confidence) volumes.confidence = await assemble("confidence", 1);
  for (const name of meta.labels) volumes[name] = await inflate("data-" + name);
  views.forEach(connect);
  connectPage();
  readAddress(location.hash);
  root.dataset.ready = "true";
})().catch((error) => fail(error.message ?? error));
