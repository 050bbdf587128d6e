// Points on a canvas that can be moved and zoomed by mouse, fingers and keys. Map coordinates grow to the right and up.
const MARGIN = 1.1; // of the square from -1 to 1, so that its points and their names are not cut off
const CLOSEST = 60;
const REACH_PX = 14; // of a pointer around a point
const STILL_PX = 4; // a pointer that moves less has clicked
const STEP_PX = 60;
const TURN = 2 * Math.PI;

export class PointMap {
  #canvas;
  #points = { x: [], y: [] };
  #groups = []; // [{ colour, places }]
  #labels = []; // [{ text, x, y }], the most important first
  #marks = [];
  #lit = null; // a place → whether it is lit; null: all are
  #view = { x: 0, y: 0, zoom: 1 };
  #pointers = new Map();
  #moved = 0;
  #pending = 0;

  /** `onHover(place, x, y)` gets the point below a mouse, or null; `onPick(place)` the one that was chosen. */
  constructor(canvas, { onHover, onPick }) {
    this.#canvas = canvas;
    this.onHover = onHover;
    this.onPick = onPick;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.onHover(null));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Columns x and y; the view stays. */
  set points(points) {
    this.#points = points;
    this.draw();
  }

  /** Which places are drawn in which colour; later groups lie on top. */
  set groups(groups) {
    this.#groups = groups;
    this.draw();
  }

  set labels(labels) {
    this.#labels = labels;
    this.draw();
  }

  /** Places with a ring around them. */
  set marks(places) {
    this.#marks = places;
    this.draw();
  }

  /** A test of a place; what fails it fades. */
  set lit(test) {
    this.#lit = test;
    this.draw();
  }

  showAll() {
    this.#view = { x: 0, y: 0, zoom: 1 };
    this.draw();
  }

  /** Zoom by a factor around a place on the canvas, its middle by default. */
  zoomBy(factor, at = this.#middle()) {
    const before = this.#toMap(at);
    this.#view.zoom = Math.min(CLOSEST, Math.max(0.5, this.#view.zoom * factor));
    const after = this.#toMap(at);
    this.#shift(before.x - after.x, before.y - after.y);
  }

