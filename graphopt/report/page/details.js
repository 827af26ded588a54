// What is known of one box: where it comes from, what it reads and makes, what it costs, how it runs.

class Ledger {
  constructor(data) {
    this.places = new Map();
    this.groups = data.groups;
    this.totals = data.totals;
    for (const group of data.groups) {
      for (const [value, layer = null, saves = 0, culprits = "", reason = ""] of group.entries) {
        const scope = layer === null ? group.scope : group.scope.replace("*", layer);
        const key = `${value} ${scope}`.trim();
        const entry = { rule: group.rule, applied: group.applied, where: key, saves, culprits,
          reason: reason || group.reason };
        this.places.set(key, [...(this.places.get(key) ?? []), entry]);
      }
    }
  }

  // Decisions at the values that a box makes, which are named with their modules.
  about(picture, group, item) {
    const keys = item.nodes.flatMap((node) =>
      node[2].map((value) => `${picture.name(group, value)} ${picture.scope(group, node[6])}`.trim()));
    const whole = item.out.map((value) => `${picture.name(group, value)} ${picture.scope(group, item.scope)}`.trim());
    return [...new Set([...keys, ...whole])].flatMap((key) => this.places.get(key) ?? []);
  }
}

const decisionText = (entry) => [
  h("span", { class: `verdict ${entry.applied ? "yes" : "no"}` }, entry.applied ? "applied" : "refused"),
  " ", h("b", {}, entry.rule), entry.saves ? `, saves ${bytesText(entry.saves)}` : "",
  entry.reason ? h("div", { class: "reason" }, entry.reason) : null,
  entry.culprits ? h("div", { class: "reason" }, `because of ${entry.culprits}`) : null,
];

class Details {
  constructor(report) {
    this.report = report;
    this.element = h("aside", { class: "details", "aria-label": "Details", "aria-live": "polite" });
    this.show(null);
  }

  show(view, groupNumber, itemNumber) {
    this.current = view && [view, groupNumber, itemNumber];
    this.update();
  }

  update() {
    this.element.replaceChildren(...(this.current ? this.content(...this.current) : this.invitation()));
    this.element.scrollTop = 0;
  }

  invitation() {
    const key = (name) => h("kbd", {}, name);
    const legend = this.report.data.families.map((family) =>
      h("li", {}, h("i", { class: `swatch f-${family}` }), family));
    return [h("h2", {}, "Nothing is chosen"),
      h("p", {}, "Click a box to see where it comes from, what it reads and makes, what it costs and how it runs."),
      h("h3", {}, "Colors"), h("ul", { class: "legend" }, legend),
      h("h3", {}, "Keys"),
      h("dl", { class: "keys" },
        h("dt", {}, key("/")), h("dd", {}, "search; ", key("Enter"), " goes to the next hit"),
        h("dt", {}, key("+"), " ", key("−")), h("dd", {}, "zoom, also with ", key("Ctrl"), " and the wheel"),
        h("dt", {}, key("0")), h("dd", {}, "fit all of it"),
        h("dt", {}, key("Esc")), h("dd", {}, "clear the search and the choice"))];
  }

  content(view, groupNumber, itemNumber) {
    const { picture } = view, group = picture.groups[groupNumber];
    const item = picture.kind(group).items[itemNumber];
    return [
      h("button", { class: "close", type: "button", title: "Close (Esc)", "aria-label": "Close", onclick: () => this.report.clear() }, "×"),
      h("h2", {}, h("i", { class: `swatch f-${item.family}` }), item.name),
      h("p", { class: "path" }, picture.scope(group, item.scope) || "outside of every module"),
      this.facts(picture, group, item, itemNumber),
      this.values("Inputs", view, group, item.in),
      this.values("Outputs", view, group, item.out),
      this.cost(item),
      this.decisions(picture, group, item),
      this.code(picture, group, item),
    ].flat();
  }

  facts(picture, group, item, itemNumber) {
    const lines = [...new Set(item.nodes.map((node) => picture.place(group, node)).filter(Boolean))];
    const rows = [["source", lines.length ? h("ul", {}, lines.map((line) => h("li", {}, h("code", {}, line)))) : "unknown"]];
    const position = picture.position(group, itemNumber);
    if (item.backend !== undefined) {
      const piece = this.report.pieceOf(position);
      rows.push(["step", `${position}, in piece ${piece.name}, ${piece.captured ? "captured" : "not captured"}`]);
      rows.push(["runs by", `${item.backend}`], ["kernel", h("code", {}, item.kernel)]);
    } else rows.push(["node", `${position}`]);
    const alike = picture.members[group.kind];
    if (alike.length > 1)
      rows.push(["the same in", `layers ${ranges(alike.map((other) => other.layer))}`]);
    return h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  values(title, view, group, references) {
    const { picture } = view;
    const row = (reference) => {
      const name = picture.name(group, reference), maker = picture.maker(name);
      const link = maker && !(maker[0] === group.number && title === "Outputs");
      const label = link && name[0] === "%"
        ? h("button", { class: "link", type: "button", onclick: () => view.select(maker[0], maker[1], true) }, name) : name;
      return h("tr", {}, h("td", {}, h("code", {}, label)), h("td", {}, h("code", {}, picture.type(group, reference))));
    };
    return references.length ? [h("h3", {}, title), h("table", { class: "values" }, h("tbody", {}, references.map(row)))] : [];
  }

  cost(item) {
    const { sizes, roofline } = this.report, cost = roofline.of(item);
    const row = (name, value, size) => h("tr", {}, h("td", {}, name), h("td", { class: "number" }, value),
      h("td", {}, size === undefined ? "" : h("code", {}, sizes.texts[size])));
    return [h("h3", {}, "Cost"), h("table", { class: "values costs" }, h("tbody", {},
      row("bytes", bytesText(cost.bytes), item.bytes), row("FLOPs", flopsText(cost.flops), item.flops),
      row("at least", timeText(cost.seconds)), row("bound by", cost.bound)))];
  }

  decisions(picture, group, item) {
    const entries = this.report.ledger.about(picture, group, item);
    return [h("h3", {}, "Decisions"), entries.length
      ? h("ul", { class: "decisions" }, entries.map((entry) => h("li", {}, decisionText(entry))))
      : h("p", { class: "quiet" }, "The ledger has none about this box.")];
  }

  code(picture, group, item) {
    const operators = item.nodes.map((node) => picture.line(group, node)).join("\n");
    const { kernels } = this.report.data;
    const kernel = item.kernel !== undefined && Object.hasOwn(kernels, item.kernel) && kernels[item.kernel];
    return [
      kernel ? [h("h3", {}, "Kernel source"), h("pre", { class: "source" }, kernel)] : [],
      h("h3", {}, item.nodes.length > 1 ? `Its ${item.nodes.length} operators` : "Its operator"),
      h("pre", { class: "source" }, operators),
    ].flat();
  }
}
