// Bytes that hold something at each step, from the lives of the buffers, with a finger on each step.

const CHART_H = 260, CHART_LEFT = 76, CHART_TOP = 18, CHART_BOTTOM = 30;

class MemoryChart {
  constructor(report) {
    this.report = report;
    const steps = report.data.pieces.reduce((sum, piece) => sum + piece.steps, 0);
    this.steps = Math.max(1, steps);
    this.at = Array.from({ length: this.steps }, () => []);
    for (const life of report.data.memory.lives)
      for (let step = Math.max(0, life[1]); step <= Math.min(life[2], this.steps - 1); step += 1) this.at[step].push(life);
    this.chart = svg("svg", { class: "chart", role: "img", "aria-label": "Bytes live at each step", tabindex: "0" });
    this.finger = h("div", { class: "finger" });
    this.element = h("div", { class: "memory" }, this.chart, this.finger);
    this.chart.addEventListener("pointermove", (event) => {
      const box = this.chart.getBoundingClientRect();
      const share = (event.clientX - box.left - CHART_LEFT) / (box.width - CHART_LEFT - 12);
      this.point(Math.min(this.steps - 1, Math.max(0, Math.floor(share * this.steps))));
    });
    this.chart.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      this.point(Math.min(this.steps - 1, Math.max(0, this.step + by)));
    });
  }

  live(step) {
    const { sizes, data } = this.report;
    return this.at[step].map((life) => ({ life, bytes: sizes.at(data.memory.slots[life[0]]) }))
      .sort((a, b) => b.bytes - a.bytes);
  }

  // What a step needs besides the buffers, while it runs.
  workspace(step) {
    const size = this.report.data.memory.workspaces[step];
    return size === undefined ? 0 : this.report.sizes.at(size);
  }

  update() {
    const { sizes, data } = this.report;
    this.totals = this.at.map((_, step) => this.live(step).reduce((sum, { bytes }) => sum + bytes, this.workspace(step)));
    this.apart = data.memory.slots.reduce((sum, slot) => sum + sizes.at(slot), 0);
    this.peak = this.totals.reduce((best, bytes, step) => (bytes > this.totals[best] ? step : best), 0);
    this.draw();
    this.point(this.step ?? this.peak);
  }

  draw() {
    const width = Math.max(480, this.element.clientWidth || 960);
    const inner = width - CHART_LEFT - 12, most = this.totals.reduce((a, b) => Math.max(a, b), 1) * 1.08;
    this.x = (step) => CHART_LEFT + (step / this.steps) * inner;
    this.y = (bytes) => CHART_TOP + (CHART_H - CHART_TOP - CHART_BOTTOM) * (1 - bytes / most);
    const floor = this.y(0);
    const line = this.totals.map((bytes, step) => `${step ? "" : "M" + this.x(0)} ${this.y(bytes)}H${this.x(step + 1)}`
      .replace(/^ /, "V")).join("");
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => (most / 1.08) * share);
    this.chart.setAttribute("viewBox", `0 0 ${width} ${CHART_H}`);
    this.mark = svg("rect", { class: "mark", y: CHART_TOP, height: floor - CHART_TOP, width: Math.max(1.5, inner / this.steps) });
    this.chart.replaceChildren(
      ...ticks.map((bytes) => svg("g", { class: "tick" },
        svg("path", { d: `M${CHART_LEFT} ${this.y(bytes)}H${width - 12}` }),
        svg("text", { x: CHART_LEFT - 10, y: this.y(bytes) + 4, "text-anchor": "end" }, bytesText(bytes)))),
      svg("path", { class: "area", d: `${line}V${floor}H${this.x(0)}Z` }), svg("path", { class: "line", d: line }),
      svg("path", { class: "ceiling", d: `M${CHART_LEFT} ${this.y(this.totals[this.peak])}H${width - 12}` }),
      svg("text", { class: "ceiling-label", x: width - 14, y: this.y(this.totals[this.peak]) - 5, "text-anchor": "end" },
        `peak ${bytesText(this.totals[this.peak])} at step ${this.peak}`),
      svg("text", { class: "axis", x: CHART_LEFT, y: CHART_H - 8 }, "step 0"),
      svg("text", { class: "axis", x: width - 12, y: CHART_H - 8, "text-anchor": "end" }, `step ${this.steps - 1}`),
      this.mark);
  }

  point(step) {
    this.step = step;
    this.mark.setAttribute("x", this.x(step));
    const { report } = this, [group, item] = report.boxOfStep(step);
    const box = report.after.kind(group).items[item];
    const rows = this.live(step).map(({ life, bytes }) => h("tr", {},
      h("td", { class: "mono" }, life.slice(3).join(", ")), h("td", { class: "mono" }, `b${life[0]}`),
      h("td", { class: "number" }, bytesText(bytes)),
      h("td", { class: "number" }, life[1] < 0 ? "input" : `step ${life[1]}`), h("td", { class: "number" }, `step ${life[2]}`)));
    const workspace = this.workspace(step);
    this.finger.replaceChildren(
      h("p", {}, h("b", {}, `step ${step}`), ` ${box.name} `, h("code", {}, report.after.scope(group, box.scope)), ` in piece ${report.pieceOf(step).name}: `,
        h("b", {}, bytesText(this.totals[step])), ` live, ${plural(rows.length, "buffer")}`, workspace ? `, ${bytesText(workspace)} of workspace` : "",
        step === this.peak ? ", the peak" : ""),
      h("table", { class: "grid" }, h("caption", {}, "Buffers that are live at the chosen step"),
        h("thead", {}, h("tr", {}, ["values", "buffer", "bytes", "written", "last needed"].map((title, number) =>
          h("th", { scope: "col", class: number > 1 ? "number" : "" }, title)))), h("tbody", {}, rows)));
  }
}