  draw() {
    this.#pending ||= requestAnimationFrame(() => {
      this.#pending = 0;
      this.#paint();
    });
  }

  #paint() {
    const frame = this.#frame();
    const { width, height } = frame;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(width * ratio) || this.#canvas.height !== Math.round(height * ratio)) {
      this.#canvas.width = Math.round(width * ratio);
      this.#canvas.height = Math.round(height * ratio);
    }
    const pen = this.#canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const radius = this.#radius();
    if (this.#lit) {
      pen.globalAlpha = 0.14;
      for (const group of this.#groups) this.#dots(pen, frame, group, radius, (place) => !this.#lit(place));
    }
    pen.globalAlpha = 0.85;
    for (const group of this.#groups) this.#dots(pen, frame, group, radius, this.#lit);
    pen.globalAlpha = 1;
    this.#rings(pen, frame, radius + 2);
    this.#names(pen, frame);
  }

  #dots(pen, { toCanvas }, { colour, places }, radius, test) {
    pen.fillStyle = colour;
    pen.beginPath();
    for (const place of places) {
      if (test && !test(place)) continue;
      const { x, y } = toCanvas(this.#points.x[place], this.#points.y[place]);
      pen.moveTo(x + radius, y);
      pen.arc(x, y, radius, 0, TURN);
    }
    pen.fill();
  }

  #rings(pen, { toCanvas }, radius) {
    pen.strokeStyle = this.#css("--ink");
    pen.lineWidth = 1.2;
    pen.beginPath();
    for (const place of this.#marks) {
      if (this.#lit && !this.#lit(place)) continue;
      const { x, y } = toCanvas(this.#points.x[place], this.#points.y[place]);
      pen.moveTo(x + radius, y);
      pen.arc(x, y, radius, 0, TURN);
    }
    pen.stroke();
  }

  /** Labels, the first first; one that would lie on another is left out until there is room. */
  #names(pen, { width, height, toCanvas }) {
    pen.font = `600 12px ${this.#css("--sans")}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    pen.lineWidth = 4;
    pen.strokeStyle = this.#css("--raised");
    pen.fillStyle = this.#css("--ink");
    const taken = [];
    for (const { text, x: across, y: up } of this.#labels) {
      const at = toCanvas(across, up);
      const half = pen.measureText(text).width / 2 + 4;
      if (half * 2 > width) continue;
      if (at.x < 0 || at.x > width || at.y < 0 || at.y > height) continue;
      const x = Math.min(Math.max(at.x, half), width - half);
      if (taken.some((other) => Math.abs(other.x - x) < other.half + half && Math.abs(other.y - at.y) < 17)) continue;
      taken.push({ x, y: at.y, half });
      pen.strokeText(text, x, at.y);
      pen.fillText(text, x, at.y);
    }
  }

  #css(name) {
    return getComputedStyle(this.#canvas).getPropertyValue(name).trim();
  }

  #radius() {
    const crowd = Math.max(1, this.#points.x.length / 4000);
    return Math.min(7, (2.6 / crowd ** 0.2) * this.#view.zoom ** 0.4);
  }

  /** What turns map into canvas as it is now: its size, its middle, and pixels for a unit of the map. */
  #frame() {
    const { width, height } = this.#canvas.getBoundingClientRect();
    const scale = (Math.min(width, height) / 2 / MARGIN) * this.#view.zoom;
    const left = width / 2 - this.#view.x * scale;
    const top = height / 2 + this.#view.y * scale;
    return { width, height, scale, toCanvas: (x, y) => ({ x: left + x * scale, y: top - y * scale }) };
  }

  #middle() {
    const { width, height } = this.#canvas.getBoundingClientRect();
    return { x: width / 2, y: height / 2 };
  }

  #toMap({ x, y }) {
    const { width, height, scale } = this.#frame();
    return { x: this.#view.x + (x - width / 2) / scale, y: this.#view.y - (y - height / 2) / scale };
  }

  #shift(right, up) {
    // The middle of the view stays within the map: nobody gets lost.
    this.#view.x = Math.min(1, Math.max(-1, this.#view.x + right));
    this.#view.y = Math.min(1, Math.max(-1, this.#view.y + up));
    this.draw();
  }

  #nearest({ x, y }) {
    const { toCanvas } = this.#frame();
    let best = null;
    let least = REACH_PX ** 2;
    for (const { places } of this.#groups) {
      for (const place of places) {
        if (this.#lit && !this.#lit(place)) continue;
        const at = toCanvas(this.#points.x[place], this.#points.y[place]);
        const distance = (at.x - x) ** 2 + (at.y - y) ** 2;
        if (distance < least) [best, least] = [place, distance];
      }
    }
    return best;
  }

  #at(event) {
    const { left, top } = this.#canvas.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  #down(event) {
    if (event.button) return;
    this.#canvas.setPointerCapture(event.pointerId);
    if (!this.#pointers.size) this.#moved = 0;
    this.#pointers.set(event.pointerId, this.#at(event));
  }

  #move(event) {
    const at = this.#at(event);
    const last = this.#pointers.get(event.pointerId);
    if (!last) {
      if (event.pointerType === "mouse") this.#hover(at);
      return;
    }
    const [others] = [...this.#pointers].filter(([id]) => id !== event.pointerId);
    this.#pointers.set(event.pointerId, at);
    if (others) {
      const other = others[1];
      const between = { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 };
      const spread = Math.hypot(at.x - other.x, at.y - other.y);
      const before = Math.hypot(last.x - other.x, last.y - other.y);
      this.#moved = Infinity;
      if (before > 1) this.zoomBy(spread / before, between);
    }
    const share = others ? 0.5 : 1; // each of two fingers moves the middle between them by half
    this.#moved += Math.hypot(at.x - last.x, at.y - last.y);
    if (this.#moved > STILL_PX) {
      this.onHover(null);
      const { scale } = this.#frame();
      this.#shift((share * (last.x - at.x)) / scale, (share * (at.y - last.y)) / scale);
    }
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId) || this.#moved > STILL_PX) return;
    const place = this.#nearest(this.#at(event));
    if (place !== null) this.onPick(place);
  }

  #hover(at) {
    const place = this.#nearest(at);
    this.#canvas.style.cursor = place === null ? "grab" : "pointer";
    this.onHover(place, at.x, at.y);
  }

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.zoomBy(Math.exp(-Math.max(-240, Math.min(240, event.deltaY * lines)) / 400), this.#at(event));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = STEP_PX / this.#frame().scale;
    const steps = {
      ArrowLeft: () => this.#shift(-step, 0),
      ArrowRight: () => this.#shift(step, 0),
      ArrowUp: () => this.#shift(0, step),
      ArrowDown: () => this.#shift(0, -step),
      "+": () => this.zoomBy(1.4),
      "=": () => this.zoomBy(1.4),
      "-": () => this.zoomBy(1 / 1.4),
      0: () => this.showAll(),
    };
    if (!steps[event.key]) return;
    event.preventDefault();
    this.onHover(null);
    steps[event.key]();
  }
}
