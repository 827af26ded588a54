// The views beside the graph: cost, memory, pieces, ledger, passes.

class Roofline {
  constructor(sizes) {
    this.sizes = sizes;
    this.bandwidth = this.rate = 1;
  }

  of(item) {
    return this.cost(this.sizes.at(item.bytes), this.sizes.at(item.flops));
  }

  cost(bytes, flops) {
    const memory = bytes / this.bandwidth, arithmetic = flops / this.rate;
    const bound = !bytes && !flops ? "nothing" : memory >= arithmetic ? "memory" : "arithmetic";
    return { bytes, flops, seconds: Math.max(memory, arithmetic), bound };
  }
}

function sumCosts(picture, roofline) {
  const sum = { bytes: 0, flops: 0, seconds: 0 };
  for (const group of picture.groups)
    for (const item of picture.kind(group).items) {
      const cost = roofline.of(item);
      for (const name of Object.keys(sum)) sum[name] += cost[name];
    }
  return sum;
}

class CostView {
  constructor(report) {
    this.report = report;
    this.cards = h("div", { class: "cards" });
    const where = (row) => (row.layers.length ? row.scope.replace("*", ranges(row.layers)) : row.scope);
    this.table = new GroupedTable([
      { title: "region", cell: (row) => h("span", { class: "named" }, h("i", { class: `swatch f-${row.family}` }), h("span", {}, row.name)), sort: (row) => row.name, wide: true },
      { title: "where", cell: where, path: true, code: true },
      { title: "times", number: true, cell: (row) => countText(row.count), sort: (row) => row.count },
      { title: "bytes", number: true, cell: (row) => bytesText(row.bytes), sort: (row) => row.bytes },
      { title: "FLOPs", number: true, cell: (row) => flopsText(row.flops), sort: (row) => row.flops },
      { title: "FLOPs a byte", number: true, cell: (row) => (row.bytes ? (row.flops / row.bytes).toFixed(2) : "–"), sort: (row) => row.flops / (row.bytes || 1) },
      { title: "bound by", cell: (row) => h("span", { class: `bound ${row.bound}` }, row.bound), sort: (row) => row.bound },
      { title: "at least", number: true, cell: (row) => timeText(row.seconds), sort: (row) => row.seconds },
      { title: "share", cell: (row) => this.bar(row.share), sort: (row) => row.share },
    ], { caption: "Regions, equal ones of all layers together", onChoose: (row) => report.goTo(row.at) });
    this.element = h("section", { class: "view", "aria-label": "Cost" }, this.cards,
      h("p", { class: "quiet" }, "What a kernel reads and writes once, and what it computes; the time is the greater of the two at the machine's peak rates. A click shows a region in the graph."),
      this.table.element);
  }

  bar(share) {
    const fillBar = h("i");
    fillBar.style.width = `${(share * 100).toFixed(1)}%`;
    return h("span", { class: "bar", title: `${(share * 100).toFixed(1)} %` }, fillBar);
  }

  update() {
    const { after, before, roofline, env } = this.report;
    const rows = new Map();
    for (const group of after.groups)
      after.kind(group).items.forEach((item, number) => {
        const key = [item.name, item.scope, item.bytes, item.flops].join("|"), cost = roofline.of(item);
        if (!rows.has(key)) rows.set(key, { name: item.name, scope: item.scope, family: item.family, bound: cost.bound,
          layers: [], count: 0, bytes: 0, flops: 0, seconds: 0, at: [group.number, number] });
        const row = rows.get(key);
        row.count += 1;
        if (group.layer !== null && item.scope.includes("*")) row.layers.push(group.layer);
        for (const name of ["bytes", "flops", "seconds"]) row[name] += cost[name];
      });
    const total = sumCosts(after, roofline), traced = before && sumCosts(before, roofline);
    for (const row of rows.values()) row.share = total.seconds ? row.seconds / total.seconds : 0;
    this.table.show([...rows.values()]);
    const emitted = Number(env.R);
    this.cards.replaceChildren(
      card("memory traffic of a step", bytesText(total.bytes), traced ? `${bytesText(traced.bytes)} if every traced operator ran alone` : ""),
      card("arithmetic of a step", human(total.flops, ["FLOP", "KFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"], 1000), `${(total.flops / Math.max(1, total.bytes)).toFixed(2)} FLOPs a byte; the machine's balance is ${(roofline.rate / roofline.bandwidth).toFixed(0)}`),
      card("a step takes at least", timeText(total.seconds), "each region at the machine's peak, one after the other"),
      card("so it gives at most", `${human(emitted / Math.max(total.seconds, 1e-12), ["", "K", "M", "G"], 1000)} tokens/s`, plural(emitted, "token a step", "tokens a step")));
  }
}

