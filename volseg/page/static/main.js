/* The painting page: what it knows, and what can be done with it. */
import { clamp } from "./shared.js";
import { Hands, TOOLS, voxel } from "./tools.js";
import { keys, showKeys } from "./keys.js";
import { connectBoxes, showMaking } from "./boxes.js";
import { Channel, element, icon, makeChannels, makeLayers, showClasses, showDoing, showScore, showSuggestion } from "./side.js";
import { makeView } from "./figures.js";
import { UNLABELLED } from "./view.js";
import { client, get, listen, Outbox, post } from "./wire.js";

const byId = (id) => document.getElementById(id);
const root = document.documentElement;

const app = {
  tool: "brush", value: 1, cross: true, radius: 1, position: [0, 0, 0], views: [], inHand: null, isPainter: null,
  layers: {
    paint: { label: "paint", on: true, opacity: 0.75, style: "filled" },
    result: { label: "result", on: true, opacity: 0.4, style: "filled" },
    doubt: { label: "doubt", on: false, opacity: 0.7 },
    image: { label: "image", on: true, opacity: 1 },
  },

  /* --- what is known --- */
  get locked() { return new Set(this.classes.filter((one) => one.locked).map((one) => one.value)); },
  isBrush() { return this.tool === "brush" || this.tool === "eraser"; },
  isFinished(view) { return this.finished.has(`${view.axis}/${view.index}`); },
  classOf(value) { return this.classes.find((one) => one.value === value); },
  cursorColour() { return this.tool === "eraser" ? "#fff" : `rgb(${this.classOf(this.value)?.colour ?? [255, 255, 255]})`; },
  numbered(axis, index) {
    const letter = "xyz"[axis];
    return this.size.length === 3 ? `${letter} = ${index} (${index + 1} of ${this.size[axis]})` : "";
  },
  /* Acts on a slice that the server may not have yet. */
  pending(axis, index) {
    const acts = this.inHand ? [...this.outbox.items, this.inHand] : this.outbox.items;
    return acts.filter(({ body }) => body.axis === axis && body.index === index);
  },

  /* A state that the server gives; an older one than that which is shown, overtaken on its way, is not. */
  take(state) {
    if (state.server === this.server && state.read < this.read) return false;
    [this.server, this.read] = [state.server, state.read];
    for (const name of ["classes", "painted", "counts", "revision"]) this[name] = state[name];
    this.finished = new Set(state.finished.map(([axis, index]) => `${axis}/${index}`));
    byId("undo").disabled = !state.undo;
    byId("redo").disabled = !state.redo;
    if (this.unsaved && !state.unsaved) this.complain("server", "");
    this.unsaved = state.unsaved;
    if (!this.classOf(this.value)) this.value = this.classes.at(-1).value;
    showClasses(this);
    this.showSlices();
    this.showSaved();
    return true;
  },

  /* --- what is shown --- */
  draw() { for (const view of this.views) view.draw(); },
  retint(name) { for (const view of this.views) if (view.at >= 0) view.tint(name); },
  refetch(...names) { for (const view of this.views) view.refetch(...names); },

  showSlices() {
    for (const view of this.views) view.show();
    const view = this.current;
    if (!view) return;
    const isFinished = this.isFinished(view);
    byId("which").textContent = this.size.length === 3 ? `${view.name}, ${this.numbered(view.axis, view.index)}` : "the image";
    byId("finish").disabled = isFinished || !this.isPainter;
    byId("finish").textContent = isFinished ? "✓ finished" : "It is finished";
    byId("adopt").disabled = !this.isPainter || !view.data.result;
    root.dataset.state = JSON.stringify({
      position: this.position.slice(0, this.size.length), tool: this.tool, value: this.value, waiting: this.outbox.items.length,
      revision: this.revision, ready: this.isPainter !== null && this.views.every((one) => one.isReady && !one.isLoading), finished: [...this.finished],
    });
  },

  showSaved(waiting = this.outbox.items.length, trouble = "") {
    const box = byId("saved");
    const text = this.unsaved ? "not on the disk!" : waiting ? `saving ${waiting} …` : "saved";
    box.className = `pill${trouble || this.unsaved ? " bad" : waiting ? " busy" : ""}`;
    box.textContent = trouble ? `${waiting} kept here` : this.isPainter ? text : "looking on";
    this.complain("outbox", trouble || (this.unsaved ? `What you paint is not on the disk: ${this.unsaved}. Painting goes on in memory; make room, and it is written.` : ""));
    if (root.dataset.ready) this.showSlices();
  },

  troubles: new Map(),
  complain(about, text) {
    if (text) this.troubles.set(about, text);
    else this.troubles.delete(about);
    byId("trouble").hidden = !this.troubles.size;
    byId("trouble").textContent = [...this.troubles.values()].join(" ");
  },

  announce(text) { byId("live").textContent = text; },

  say(view, point) {
    const box = byId("readout");
    const [h, v] = point ? voxel(point) : [];
    if (!view || !(h >= 0 && h < view.width && v >= 0 && v < view.height)) return box.replaceChildren();
    const at = v * view.width + h, place = [...this.position];
    [place[view.h], place[view.v]] = [h, v];
    const items = [["voxel", place.slice(0, this.size.length).map((p, axis) => `${"xyz"[axis]} ${p}`).join("  ")]];
    if (this.unit) items.push(["at", `${this.spacing.map((s, axis) => (place[axis] * s).toPrecision(4)).join(" × ")} ${this.unit}`]);
    const greys = this.channels.map((channel, i) => view.data.image?.[i] && channel.value(view.data.image[i][at]));
    items.push(["image", greys.filter((grey) => grey != null).join(", ")]);
    const named = (value) => (value === UNLABELLED ? "none" : this.classOf(value)?.name ?? value);
    if (view.data.paint) items.push(["paint", named(view.data.paint[at])]);
    if (view.data.result) items.push(["result", named(view.data.result[at])]);
    if (view.data.doubt) items.push(["sure", `${Math.round(view.data.doubt[at] / 2.55)} %`]);
    box.replaceChildren(...items.map(([name, text]) => element("span", {}, element("i", { textContent: name }), element("b", { textContent: text }))));
  },

  /* --- moving about --- */
  focus(view) {
    this.current = view;
    this.showSlices();
  },
  goTo(axis, index) {
    if (this.size.length === 2 && axis === 2) return;
    this.position[axis] = clamp(Math.round(index), 0, this.size[axis] - 1);
    for (const view of this.views) { view.load(); view.draw(); }
    this.showSlices();
    clearTimeout(this.later);
    this.later = setTimeout(() => this.look(), 120);
  },
  look() {
    if (!this.isPainter) return;
    const [x, y, z] = this.position;
    post("look", { x, y, ...(this.size.length === 3 ? { z } : {}), axis: this.current.axis }).catch(() => {}); // asked again with the next move
  },
  step(view, by) { if (this.size.length === 3) this.goTo(view.axis, view.index + by); },
  moveTo(view, point) {
    const [h, v] = voxel(point);
    this.goTo(view.h, h);
    this.goTo(view.v, v);
  },
  toPainted(view, direction) {
    const found = this.painted[view.axis].filter((i) => direction * (i - view.index) > 0);
    if (this.size.length === 3 && found.length) this.goTo(view.axis, direction > 0 ? found[0] : found.at(-1));
  },
  suggest(place) {
    this.suggestion = place?.text ? place : null;
    showSuggestion(this);
    this.showSlices();
  },
  async goToSuggestion() {
    try {
      this.suggest(await (await get("/suggestion")).json());
    } catch (error) {
      this.announce(error.message);
      return this.complain("act", error.message);
    }
    this.complain("act", "");
    const found = this.suggestion;
    const view = this.views.find((one) => one.axis === found.axis) ?? this.views[0];
    this.enlarge(view);
    this.goTo(found.axis, found.index);
    this.moveTo(view, found.point);
    view.over.focus();
    this.announce(found.text);
  },
  enlarge(view) {
    for (const one of this.views) one.element.classList.toggle("main", one === view);
    view.element.parentElement.prepend(view.element);
  },

  /* --- painting --- */
  mayPaint(view) {
    if (!this.isPainter || !view.isReady || !view.data.paint) return false;
    if (this.tool === "pick" || this.tool === "eraser" || !this.locked.has(this.value)) return true;
    this.complain("act", `${this.classOf(this.value).name} is locked. Unlock it to paint with it.`);
    return false;
  },
  act(name, body) {
    this.complain("act", "");
    this.outbox.add(name, body);
  },
  fill(view, point) {
    const [h, v] = voxel(point);
    if (h < 0 || v < 0 || h >= view.width || v >= view.height) return;
    this.act("fill", { axis: view.axis, index: view.index, point: [h, v], value: this.value, tolerance: this.tolerance() });
  },
  tolerance() {
    const channel = this.channels.find((one) => one.on) ?? this.channels[0];
    return (byId("tolerance").value / 200) * (channel.window[1] - channel.window[0]);
  },
  pick(view, point) {
    const [h, v] = voxel(point), at = v * view.width + h;
    if (h < 0 || v < 0 || h >= view.width || v >= view.height) return;
    const value = [view.data.paint?.[at], view.data.result?.[at]].find((one) => one !== undefined && one !== UNLABELLED);
    if (value !== undefined) this.choose(value);
  },
  choose(value) {
    if (!this.classOf(value)) return;
    this.value = value;
    if (this.tool === "eraser" || this.tool === "cross" || this.tool === "hand" || this.tool === "pick") this.use("brush");
    showClasses(this);
    this.announce(`class ${value}: ${this.classOf(value).name}`);
    this.draw();
    this.showSlices();
  },
  use(tool) {
    if (tool !== "outline") this.hands.drop();
    this.tool = tool;
    root.dataset.tool = tool;
    for (const button of byId("tools").children) button.setAttribute("aria-pressed", String(button.dataset.name === tool));
    this.draw();
    this.showSlices();
  },
  addClass() {
    const used = new Set(this.classes.map((one) => one.value));
    const value = Array.from({ length: 254 }, (_, i) => i + 1).find((i) => !used.has(i));
    if (value === undefined) return;
    this.act("class", { value, name: `class ${value}` });
    this.wanted = value; // chosen when it is there
  },
  finish() {
    const view = this.current;
    if (byId("finish").disabled) return;
    const body = { axis: view.axis, index: view.index };
    if (view.isReady) { view.apply({ name: "finish", body }); view.tint("paint"); }
    this.act("finish", body);
  },
  adopt() { if (!byId("adopt").disabled) this.act("adopt", { axis: this.current.axis, index: this.current.index }); },
  undo() { if (!byId("undo").disabled) this.act("undo", {}); },
  redo() { if (!byId("redo").disabled) this.act("redo", {}); },
  switchLayer(name, on) {
    const layer = this.layers[name];
    layer.on = on;
    layer.show();
    if (on && name !== "image") this.refetch(name);
    this.draw();
  },
  fade(by) {
    for (const name of ["paint", "result"]) {
      this.layers[name].opacity = clamp(this.layers[name].opacity + by, 0, 1);
      this.layers[name].show();
    }
    this.draw();
  },
  resize(by) { setSize(Number(byId("size").value) + by); },
};

