/* The panel: classes, layers, contrast, score. It shows what main.js knows, and calls what that can do. */
import { clamp } from "./shared.js";

const byId = (id) => document.getElementById(id);
const LOCK = "M7 11V8a5 5 0 0 1 10 0v3M6 11h12v9H6z";

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function icon(path) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("viewBox", "0 0 24 24");
  made.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  made.append(line);
  return made;
}

const hex = (colour) => `#${colour.map((c) => c.toString(16).padStart(2, "0")).join("")}`;
const rgb = (text) => [1, 3, 5].map((at) => Number.parseInt(text.slice(at, at + 2), 16));

export function showClasses(app) {
  const box = byId("classes");
  if (box.contains(document.activeElement) && document.activeElement.type === "text") return; // somebody types a name
  const focused = document.activeElement?.dataset?.value;
  box.replaceChildren(...app.classes.map(({ value, name, colour, locked }) => {
    const choose = element("button", {
      type: "button", textContent: String(value), "aria-pressed": String(app.value === value),
      title: `Paint with ${name}${value < 10 ? ` (${value})` : ""}; ${app.counts[value] ?? 0} voxels are painted`, "aria-label": `${value}: ${name}`, "data-value": value,
      onclick: () => app.choose(value),
    });
    const paint = element("input", { type: "color", value: hex(colour), title: `Colour of ${name}`, "aria-label": `colour of ${name}` });
    paint.addEventListener("change", () => app.act("class", { value, colour: rgb(paint.value) }));
    const label = element("input", { type: "text", value: name, maxLength: 80, "aria-label": `name of class ${value}`, spellcheck: false });
    label.addEventListener("keydown", (event) => { if (event.key === "Enter") label.blur(); if (event.key === "Escape") { label.value = name; label.blur(); } });
    label.addEventListener("blur", () => {
      const wanted = label.value.trim();
      if (wanted && wanted !== name) app.act("class", { value, name: wanted });
      else label.value = name;
    });
    const row = element("div", { className: `class${app.value === value ? " on" : ""}` }, choose, paint, label);
    if (value !== 0)
      row.append(element("button", {
        type: "button", className: "lock", "aria-pressed": String(locked), title: locked ? `Unlock ${name}` : `Lock ${name}: nothing paints over it`,
        "aria-label": `lock ${name}`, onclick: () => app.act("class", { value, locked: !locked }),
      }, icon(LOCK)));
    return row;
  }));
  if (focused !== undefined) box.querySelector(`[data-value="${focused}"]`)?.focus();
}

export function makeLayers(app) {
  byId("layers").replaceChildren(...Object.entries(app.layers).map(([name, layer]) => {
    const on = element("input", { type: "checkbox", checked: layer.on });
    on.addEventListener("input", () => app.switchLayer(name, on.checked));
    const amount = element("input", { type: "range", min: 0, max: 100, value: 100 * layer.opacity, "aria-label": `${name}: opacity`, title: "opacity" });
    amount.addEventListener("input", () => { layer.opacity = amount.value / 100; app.draw(); });
    const row = element("div", { className: "layer" }, element("label", {}, on, layer.label), amount);
    if (layer.style) {
      const style = element("select", { "aria-label": `${name}: style` }, ...["filled", "outline"].map((text) => new Option(text, text, false, text === layer.style)));
      style.addEventListener("input", () => { layer.style = style.value; app.retint(name); });
      row.append(style);
    }
    layer.show = () => { on.checked = layer.on; amount.value = 100 * layer.opacity; };
    return row;
  }));
}

/* Grey values to colours, by a window; of 8 bits they are themselves, of 16 they are spread over the range. */
export class Channel {
  constructor(facts, number, count, isColour) {
    Object.assign(this, facts);
    [this.from, this.to] = this.window;
    this.on = isColour || number === 0;
    const COLOURS = [[255, 64, 64], [64, 255, 64], [80, 120, 255], [255, 0, 255], [255, 255, 0], [0, 255, 255]];
    this.colour = isColour ? [[255, 0, 0], [0, 255, 0], [0, 0, 255]][number] : COLOURS[number % COLOURS.length];
    this.label = isColour ? ["red", "green", "blue"][number] : count > 1 ? `channel ${number + 1}` : "grey value";
  }

