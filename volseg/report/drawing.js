/* Second of three parts: cuts the volumes along three planes, and draws layers over each other. */
const shown = (axis) => Math.min(Math.floor(position[axis] / meta.steps[axis]), meta.shape[axis] - 1);
const across = (view, axis, i) => (view.flip[axis === view.h ? 0 : 1] ? meta.shape[axis] - 1 - i : i);
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

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
