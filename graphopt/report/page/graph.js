// The layer graph: groups below one another, one of each kind open, the others behind their numbers.

const BOX = 40, HEAD = 34, INSET = 20, GROUP_GAP = 34, CHIP_W = 34, CHIP_H = 24, CHIPS_A_ROW = 16;
const FIRST_OPEN = 8, NEAREST = 2.5, FARTHEST = 0.04;

class GraphView {
  constructor(name, picture, label, onSelect) {
    this.name = name;
    this.picture = picture;
    this.onSelect = onSelect;
    this.open = new Set();
    this.hits = new Set();
    this.chosen = null;
    this.scale = 1;
    this.x = this.y = 0;
    const seen = new Set();
    for (const group of picture.groups) {
      if (!seen.has(group.kind) && seen.size < FIRST_OPEN) this.open.add(group.number);
      if (group.layer === null && picture.groups.length < FIRST_OPEN) this.open.add(group.number);
      seen.add(group.kind);
    }
    this.stage = svg("g");
    this.canvas = svg("svg", { class: "canvas", tabindex: "0", role: "application", "aria-label": label },
      svg("defs", {}, this.arrow("arrow"), this.arrow("arrow-lit")), this.stage);
    this.element = h("div", { class: "pane" }, this.canvas, this.controls(label));
    this.listen();
    this.draw();
  }

  arrow(kind) {
    return svg("marker", { id: `${this.name}-${kind}`, class: kind, viewBox: "0 0 8 8", refX: "7", refY: "4", markerWidth: "9",
      markerHeight: "9", markerUnits: "userSpaceOnUse", orient: "auto" }, svg("path", { d: "M0 0.5L8 4L0 7.5Z" }));
  }

  end(kind) {
    return `url(#${this.name}-${kind})`;
  }

  controls(label) {
    const button = (text, title, action) =>
      h("button", { type: "button", title, "aria-label": title, onclick: action }, text);
    const out = button("−", "Zoom out (−)", () => this.zoom(1 / 1.3));
    const zoomIn = button("+", "Zoom in (+)", () => this.zoom(1.3));
    this.percent = h("span", { class: "percent" });
    return [h("div", { class: "pane-label" }, label),
      h("div", { class: "zoom" }, out, this.percent, zoomIn, button("Fit", "Fit all of it (0)", () => this.fit()))];
  }

  // Rows of the stack: an open group, or a run of closed ones.
  rows() {
    const rows = [];
    for (const group of this.picture.groups) {
      const last = rows.at(-1);
      if (this.open.has(group.number)) rows.push({ group });
      else if (last?.run) last.run.push(group);
      else rows.push({ run: [group] });
    }
    return rows;
  }

  draw() {
    this.boxes = new Map();
    this.wires = [];
    this.stage.replaceChildren();
    let y = 0, previous = null;
    this.bounds = { left: 0, right: 0, bottom: 0 };
    for (const row of this.rows()) {
      const size = row.group ? this.drawGroup(row.group, y) : this.drawRun(row.run, y);
      if (previous !== null)
        this.stage.append(svg("path", { class: "spine", d: `M0 ${previous}V${y - 2}`, "marker-end": this.end("arrow") }));
      this.bounds.left = Math.min(this.bounds.left, -size.width / 2);
      this.bounds.right = Math.max(this.bounds.right, size.width / 2);
      previous = y + size.height;
      this.bounds.bottom = previous;
      y = previous + GROUP_GAP;
    }
    this.mark();
  }

  drawGroup(group, y) {
    const picture = this.picture, kind = picture.kind(group);
    const alike = picture.members[group.kind];
    const width = Math.max(kind.width, 300) + 2 * INSET, height = kind.height + HEAD + 2 * INSET;
    const inner = svg("g", { transform: `translate(${-kind.width / 2} ${y + HEAD + INSET})` });
    const others = group.layer !== null && alike.length > 1
      ? `kind ${picture.letters[group.kind]}, ${alike.length} alike` : plural(kind.items.length, "box", "boxes");
    const frame = svg("g", { class: "group" },
      svg("rect", { class: "group-frame", x: -width / 2, y, width, height, rx: 12 }),
      svg("text", { class: "group-title", x: -width / 2 + INSET, y: y + 24 }, picture.title(group)),
      svg("text", { class: "group-note", x: width / 2 - INSET - (group.layer === null ? 0 : 26), y: y + 24, "text-anchor": "end" }, others));
    if (group.layer !== null) frame.append(this.closer(group, width / 2 - INSET - 6, y + 19));
    this.stage.append(frame, inner);
    this.fillGroup(group, kind, inner, y + HEAD + INSET);
    return { width, height };
  }

