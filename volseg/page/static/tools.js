/* What a pointer or a key does in a view. Each tool is there for the mouse, and at the cross for the keyboard. */
import { UNLABELLED } from "./view.js";
import { nearest } from "./shapes.js";

export const TOOLS = [
  { name: "cross", label: "Move the cross", key: "c", icon: "M12 3v7m0 4v7M3 12h7m4 0h7" },
  { name: "brush", label: "Brush", key: "p", icon: "M4 20c4 0 5-2 5-4l9-11 2 2-11 9c-2 0-4 1-5 4" },
  { name: "eraser", label: "Eraser", key: "e", icon: "M8 20 3.5 15 14 4.500l6 6L10.5 20H20M9 9.500l6 6" },
  { name: "outline", label: "Filled outline", key: "o", icon: "M12 4c6 0 9 3 8 7s-6 3-8 5-6 4-8 0 2-12 8-12z" },
  { name: "fill", label: "Fill up to a contrast", key: "f", icon: "M11 4 4 11l7 7 7-7zM4 11h14M20 15c-1 2-2 3-2 4a2 2 0 0 0 4 0c0-1-1-2-2-4z" },
  { name: "pick", label: "Pick a class", key: "l", icon: "M14 6l4 4M13 7l-8 8-1 5 5-1 8-8M15 5l2-2 4 4-2 2z" },
  { name: "hand", label: "Move the picture (hold Space)", key: "h", icon: "M12 3v18M3 12h18M12 3l-2.5 2.500M12 3l2.5 2.500M12 21l-2.5-2.500M12 21l2.5-2.500M3 12l2.5-2.500M3 12l2.5 2.500M21 12l-2.5-2.500M21 12l-2.5 2.5" },
];
const MOST_POINTS = 20000;
const LEAST = 0.15; // voxels between two points of a stroke

export class Hands {
  constructor(app) {
    this.app = app;
    this.action = null;
    this.isSpace = false;
    addEventListener("pagehide", () => this.end());
  }

  connect(view) {
    const { over } = view;
    over.addEventListener("pointerdown", (event) => this.down(view, event));
    over.addEventListener("pointermove", (event) => this.move(view, event));
    over.addEventListener("pointerup", (event) => { if (this.action?.pointer === event.pointerId) this.end(event); });
    over.addEventListener("pointercancel", () => this.end());
    over.addEventListener("pointerleave", () => { view.hover = null; view.drawOver(); this.app.say(null); });
    over.addEventListener("contextmenu", (event) => event.preventDefault());
    over.addEventListener("dblclick", () => { if (this.corners) this.close(); });
    over.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey || event.metaKey) view.zoomBy(Math.exp(-event.deltaY / 300), view.under(event));
      else if (event.deltaY) this.app.step(view, -Math.sign(event.deltaY) * (event.shiftKey ? 10 : 1));
    }, { passive: false });
    over.addEventListener("focus", () => this.app.focus(view));
  }

  down(view, event) {
    view.over.focus({ preventScroll: true });
    if (this.action || event.button > 2) return;
    event.preventDefault();
    view.over.setPointerCapture(event.pointerId);
    const point = view.under(event), { tool } = this.app;
    const begin = (action) => { this.action = { ...action, view, pointer: event.pointerId }; };
    if (event.button === 1 || this.isSpace || tool === "hand") {
      let last = event;
      begin({ move: (next) => { view.panBy(next.clientX - last.clientX, next.clientY - last.clientY); last = next; } });
    } else if (tool === "cross" || event.shiftKey) {
      const go = (next) => this.app.moveTo(view, view.under(next));
      go(event);
      begin({ move: go });
    } else if (!this.app.mayPaint(view)) return;
    else if (this.app.isBrush()) begin(this.stroke(view, point, event.button === 2 || tool === "eraser" ? UNLABELLED : this.app.value));
    else if (tool === "outline") begin(this.outline(view, point));
    else if (tool === "fill") this.app.fill(view, point);
    else if (tool === "pick") this.app.pick(view, point);
  }

  move(view, event) {
    view.hover = view.under(event);
    view.drawOver();
    this.app.say(view, view.hover);
    if (this.action?.pointer !== event.pointerId) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) this.action?.move(one);
  }

  end(event) {
    const { action } = this;
    this.action = null;
    action?.end?.(event);
  }

  /* A stroke appears under the pointer, and goes to the server when it ends. */
  stroke(view, first, value) {
    const body = { axis: view.axis, index: view.index, points: [first], radius: this.app.radius, value };
    view.touch(first, first, body.radius, value);
    this.app.inHand = { name: "stroke", body };
    const send = () => {
      this.app.inHand = null;
      this.app.act("stroke", body);
    };
    return {
      move: (event) => {
        const last = body.points.at(-1), point = view.under(event);
        if (Math.hypot(point[0] - last[0], point[1] - last[1]) < LEAST || body.points.length >= MOST_POINTS) return;
        body.points.push(point);
        if (view.isReady) view.touch(last, point, body.radius, value);
      },
      end: send,
    };
  }

  /* Drawn in one go, or corner by corner; a double click or Enter closes it. */
  outline(view, first) {
    if (this.corners && this.corners.view !== view) this.drop();
    const points = this.corners ? [...this.corners.points, first] : [first];
    const index = view.index;
    view.lasso = points;
    view.drawOver();
    let moved = 0;
    return {
      move: (event) => {
        const last = points.at(-1), point = view.under(event);
        moved += Math.hypot(point[0] - last[0], point[1] - last[1]);
        if (Math.hypot(point[0] - last[0], point[1] - last[1]) < LEAST || points.length >= MOST_POINTS) return;
        points.push(point);
        view.drawOver();
      },
      end: () => {
        this.corners = { view, points, index };
        if (moved > 3 && points.length > 4) this.close();
      },
    };
  }

  close() {
    const { view, points, index } = this.corners;
    const { value } = this.app;
    this.drop();
    if (points.length < 3) return;
    const body = { axis: view.axis, index, points, value };
    if (view.at === index) {
      view.apply({ name: "polygon", body });
      view.tint("paint");
    }
    this.app.act("polygon", body);
  }

  drop() {
    if (!this.corners) return;
    this.corners.view.lasso = null;
    this.corners.view.drawOver();
    this.corners = null;
  }

  /* The tool at the cross, for the keyboard; with a line to where it was used last. */
  use(view, isLine) {
    const { app } = this, here = [app.position[view.h], app.position[view.v]];
    if (!app.mayPaint(view)) return;
    if (app.isBrush()) {
      const value = app.tool === "eraser" ? UNLABELLED : app.value;
      const from = isLine && this.used?.view === view && this.used.index === view.index ? this.used.point : here;
      view.touch(from, here, app.radius, value);
      app.act("stroke", { axis: view.axis, index: view.index, points: from === here ? [here] : [from, here], radius: app.radius, value });
    } else if (app.tool === "outline") {
      if (isLine && this.corners) this.close();
      else this.outline(view, here).end();
    } else if (app.tool === "fill") app.fill(view, here);
    else if (app.tool === "pick") app.pick(view, here);
    this.used = { view, index: view.index, point: here };
  }
}

export const voxel = (point) => point.map(nearest);
