// A small chat over the same route as every client's. Where the model has no chat template, it
// continues the text instead.

class Chat {
  constructor(server, needKey) {
    this.server = server;
    this.needKey = needKey;
    this.turns = [];
    this.log = h("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: "0" });
    this.hint = h("p", { class: "quiet" });
    this.input = h("textarea", {
      rows: "2", "aria-label": "Message", placeholder: "Message", onkeydown: (event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        this.send();
      },
    });
    this.temperature = h("input", { type: "number", min: "0", max: "2", step: "0.1", value: "0.7" });
    this.most = h("input", { type: "number", min: "1", max: "100000", step: "1", value: "256" });
    this.button = h("button", { class: "primary", type: "button", onclick: () => (this.stop ? this.stop.abort() : this.send()) }, "Send");
    this.fresh = h("button", { class: "plain", type: "button", onclick: () => this.clear() }, "New");
    this.element = h("aside", { class: "chat", id: "chat", "aria-label": "Chat" },
      h("div", { class: "chat-head" }, h("h2", {}, "Chat"), this.fresh),
      this.log,
      h("div", { class: "compose" }, this.input, this.button),
      h("div", { class: "knobs" }, h("label", {}, "temperature", this.temperature), h("label", {}, "at most", this.most, "tokens")));
    this.clear();
  }

  show(stats) {
    this.model = stats.model;
    this.element.hidden = stats.embeds;
    this.templated = stats.chat;
    this.hint.textContent = this.templated
      ? "Nothing said here is kept: it goes when the page goes."
      : "The model has no chat template, so it continues your text.";
  }

  clear() {
    this.stop?.abort();
    this.turns = [];
    this.log.replaceChildren(this.hint);
  }

  bubble(role, text = "") {
    const words = h("div", { class: "words" }, text);
    const note = h("div", { class: "note" });
    this.log.append(h("div", { class: `turn ${role}` }, words, note));
    this.log.scrollTop = this.log.scrollHeight;
    return { words, note };
  }

  request() {
    const common = { model: this.model, stream: true, stream_options: { include_usage: true } };
    const temperature = Number(this.temperature.value), most = Number(this.most.value);
    if (this.temperature.value !== "" && temperature >= 0) common.temperature = temperature;
    if (most >= 1) common.max_tokens = Math.floor(most);
    if (this.templated) return ["/v1/chat/completions", { ...common, messages: this.turns.map(({ role, text }) => ({ role, content: text })) }];
    return ["/v1/completions", { ...common, prompt: this.turns.map(({ text }) => text).join("") }];
  }

  async send() {
    const text = this.input.value;
    if (!text.trim() || this.stop || !this.model) return;
    this.input.value = "";
    this.turns.push({ role: "user", text });
    this.bubble("user", text);
    const answer = this.bubble("assistant");
    const began = performance.now();
    let first = null, usage = null, finish = null, said = "";
    this.stop = new AbortController();
    this.busy(true);
    try {
      const [path, body] = this.request();
      await this.server.stream(path, body, this.stop.signal, (event) => {
        if (event.error) throw new Error(event.error.message);
        usage = event.usage ?? usage;
        const choice = event.choices?.[0];
        finish = choice?.finish_reason ?? finish;
        const more = choice?.delta?.content ?? choice?.text ?? "";
        if (!more) return;
        first ??= performance.now();
        said += more;
        const low = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
        answer.words.append(more);
        if (low) this.log.scrollTop = this.log.scrollHeight;
      });
      answer.note.textContent = this.summary(began, first, usage, finish);
    } catch (error) {
      this.failed(error, answer);
    } finally {
      this.stop = null;
      this.busy(false);
    }
    if (said) this.turns.push({ role: "assistant", text: said });
    else this.turns.pop();
  }

  failed(error, answer) {
    const stopped = error.name === "AbortError";
    answer.note.textContent = stopped ? "stopped" : error instanceof TypeError ? "the connection broke" : error.message;
    answer.note.classList.toggle("bad", !stopped);
    if (error.status === 401) this.needKey();
  }

  summary(began, first, usage, finish) {
    const parts = [];
    if (usage) parts.push(plural(usage.completion_tokens, "token"));
    if (first !== null) {
      parts.push(`first after ${msText(first - began)}`);
      const seconds = (performance.now() - first) / 1000;
      if (usage && usage.completion_tokens > 1 && seconds > 0) parts.push(`${rateText((usage.completion_tokens - 1) / seconds)} a second`);
    }
    if (finish === "length") parts.push("cut at the limit");
    return parts.join(" · ");
  }

  busy(on) {
    this.button.textContent = on ? "Stop" : "Send";
    this.element.classList.toggle("busy", on);
  }
}