  closer(group, x, y) {
    const close = () => {
      this.open.delete(group.number);
      this.draw();
    };
    return svg("g", { class: "closer", role: "button", tabindex: "0", onclick: close,
      onkeydown: (event) => event.key === "Enter" && close() },
      svg("title", {}, `Close layer ${group.layer}`),
      svg("circle", { cx: x, cy: y, r: 10 }), svg("path", { d: `M${x - 4} ${y}H${x + 4}` }));
  }

  fillGroup(group, kind, inner, top) {
    const first = kind.ports.length, end = first + kind.items.length;
    const lit = (box) => (box >= first && box < end ? `${group.number}:${box - first}` : "");
    for (const [from, to, path] of kind.wires) {
      const wire = svg("path", { class: "wire", d: path, "marker-end": to < end ? this.end("arrow") : null });
      this.wires.push({ wire, from: lit(from), to: lit(to) });
      inner.append(wire);
    }
    kind.ports.forEach((ports, box) => this.drawPill(group, kind, inner, box, ports.map((p) => `p${p}`), true));
    kind.leaving.forEach((value, number) => this.drawPill(group, kind, inner, end + number, [value], false));
    kind.items.forEach((item, number) => {
      const x = kind.x[first + number], y = kind.y[first + number], width = kind.widths[first + number];
      const box = svg("g", { class: `box f-${item.family}`, transform: `translate(${x} ${y})`,
        role: "button", "aria-label": `${item.name} ${item.leaf}`,
        onclick: () => this.select(group.number, number, false) },
        svg("rect", { class: "box-frame", width, height: BOX, rx: 6 }),
        svg("path", { class: "box-stripe", d: `M6 0H5A5 5 0 0 0 0 5V${BOX - 5}A5 5 0 0 0 5 ${BOX}H6Z` }),
        svg("text", { class: "box-name", x: 14, y: 17 }, fitText(item.name, FONTS.name, width - 24)),
        svg("text", { class: "box-type", x: 14, y: 32 }, fitText(item.makes, FONTS.mono, width - 22)));
      const room = width - 34 - textWidth(item.name, FONTS.name);
      if (item.leaf && room > 24)
        box.append(svg("text", { class: "box-leaf", x: width - 9, y: 17, "text-anchor": "end" }, fitText(item.leaf, FONTS.leaf, room)));
      this.boxes.set(`${group.number}:${number}`,
        { box, x: x - kind.width / 2, y: y + top, width });
      inner.append(box);
    });
  }

  // Where a value comes from or goes to, outside of the group.
  drawPill(group, kind, inner, box, references, incoming) {
    const picture = this.picture, width = kind.widths[box];
    const names = references.map((r) => picture.name(group, r));
    const maker = incoming && picture.maker(names[0]);
    let text = names.join(", ");
    if (maker && names.length === 1) text += ` from ${this.short(maker[0], group)}`;
    else if (!incoming) text = picture.outputs.has(names[0].slice(1)) ? `${names[0]}, the result` : `${names[0]} goes on`;
    const pill = svg("g", { class: `pill ${maker ? "linked" : ""}`, transform: `translate(${kind.x[box]} ${kind.y[box] + 9})` },
      svg("title", {}, references.map((r) => `${picture.name(group, r)}: ${picture.type(group, r)}`).join("\n")),
      svg("rect", { width, height: 22, rx: 11 }),
      svg("text", { x: width / 2, y: 15, "text-anchor": "middle" }, fitText(text, FONTS.mono, width - 12)));
    if (maker) pill.addEventListener("click", () => this.select(maker[0], maker[1], true));
    // The curves end at the edges of a box, which is higher than a pill.
    const middle = width / 2 + kind.x[box];
    inner.append(svg("path", { class: "wire", d: incoming
      ? `M${middle} ${kind.y[box] + 31}V${kind.y[box] + BOX}` : `M${middle} ${kind.y[box]}V${kind.y[box] + 9}`,
    "marker-end": incoming ? null : this.end("arrow") }), pill);
  }

