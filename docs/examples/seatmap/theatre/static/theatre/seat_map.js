/*
 * The page: seats, tickets, notices.
 *
 * The server is right about everything: a seat changes its look when an event says so, never before; until then it
 * only pulses. Events may be told again (see views.py), so each seat remembers the newest that it has seen.
 */

import { Feed } from "./feed.js";

const state = JSON.parse(document.getElementById("state").textContent);
const clockSkew = state.now - Date.now();
const $ = (id) => document.getElementById(id);
const hall = $("hall");
const buttons = [...hall.querySelectorAll(".seat")];
const euro = (amount) => `€${amount}`;
const now = () => Date.now() + clockSkew;

/* seats ---------------------------------------------------------------------------------------------------- */

const seats = new Map(
  buttons.map((button) => {
    const { zone, zoneName, price, row, number } = button.dataset;
    const style = button.style;
    const seat = {
      label: button.id, button, zone, zoneName, price: Number(price), row, number: Number(number),
      x: Number(style.getPropertyValue("--x")), y: Number(style.getPropertyValue("--y")),
      holder: null, version: state.after,
    };
    return [seat.label, seat];
  }),
);
const mine = () => [...seats.values()].filter((seat) => seat.holder?.visitor === state.visitor);
const title = (seat) => `Row ${seat.row}, seat ${seat.number}`;

function apply(event) {
  /* Returns whether the event was news for its seat. */
  const seat = seats.get(event.seat);
  if (!seat || event.id <= seat.version) return false;
  seat.version = event.id;
  seat.holder = event.kind === "held" ? event : null;
  draw(seat);
  return true;
}

function draw(seat) {
  const look = !seat.holder ? "free" : seat.holder.visitor === state.visitor ? "mine" : "taken";
  const { button } = seat;
  const changed = button.dataset.state && button.dataset.state !== look;
  button.dataset.state = look;
  const words = { free: "free", mine: "yours", taken: `taken by ${seat.holder?.name}` }[look];
  button.setAttribute("aria-label", `${title(seat)}, ${seat.zoneName}, ${euro(seat.price)}, ${words}`);
  button.setAttribute("aria-pressed", String(look === "mine"));
  button.setAttribute("aria-disabled", String(look === "taken"));
  if (changed) {
    button.classList.remove("changed");
    void button.offsetWidth; // start the animation again
    button.classList.add("changed");
  }
  if (tip.seat === seat) showTip(seat);
}

function drawCounts() {
  const free = [...seats.values()].filter((seat) => !seat.holder);
  tick($("free"), free.length);
  for (const output of document.querySelectorAll("[data-free]")) {
    tick(output, free.filter((seat) => seat.zone === output.dataset.free).length);
  }
}

function tick(output, value) {
  if (output.value === String(value)) return;
  const before = output.value;
  output.value = value;
  if (before !== "") output.animate([{ opacity: 0.2, translate: "0 -0.25em" }, {}], { duration: 350, easing: "ease-out" });
}

/* picking -------------------------------------------------------------------------------------------------- */

async function toggle(seat) {
  if (seat.button.dataset.state === "taken") {
    notice(`Seat ${seat.label} is taken by ${seat.holder.name}.`);
    return;
  }
  if (seat.button.hasAttribute("aria-busy")) return;
  const wish = seat.button.dataset.state === "mine" ? "release" : "pick";
  seat.button.setAttribute("aria-busy", "true");
  try {
    const { ok, event, message } = await feed.wish(wish, seat.label);
    if (event && apply(event)) {
      drawCounts();
      drawTickets();
    }
    if (!ok) notice(message, "refused");
  } catch {
    notice("The theatre cannot be reached just now. Please try again in a moment.", "refused");
  } finally {
    seat.button.removeAttribute("aria-busy");
  }
}

hall.addEventListener("click", ({ target }) => {
  const button = target.closest(".seat");
  if (button) toggle(seats.get(button.id));
});

