// Puts the page together: what is shown, for which batch, on which machine.

const BATCHES = [
  ["decode, 1 sequence", { T: 1, S: 1, R: 1, context: 1024 }],
  ["decode, 64 sequences", { T: 64, S: 64, R: 64, context: 1024 }],
  ["prefill, 512 tokens", { T: 512, S: 1, R: 1, context: 512 }],
];
const FIELDS = [["T", "tokens in the step"], ["S", "sequences in the step"], ["R", "rows whose logits are wanted"],
  ["context", "tokens that a query sees"]];

class Report {
  constructor(data) {
    this.data = data;
    this.sizes = new Sizes(data.sizes);
    this.roofline = new Roofline(this.sizes);
    this.ledger = new Ledger(data.ledger);
    this.before = data.before && new Picture(data.before, data.types);
    this.after = new Picture(data.after, data.types);
    this.pieceAt = data.pieces.flatMap((piece) => Array(piece.steps).fill(piece));
    this.stepCount = this.pieceAt.length;
    this.details = new Details(this);
    this.inputs = {};
    this.found = { before: [], after: [] };
    this.boxes = [];
    for (const group of this.after.groups)
      this.after.kind(group).items.forEach((_, item) => { this.boxes[this.after.position(group, item)] = [group, item]; });
    document.getElementById("app").append(this.header(), this.batch(), this.main());
    this.follow("graph");
    this.resize();
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.follow(this.tab));
    addEventListener("resize", () => (this.tab === "graph" ? this.placeViews() : this.tabs[this.tab].update()));
  }

  pieceOf(step) {
    return this.pieceAt[step];
  }

  boxOfStep(step) {
    return this.boxes[step];
  }

  header() {
    const { model, target, dtype, limits, versions } = this.data;
    const parameters = human(model.parameters, ["", "K", "M", "B", "T"], 1000);
    const facts = [model.architecture, `${parameters} parameters`, `for ${target} in ${dtype}`,
      `context ${countText(limits.max_model_len)}`, `vocabulary ${countText(limits.vocab_size)}`];
    const made = Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ");
    return h("header", {}, h("h1", {}, model.name), h("ul", { class: "facts-line" }, facts.map((fact) => h("li", {}, fact))),
      made && h("p", { class: "made", title: "made by" }, made),
      model.notes.length ? h("details", { class: "notes" }, h("summary", {}, plural(model.notes.length, "note")),
        h("ul", {}, model.notes.map((note) => h("li", {}, note)))) : null);
  }

  // The batch and the machine: every number of the page depends on them.
  batch() {
    const field = (id, label, title, value, min) => {
      this.inputs[id] = h("input", { type: "number", id: `in-${id}`, value, min, step: min ? "any" : 1, oninput: () => this.resize() });
      return h("label", { title }, h("span", {}, label), this.inputs[id]);
    };
    const first = BATCHES[0][1];
    this.preset = h("select", { "aria-label": "Batch", onchange: () => this.usePreset() },
      BATCHES.map(([name], number) => h("option", { value: number }, name)), h("option", { value: "", hidden: true }, "a batch of one's own"));
    this.machine = h("select", { "aria-label": "Machine", onchange: () => this.useMachine() },
      this.data.machines.map((machine, number) => h("option", { value: number }, machine.name)), h("option", { value: "", hidden: true }, "a machine of one's own"));
    this.machine.value = this.data.machine;
    const machine = this.data.machines[this.data.machine];
    return h("form", { class: "batch", onsubmit: (event) => event.preventDefault() },
      h("fieldset", {}, h("legend", {}, "batch"), this.preset, FIELDS.map(([id, title]) => field(id, id, title, first[id], 0))),
      h("fieldset", {}, h("legend", {}, "machine"), this.machine,
        field("bandwidth", "GB/s", "memory bandwidth", machine.bandwidth_gbps, 0.001),
        field("rate", "TFLOP/s", "arithmetic", machine.rate_tflops, 0.001)));
  }

  usePreset() {
    for (const [id, value] of Object.entries(BATCHES[this.preset.value][1])) this.inputs[id].value = value;
    this.resize();
  }

  useMachine() {
    const machine = this.data.machines[this.machine.value];
    this.inputs.bandwidth.value = machine.bandwidth_gbps;
    this.inputs.rate.value = machine.rate_tflops;
    this.resize();
  }

  // Take what is typed; a field that makes no sense is marked, and the last sense it made stays.
  resize() {
    const valid = (id, least, whole) => {
      const text = this.inputs[id].value, value = Number(text);
      const ok = text !== "" && value >= least && value <= 1e12 && (!whole || Number.isInteger(value));
      this.inputs[id].setAttribute("aria-invalid", String(!ok));
      return ok;
    };
    const checks = [...FIELDS.map(([id]) => valid(id, id === "R" ? 0 : 1, true)), valid("bandwidth", 1e-3, false), valid("rate", 1e-3, false)];
    if (!checks.every(Boolean)) return;
    const number = (id) => Number(this.inputs[id].value);
    const same = (values, chosen) => Object.entries(values).every(([id, value]) => chosen[id] === value);
    const env = Object.fromEntries(FIELDS.map(([id]) => [id, number(id)]));
    this.preset.value = String(BATCHES.findIndex(([, values]) => same(values, env))).replace("-1", "");
    this.machine.value = String(this.data.machines.findIndex((machine) =>
      machine.bandwidth_gbps === number("bandwidth") && machine.rate_tflops === number("rate"))).replace("-1", "");
    this.env = { ...env, P: Math.ceil(env.context / this.data.blockSize) };
    this.sizes.set(this.env);
    this.roofline.bandwidth = number("bandwidth") * 1e9;
    this.roofline.rate = number("rate") * 1e12;
    this.tabs[this.tab].update();
    if (this.tab === "graph") this.details.update();
  }

  main() {
    this.tabs = { graph: this.graph(), cost: new CostView(this), memory: new MemoryView(this), pieces: new PiecesView(this), ledger: new LedgerView(this) };
    if (this.data.passes.length) this.tabs.passes = new PassesView(this);
    const names = Object.keys(this.tabs);
    this.buttons = Object.fromEntries(names.map((name) => [name, h("button", { type: "button", role: "tab", id: `tab-${name}`,
      "aria-controls": `view-${name}`, onclick: () => { location.hash = name; } }, name)]));
    for (const name of names) {
      this.tabs[name].element.id = `view-${name}`;
      this.tabs[name].element.setAttribute("role", "tabpanel");
    }
    return h("main", {}, h("nav", { role: "tablist", "aria-label": "Views" }, Object.values(this.buttons)),
      names.map((name) => this.tabs[name].element));
  }

  // Go where the address says, or else to the view called so.
  follow(otherwise) {
    const name = location.hash.slice(1);
    this.choose(Object.hasOwn(this.tabs, name) ? name : otherwise);
  }

  choose(name) {
    this.tab = name;
    for (const other of Object.keys(this.tabs)) {
      this.tabs[other].element.hidden = other !== name;
      this.buttons[other].setAttribute("aria-selected", String(other === name));
      this.buttons[other].tabIndex = other === name ? 0 : -1;
    }
    if (this.env) this.tabs[name].update();
    if (name === "graph") this.placeViews();
  }

  graph() {
    this.views = {};
    if (this.before) this.views.before = this.view("before", this.before, `traced: ${plural(this.before.count, "operator")}`);
    this.views.after = this.view("after", this.after, `compiled: ${plural(this.after.count, "region")}`);
    const modes = this.before ? [["before", "before"], ["after", "after"], ["both", "side by side"]] : [["after", "after"]];
    this.modes = Object.fromEntries(modes.map(([mode, label]) => [mode, h("button", { type: "button", onclick: () => this.setMode(mode) }, label)]));
    this.query = h("input", { type: "search", id: "search", placeholder: "Search operators, values, modules, weights, source  ( / )", "aria-label": "Search",
      oninput: () => this.search(), onkeydown: (event) => event.key === "Enter" && this.next(event.shiftKey ? -1 : 1) });
    this.hits = h("output", { class: "quiet", for: "search" });
    this.panes = h("div", { class: "panes" }, Object.values(this.views).map((view) => view.element));
    this.mode = "after";
    return { element: h("section", { class: "graph", "aria-label": "Graph" },
      h("div", { class: "tools" }, h("div", { class: "modes", role: "group", "aria-label": "Which graph" }, Object.values(this.modes)), this.query, this.hits),
      this.panes, this.details.element), update: () => {} };
  }

  view(name, picture, label) {
    const view = new GraphView(name, picture, label, (group, item) => {
      for (const other of Object.values(this.views)) if (other !== view) other.clear();
      this.details.show(view, group, item);
    });
    return view;
  }

  setMode(mode) {
    this.mode = mode;
    this.placeViews();
    this.showHits();
  }

  // A pane has no size until it is seen; one that was never moved keeps its beginning in the middle.
  placeViews() {
    for (const [name, button] of Object.entries(this.modes)) button.setAttribute("aria-pressed", String(name === this.mode));
    this.panes.classList.toggle("two", this.mode === "both");
    for (const [name, view] of Object.entries(this.views)) {
      view.element.hidden = !(this.mode === "both" || this.mode === name);
      if (!view.element.hidden && !view.touched) view.home();
    }
  }

  shown() {
    return Object.keys(this.views).filter((name) => !this.views[name].element.hidden);
  }

  search() {
    for (const [name, view] of Object.entries(this.views)) {
      this.found[name] = view.picture.search(this.query.value);
      view.highlight(this.found[name]);
    }
    this.hit = -1;
    this.showHits();
  }

  showHits() {
    const counts = this.shown().map((name) => `${countText(this.found[name].length)} of ${countText(this.views[name].picture.count)}`);
    const at = this.hit >= 0 ? `${this.hit + 1}: ` : "";
    this.hits.textContent = this.query.value.trim() ? at + counts.join(" and ") : "";
  }

  next(by) {
    const name = this.shown().find((one) => this.found[one].length);
    if (!name) return;
    const found = this.found[name];
    this.hit = (this.hit + by + found.length) % found.length;
    this.views[name].select(found[this.hit][0], found[this.hit][1], true);
    this.showHits();
  }

  goTo([group, item]) {
    location.hash = "graph";
    this.choose("graph");
    if (this.mode === "before") this.setMode("after");
    this.views.after.select(group, item, true);
  }

  clear() {
    for (const view of Object.values(this.views)) view.clear();
    this.details.show(null);
  }

  key(event) {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      location.hash = "graph";
      this.choose("graph");
      this.query.focus();
    } else if (event.key === "Escape" && this.tab === "graph") {
      this.query.value = "";
      this.search();
      this.clear();
      this.query.blur();
    }
  }
}

new Report(JSON.parse(document.getElementById("data").textContent));
