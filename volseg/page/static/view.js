/* One plane: fetches its slices, draws their layers, and knows where a voxel is on the screen. */
import { borders, clamp, doubtTable, drawLetters, drawScale, drawWords, strokeBorders } from "./shared.js";
import { alongLine, within } from "./shapes.js";
import { get } from "./wire.js";

export const UNLABELLED = 255;
const LAYERS = ["image", "paint", "result", "doubt"];
const MOST_KEPT = 192e6; // bytes of grey values
const kept = new Map();

/* A slice of one channel; those that were looked at last are kept. */
async function grey(axis, index, channel, bits) {
  const key = `${axis}/${index}?channel=${channel}`;
  let found = kept.get(key);
  kept.delete(key);
  if (!found) {
    const data = await (await get(`/image/${key}`)).arrayBuffer();
    found = bits === 8 ? new Uint8Array(data) : new Uint16Array(data);
    let bytes = found.byteLength;
    for (const one of kept.values()) bytes += one.byteLength;
    for (const [old, one] of kept) {
      if (bytes <= MOST_KEPT) break;
      kept.delete(old);
      bytes -= one.byteLength;
    }
  }
  kept.set(key, found);
  return found;
}

export class View {
  constructor(app, plane, element) {
    Object.assign(this, plane);
    this.app = app;
    this.element = element;
    [this.width, this.height] = [app.size[this.h], app.size[this.v]];
    this.steps = [app.spacing[this.h], app.spacing[this.v]];
    this.picture = element.querySelector(".picture");
    this.over = element.querySelector(".over");
    this.flats = {};
    this.below = document.createElement("canvas"); // what paint is drawn over, as large as the picture
    this.data = {};
    this.at = -1; // the slice that is drawn
    this.stale = new Set();
    this.zoom = 1; // of what fits
    this.centre = [(this.width - 1) / 2, (this.height - 1) / 2];
    new ResizeObserver(() => this.draw()).observe(this.over);
  }

  /* A layer in the voxels of the slice, made when it is needed: four bytes a voxel. */
  flat(name) {
    if (!this.flats[name]) {
      const flat = document.createElement("canvas");
      [flat.width, flat.height] = [this.width, this.height];
      const brush = flat.getContext("2d");
      const pixels = brush.createImageData(this.width, this.height);
      this.flats[name] = { flat, brush, pixels, words: new Uint32Array(pixels.data.buffer) };
    }
    return this.flats[name];
  }

  get index() { return this.app.size.length === 3 ? this.app.position[this.axis] : 0; }
  get isReady() { return this.at === this.index; }

  /* --- fetching --- */
  refetch(...names) {
    for (const name of names) this.stale.add(name);
    this.load();
  }

  async load() {
    if (this.isLoading) return;
    this.isLoading = true;
    try {
      while (!this.isReady || this.stale.size) {
        const index = this.index, names = this.isReady ? [...this.stale] : LAYERS;
        this.stale.clear();
        const acts = this.app.pending(this.axis, index); // not in what is fetched now, perhaps
        const found = await Promise.all(names.map((name) => this.fetch(name, index)));
        if (index !== this.index) continue;
        names.forEach((name, i) => { this.data[name] = found[i]; });
        this.at = index;
        if (names.includes("paint"))
          for (const act of new Set([...acts, ...this.app.pending(this.axis, index)])) this.apply(act);
        for (const name of names) this.tint(name);
      }
      this.element.classList.remove("waits");
    } catch (error) {
      this.element.classList.add("waits");
      setTimeout(() => this.load(), 1500);
    } finally {
      this.isLoading = false;
    }
    this.draw();
    this.app.showSlices();
  }

  async fetch(name, index) {
    const { channels, layers } = this.app;
    if (name === "image")
      return Promise.all(channels.map((c, i) => (c.on ? grey(this.axis, index, i, c.bits) : null)));
    if (name !== "paint" && !layers[name].on) return null;
    const response = await get(`/layer/${name}/${this.axis}/${index}`);
    return response.status === 204 ? null : new Uint8Array(await response.arrayBuffer());
  }