/* walking through the house with the keyboard: the whole plan is one tab stop -------------------------------- */

let current = null;

function makeCurrent(seat) {
  if (current) current.button.tabIndex = -1;
  current = seat;
  seat.button.tabIndex = 0;
}

function neighbour(seat, key) {
  const row = (letter) => [...seats.values()].filter((other) => other.row === letter);
  const beside = (letter) => row(letter).toSorted((a, b) => Math.abs(a.x - seat.x) - Math.abs(b.x - seat.x))[0];
  const letter = (step) => String.fromCharCode(seat.row.charCodeAt(0) + step);
  switch (key) {
    case "ArrowLeft": return seats.get(`${seat.row}${seat.number - 1}`);
    case "ArrowRight": return seats.get(`${seat.row}${seat.number + 1}`);
    case "ArrowUp": return beside(letter(-1));
    case "ArrowDown": return beside(letter(1));
    case "Home": return row(seat.row)[0];
    case "End": return row(seat.row).at(-1);
  }
}

hall.addEventListener("keydown", (event) => {
  const seat = seats.get(event.target.id);
  if (!seat || event.altKey || event.ctrlKey || event.metaKey) return;
  if (!/^(Arrow|Home|End)/.test(event.key)) return;
  event.preventDefault();
  const next = neighbour(seat, event.key);
  if (next) {
    makeCurrent(next);
    next.button.focus();
  }
});
hall.addEventListener("focusin", ({ target }) => seats.has(target.id) && makeCurrent(seats.get(target.id)));

/* the tip beside a seat ------------------------------------------------------------------------------------ */

const tip = $("tip");

function showTip(seat) {
  tip.seat = seat;
  const look = seat.button.dataset.state;
  const words = { free: "Free", mine: "Yours. Pick again to give it back", taken: `Taken by ${seat.holder?.name}` }[look];
  tip.replaceChildren(
    element("strong", {}, `Row ${seat.row} · Seat ${seat.number}`),
    element("span", {}, `${seat.zoneName} · ${euro(seat.price)}`),
    element("em", { className: look }, words),
  );
  const box = seat.button.getBoundingClientRect();
  const below = box.top < 110;
  tip.classList.toggle("below", below);
  const half = tip.offsetWidth / 2 + 8;
  tip.style.left = `${Math.min(Math.max(box.left + box.width / 2, half), innerWidth - half)}px`;
  tip.style.top = `${below ? box.bottom : box.top}px`;
  tip.classList.add("shown");
}

function hideTip() {
  tip.seat = null;
  tip.classList.remove("shown");
}

hall.addEventListener("pointerover", ({ target, pointerType }) => {
  const button = target.closest(".seat");
  if (button && pointerType === "mouse") showTip(seats.get(button.id));
});
hall.addEventListener("pointerout", ({ target }) => target.closest(".seat") && hideTip());
hall.addEventListener("focusin", ({ target }) => target.matches(".seat:focus-visible") && showTip(seats.get(target.id)));
hall.addEventListener("focusout", hideTip);
for (const area of [window, $("pan")]) area.addEventListener("scroll", hideTip, { passive: true });

/* tickets, happenings, notices ----------------------------------------------------------------------------- */

function drawTickets() {
  const list = $("tickets");
  const held = mine();
  const shown = new Map([...list.children].map((item) => [item.dataset.seat, item]));
  for (const [label, item] of shown) if (!held.some((seat) => seat.label === label)) item.remove();
  for (const seat of held) {
    if (shown.has(seat.label)) continue;
    const giveBack = element("button", { type: "button", ariaLabel: `Give back ${title(seat)}` }, "×");
    giveBack.addEventListener("click", () => toggle(seat));
    const item = element(
      "li", {},
      element("b", {}, seat.label),
      element("span", { className: "what" }, seat.zoneName, element("time", {})),
      element("span", { className: "price" }, euro(seat.price)),
      giveBack,
    );
    item.dataset.seat = seat.label;
    item.dataset.zone = seat.zone;
    list.append(item);
  }
  $("empty").hidden = held.length > 0;
  $("total").hidden = held.length === 0;
  $("total").querySelector("output").value = euro(held.reduce((sum, seat) => sum + seat.price, 0));
  drawClocks();
}