  short(number, from) {
    const group = this.picture.groups[number];
    if (group.layer !== null) return `layer ${group.layer}`;
    return number < from.number ? "before" : "after";
  }

  drawRun(run, y) {
    const picture = this.picture;
    const across = Math.min(run.length, CHIPS_A_ROW), down = Math.ceil(run.length / CHIPS_A_ROW);
    const kinds = new Map();
    for (const group of run) kinds.set(group.kind, [...(kinds.get(group.kind) ?? []), group]);
    const notes = [...kinds].filter(([kind]) => picture.letters[kind]).map(([kind, groups]) =>
      `${groups.length} of kind ${picture.letters[kind]}`).join(", ");
    const ends = [run[0], run.at(-1)];
    const title = run.length === 1 ? picture.title(run[0])
      : ends.every((group) => group.layer !== null) ? `layers ${ends[0].layer}–${ends[1].layer}`
        : ends.map((group) => picture.title(group)).join(" to ");
    const wanted = textWidth(title, FONTS.title) + textWidth(notes, FONTS.note) + 3 * INSET;
    const width = Math.max(across * CHIP_W + 2 * INSET, wanted, 300), height = HEAD + down * CHIP_H + INSET;
    const frame = svg("g", { class: "run" });
    for (const back of [8, 4, 0])
      frame.append(svg("rect", { class: "group-frame", x: -width / 2 + back, y: y + back, width: width - 2 * back, height, rx: 12 }));
    frame.append(svg("text", { class: "group-title", x: -width / 2 + INSET, y: y + 24 }, title),
      svg("text", { class: "group-note", x: width / 2 - INSET, y: y + 24, "text-anchor": "end" }, notes));
    run.forEach((group, number) => {
      const x = -(across * CHIP_W) / 2 + (number % CHIPS_A_ROW) * CHIP_W, top = y + HEAD + Math.floor(number / CHIPS_A_ROW) * CHIP_H;
      const show = () => {
        this.open.add(group.number);
        this.draw();
        this.reveal(group.number, 0);
      };
      const hit = this.hitGroups?.has(group.number) ? " hit" : "";
      frame.append(svg("g", { class: `chip${hit}`, role: "button", tabindex: "0", onclick: show,
        onkeydown: (event) => event.key === "Enter" && show() },
        svg("title", {}, `Open ${picture.title(group)}`),
        svg("rect", { x: x + 2, y: top, width: CHIP_W - 4, height: CHIP_H - 4, rx: 5 }),
        svg("text", { x: x + CHIP_W / 2, y: top + 14, "text-anchor": "middle" }, `${group.layer ?? group.number}`)));
    });
    this.stage.append(frame);
    return { width, height: height + 8 };
  }

  // Search results as a list of [group, item].
  highlight(found) {
    this.hits = new Set(found.map(([group, item]) => `${group}:${item}`));
    this.hitGroups = new Set(found.map(([group]) => group));
    this.draw();
  }

  select(group, item, reveal) {
    if (!this.open.has(group)) {
      this.open.add(group);
      this.draw();
    }
    this.chosen = `${group}:${item}`;
    this.mark();
    if (reveal) this.reveal(group, item);
    this.onSelect(group, item);
  }

  clear() {
    this.chosen = null;
    this.mark();
  }

