/* Drawing that the report and the painting page have in common: borders of classes, colours of doubt, a scale
   bar, letters of orientation. Of the report it is the second of four parts. */
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

const DOUBT = [[20, 11, 53], [120, 28, 109], [207, 68, 70], [251, 155, 6], [252, 255, 164]];

/* RGBA for confidences 0 to 255, the least of which is a guess among so many classes. */
function doubtTable(classes) {
  const table = new Uint8Array(256 * 4);
  for (let i = 0; i < 256; i++) {
    const doubt = clamp((1 - i / 255) / (1 - 1 / classes), 0, 1);
    const place = Math.min(doubt * 4, 3.999), k = Math.floor(place);
    for (let c = 0; c < 3; c++) table[4 * i + c] = DOUBT[k][c] + (place - k) * (DOUBT[k + 1][c] - DOUBT[k][c]);
    table[4 * i + 3] = 255 * Math.min(1, doubt * 2.5);
  }
  return table;
}

/* Per class with a colour, the path along its voxels' sides towards others; the matrix places a slice's corners. */
function borders(slice, width, height, colours, matrix) {
  const raw = new Map(), { a, d, e, f } = matrix;
  const side = (k, x0, y0, x1, y1) => {
    if (!colours[k]) return;
    if (!raw.has(k)) raw.set(k, new Path2D());
    raw.get(k).moveTo(a * x0 + e, d * y0 + f);
    raw.get(k).lineTo(a * x1 + e, d * y1 + f);
  };
  for (let v = 0, at = 0; v < height; v++)
    for (let h = 0; h < width; h++, at++) {
      const here = slice[at];
      const right = h + 1 < width ? slice[at + 1] : here;
      const below = v + 1 < height ? slice[at + width] : here;
      if (here !== right) for (const k of [here, right]) side(k, h + 1, v, h + 1, v + 1);
      if (here !== below) for (const k of [here, below]) side(k, h, v + 1, h + 1, v + 1);
    }
  return raw;
}

function strokeBorders(context, paths, colours, broad) {
  const pixel = devicePixelRatio || 1;
  context.lineCap = "square";
  context.lineWidth = (broad ? 4 : 3) * pixel;
  context.strokeStyle = "rgba(0, 0, 0, 0.55)";
  for (const path of paths.values()) context.stroke(path);
  context.lineWidth = (broad ? 2.6 : 1.5) * pixel;
  for (const [k, path] of [...paths].sort((one, other) => one[0] - other[0])) {
    context.strokeStyle = `rgb(${colours[k]})`;
    context.stroke(path);
  }
}

function drawWords(context, words, x, y, align, baseline) {
  const pixel = devicePixelRatio || 1;
  context.font = `600 ${12 * pixel}px system-ui, "DejaVu Sans", sans-serif`;
  context.textAlign = align; context.textBaseline = baseline;
  context.lineWidth = 3 * pixel; context.strokeStyle = "rgba(0,0,0,.6)"; context.fillStyle = "#fff";
  context.strokeText(words, x, y); context.fillText(words, x, y);
}

/* What lies left, right, up and down. */
function drawLetters(context, letters) {
  const { width, height } = context.canvas, edge = 6 * (devicePixelRatio || 1);
  drawWords(context, letters[0], edge, height / 2, "left", "middle");
  drawWords(context, letters[1], width - edge, height / 2, "right", "middle");
  drawWords(context, letters[2], width / 2, edge, "center", "top");
  drawWords(context, letters[3], width / 2, height - edge, "center", "bottom");
}

/* A bar of a round length, at most 28 % of the canvas, given pixels per unit. */
function drawScale(context, perUnit, unit) {
  const { width, height } = context.canvas, pixel = devicePixelRatio || 1;
  const longest = 0.28 * width / perUnit, power = 10 ** Math.floor(Math.log10(longest));
  const length = [5, 2, 1].map((f) => f * power).find((f) => f <= longest) || power;
  const [x, y, wide] = [12 * pixel, height - 12 * pixel, length * perUnit];
  context.fillStyle = "rgba(0, 0, 0, 0.6)";
  context.fillRect(x - pixel, y - 4 * pixel, wide + 2 * pixel, 5 * pixel);
  context.fillStyle = "#fff";
  context.fillRect(x, y - 3 * pixel, wide, 3 * pixel);
  drawWords(context, `${+length.toPrecision(3)} ${unit}`, x, y - 7 * pixel, "left", "bottom");
}