  table(colour) {
    const n = this.bits === 8 ? 256 : 65536, table = new Uint32Array(n), span = this.high - this.low;
    for (let i = 0; i < n; i++) {
      const share = clamp((this.low + (i / (n - 1)) * span - this.from) / Math.max(this.to - this.from, 1e-12 * span), 0, 1);
      table[i] = (0xff000000 | ((colour[2] * share) << 16) | ((colour[1] * share) << 8) | (colour[0] * share)) >>> 0;
    }
    return table;
  }

  value(raw) {
    const value = this.bits === 8 ? raw : this.low + (raw / 65535) * (this.high - this.low);
    return this.whole ? Math.round(value) : Number(value.toPrecision(5));
  }
}

export function makeChannels(app) {
  const figure = (value) => Number(value.toPrecision(4)).toString();
  byId("channels").replaceChildren(...app.channels.map((channel) => {
    const [least, most] = channel.range;
    const at = (value) => Math.round((1000 * (value - least)) / (most - least));
    const slider = (what, end) => {
      const input = element("input", { type: "range", min: 0, max: 1000, value: at(channel[end]), "aria-label": `${channel.label}: ${what}` });
      const output = element("output", { textContent: figure(channel[end]) });
      const set = (value) => {
        channel[end] = value;
        output.textContent = figure(value);
      };
      input.addEventListener("input", () => {
        set(least + (input.value / 1000) * (most - least));
        app.retint("image");
      });
      return { label: element("label", { className: "slider" }, what, input, output), reset: () => { set(channel.window[end === "from" ? 0 : 1]); input.value = at(channel[end]); } };
    };
    const ends = [slider("dark below", "from"), slider("bright above", "to")];
    const auto = element("button", { type: "button", textContent: "Auto", title: `Contrast of ${channel.label} as at first`, onclick: () => { ends.forEach((end) => end.reset()); app.retint("image"); } });
    const head = element("div", { className: "row" });
    if (app.channels.length > 1) {
      const on = element("input", { type: "checkbox", checked: channel.on });
      on.addEventListener("input", () => { channel.on = on.checked; app.refetch("image"); });
      head.append(element("label", {}, on, ` ${channel.label}`));
    } else head.append(element("span", { textContent: channel.label }));
    head.append(auto);
    return element("div", { className: "channel" }, head, ...ends.map((end) => end.label));
  }));
}

export function showScore(score, classes) {
  const box = byId("score"), more = byId("score-more");
  box.classList.toggle("none", !score || score.value == null);
  if (!score) [box.textContent, more.textContent] = ["No score yet.", "It comes when two classes are painted at a few places, and painting has paused."];
  else if (score.value == null) [box.textContent, more.textContent] = ["Too little paint to tell.", score.reason ?? ""];
  else {
    box.textContent = `IoU ${score.value.toFixed(2)}`;
    const known = score.low != null && score.high != null;
    const names = Object.fromEntries(classes.map(({ value, name }) => [value, name]));
    const each = Object.entries(score.per_class).filter(([, one]) => one.value != null).map(([k, one]) => `${names[k] ?? k} ${one.value.toFixed(2)}`);
    more.textContent = [known ? `probably between ${score.low.toFixed(2)} and ${score.high.toFixed(2)}` : "", each.join(", "), score.reason].filter(Boolean).join("; ");
  }
}

export function showSuggestion(app) {
  byId("next").textContent = app.suggestion?.text ?? "";
}

/* What is being done, and for how long if that is worth a word. */
let doing = null, began = 0, clock = 0;
export function showDoing(news) {
  if (news?.what !== doing?.what) began = performance.now();
  doing = news;
  clearInterval(clock);
  const show = () => {
    const seconds = Math.floor((performance.now() - began) / 1000);
    const share = doing.share == null ? "" : `, ${Math.floor(100 * doing.share)} %`;
    byId("doing").textContent = `${doing.what}${share}${seconds > 1 ? `, ${seconds} s` : ""}`;
  };
  byId("doing").classList.toggle("busy", Boolean(news?.what));
  if (!news?.what) byId("doing").textContent = "waiting for paint";
  else {
    show();
    clock = setInterval(show, 1000);
  }
}
