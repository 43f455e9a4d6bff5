"use strict";
/* The views of a report: puts the volumes together, cuts them along three planes, draws layers over each other.
   What is shown stands in the address (#x=…&y=…&z=…&overlay=result,paint) and in data-state of #viewer. */
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const errors = [];
  function fail(message) {
    errors.push(String(message));
    root.dataset.errors = JSON.stringify(errors);
    byId("trouble").textContent = "The views cannot be shown: " + errors[0];
    byId("trouble").hidden = false;
  }
  addEventListener("error", (event) => fail(event.message));
  addEventListener("unhandledrejection", (event) => fail(event.reason));

  const meta = JSON.parse(byId("meta").textContent);
  const [X, Y, Z] = meta.shape;
  const VOXELS = X * Y * Z;
  const STRIDES = [1, X, X * Y];
  const UNLABELLED = 255;
  const volumes = {};
  const position = meta.start.slice(); // in voxels of the whole volume
  const layers = {};
  for (const row of document.querySelectorAll(".layer")) {
    const name = row.dataset.layer;
    layers[name] = {
      on: row.querySelector("input[type=checkbox]"),
      amount: row.querySelector("input[type=range]"),
      told: row.querySelector("output"),
      style: row.querySelector("select"),
    };
  }
  const classBoxes = [...document.querySelectorAll(".class input")];
  let crosshair = true;

  /* --- loading --- */
  async function inflate(id) {
    const text = atob(byId(id).textContent);
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const volume = new Uint8Array(await new Response(stream).arrayBuffer());
    if (volume.length !== VOXELS) throw new Error(id + " is damaged.");
    return volume;
  }

  async function assemble(name, channels) {
    const volume = new Uint8Array(VOXELS * channels);
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d", { willReadFrequently: true });
    for (const [number, sheet] of meta.sheets[name].entries()) {
      const picture = new Image();
      picture.src = "data:image/jpeg;base64," + byId(`data-${name}-${number}`).textContent;
      await picture.decode();
      [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
      context.drawImage(picture, 0, 0);
      for (let i = 0; i < sheet.count; i++) {
        const left = (i % sheet.columns) * sheet.tile[0];
        const top = Math.floor(i / sheet.columns) * sheet.tile[1];
        const pixels = context.getImageData(left, top, X, Y).data;
        let to = (sheet.first + i) * X * Y * channels;
        for (let from = 0; from < pixels.length; from += 4)
          for (let c = 0; c < channels; c++) volume[to++] = pixels[from + c];
      }
    }
    return volume;
  }

  function refuseBlankCanvas() {
    const context = document.createElement("canvas").getContext("2d");
    context.fillStyle = "rgb(10, 120, 230)";
    context.fillRect(0, 0, 2, 2);
    const seen = context.getImageData(0, 0, 1, 1).data;
    if (Math.abs(seen[0] - 10) + Math.abs(seen[1] - 120) + Math.abs(seen[2] - 230) > 12)
      throw new Error("this browser keeps pages from reading pictures. Allow it for this page, or use another.");
  }

  /* --- geometry --- */
  const shown = (axis) => Math.min(Math.floor(position[axis] / meta.steps[axis]), meta.shape[axis] - 1);
  const across = (view, axis, i) => (view.flip[axis === view.h ? 0 : 1] ? meta.shape[axis] - 1 - i : i);
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

  const views = meta.views.map((plan) => {
    const figure = document.querySelector(`.view[data-view="${plan.name}"]`);
    const flat = document.createElement("canvas");
    [flat.width, flat.height] = [meta.shape[plan.h], meta.shape[plan.v]];
    return {
      ...plan, figure, flat,
      canvas: figure.querySelector("canvas"),
      slider: figure.querySelector("input[type=range]"),
      told: figure.querySelector("figcaption output"),
      previous: figure.querySelector(".previous-painted"), next: figure.querySelector(".next-painted"),
      brush: flat.getContext("2d"),
      pixels: new ImageData(meta.shape[plan.h], meta.shape[plan.v]),
    };
  });

  function forSlice(view, use) {
    const base = view.n === null ? 0 : shown(view.n) * STRIDES[view.n];
    const [width, height] = [meta.shape[view.h], meta.shape[view.v]];
    const along = (view.flip[0] ? -1 : 1) * STRIDES[view.h];
    let to = 0;
    for (let v = 0; v < height; v++) {
      let from = base + across(view, view.v, v) * STRIDES[view.v] + across(view, view.h, 0) * STRIDES[view.h];
      for (let h = 0; h < width; h++, from += along) use(from, to++);
    }
  }

  /* --- drawing --- */
  const DOUBT = [[20, 11, 53], [120, 28, 109], [207, 68, 70], [251, 155, 6], [252, 255, 164]];
  const doubtColours = new Uint8Array(256 * 4);
  for (let i = 0; i < 256; i++) {
    const doubt = clamp((1 - i / 255) / (1 - 1 / Math.max(2, meta.classes.length)), 0, 1);
    const place = Math.min(doubt * 4, 3.999), k = Math.floor(place);
    for (let c = 0; c < 3; c++)
      doubtColours[4 * i + c] = DOUBT[k][c] + (place - k) * (DOUBT[k + 1][c] - DOUBT[k][c]);
    doubtColours[4 * i + 3] = 255 * Math.min(1, doubt * 2.5);
  }

  function stamp(view, context, smooth) {
    view.brush.putImageData(view.pixels, 0, 0);
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(view.flat, 0, 0, view.canvas.width, view.canvas.height);
  }

  function drawImage(view, context) {
    const gamma = 2 ** (-(layers.image.amount.value - 50) / 25);
    const table = Uint8ClampedArray.from({ length: 256 }, (_, i) => 255 * (i / 255) ** gamma);
    const out = view.pixels.data, volume = volumes.image, channels = meta.channels;
    forSlice(view, (from, to) => {
      for (let c = 0; c < 3; c++) out[4 * to + c] = table[volume[from * channels + (channels === 3 ? c : 0)]];
      out[4 * to + 3] = 255;
    });
    stamp(view, context, true);
  }

  function drawConfidence(view, context, opacity) {
    const out = view.pixels.data, volume = volumes.confidence;
    forSlice(view, (from, to) => {
      const value = 4 * volume[from];
      for (let c = 0; c < 3; c++) out[4 * to + c] = doubtColours[value + c];
      out[4 * to + 3] = doubtColours[value + 3] * opacity;
    });
    stamp(view, context, true);
  }

  function colourTable(opacity) {
    const table = new Uint8ClampedArray(256 * 4);
    meta.classes.forEach((item, k) => {
      table.set([...item.colour, classBoxes[k].checked ? 255 * opacity : 0], 4 * k);
    });
    return table;
  }

  function drawFilled(view, context, volume, opacity) {
    const out = view.pixels.data, table = colourTable(opacity);
    forSlice(view, (from, to) => {
      const entry = 4 * volume[from];
      for (let c = 0; c < 4; c++) out[4 * to + c] = table[entry + c];
    });
    stamp(view, context, false);
  }

  function drawOutline(view, context, volume, opacity, broad) {
    const [width, height] = [meta.shape[view.h], meta.shape[view.v]];
    const slice = new Uint8Array(width * height);
    forSlice(view, (from, to) => { slice[to] = volume[from]; });
    const [sx, sy] = [view.canvas.width / width, view.canvas.height / height];
    const paths = meta.classes.map(() => new Path2D());
    const visible = (k) => k < paths.length && classBoxes[k].checked;
    const side = (k, other, x0, y0, x1, y1) => {
      if (k === other || !visible(k)) return;
      paths[k].moveTo(x0, y0);
      paths[k].lineTo(x1, y1);
    };
    for (let v = 0; v < height; v++)
      for (let h = 0; h < width; h++) {
        const here = slice[v * width + h];
        const right = h + 1 < width ? slice[v * width + h + 1] : here;
        const below = v + 1 < height ? slice[(v + 1) * width + h] : here;
        if (here !== right) {
          const x = (h + 1) * sx;
          side(here, right, x, v * sy, x, (v + 1) * sy);
          side(right, here, x, v * sy, x, (v + 1) * sy);
        }
        if (here !== below) {
          const y = (v + 1) * sy;
          side(here, below, h * sx, y, (h + 1) * sx, y);
          side(below, here, h * sx, y, (h + 1) * sx, y);
        }
      }
    const pixel = devicePixelRatio || 1;
    context.lineCap = "square";
    context.globalAlpha = opacity;
    meta.classes.forEach((item, k) => {
      context.lineWidth = (broad ? 4 : 3) * pixel;
      context.strokeStyle = "rgba(0, 0, 0, 0.55)";
      context.stroke(paths[k]);
    });
    meta.classes.forEach((item, k) => {
      context.lineWidth = (broad ? 2.6 : 1.5) * pixel;
      context.strokeStyle = `rgb(${item.colour})`;
      context.stroke(paths[k]);
    });
    context.globalAlpha = 1;
  }

  function drawErrors(view, context, opacity) {
    const out = view.pixels.data, { result, truth } = volumes;
    forSlice(view, (from, to) => {
      const wrong = truth[from] !== UNLABELLED && result[from] !== truth[from];
      out[4 * to] = 255; out[4 * to + 1] = out[4 * to + 2] = 40;
      out[4 * to + 3] = wrong ? 255 * opacity : 0;
    });
    stamp(view, context, false);
  }

  function drawGuides(view, context) {
    const { width, height } = view.canvas, pixel = devicePixelRatio || 1;
    const text = (words, x, y, align, baseline) => {
      context.font = `600 ${12 * pixel}px system-ui, "DejaVu Sans", sans-serif`;
      context.textAlign = align; context.textBaseline = baseline;
      context.lineWidth = 3 * pixel; context.strokeStyle = "rgba(0,0,0,.6)"; context.fillStyle = "#fff";
      context.strokeText(words, x, y); context.fillText(words, x, y);
    };
    if (crosshair) {
      const x = (across(view, view.h, shown(view.h)) + 0.5) * width / meta.shape[view.h];
      const y = (across(view, view.v, shown(view.v)) + 0.5) * height / meta.shape[view.v];
      const gap = 9 * pixel;
      context.beginPath();
      context.moveTo(0, y); context.lineTo(x - gap, y); context.moveTo(x + gap, y); context.lineTo(width, y);
      context.moveTo(x, 0); context.lineTo(x, y - gap); context.moveTo(x, y + gap); context.lineTo(x, height);
      context.lineCap = "butt";
      context.lineWidth = pixel; context.strokeStyle = "rgba(255, 255, 255, 0.62)"; context.stroke();
    }
    if (view.letters) {
      const edge = 6 * pixel;
      text(view.letters[0], edge, height / 2, "left", "middle");
      text(view.letters[1], width - edge, height / 2, "right", "middle");
      text(view.letters[2], width / 2, edge, "center", "top");
      text(view.letters[3], width / 2, height - edge, "center", "bottom");
    }
    if (meta.unit) {
      const perUnit = width / (meta.shape[view.h] * meta.steps[view.h] * meta.spacing[view.h]);
      const longest = 0.28 * width / perUnit, power = 10 ** Math.floor(Math.log10(longest));
      const length = [5, 2, 1].map((f) => f * power).find((f) => f <= longest) || power;
      const [x, y, wide] = [12 * pixel, height - 12 * pixel, length * perUnit];
      context.fillStyle = "rgba(0, 0, 0, 0.6)";
      context.fillRect(x - pixel, y - 4 * pixel, wide + 2 * pixel, 5 * pixel);
      context.fillStyle = "#fff";
      context.fillRect(x, y - 3 * pixel, wide, 3 * pixel);
      text(`${+length.toPrecision(3)} ${meta.unit}`, x, y - 7 * pixel, "left", "bottom");
    }
  }

  function draw(view) {
    const { canvas } = view, pixel = devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * pixel));
    const height = Math.max(1, Math.round(canvas.clientHeight * pixel));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.fillStyle = "#15181c";
    context.fillRect(0, 0, width, height);
    if (layers.image.on.checked) drawImage(view, context);
    for (const name of ["result", "truth", "paint"]) {
      const layer = layers[name];
      if (!layer || !layer.on.checked) continue;
      const opacity = layer.amount.value / 100;
      if (layer.style.value === "filled") drawFilled(view, context, volumes[name], opacity);
      else drawOutline(view, context, volumes[name], opacity, name === "paint");
    }
    if (layers.confidence?.on.checked) drawConfidence(view, context, layers.confidence.amount.value / 100);
    if (layers.errors?.on.checked) drawErrors(view, context, layers.errors.amount.value / 100);
    drawGuides(view, context);
  }

  /* --- what is said --- */
  const className = (k) => (k === UNLABELLED ? "none" : meta.classes[k].name);
  function valuesHere() {
    const at = shown(0) + shown(1) * X + shown(2) * X * Y;
    const values = {};
    for (const name of ["paint", "result", "truth"]) if (volumes[name]) values[name] = volumes[name][at];
    if (volumes.confidence) values.confidence = Math.round(volumes.confidence[at] / 2.55);
    return values;
  }

  function tell() {
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
      const where = view.n === null ? "" : `${"xyz"[view.n]} = ${position[view.n]}`;
      if (view.slider) {
        view.slider.value = position[view.n];
        view.slider.setAttribute("aria-valuetext", `slice ${position[view.n]} of ${meta.size[view.n] - 1}`);
        view.told.textContent = where;
        const painted = meta.painted[view.n];
        view.previous.disabled = !painted.some((i) => i < position[view.n]);
        view.next.disabled = !painted.some((i) => i > position[view.n]);
      }
      view.canvas.setAttribute("aria-label", `${view.name} view ${where}, layers: ${switchedOn().join(", ")}`);
    }
    for (const layer of Object.values(layers)) layer.told.textContent = layer.amount.value;
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
      tell();
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
})();