let lastLook = 0;

function drawClocks() {
  let overdue = false;
  for (const item of $("tickets").children) {
    const left = Math.ceil((seats.get(item.dataset.seat).holder.until - now()) / 1000);
    overdue ||= left < 0;
    const text = left > 0 ? `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} left` : "time is up";
    const clock = item.querySelector("time");
    if (clock.textContent !== text) clock.textContent = text;
    item.classList.toggle("soon", left <= 60);
  }
  if (overdue && now() - lastLook > 5_000) {
    lastLook = now();
    feed.look().catch(() => {}); // the feed shows by itself that the theatre is out of reach
  }
}

const VERBS = { held: "took", released: "gave back", expired: "ran out of time for" };

function drawHappening(event) {
  const self = event.visitor === state.visitor;
  const item = element(
    "li", { className: self ? "self" : "" },
    element("i", { ariaHidden: "true" }),
    element("span", {}, element("b", {}, self ? "You" : event.name), ` ${VERBS[event.kind]} `, element("b", {}, event.seat)),
  );
  const list = $("happenings");
  list.querySelector(".quiet")?.remove();
  list.prepend(item);
  while (list.children.length > 6) list.lastElementChild.remove();
}

function notice(text, kind = "") {
  const item = element("p", { className: kind }, text);
  $("toasts").append(item);
  while ($("toasts").children.length > 3) $("toasts").firstElementChild.remove();
  setTimeout(() => {
    item.classList.add("gone");
    item.addEventListener("transitionend", () => item.remove());
    setTimeout(() => item.remove(), 1_000);
  }, 5_000);
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/* the line to the theatre ---------------------------------------------------------------------------------- */

const NAMES = { websocket: "WebSocket", sse: "Server-Sent Events", poll: "Long poll" };
const feed = new Feed({ ...state, transport: new URLSearchParams(location.search).get("transport") });

feed.addEventListener("line", ({ detail: { transport, state } }) => {
  const line = $("line");
  line.dataset.transport = transport;
  line.dataset.state = state;
  const text = { live: `Live · ${NAMES[transport]}`, connecting: "Connecting…", offline: "Offline, trying again…" }[state];
  if ($("line-text").textContent !== text) $("line-text").textContent = text;
});
feed.addEventListener("events", ({ detail }) => {
  for (const event of detail) {
    const wasMine = seats.get(event.seat)?.holder?.visitor === state.visitor;
    apply(event);
    drawHappening(event);
    if (wasMine && event.kind === "expired") notice(`Your time for seat ${event.seat} is up; it is free for everybody again.`);
  }
  drawCounts();
  drawTickets();
});
feed.addEventListener("reset", () => location.reload());

for (const link of document.querySelectorAll("[data-choice]")) {
  if (link.dataset.choice === (feed.forced ?? "auto")) link.setAttribute("aria-current", "true");
}
addEventListener("click", ({ target }) => target.closest("#line") || ($("line").open = false));
addEventListener("keydown", ({ key }) => {
  if (key !== "Escape") return;
  hideTip();
  $("line").open = false;
});

for (const [label, holder] of Object.entries(state.held)) seats.get(label).holder = holder;
for (const seat of seats.values()) draw(seat);
makeCurrent(seats.get("A1") ?? [...seats.values()][0]);
drawCounts();
drawTickets();
setInterval(drawClocks, 1_000);
new ResizeObserver(() => {
  $("pan").scrollLeft = (hall.offsetWidth - $("pan").clientWidth) / 2;
}).observe($("pan"));
feed.start();
