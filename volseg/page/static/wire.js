/* Talks to the server. What is asked for goes out one by one, in order; what has not been answered is kept, also
   over a reload of the page, and sent again. */
export const client = (() => {
  const [entry] = performance.getEntriesByType("navigation");
  const known = sessionStorage.getItem("client");
  if (known && entry?.type === "reload") return known;
  const fresh = crypto.randomUUID();
  sessionStorage.setItem("client", fresh);
  return fresh;
})();

const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function answered(response) {
  if (response.ok) return response;
  const text = await response.text();
  let message = text.trim();
  try { message = JSON.parse(text).error ?? message; } catch { /* a sentence */ }
  throw new Refused(message, response.status);
}

export const get = async (path) => answered(await fetch(path));

export async function post(name, body) {
  const response = await fetch(`/${name}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ client, ...body }),
  });
  return (await answered(response)).json();
}

/* Acts in their order. Each has an id, by which the server knows it when it comes twice. */
export class Outbox {
  constructor(key, on) {
    this.key = key;
    this.on = on; // answer(item, answer), refused(item, message), state(waiting, trouble)
    this.items = [];
    this.isHeld = false;
    this.trouble = "";
    try { this.items = JSON.parse(localStorage.getItem(key) ?? "[]"); } catch { /* unreadable: nothing was kept */ }
  }

  add(name, body) {
    const item = { name, body, id: crypto.randomUUID() };
    this.items.push(item);
    this.keep();
    this.on.state(this.items.length, this.trouble);
    this.send();
  }

  keep() {
    try {
      if (this.items.length) localStorage.setItem(this.key, JSON.stringify(this.items));
      else localStorage.removeItem(this.key);
    } catch { /* storage is full or forbidden: what waits is kept as long as the page is open */ }
  }

  hold(isHeld) {
    this.isHeld = isHeld;
    if (!isHeld) this.send();
  }

  async send() {
    if (this.isSending) return;
    this.isSending = true;
    while (this.items.length && !this.isHeld) {
      const item = this.items[0];
      this.on.state(this.items.length, this.trouble);
      try {
        const answer = await post(item.name, { ...item.body, id: item.id });
        this.trouble = "";
        this.items.shift();
        this.keep();
        this.on.answer(item, answer);
      } catch (error) {
        const isGone = !(error instanceof Refused);
        if (isGone || error.status === 403) {
          this.trouble = isGone
            ? "The server does not answer. What you paint is kept here and sent when it is back."
            : `The server was started again. ${error.message} What you painted here is kept and will be sent.`;
          this.on.state(this.items.length, this.trouble);
          await wait(1000);
        } else if (error.status === 409 && error.message.startsWith("Another tab")) {
          this.isHeld = true;
        } else {
          this.items.shift();
          this.keep();
          this.on.refused(item, error.message);
        }
      }
    }
    this.isSending = false;
    this.on.state(this.items.length, "");
  }
}

/* News of the server; use(news) for each, gone(true or false) as it goes and comes back. */
export function listen(use, gone) {
  const source = new EventSource(`/events?client=${client}`);
  source.onmessage = (event) => use(JSON.parse(event.data));
  source.onopen = () => gone(false);
  source.onerror = () => {
    gone(true);
    if (source.readyState === EventSource.CLOSED) setTimeout(() => listen(use, gone), 2000);
  };
}