  /* --- paint that has not come back from the server yet --- */
  apply({ name, body }) {
    const { paint } = this.data;
    if (!paint) return;
    const { locked } = this.app;
    const put = (h, v) => {
      const at = v * this.width + h;
      if (!locked.has(paint[at])) paint[at] = body.value;
    };
    if (name === "stroke")
      body.points.forEach((point, i) =>
        alongLine(this.width, this.height, body.points[Math.max(0, i - 1)], point, body.radius, this.steps, put));
    if (name === "polygon") within(this.width, this.height, body.points, put);
    if (name === "finish") paint.forEach((value, i) => { if (value === UNLABELLED) paint[i] = 0; });
  }

  /* Paints a part of a stroke at once, where it is. */
  touch(from, to, radius, value) {
    const { paint } = this.data, { locked } = this.app, { words } = this.flat("paint"), colour = this.tables().paint[value];
    let [left, top, right, bottom] = [this.width, this.height, -1, -1];
    alongLine(this.width, this.height, from, to, radius, this.steps, (h, v) => {
      const at = v * this.width + h;
      if (locked.has(paint[at])) return;
      paint[at] = value;
      words[at] = colour;
      left = Math.min(left, h); right = Math.max(right, h); top = Math.min(top, v); bottom = Math.max(bottom, v);
    });
    if (right < 0) return;
    const { brush, pixels } = this.flat("paint");
    brush.putImageData(pixels, 0, 0, left, top, right - left + 1, bottom - top + 1);
    this.edges = {};
    this.draw([left, top, right + 1, bottom + 1]);
  }

  /* --- colours --- */
  tables() {
    const { classes, layers } = this.app;
    const word = ([r, g, b], alpha) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
    const paint = new Uint32Array(256), result = new Uint32Array(256);
    for (const { value, colour } of classes) {
      // Background covers what is looked at: it is shown faintly as paint, and not at all as result.
      paint[value] = word(colour, value === 0 ? 110 : 255);
      result[value] = value === 0 ? 0 : word(colour, 255);
    }
    if (layers.paint.style === "outline") paint[0] = 0;
    return { paint, result, doubt: new Uint32Array(doubtTable(Math.max(2, classes.length)).buffer) };
  }

  tint(name) {
    const plane = this.data[name];
    if (!plane) return this.draw();
    const { brush, pixels, words } = this.flat(name);
    if (name === "image") this.tintImage(words);
    else {
      const table = this.tables()[name];
      this.edges = { ...this.edges, [name]: undefined };
      for (let i = 0; i < words.length; i++) words[i] = table[plane[i]];
    }
    brush.putImageData(pixels, 0, 0);
    this.draw();
  }