/* The brush, from half a voxel to a quarter of the picture, finely where it is small. */
function setSize(step) {
  byId("size").value = step;
  const least = Math.min(...app.spacing) / 2, most = Math.max(...app.size.map((n, axis) => n * app.spacing[axis])) / 8;
  app.radius = least * (most / least) ** (Number(byId("size").value) / 100);
  const across = 2 * app.radius;
  byId("size-is").textContent = app.unit ? `${+across.toPrecision(2)} ${app.unit}` : `${+(across / Math.min(...app.spacing)).toPrecision(2)} px`;
  byId("size").setAttribute("aria-valuetext", byId("size-is").textContent);
  for (const view of app.views) view.drawOver();
}

async function refresh() {
  const state = await (await get("/state")).json();
  app.take(state);
  showScore(state.score, app.classes);
  showDoing(state.doing);
  showMaking(app, state);
  app.suggest(state.suggestion);
  app.refetch("paint", "result", "doubt");
  return state;
}

function hear(news) {
  if (news.kind === "paint") {
    if (app.take(news) && !app.outbox.items.length) app.refetch("paint");
  } else if (news.kind === "model") app.refetch("result", "doubt");
  else if (news.kind === "plane") {
    for (const view of app.views) if (view.axis === news.axis && view.index === news.index) view.refetch("result", "doubt");
  } else if (news.kind === "score") showScore(news, app.classes);
  else if (news.kind === "suggestion") app.suggest(news);
  else if (news.kind === "doing") showDoing(news);
  else if (news.kind === "densify") {
    showMaking(app, { densify: news });
    if (news.ended === "made") app.refetch("result", "doubt");
  } else if (news.kind === "trouble") app.complain("server", news.what);
  else if (news.kind === "painter") claim(news.painter === null ? false : null, news.painter);
  else if (news.kind === "missed") refresh();
}

