// Everything that is asked of the server. The key lives here, in this page's memory, and nowhere else.

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

class Server {
  constructor() {
    this.key = "";
  }

  // Without a key the browser adds what it asked its user for itself, if it did.
  options(more = {}) {
    const headers = { ...(more.headers ?? {}), ...(this.key ? { authorization: `Bearer ${this.key}` } : {}) };
    return { cache: "no-store", redirect: "error", ...more, headers, credentials: this.key ? "omit" : "same-origin" };
  }

  async stats(history) {
    const reply = await fetch(history ? "/stats?history=true" : "/stats", this.options({ signal: AbortSignal.timeout(5000) }));
    if (!reply.ok) throw new Refused(reply.status, await errorText(reply));
    return reply.json();
  }

  // Calls onEvent with each event of a streamed answer.
  async stream(path, body, signal, onEvent) {
    const reply = await fetch(path, this.options({
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal,
    }));
    if (!reply.ok) throw new Refused(reply.status, await errorText(reply));
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
        if (data === "[DONE]") return;
        if (data) onEvent(JSON.parse(data));
      }
    }
  }
}

async function errorText(reply) {
  try {
    const { error } = await reply.json();
    return error.message || `the server answers ${reply.status}`;
  } catch {
    return `the server answers ${reply.status}`;
  }
}
