// A small chart of the last minutes: lines over a fixed number of polls, newest at the right.

const POLLS = 120, CHART_W = 360, CHART_H = 84, TOP = 8, BOTTOM = 3;

class Chart {
  // series: [{ name, class, filled }]; text: how a value reads; most: the upper end, if it is fixed.
  constructor(label, series, text, most = null) {
    this.least = 0;  // the upper end is no lower than this
    this.series = series.map((one) => ({ ...one, values: [] }));
    this.text = text;
    this.most = most;
    this.drawn = svg("svg", {
      viewBox: `0 0 ${CHART_W} ${CHART_H}`, preserveAspectRatio: "none", class: "chart", role: "img", "aria-label": label,
    });
    this.top = h("span", { class: "chart-top" });
    this.reading = h("span", { class: "reading" });
    this.element = h("div", { class: "chart-box" }, this.drawn, this.top, this.reading,
      h("div", { class: "chart-foot" }, h("span", {}, "2 min ago"),
        series.length > 1 ? h("span", { class: "legend" }, series.map((one) => h("span", { class: one.class }, one.name))) : null,
        h("span", {}, "now")));
    this.drawn.addEventListener("pointermove", (event) => {
      const box = this.drawn.getBoundingClientRect();
      this.pointed = Math.round((1 - (event.clientX - box.left) / box.width) * (POLLS - 1));
      this.draw();
    });
    this.drawn.addEventListener("pointerleave", () => { this.pointed = null; this.draw(); });
  }

  // One value a series; null leaves a gap.
  push(...values) {
    this.series.forEach(({ values: kept }, number) => {
      kept.push(values[number] ?? null);
      if (kept.length > POLLS) kept.shift();
    });
    this.draw();
  }

  clear() {
    for (const one of this.series) one.values.length = 0;
    this.draw();
  }

  draw() {
    const known = this.series.flatMap((one) => one.values.filter((value) => value !== null));
    const highest = Math.max(0, ...known);
    const most = this.most ?? (highest <= this.least ? Math.max(this.least, 1e-9) : niceAbove(highest));
    const x = (ago) => CHART_W * (1 - ago / (POLLS - 1));
    const y = (value) => TOP + (CHART_H - TOP - BOTTOM) * (1 - Math.min(value, most) / most);
    const shapes = [0, 0.5, 1].map((share) => svg("path", { class: "rule", d: `M0 ${y(most * share)}H${CHART_W}` }));
    for (const { values, class: name, filled } of this.series) {
      for (const run of runs(values)) {
        const points = run.map(([place, value]) => `${x(values.length - 1 - place).toFixed(1)} ${y(value).toFixed(1)}`);
        const line = `M${points.join("L")}${points.length === 1 ? "h0.1" : ""}`;
        const ends = [run[0], run.at(-1)].map(([place]) => x(values.length - 1 - place).toFixed(1));
        if (filled) shapes.push(svg("path", { class: `fill ${name}`, d: `${line}L${ends[1]} ${y(0)}L${ends[0]} ${y(0)}Z` }));
        shapes.push(svg("path", { class: `line ${name}`, d: line }));
      }
    }
    if (this.pointed !== null && this.pointed !== undefined)
      shapes.push(svg("path", { class: "finger", d: `M${x(this.pointed)} ${TOP}V${CHART_H - BOTTOM}` }));
    this.drawn.replaceChildren(...shapes);
    this.top.textContent = known.length ? this.text(most).replace(/\.0+(?= |$)/, "") : "";
    this.read();
  }

  read() {
    if (this.pointed === null || this.pointed === undefined) {
      this.reading.textContent = "";
      return;
    }
    const found = this.series.map(({ name, values }) => [name, values[values.length - 1 - this.pointed]])
      .filter(([, value]) => value !== null && value !== undefined);
    this.reading.textContent = found.length
      ? `${found.map(([name, value]) => (this.series.length > 1 ? `${name} ${this.text(value)}` : this.text(value))).join(" · ")}, ${this.pointed} s ago`
      : "";
  }
}

// Stretches of values that are known, as [place, value].
function runs(values) {
  const found = [];
  values.forEach((value, place) => {
    if (value === null) return;
    if (place && values[place - 1] !== null && found.length) found.at(-1).push([place, value]);
    else found.push([[place, value]]);
  });
  return found;
}

// The next of 1, 2 or 5 times a power of ten.
function niceAbove(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}
