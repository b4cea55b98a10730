/*
 * How the page talks to the theatre.
 *
 * A Feed keeps the position in the table of events (`after`) and passes every event on once and in order, whichever
 * transport brings it. Three transports carry events in; wishes (pick, release) go out over the WebSocket or by POST.
 *
 *   connecting -> live        the transport is open and up to date
 *   live -> connecting        it was cut; try again, with growing pauses
 *   connecting -> next one    it does not work *while plain HTTP does*: something on the way does not like it
 *   connecting -> offline     plain HTTP does not work either; keep trying, changing the transport would not help
 *
 * After a fallback the best transport gets another chance every few minutes, and when the network changes.
 */

const ORDER = ["websocket", "sse", "poll"];
const OPEN_WITHIN = 5_000;
const PULSE_EVERY = 20_000;
const ANSWER_WITHIN = 8_000;
const SILENCE_AT_MOST = 25_000;
const PROVEN_AFTER = 5_000;
const BEST_AGAIN_AFTER = 180_000;
const PATIENCE = { first: 400, factor: 1.8, most: 15_000 };
const FAILURES_BEFORE_FALLBACK = 2;

export class Feed extends EventTarget {
  /* Fires "events" (detail: list), "line" (detail: {transport, state}) and "reset". */

  constructor({ after, token, transport }) {
    super();
    this.after = after;
    this.token = token;
    this.forced = ORDER.includes(transport) ? transport : null;
    this.choice = this.forced ?? ORDER[0];
    this.failures = 0;
    addEventListener("online", () => this.#best());
    addEventListener("pageshow", (event) => event.persisted && this.#connect());
    addEventListener("pagehide", () => this.#hangUp());
  }

  start() {
    this.#connect();
  }

  /* Resolves to {ok, event, message}; rejects when the theatre cannot be reached. */
  async wish(wish, seat) {
    if (this.transport instanceof WebSocketTransport && this.transport.live) {
      return this.transport.wish(wish, seat);
    }
    const response = await fetch(`seats/${encodeURIComponent(seat)}/${wish}`, {
      method: "POST",
      headers: { "X-CSRFToken": this.token },
      signal: AbortSignal.timeout(ANSWER_WITHIN),
    });
    if (!response.headers.get("content-type")?.startsWith("application/json")) {
      throw new Error(`${response.status} ${response.statusText}`);
    }
    return response.json();
  }

  /* Look now: holds that are overdue end, and everybody hears of it. */
  async look() {
    this.told(await fetchEvents(this.after, 0));
  }

  /* Called by transports. */
  told({ events = [], after, reset }) {
    if (reset) {
      this.#hangUp();
      this.dispatchEvent(new Event("reset"));
      return;
    }
    const news = events.filter((event) => event.id > this.after);
    this.after = Math.max(this.after, after ?? 0, ...news.map((event) => event.id));
    if (news.length) this.dispatchEvent(new CustomEvent("events", { detail: news }));
  }

  opened() {
    this.#say("live");
    // Not at once: a connection that opens and breaks, again and again, has to count as a failure.
    clearTimeout(this.proof);
    this.proof = setTimeout(() => (this.failures = 0), PROVEN_AFTER);
  }

  interrupted() {
    this.#say("connecting");
  }

  async cut(transport) {
    if (transport !== this.transport) return;
    this.#hangUp();
    this.failures += 1;
    this.#say("connecting");
    let reachable = true;
    if (this.failures >= FAILURES_BEFORE_FALLBACK) {
      reachable = await this.look().then(() => true, () => false);
      if (this.transport) return; // somebody has connected meanwhile
      if (!reachable) this.#say("offline");
      else if (!this.forced) this.#fallBack();
    }
    const patience = Math.min(PATIENCE.first * PATIENCE.factor ** (this.failures - 1), PATIENCE.most);
    this.retry = setTimeout(() => this.#connect(), patience * (0.5 + Math.random()));
  }

  #fallBack() {
    const next = ORDER[ORDER.indexOf(this.choice) + 1];
    if (!next) return;
    this.choice = next;
    this.failures = 0;
    clearTimeout(this.again);
    this.again = setTimeout(() => this.#best(), BEST_AGAIN_AFTER);
  }

  #best() {
    if (!this.forced) this.choice = ORDER[0];
    this.failures = 0;
    this.#connect();
  }

  #connect() {
    this.#hangUp();
    if (this.state !== "offline") this.#say("connecting");
    const Transport = { websocket: WebSocketTransport, sse: SSETransport, poll: PollTransport }[this.choice];
    this.transport = new Transport(this);
  }

  #hangUp() {
    clearTimeout(this.retry);
    clearTimeout(this.proof);
    const transport = this.transport;
    this.transport = null;
    transport?.stop();
  }

  #say(state) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("line", { detail: { transport: this.choice, state } }));
  }
}