  tintImage(words) {
    const shown = this.app.channels.map((channel, i) => ({ channel, plane: this.data.image?.[i] })).filter((one) => one.plane);
    if (shown.length === 1 && !this.app.isColour) {
      const [{ channel, plane }] = shown;
      const table = channel.table([255, 255, 255]);
      for (let i = 0; i < words.length; i++) words[i] = table[plane[i]];
      return;
    }
    words.fill(0xff000000);
    for (const { channel, plane } of shown) {
      const table = channel.table(channel.colour);
      for (let i = 0; i < words.length; i++) {
        const a = words[i], b = table[plane[i]];
        const red = Math.min(255, (a & 255) + (b & 255)), green = Math.min(255, ((a >> 8) & 255) + ((b >> 8) & 255));
        const blue = Math.min(255, ((a >> 16) & 255) + ((b >> 16) & 255));
        words[i] = (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
      }
    }
  }

  /* --- where things are --- */
  scale() {
    const { width, height } = this.picture;
    const fits = Math.min(width / (this.width * this.steps[0]), height / (this.height * this.steps[1]));
    return fits * 0.97 * this.zoom;
  }

  matrix() {
    const scale = this.scale();
    const kx = scale * this.steps[0] * (this.flip[0] ? -1 : 1), ky = scale * this.steps[1] * (this.flip[1] ? -1 : 1);
    const { width, height } = this.picture;
    return new DOMMatrix([kx, 0, 0, ky, width / 2 - (this.centre[0] + 0.5) * kx, height / 2 - (this.centre[1] + 0.5) * ky]);
  }

  /* The point of the slice under a point of the page, in voxels. */
  under(event) {
    const box = this.over.getBoundingClientRect(), { a, d, e, f } = this.matrix();
    const x = ((event.clientX - box.left) * this.picture.width) / box.width;
    const y = ((event.clientY - box.top) * this.picture.height) / box.height;
    return [(x - e) / a - 0.5, (y - f) / d - 0.5];
  }

  zoomBy(factor, point) {
    const before = this.zoom;
    this.zoom = clamp(this.zoom * factor, 0.5, 200);
    const share = 1 - before / this.zoom;
    if (point) this.centre = this.centre.map((c, i) => c + (point[i] - c) * share);
    this.bound();
  }

  panBy(dx, dy) {
    const { a, d } = this.matrix(), pixel = this.picture.width / this.over.clientWidth;
    this.centre = [this.centre[0] - (dx * pixel) / a, this.centre[1] - (dy * pixel) / d];
    this.bound();
  }

  bound() {
    this.centre = [clamp(this.centre[0], 0, this.width - 1), clamp(this.centre[1], 0, this.height - 1)];
    this.draw();
  }

  fit() {
    this.zoom = 1;
    this.centre = [(this.width - 1) / 2, (this.height - 1) / 2];
    this.draw();
  }

  /* --- drawing --- */
  /* All of it, or what lies in a box of voxels because only paint has changed, and only there. */
  draw(box) {
    if (!box || this.dirty === "all") this.dirty = "all";
    else if (!this.dirty) this.dirty = box;
    else this.dirty = this.dirty.map((one, i) => (i < 2 ? Math.min(one, box[i]) : Math.max(one, box[i])));
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => {
      const { dirty } = this;
      this.isAsked = false;
      this.dirty = null;
      if (dirty === "all" || this.app.layers.paint.style === "outline") this.drawNow();
      else this.drawPart(dirty);
      this.drawOver();
    });
  }

  /* Where paint has changed: what lies below it was drawn before. */
  drawPart([left, top, right, bottom]) {
    const context = this.picture.getContext("2d"), matrix = this.matrix();
    const [x0, x1] = [left, right].map((h) => matrix.e + matrix.a * h).sort((p, q) => p - q);
    const [y0, y1] = [top, bottom].map((v) => matrix.f + matrix.d * v).sort((p, q) => p - q);
    context.save();
    context.beginPath();
    context.rect(Math.floor(x0) - 1, Math.floor(y0) - 1, Math.ceil(x1 - x0) + 3, Math.ceil(y1 - y0) + 3);
    context.clip();
    context.drawImage(this.below, 0, 0);
    this.drawLayer(context, "paint", matrix, [left, top, right, bottom]);
    this.drawMarks(context, matrix);
    context.restore();
  }

  drawNow() {
    const pixel = devicePixelRatio || 1, { clientWidth, clientHeight } = this.over;
    const [width, height] = [Math.max(1, Math.round(clientWidth * pixel)), Math.max(1, Math.round(clientHeight * pixel))];
    for (const canvas of [this.picture, this.over])
      if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    if (this.below.width !== width || this.below.height !== height) [this.below.width, this.below.height] = [width, height];
    const context = this.picture.getContext("2d"), below = this.below.getContext("2d"), matrix = this.matrix();
    below.fillStyle = "#15181c";
    below.fillRect(0, 0, width, height);
    if (this.at >= 0) for (const name of ["image", "result", "doubt"]) this.drawLayer(below, name, matrix);
    context.drawImage(this.below, 0, 0);
    if (this.at < 0) return;
    this.drawLayer(context, "paint", matrix);
    this.drawMarks(context, matrix);
  }