class MemoryView {
  constructor(report) {
    this.report = report;
    this.chart = new MemoryChart(report);
    this.cards = h("div", { class: "cards" });
    this.element = h("section", { class: "view", "aria-label": "Memory" }, this.cards,
      h("p", { class: "quiet" }, "Bytes of the buffers that hold something, step by step. Point at a step, or go through them with the arrow keys."), this.chart.element);
  }

  update() {
    const { data, env } = this.report;
    this.chart.update();
    const kept = Number(env.S) * Number(env.context) * data.stateBytes;
    this.cards.replaceChildren(
      card("weights", bytesText(data.weightBytes)),
      card("state of the sequences", bytesText(kept), `${bytesText(data.stateBytes)} a token`),
      card("buffers at the peak", bytesText(this.chart.totals[this.chart.peak]), `step ${this.chart.peak}; less memory than this does not do`),
      card("buffers side by side", bytesText(this.chart.apart), `if none of the ${countText(data.memory.slots.length)} shared memory`));
  }
}

class PiecesView {
  constructor(report) {
    const { pieces } = report.data;
    const groups = new Map();
    for (const piece of pieces) groups.set(piece.alike, [...(groups.get(piece.alike) ?? []), piece]);
    const mode = (piece) => h("span", { class: `verdict ${piece.captured ? "yes" : "no"}` }, piece.captured ? "captured" : "not captured");
    const bodies = new Set(pieces.map((piece) => piece.body).filter(Boolean));
    const table = new GroupedTable([
      { title: "piece", cell: (row) => (row.length > 1 ? `${row[0].name} and ${row.length - 1} more` : row[0].name), part: (piece) => piece.name, path: true, code: true },
      { title: "steps", number: true, cell: (row) => countText(row[0].steps), part: (piece) => countText(piece.steps) },
      { title: "mode", cell: (row) => mode(row[0]), part: mode },
      { title: "body", path: true, code: true, cell: (row) => row[0].body.slice(0, 10) || "–", part: (piece) => piece.body.slice(0, 10) || "–" },
      { title: "why it ends", wide: true, cell: (row) => row[0].cut || "It is the last.", part: (piece) => piece.cut || "It is the last." },
    ], { caption: "Pieces, those that differ in layers alone together", rowsOf: (row) => row });
    table.show([...groups.values()]);
    const captured = pieces.filter((piece) => piece.captured).length;
    this.element = h("section", { class: "view", "aria-label": "Pieces" },
      h("div", { class: "cards" }, card("pieces", countText(pieces.length), plural(report.stepCount, "step")),
        card("captured", countText(captured), `${countText(pieces.length - captured)} not captured`),
        card("distinct bodies", bodies.size ? countText(bodies.size) : "–", "compiled once each")),
      h("p", { class: "quiet" }, "Steps that run as one: a captured graph, or one function. Each cut has its reason."), table.element);
  }

  update() {}
}