/* One tab paints. */
async function claim(force, painter) {
  if (force !== null) painter = (await post("claim", { force })).painter;
  app.isPainter = painter === client;
  byId("other").hidden = app.isPainter;
  app.outbox.hold(!app.isPainter);
  app.showSaved();
}

async function begin() {
  const state = await (await get("/state")).json();
  Object.assign(app, { size: state.size, spacing: state.spacing, unit: state.unit, formats: state.formats, name: state.name });
  document.title = `${state.name} – volseg paint`;
  byId("name").textContent = state.name;
  byId("facts").textContent = `${state.size.join(" × ")} voxels${state.folder ? `, in ${state.folder}` : ", not kept: no folder was given"}`;
  app.isColour = state.channels.length === 3 && state.channels.every((one) => one.bits === 8);
  if (app.isColour) { // one window for all, or colours would change
    const window = [Math.min(...state.channels.map((one) => one.window[0])), Math.max(...state.channels.map((one) => one.window[1]))];
    for (const one of state.channels) one.window = window;
  }
  app.channels = state.channels.map((facts, i) => new Channel(facts, i, state.channels.length, app.isColour));
  app.position = [...state.size.map((n) => Math.floor(n / 2)), 0].slice(0, 3);
  app.outbox = new Outbox(`volseg ${state.folder ?? state.name}`, {
    answer: (item, answer) => {
      app.take(answer);
      if (item.name === "class") app.retint("paint"), app.retint("result");
      if (app.wanted !== undefined && app.classOf(app.wanted)) { app.choose(app.wanted); app.wanted = undefined; }
      if (!app.outbox.items.length) app.refetch("paint");
    },
    refused: (item, message) => {
      app.complain("act", message);
      app.refetch("paint");
    },
    state: (waiting, trouble) => app.showSaved(waiting, trouble),
  });
  app.hands = new Hands(app);
  app.take(state);
  const views = byId("views");
  views.classList.toggle("one", state.planes.length === 1);
  app.views = state.planes.map((plane) => makeView(app, plane));
  for (const view of app.views) {
    views.append(view.element);
    app.hands.connect(view);
  }
  app.current = app.views[0];
  app.enlarge(app.current);
  makeLayers(app);
  makeChannels(app);
  showScore(state.score, app.classes);
  showDoing(state.doing);
  byId("tools").replaceChildren(...TOOLS.map(({ name, label, key, icon: path }) =>
    element("button", { type: "button", title: `${label} (${key})`, "aria-label": label, "data-name": name, onclick: () => app.use(name) }, icon(path))));
  app.use("brush");
  setSize(30);
  byId("size").addEventListener("input", () => setSize(byId("size").value));
  const tolerance = () => { byId("tolerance-is").textContent = `± ${+app.tolerance().toPrecision(3)}`; };
  byId("tolerance").addEventListener("input", tolerance);
  tolerance();
  const buttons = { undo: "undo", redo: "redo", finish: "finish", adopt: "adopt", add: "addClass", go: "goToSuggestion" };
  for (const [id, deed] of Object.entries(buttons)) byId(id).addEventListener("click", () => app[deed]());
  byId("take").addEventListener("click", () => claim(true));
  connectBoxes(app);
  showMaking(app, state);
  showKeys();
  keys(app);
  for (const view of app.views) view.load();
  listen(hear, (isGone) => {
    app.complain("server", isGone ? "The server does not answer. You can go on painting: what is not saved yet is kept here." : "");
    if (!isGone) claim(false).then(refresh).catch((error) => app.complain("server", error.message));
  });
  root.dataset.ready = "true";
  app.showSlices();
}

function fail(error) {
  app.complain("page", `This page has met an error, and may not work: ${error?.message ?? error}. What you painted is kept; reload it.`);
  root.dataset.errors = String(error?.stack ?? error);
}
addEventListener("error", (event) => fail(event.error ?? event.message));
addEventListener("unhandledrejection", (event) => fail(event.reason));
begin().catch(fail);
