/* Third of four parts: cuts the volumes along three planes, and draws layers over each other. */
const shown = (axis) => Math.min(Math.floor(position[axis] / meta.steps[axis]), meta.shape[axis] - 1);
const across = (view, axis, i) => (view.flip[axis === view.h ? 0 : 1] ? meta.shape[axis] - 1 - i : i);

const views = meta.views.map((plane) => {
  const figure = document.querySelector(`.view[data-view="${plane.name}"]`);
  const flat = document.createElement("canvas");
  [flat.width, flat.height] = [meta.shape[plane.h], meta.shape[plane.v]];
  return {
    ...plane, figure, flat,
    canvas: figure.querySelector("canvas"),
    slider: figure.querySelector("input[type=range]"),
    output: figure.querySelector("figcaption output"),
    previous: figure.querySelector(".previous-painted"), next: figure.querySelector(".next-painted"),
    brush: flat.getContext("2d"),
    pixels: new ImageData(meta.shape[plane.h], meta.shape[plane.v]),
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

const doubtColours = doubtTable(Math.max(2, meta.classes.length));

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
  const scale = new DOMMatrix().scale(view.canvas.width / width, view.canvas.height / height);
  const colours = meta.classes.map((item, k) => (classBoxes[k].checked ? item.colour : null));
  context.globalAlpha = opacity;
  strokeBorders(context, borders(slice, width, height, colours, scale), colours, broad);
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
  if (view.letters) drawLetters(context, view.letters);
  if (meta.unit) drawScale(context, width / (meta.shape[view.h] * meta.steps[view.h] * meta.spacing[view.h]), meta.unit);
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
