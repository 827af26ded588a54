// What the engine is doing: cards with charts, and tables of what has been.

const LATENCIES = [
  ["ttft", "first token"], ["itl", "between tokens"], ["tpot", "mean per token"], ["e2e", "whole request"], ["queue", "in the queue"],
];

class Gauge {
  constructor(title, chart) {
    this.value = h("div", { class: "card-value" }, DASH);
    this.note = h("div", { class: "card-note" });
    this.chart = chart;
    this.element = h("section", { class: "card", "aria-label": title }, h("h2", { class: "card-label" }, title), this.value, this.note, chart.element);
  }

  show(value, note = "") {
    this.value.textContent = value;
    this.note.textContent = note;
  }
}

class Board {
  constructor() {
    this.speed = new Gauge("Tokens per second", new Chart("Tokens per second", [
      { name: "prompt", class: "second" }, { name: "generated", class: "first", filled: true },
    ], bigText));
    this.batch = new Gauge("Batch and queue", new Chart("Sequences that run and wait", [
      { name: "waiting", class: "third" }, { name: "running", class: "first", filled: true },
    ], rateText));
    this.memory = new Gauge("KV memory", new Chart("Share of the KV blocks in use", [{ name: "used", class: "first", filled: true }], shareText, 1));
    this.first = new Gauge("Time to first token", new Chart("Time to first token", [
      { name: "99 %", class: "third" }, { name: "median", class: "first" },
    ], msText));
    this.between = new Gauge("Time between tokens", new Chart("Time between tokens", [
      { name: "99 %", class: "third" }, { name: "median", class: "first" },
    ], msText));
    this.prefix = new Gauge("Prefix cache", new Chart("Prompt tokens found in the prefix cache", [{ name: "hits", class: "first", filled: true }], shareText, 1));
    this.gauges = [this.speed, this.batch, this.memory, this.first, this.between, this.prefix];
    this.latencies = h("tbody");
    this.requests = h("tbody");
    this.facts = h("dl", { class: "facts" });
    this.element = h("div", { class: "board" },
      h("div", { class: "cards" }, this.gauges.map((one) => one.element)),
      h("div", { class: "tables" },
        panel("Latencies", h("table", { class: "grid" }, h("thead", {}, h("tr", {}, ["", "median", "90 %", "99 %"].map(columnHead))), this.latencies)),
        panel("Since the server started", h("table", { class: "grid" }, this.requests)),
        panel("Engine", this.facts)));
    this.clear();
  }

  clear() {
    this.last = null;
    for (const one of this.gauges) {
      one.chart.clear();
      one.show(DASH);
    }
  }

  // A second of the past, before the first poll; nothing is known of seconds without work.
  recall(past) {
    const idle = this.last ? Math.min(POLLS, Math.round(past.now_s - this.last.now_s) - 1) : 0;
    for (let second = 0; second < idle; second += 1) for (const one of this.gauges) one.chart.push();
    this.draw(past);
  }

  // A poll that failed: the charts get a gap.
  miss() {
    for (const one of this.gauges) one.chart.push();
    this.last = null;
  }

  show(stats) {
    if (this.last && stats.uptime_s < this.last.uptime_s) this.clear();
    if (stats.history) this.recall(stats);
    else this.draw(stats);
    this.tell(stats);
  }

  draw(stats) {
    const { numbers, engine, latencies_ms: latencies } = stats;
    const since = this.last && stats.now_s > this.last.now_s ? stats.now_s - this.last.now_s : null;
    const rate = (name) => (since === null ? null : Math.max(0, numbers[name] - this.last.numbers[name]) / since);
    const generated = rate("generation_tokens"), prompt = rate("prompt_tokens");
    this.speed.show(generated === null ? DASH : rateText(generated), prompt === null ? "" : `and ${rateText(prompt)} of prompts`);
    this.speed.chart.push(prompt, generated);

    const running = numbers.num_requests_running, waiting = numbers.num_requests_waiting;
    this.batch.show(engine ? `${running} of ${engine.max_num_seqs}` : DASH, engine ? `${countText(waiting)} waiting` : "");
    this.batch.chart.least = engine ? +engine.max_num_seqs : 0;
    this.batch.chart.push(waiting, running);

    const used = numbers.kv_cache_usage_perc;
    this.memory.show(engine ? shareText(used) : DASH,
      engine ? `${countText(engine.used_blocks)} of ${countText(+engine.num_blocks)} blocks of ${engine.block_size} tokens` : "");
    this.memory.chart.push(engine ? used : null);

    for (const [gauge, one, what] of [[this.first, latencies.ttft, "request"], [this.between, latencies.itl, "token"]]) {
      gauge.show(one ? msText(one.p50) : DASH, one ? `99 % within ${msText(one.p99)}, last ${plural(one.count, what)}` : "nothing yet");
      gauge.chart.push(one?.p99, one?.p50);
    }

    const queries = numbers.prefix_cache_queries, hits = numbers.prefix_cache_hits;
    this.prefix.show(queries ? shareText(hits / queries) : DASH,
      queries ? `${bigText(hits)} of ${bigText(queries)} prompt tokens found` : "no prompt was looked up yet");
    const asked = since === null ? 0 : queries - this.last.numbers.prefix_cache_queries;
    this.prefix.chart.push(asked > 0 ? (hits - this.last.numbers.prefix_cache_hits) / asked : null);
    this.last = stats;
  }

  tell({ numbers, engine, latencies_ms: latencies, ended, refused, target }) {
    this.latencies.replaceChildren(...LATENCIES.map(([key, name]) => {
      const one = latencies[key];
      return h("tr", {}, h("th", { scope: "row" }, name),
        ["p50", "p90", "p99"].map((rank) => h("td", { class: "number" }, one ? msText(one[rank]) : DASH)));
    }));
    const rows = [
      ...Object.entries(ended).map(([reason, count]) => [`samples ended by ${reason}`, count]),
      ...Object.entries(refused).map(([status, count]) => [`requests refused with ${status}`, count]),
      ["clients that went away", numbers.client_disconnects],
      ["sequences preempted", numbers.num_preemptions],
      ["prompt tokens", numbers.prompt_tokens],
      ["tokens generated", numbers.generation_tokens],
      ["restarts of the engine", numbers.engine_restarts],
    ];
    this.requests.replaceChildren(...rows.map(([name, count]) =>
      h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, countText(count)))));
    const facts = [
      ["target", target],
      ...(engine ? [["context", `${countText(+engine.max_model_len)} tokens`], ["batch", `at most ${engine.max_num_seqs}`], ["memory", engine.memory]] : []),
    ].filter(([, value]) => value);
    this.facts.replaceChildren(...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }
}

const columnHead = (title) => h("th", { scope: "col", class: title ? "number" : "" }, title);
const panel = (title, ...content) => h("section", { class: "panel", "aria-label": title }, h("h2", { class: "card-label" }, title), ...content);