  drawLayer(context, name, matrix, box) {
    const layer = this.app.layers[name];
    if (!layer.on || !this.data[name]) return;
    context.globalAlpha = layer.opacity;
    if (layer.style === "outline") this.drawEdges(context, name, matrix);
    else {
      const [left, top, right, bottom] = box ?? [0, 0, this.width, this.height];
      context.save();
      context.transform(matrix.a, 0, 0, matrix.d, matrix.e, matrix.f);
      context.imageSmoothingEnabled = name === "image" && Math.abs(matrix.a) < 4 * (devicePixelRatio || 1);
      context.imageSmoothingQuality = "medium";
      context.drawImage(this.flat(name).flat, left, top, right - left, bottom - top, left, top, right - left, bottom - top);
      context.restore();
    }
    context.globalAlpha = 1;
  }

  drawMarks(context, matrix) {
    if (this.app.isFinished(this)) this.drawFinished(context, matrix);
    if (this.letters.length) drawLetters(context, this.letters);
    if (this.app.unit) drawScale(context, this.scale(), this.app.unit);
  }

  drawEdges(context, name, matrix) {
    const colours = [];
    for (const { value, colour } of this.app.classes) if (value !== 0) colours[value] = colour;
    const key = JSON.stringify([matrix.a, matrix.d, matrix.e, matrix.f]);
    if (this.edges?.[name]?.key !== key) {
      const paths = borders(this.data[name], this.width, this.height, colours, matrix);
      this.edges = { ...this.edges, [name]: { key, paths } };
    }
    strokeBorders(context, this.edges[name].paths, colours, name === "paint");
  }

  drawFinished(context, matrix) {
    const pixel = devicePixelRatio || 1, { a, d, e, f } = matrix;
    const [x0, x1] = [e, e + a * this.width].sort((p, q) => p - q), [y0, y1] = [f, f + d * this.height].sort((p, q) => p - q);
    context.lineWidth = 3 * pixel;
    context.strokeStyle = "#2cc79a";
    context.strokeRect(x0 + 1.5 * pixel, y0 + 1.5 * pixel, x1 - x0 - 3 * pixel, y1 - y0 - 3 * pixel);
    drawWords(context, "✓ finished: blank is background", Math.max(x0, 0) + 10 * pixel, Math.max(y0, 0) + 10 * pixel, "left", "top");
  }

  drawOver() {
    const context = this.over.getContext("2d"), pixel = devicePixelRatio || 1, { width, height } = this.over;
    const { a, d, e, f } = this.matrix();
    const place = ([h, v]) => [e + a * (h + 0.5), f + d * (v + 0.5)];
    context.clearRect(0, 0, width, height);
    if (this.app.cross && this.app.size.length === 3) {
      const [x, y] = place([this.app.position[this.h], this.app.position[this.v]]), gap = 9 * pixel;
      context.beginPath();
      context.moveTo(0, y); context.lineTo(x - gap, y); context.moveTo(x + gap, y); context.lineTo(width, y);
      context.moveTo(x, 0); context.lineTo(x, y - gap); context.moveTo(x, y + gap); context.lineTo(x, height);
      context.lineWidth = pixel; context.strokeStyle = "rgba(255, 255, 255, 0.5)"; context.stroke();
    }
    const ring = (path) => {
      context.lineWidth = 3 * pixel; context.strokeStyle = "rgba(0, 0, 0, 0.6)"; context.stroke(path);
      context.lineWidth = 1.5 * pixel; context.strokeStyle = this.app.cursorColour(); context.stroke(path);
    };
    if (this.lasso) {
      const path = new Path2D();
      this.lasso.forEach((point, i) => path[i ? "lineTo" : "moveTo"](...place(point)));
      path.closePath();
      ring(path);
    }
    if (this.hover && this.app.isBrush()) {
      const path = new Path2D();
      path.arc(...place(this.hover), Math.max(2 * pixel, this.app.radius * this.scale()), 0, 2 * Math.PI);
      ring(path);
    }
  }
}
