// Once a second: ask, show; say so when the server does not answer, or wants a key.

const POLL_MS = 1000;

const server = new Server();
const board = new Board();
const chat = new Chat(server, needKey);
const state = h("span", { class: "state", role: "status" });
const model = h("h1", {}, "graphopt");
const jump = h("a", { class: "jump", href: "#chat" }, "Chat");
const uptime = h("span", { class: "quiet" });
const made = h("span", { class: "made" });
const keyInput = h("input", { type: "password", autocomplete: "off", "aria-label": "API key", placeholder: "API key" });
const keyNote = h("p", { class: "quiet" });
const keyForm = h("form", {
  class: "key", hidden: true, onsubmit: (event) => {
    event.preventDefault();
    server.key = keyInput.value.trim();
    keyInput.value = "";
    poll();
  },
}, h("h2", {}, "This server asks for an API key"), h("div", {}, keyInput, h("button", { class: "primary" }, "Open")),
keyNote, h("p", { class: "quiet" }, "It stays in the memory of this page and is gone when the page is closed."));

function needKey() {
  if (server.key) keyNote.textContent = "That key is not one of the server's.";
  server.key = "";
  if (!keyForm.hidden) return;
  keyForm.hidden = false;
  keyInput.focus();
}

function say(text, kind) {
  state.textContent = text;
  state.className = `state ${kind}`;
}

let timer = null, asking = false;

async function poll() {
  if (asking) return;
  clearTimeout(timer);
  asking = true;
  try {
    const stats = await server.stats(!board.last);
    if (stats.history) board.clear();
    for (const past of stats.history ?? []) board.recall(past);
    keyForm.hidden = true;
    keyNote.textContent = "";
    board.show(stats);
    chat.show(stats);
    jump.hidden = stats.embeds;
    model.textContent = stats.model;
    document.title = `${stats.model} · graphopt`;
    made.textContent = `graphopt ${stats.version}`;
    uptime.textContent = `up ${agoText(stats.uptime_s)}`;
    if (stats.engine) say("serving", "good");
    else say(stats.numbers.engine_restarts || stats.numbers.generation_tokens ? "engine restarts" : "loading the model", "wait");
  } catch (error) {
    board.miss();
    if (error.status === 401) {
      needKey();
      say("key needed", "wait");
    } else say("no answer", "bad");
  }
  asking = false;
  // A form that waits for a key is not asked again and again.
  if (keyForm.hidden) timer = setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}

document.getElementById("app").append(
  h("header", {}, model, state, uptime, jump, made),
  keyForm, h("main", {}, board.element, chat.element));
document.addEventListener("visibilitychange", () => { if (!document.hidden && keyForm.hidden) poll(); });
poll();