class LedgerView {
  constructor(report) {
    const { totals, groups } = report.data.ledger;
    const verdict = (row) => h("span", { class: `verdict ${row.applied ? "yes" : "no"}` }, row.applied ? "applied" : "refused");
    const saved = (row) => row.entries.reduce((sum, entry) => sum + (entry[2] ?? 0), 0);
    const bytes = (n) => (n ? bytesText(n) : "");
    this.groups = groups;
    this.table = new GroupedTable([
      { title: "rule", cell: (row) => row.rule, sort: (row) => row.rule, path: true },
      { title: "where", mono: true, cell: (row) => row.where,
        part: ([value, layer = null], row) => [value, layer === null ? row.scope : row.scope.replace("*", layer)].filter(Boolean).join(" ") },
      { title: "decision", cell: verdict, sort: (row) => Number(row.applied) },
      { title: "places", number: true, cell: (row) => countText(row.entries.length), sort: (row) => row.entries.length },
      { title: "saves", number: true, cell: (row) => bytes(saved(row)), sort: saved, part: (entry) => bytes(entry[2] ?? 0) },
      { title: "reason", wide: true, cell: (row) => row.reason, part: ([, , , culprits = "", reason = ""]) => [reason, culprits && `because of ${culprits}`].filter(Boolean).join(", ") },
    ], { caption: "Decisions, equal ones of all layers together", rowsOf: (row) => row.entries });
    const sums = new GroupedTable([
      { title: "rule", cell: (row) => row.rule },
      { title: "applied", number: true, cell: (row) => countText(row.applied), sort: (row) => row.applied },
      { title: "refused", number: true, cell: (row) => countText(row.refused), sort: (row) => row.refused },
      { title: "saves a step", number: true, cell: (row) => bytes(row.saves_bytes), sort: (row) => row.saves_bytes },
    ], { caption: "Totals of each rule", narrow: true, onChoose: (row) => { this.rule.value = row.rule; this.update(); } });
    sums.show(totals);
    this.text = h("input", { type: "search", placeholder: "Filter by words", "aria-label": "Filter by words", oninput: () => this.update() });
    const choice = (label, options) => h("select", { "aria-label": label, onchange: () => this.update() },
      options.map(([value, text]) => h("option", { value }, text)));
    this.rule = choice("Rule", [["", "every rule"], ...totals.map((row) => [row.rule, row.rule])]);
    this.decision = choice("Decision", [["", "applied and refused"], ["yes", "applied"], ["no", "refused"]]);
    this.count = h("output", { class: "quiet" });
    this.element = h("section", { class: "view", "aria-label": "Ledger" }, sums.element,
      h("div", { class: "filters" }, this.text, this.rule, this.decision, this.count), this.table.element);
    this.update();
  }

  update() {
    const words = this.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = this.groups.filter((row) =>
      (!this.rule.value || row.rule === this.rule.value) &&
      (!this.decision.value || row.applied === (this.decision.value === "yes")) &&
      words.every((word) => `${row.rule} ${row.where} ${row.reason}`.toLowerCase().includes(word)));
    this.table.show(rows);
    const places = rows.reduce((sum, row) => sum + row.entries.length, 0);
    this.count.textContent = `${plural(rows.length, "row")}, ${plural(places, "decision")}`;
  }
}

class PassesView {
  constructor(report) {
    const change = (before, after, text) => {
      const by = after - before;
      return by ? `${text(after)} (${by < 0 ? "−" : "+"}${text(Math.abs(by))})` : text(after);
    };
    const table = new GroupedTable([
      { title: "pass", cell: (row) => row.name, mono: true },
      { title: "rewrites", number: true, cell: (row) => countText(row.rewrites), sort: (row) => row.rewrites },
      { title: "time", number: true, cell: (row) => `${(row.seconds * 1e3).toFixed(1)} ms`, sort: (row) => row.seconds },
      { title: "nodes", number: true, cell: (row) => change(row.nodes_before, row.nodes_after, countText) },
      { title: "bytes", number: true, cell: (row) => change(row.bytes_before, row.bytes_after, bytesText) },
    ], { caption: "Passes, in the order in which they ran" });
    table.show(report.data.passes);
    this.element = h("section", { class: "view", "aria-label": "Passes" },
      h("p", { class: "quiet" }, "Bytes are what the nodes move when each runs alone, decoding one token."), table.element);
  }

  update() {}
}