  mark() {
    this.canvas.classList.toggle("searching", this.hits.size > 0);
    for (const [key, { box }] of this.boxes) {
      box.classList.toggle("hit", this.hits.has(key));
      box.classList.toggle("chosen", key === this.chosen);
    }
    for (const { wire, from, to } of this.wires) {
      const lit = this.chosen !== null && (from === this.chosen || to === this.chosen);
      wire.classList.toggle("lit", lit);
      if (wire.hasAttribute("marker-end")) wire.setAttribute("marker-end", this.end(lit ? "arrow-lit" : "arrow"));
    }
  }

  reveal(group, item) {
    const found = this.boxes.get(`${group}:${item}`);
    if (!found) return;
    const { width, height } = this.canvas.getBoundingClientRect();
    this.scale = Math.max(this.scale, 0.7);
    this.move(width / 2 - (found.x + found.width / 2) * this.scale, height / 2 - (found.y + BOX / 2) * this.scale);
  }

  move(x, y) {
    this.touched = true;
    this.x = x;
    this.y = y;
    this.stage.setAttribute("transform", `translate(${x} ${y}) scale(${this.scale})`);
    this.percent.textContent = `${Math.round(this.scale * 100)}%`;
  }

  zoom(by, atX, atY) {
    const { width, height } = this.canvas.getBoundingClientRect();
    const x = atX ?? width / 2, y = atY ?? height / 2;
    const scale = Math.min(NEAREST, Math.max(FARTHEST, this.scale * by));
    const ratio = scale / this.scale;
    this.scale = scale;
    this.move(x - (x - this.x) * ratio, y - (y - this.y) * ratio);
  }

  fit() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const { left, right, bottom } = this.bounds;
    this.scale = Math.min(1, (width - 40) / (right - left), (height - 40) / bottom);
    this.move(width / 2 - ((left + right) / 2) * this.scale, Math.max(20, (height - bottom * this.scale) / 2));
  }

  // Move so that an element that has the focus can be seen.
  bringIn(element) {
    const box = element.getBoundingClientRect(), pane = this.canvas.getBoundingClientRect();
    const shift = (low, high, first, last) => (low < first ? first - low : high > last ? last - high : 0);
    const x = shift(box.left, box.right, pane.left + 40, pane.right - 40);
    const y = shift(box.top, box.bottom, pane.top + 40, pane.bottom - 40);
    if (x || y) this.move(this.x + x, this.y + y);
  }

  // The beginning: the first boxes in a size that can be read. It is where a view is until it is moved.
  home() {
    const { width } = this.canvas.getBoundingClientRect();
    this.scale = Math.min(1, Math.max(0.6, (width - 40) / (this.bounds.right - this.bounds.left)));
    this.move(width / 2, 48);
    this.touched = false;
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      const unit = event.deltaMode === 1 ? 18 : 1;
      if (event.ctrlKey || event.metaKey)
        this.zoom(Math.exp(-event.deltaY * unit * 0.004), event.clientX - box.left, event.clientY - box.top);
      else this.move(this.x - event.deltaX * unit, this.y - event.deltaY * unit);
    }, { passive: false });
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button === 0) from = { x: event.clientX - this.x, y: event.clientY - this.y, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from || !(event.buttons & 1)) return;
      const x = event.clientX - from.x, y = event.clientY - from.y;
      if (!from.moved && Math.hypot(x - this.x, y - this.y) < 4) return;
      if (!from.moved) canvas.setPointerCapture(event.pointerId);
      from.moved = true;
      canvas.classList.add("dragging");
      this.move(x, y);
    });
    const drop = () => {
      from = null;
      canvas.classList.remove("dragging");
    };
    canvas.addEventListener("pointerup", drop);
    canvas.addEventListener("pointercancel", drop);
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focusin", (event) => event.target !== canvas && this.bringIn(event.target));
  }

  key(event) {
    const step = 80;
    const actions = {
      "+": () => this.zoom(1.3), "=": () => this.zoom(1.3), "-": () => this.zoom(1 / 1.3), 0: () => this.fit(),
      ArrowUp: () => this.move(this.x, this.y + step), ArrowDown: () => this.move(this.x, this.y - step),
      ArrowLeft: () => this.move(this.x + step, this.y), ArrowRight: () => this.move(this.x - step, this.y),
      Home: () => this.home(),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    actions[event.key]();
  }
}