class WebSocketTransport {
  /* Both ways over one socket. A pulse shows that the line is alive and says where this page is. */

  constructor(feed) {
    this.feed = feed;
    this.live = false;
    this.requests = new Map();
    this.count = 0;
    const address = new URL(`events/socket?after=${feed.after}`, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address);
    this.socket.onopen = () => this.#opened();
    this.socket.onmessage = ({ data }) => this.#heard(JSON.parse(data));
    this.socket.onclose = () => feed.cut(this);
    this.deadline = setTimeout(() => feed.cut(this), OPEN_WITHIN);
  }

  wish(wish, seat) {
    const { promise, resolve, reject } = Promise.withResolvers();
    const request = ++this.count;
    this.requests.set(request, { resolve, reject });
    this.#send({ type: wish, seat, request });
    return promise;
  }

  stop() {
    clearTimeout(this.deadline);
    clearInterval(this.pulse);
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    for (const { reject } of this.requests.values()) reject(new Error("The connection was cut."));
  }

  #opened() {
    clearTimeout(this.deadline);
    this.live = true;
    this.feed.opened();
    this.pulse = setInterval(() => this.#send({ type: "resume", after: this.feed.after }), PULSE_EVERY);
  }

  #send(message) {
    this.socket.send(JSON.stringify(message));
    clearTimeout(this.deadline);
    this.deadline = setTimeout(() => this.feed.cut(this), ANSWER_WITHIN);
  }

  #heard(message) {
    clearTimeout(this.deadline);
    if (message.type === "result") {
      this.requests.get(message.request)?.resolve(message);
      this.requests.delete(message.request);
    } else {
      this.feed.told({ ...message, reset: message.type === "reset" });
    }
  }
}

class SSETransport {
  /*
   * The browser reconnects by itself and says where it was; it gets one deadline for that. The theatre sends a pulse
   * at once and in quiet times: what opens without one is a proxy that collects the stream instead of passing it on.
   */

  constructor(feed) {
    this.source = new EventSource(`events/stream?after=${feed.after}`);
    const expect = (within) => {
      clearTimeout(this.deadline);
      this.deadline = setTimeout(() => feed.cut(this), within);
    };
    expect(OPEN_WITHIN);
    this.source.addEventListener("pulse", () => {
      expect(SILENCE_AT_MOST);
      feed.opened();
    });
    this.source.addEventListener("message", ({ data }) => {
      expect(SILENCE_AT_MOST);
      feed.told({ events: [JSON.parse(data)] });
    });
    this.source.addEventListener("reset", () => feed.told({ reset: true }));
    this.source.addEventListener("error", () => {
      if (this.source.readyState === EventSource.CLOSED) {
        feed.cut(this);
      } else if (feed.state === "live") {
        feed.interrupted();
        expect(OPEN_WITHIN);
      }
    });
  }

  stop() {
    clearTimeout(this.deadline);
    this.source.close();
  }
}

class PollTransport {
  /* One request after the other; each waits in the theatre until there is something to say. */

  constructor(feed) {
    this.abort = new AbortController();
    this.#run(feed);
  }

  async #run(feed) {
    try {
      feed.told(await fetchEvents(feed.after, 0, this.abort.signal));
      feed.opened();
      for (;;) feed.told(await fetchEvents(feed.after, 25, this.abort.signal));
    } catch {
      feed.cut(this); // nothing happens if it was stop() that ended it
    }
  }

  stop() {
    this.abort.abort();
  }
}

async function fetchEvents(after, wait, signal) {
  const deadline = AbortSignal.timeout(wait * 1_000 + ANSWER_WITHIN);
  const response = await fetch(`events/poll?after=${after}&wait=${wait}`, {
    signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    cache: "no-store",
  });
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  return response.json();
}
