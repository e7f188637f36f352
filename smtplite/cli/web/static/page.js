// The page of `smtplite serve --web`: a list that shows what is in view of any number of messages, live updates, and
// the keyboard. The server renders each message; the API is what everybody else has as well.
"use strict";

const API = "/api/v1/messages";
const JSON_HEADERS = { "Content-Type": "application/json" };
const SPARE_ROWS = 8;
const RETRY_MS = 2000;

const $ = (id) => document.getElementById(id);
// Markup of the server's templates, in which everything from a message is escaped. Nothing else becomes markup.
const fragment = globalThis.trustedTypes
  ? trustedTypes.createPolicy("fragment", { createHTML: (text) => text })
  : { createHTML: (text) => text };

if ($("login")) login();
else start();

// The token

async function tryToken(token) {
  const response = await fetch("/session", { method: "POST", headers: JSON_HEADERS, body: JSON.stringify({ token }) });
  if (response.ok) location.replace(location.pathname);
  return response.ok;
}

async function login() {
  $("login").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!(await tryToken($("token").value))) $("problem").textContent = "This is not the token.";
  });
  // The terminal prints an address that ends in it: what stands after # is not sent, and in nobody's log.
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", location.pathname);
    await tryToken(token);
  }
}

// The page

function start() {
  const list = $("list"), rows = $("rows"), pane = $("pane"), search = $("search");
  const known = new Map(); // number -> summary
  const drawn = new Map(); // number -> its element, of those in view
  let messages = []; // the newest first
  let found = null; // of a search: likewise
  let listed = []; // what was shown when the list was last drawn
  let revision = -1;
  let cursor = null; // number
  let opened = null; // number
  let reading = null; // the list, which is being read
  let wanted = 0; // its revision, at least
  let waiting = null; // changes that came meanwhile
  let asked = 0; // counts the searches, so that a late answer is not shown
  let rowHeight = 76;
  let frame = 0;
  let loading = new AbortController();

  if (location.hash) history.replaceState(null, "", location.pathname);

  const shown = () => found ?? messages;

  // What was read, remembered by this browser

  const seen = (() => {
    try {
      const stored = JSON.parse(localStorage.getItem("smtplite-seen"));
      if (stored?.store === document.body.dataset.store) return new Set(stored.numbers);
    } catch { /* another program's, or none: nothing was read */ }
    return new Set();
  })();

  function see(number) {
    if (seen.has(number)) return;
    seen.add(number);
    remember("smtplite-seen", JSON.stringify({ store: document.body.dataset.store, numbers: [...seen] }));
    draw();
  }

  function remember(name, value) {
    try { localStorage.setItem(name, value); } catch { /* full, or forbidden: then it is not remembered */ }
  }

  function remembered(name) {
    try { return localStorage.getItem(name); } catch { return null; }
  }

  // The list

  function draw() {
    if (!frame) frame = requestAnimationFrame(drawNow);
  }

  function drawNow() {
    frame = 0;
    const all = shown();
    const count = all.length;
    list.hidden = count === 0;
    $("nothing").hidden = count > 0 || revision < 0;
    if (count === 0) {
      const hint = found ? "no-match" : "no-mail";
      if ($("nothing").dataset.hint !== hint) {
        $("nothing").dataset.hint = hint;
        $("nothing").replaceChildren($(hint).content.cloneNode(true));
      }
    }
    $("delete-all").disabled = messages.length === 0;
    $("count").textContent = found
      ? `${count.toLocaleString("en")} of ${plural(messages.length)}`
      : messages.length ? plural(messages.length) : "No messages";
    const unread = messages.reduce((sum, message) => sum + !seen.has(message.number), 0);
    document.title = `${unread ? `(${unread.toLocaleString("en")}) ` : ""}Mail · smtplite`;

    if (count && !list.clientHeight) return; // a message covers the list: it is drawn when that is closed
    keepPlace(all);
    const first = Math.max(0, Math.floor(list.scrollTop / rowHeight) - SPARE_ROWS);
    const last = Math.min(count, Math.ceil((list.scrollTop + list.clientHeight) / rowHeight) + SPARE_ROWS);
    const wanted = new Set();
    for (let index = first; index < last; index++) wanted.add(all[index].number);
    for (const [number, element] of drawn) {
      if (!wanted.has(number)) {
        element.remove();
        drawn.delete(number);
      }
    }
    for (let index = first; index < last; index++) {
      const message = all[index];
      let element = drawn.get(message.number);
      if (!element) {
        element = row(message);
        drawn.set(message.number, element);
        rows.append(element);
      }
      element.style.top = `${index * rowHeight}px`;
      element.setAttribute("aria-posinset", index + 1);
      element.setAttribute("aria-setsize", count);
      element.setAttribute("aria-selected", message.number === cursor);
      element.classList.toggle("cursor", message.number === cursor);
      element.classList.toggle("unread", !seen.has(message.number));
      element.querySelector(".unread-word").textContent = seen.has(message.number) ? "" : "unread, ";
    }
    if (cursor !== null && drawn.has(cursor)) list.setAttribute("aria-activedescendant", `m${cursor}`);
    else list.removeAttribute("aria-activedescendant");
  }

  // Whoever reads further down goes on reading there, whatever came or went above. Numbers only ever go up: if the
  // topmost message in view is gone, the next older one takes its place.
  function keepPlace(all) {
    const before = listed, top = list.scrollTop;
    listed = all;
    rows.style.height = `${all.length * rowHeight}px`;
    if (all === before || !before.length || top < rowHeight / 2) return;
    const at = Math.min(Math.floor(top / rowHeight), before.length - 1);
    const now = all.findIndex((message) => message.number <= before[at].number);
    list.scrollTop = top + ((now < 0 ? all.length : now) - at) * rowHeight;
  }

  // Draws at once what waits for the next frame: then the list is where it is to be scrolled from.
  function settle() {
    if (!frame) return;
    cancelAnimationFrame(frame);
    drawNow();
  }

  function row(message) {
    const element = document.createElement("div");
    element.className = "row";
    element.id = `m${message.number}`;
    element.dataset.number = message.number;
    element.setAttribute("role", "option");
    const more = message.recipient_count - message.recipients.length;
    const from = part("from", name(message.from) || message.sender || (message.sender === null ? "nobody" : "<>"));
    from.prepend(part("unseen unread-word", ""));
    const badges = part("badges", "");
    if (message.refusal) badges.append(part("badge refused", "refused"));
    if (message.violation_count) {
      const badge = part("badge violation", `${message.violation_count} ⚠`);
      badge.title = `${message.violation_count} violations of the protocol`;
      badges.append(badge);
    }
    element.append(
      from,
      part("time", when(message.time)),
      part("subject", message.subject || (message.size ? "(no subject)" : "(no content)")),
      badges,
      part("to", message.refusal || `to ${message.recipients.join(", ") || message.to || "nobody"}${more > 0 ? ` and ${more} more` : ""}`),
    );
    return element;
  }

  // The name of a person, without the address behind it.
  function name(author) {
    return /^\s*"?([^"<]*[^"<\s])"?\s*<[^<>]*>\s*$/.exec(author)?.[1] ?? author;
  }

  function part(name, text) {
    const element = document.createElement("span");
    element.className = name;
    element.textContent = text;
    return element;
  }

  function when(time) {
    const date = new Date(time), now = new Date();
    const two = (number) => String(number).padStart(2, "0");
    const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
    return date.toDateString() === now.toDateString()
      ? `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
      : day;
  }

  function plural(count) {
    return `${count.toLocaleString("en")} message${count === 1 ? "" : "s"}`;
  }

  function say(text) {
    $("said").textContent = text;
  }

  // What changes

  // Reads the list, at least as new as a revision.
  function load(least = 0) {
    wanted = least;
    reading ??= read().finally(() => { reading = null; });
  }

  async function read() {
    waiting = [];
    do {
      try {
        const response = await fetch(API);
        if (response.status === 401) return location.reload();
        const answer = await response.json();
        messages = answer.messages;
        revision = answer.revision;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        revision = -1;
      }
    } while (revision < wanted);
    known.clear();
    for (const message of messages) known.set(message.number, message);
    const late = waiting;
    waiting = null;
    for (const change of late) apply(change);
    if (found) await find();
    if (opened !== null && !known.has(opened) && pane.querySelector("article")) close();
    draw();
  }

  function apply(change) {
    if (waiting) return void waiting.push(change);
    if (change.revision <= revision) return;
    revision = change.revision;
    forget(change.removed);
    const added = change.added.filter((message) => !known.has(message.number)).reverse();
    for (const message of added) known.set(message.number, message);
    if (added.length) {
      messages = added.concat(messages);
      say(added.length === 1 ? `New message from ${added[0].from || added[0].sender}: ${added[0].subject}` : `${added.length} new messages`);
    }
    if (found) findSoon();
    draw();
  }

  function forget(numbers) {
    const gone = new Set(numbers.filter((number) => known.delete(number)));
    if (!gone.size) return;
    const following = gone.has(cursor) ? neighbour(gone) : cursor;
    messages = messages.filter((message) => !gone.has(message.number));
    if (found) found = found.filter((message) => !gone.has(message.number));
    cursor = following;
    if (opened !== null && gone.has(opened)) {
      if (following !== null && !isPhone()) open(following, { replaces: true });
      else close();
    }
    draw();
  }

  function neighbour(gone) {
    const all = shown();
    const at = all.findIndex((message) => message.number === cursor);
    const isLeft = (message) => !gone.has(message.number);
    return (all.slice(at + 1).find(isLeft) ?? all.slice(0, Math.max(at, 0)).reverse().find(isLeft))?.number ?? null;
  }

  // One stream for a browser, whatever number of tabs: it opens six connections to a server, and no more. The tab that
  // holds the lock listens, and tells the others.

  const channel = globalThis.BroadcastChannel ? new BroadcastChannel("smtplite") : null;

  function hear(event) {
    if (event.name === "hello") {
      state("live");
      if (event.data.revision !== revision) load(event.data.revision);
    } else if (event.name === "change") apply(event.data);
    else if (event.name === "reload") load();
    else if (event.name === "lost") state("lost");
  }

  function tell(name, data) {
    hear({ name, data });
    channel?.postMessage({ name, data });
  }

  function listen() {
    const source = new EventSource("/api/v1/events");
    let isOpen = false;
    for (const name of ["hello", "change", "reload"]) {
      source.addEventListener(name, (event) => {
        isOpen = true;
        tell(name, JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      if (isOpen) tell("lost", null);
      isOpen = false;
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
    });
    addEventListener("pagehide", () => source.close());
  }

  function state(name) {
    $("state").dataset.state = name;
    $("state-text").textContent = { live: "live", lost: "connection lost" }[name];
  }

  channel?.addEventListener("message", (event) => {
    if (event.data.name === "who") {
      if (isListening) channel.postMessage({ name: "hello", data: { revision } });
    } else hear(event.data);
  });
  let isListening = false;
  if (navigator.locks && channel) {
    channel.postMessage({ name: "who" });
    navigator.locks.request("smtplite events", () => {
      isListening = true;
      listen();
      return new Promise(() => {}); // until this tab is closed
    });
  } else listen();
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload(); // back from the browser's memory, without its stream
  });

  // Search

  let timer = 0;
  function findSoon(delay = 120) {
    clearTimeout(timer);
    timer = setTimeout(find, delay);
  }

  async function find() {
    const query = search.value.trim();
    const turn = ++asked;
    if (!query) {
      found = null;
      return draw();
    }
    try {
      const answer = await (await fetch(`${API}?search=${encodeURIComponent(query)}`)).json();
      if (turn !== asked) return;
      found = answer.messages;
      say(`${plural(found.length)} found`);
    } catch {
      return findSoon(RETRY_MS);
    }
    draw();
  }

  search.addEventListener("input", () => {
    list.scrollTop = 0;
    findSoon();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      search.value = "";
      find();
      list.focus();
    } else if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      list.focus();
      if (cursor === null || !shown().some((message) => message.number === cursor)) move(0, true);
    }
  });

  // A message

  const isPhone = () => matchMedia("(max-width: 760px)").matches;

  async function open(number, { replaces = false, pushes = true, focuses = false } = {}) {
    loading.abort();
    loading = new AbortController();
    cursor = opened = number;
    const path = `/messages/${number}`;
    if (pushes && location.pathname !== path) history[replaces ? "replaceState" : "pushState"](null, "", path);
    document.body.classList.add("reading");
    draw();
    let text;
    try {
      const response = await fetch(`${path}/pane`, { signal: loading.signal });
      if (!response.ok) {
        hint(response.status === 404 ? "This message is not here any more." : "This message cannot be shown.");
        return;
      }
      text = await response.text();
    } catch (error) {
      if (error.name !== "AbortError") hint("The server does not answer.");
      return;
    }
    pane.innerHTML = fragment.createHTML(text);
    pane.scrollTop = 0;
    const article = pane.querySelector("article");
    const wanted = remembered("smtplite-view");
    select($(`tab-${wanted}`) && wanted !== "html" ? wanted : article.dataset.best);
    see(number);
    if (focuses || isPhone()) $("subject").focus({ preventScroll: true });
  }

  function close({ pushes = true } = {}) {
    loading.abort();
    opened = null;
    document.body.classList.remove("reading");
    pane.replaceChildren($("no-message").content.cloneNode(true));
    if (pushes && location.pathname !== "/") history.pushState(null, "", "/");
    draw();
  }

  function hint(text) {
    const element = document.createElement("p");
    element.className = "hint";
    element.textContent = text;
    const back = document.createElement("button");
    back.type = "button";
    back.className = "back";
    back.dataset.do = "back";
    back.textContent = "All messages";
    pane.replaceChildren(back, element);
  }

  function tabs() {
    return [...pane.querySelectorAll("[role=tab]")];
  }

  function select(name) {
    for (const tab of tabs()) {
      const isSelected = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", isSelected);
      tab.tabIndex = isSelected ? 0 : -1;
      $(tab.getAttribute("aria-controls")).hidden = !isSelected;
      if (isSelected) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  function choose(tab) {
    const name = tab.id.slice("tab-".length);
    select(name);
    remember("smtplite-view", name);
  }

  pane.addEventListener("click", (event) => {
    const target = event.target.closest("[role=tab], [data-do]");
    if (!target) return;
    if (target.matches("[role=tab]")) return choose(target);
    const frame = pane.querySelector("iframe");
    switch (target.dataset.do) {
      case "back": close(); list.focus(); break;
      case "delete": remove(opened); break;
      case "release": release(opened); break;
      case "narrow": frame.classList.toggle("narrow", target.checked); break;
      case "show-html":
        frame.src = frame.dataset.src;
        frame.hidden = false;
        target.closest("p").remove();
        break;
    }
  });
  pane.addEventListener("keydown", (event) => {
    if (!event.target.matches("[role=tab]")) return;
    const all = tabs(), at = all.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const tab = all[(to + all.length) % all.length];
    choose(tab);
    tab.focus();
  });

  // Delete

  async function destroy(body) {
    try {
      const response = await fetch(API, { method: "DELETE", headers: JSON_HEADERS, body: JSON.stringify(body) });
      const answer = await response.json();
      if (!response.ok) return say(`Not deleted: ${answer.error}`);
      forget(answer.deleted);
      say(`${plural(answer.deleted.length)} deleted`);
    } catch {
      say("Not deleted: the server does not answer.");
    }
  }

  function remove(number) {
    if (number !== null && known.has(number)) destroy({ numbers: [number] });
  }

  $("delete-all").addEventListener("click", () => {
    const numbers = found ? found.map((message) => message.number) : "all";
    $("ask-delete-title").textContent = found ? "Delete what was found?" : "Delete all messages?";
    $("ask-delete-text").textContent = `${plural(shown().length)} will be deleted${found ? "; the others stay" : ""}.`;
    const dialog = $("ask-delete");
    dialog.returnValue = "";
    dialog.showModal();
    dialog.onclose = () => { if (dialog.returnValue === "yes") destroy({ numbers }); };
  });

  // Release: the envelope is shown, and sent along as what was confirmed

  async function release(number) {
    const dialog = $("release"), go = $("release-go"), outcome = $("release-outcome");
    const message = await (await fetch(`${API}/${number}`)).json();
    const envelope = { sender: message.sender, recipients: message.recipients };
    $("release-sender").textContent = `<${envelope.sender}>`;
    $("release-count").textContent = envelope.recipients.length === 1 ? "Recipient" : `Recipients (${envelope.recipients.length})`;
    $("release-recipients").replaceChildren(...envelope.recipients.map((address) => {
      const item = document.createElement("li"), code = document.createElement("code");
      code.textContent = address;
      item.append(code);
      return item;
    }));
    outcome.className = outcome.textContent = "";
    go.hidden = go.disabled = false;
    $("release-cancel").textContent = "Cancel";
    go.onclick = async () => {
      go.disabled = true;
      outcome.textContent = "Sending …";
      let text, isBad = true;
      try {
        const response = await fetch(`${API}/${number}/release`, { method: "POST", headers: JSON_HEADERS, body: JSON.stringify(envelope) });
        const answer = await response.json();
        if (response.ok) [text, isBad] = told(answer);
        else text = answer.error;
      } catch {
        text = "The catcher did not answer: nobody knows whether the message was sent.";
      }
      outcome.textContent = text;
      outcome.className = isBad ? "bad" : "";
      go.hidden = true;
      $("release-cancel").textContent = "Close";
      $("release-cancel").focus();
    };
    dialog.showModal();
    $("release-cancel").focus();
  }

  function told(answer) {
    const lines = [];
    if (answer.accepted.length) lines.push(`Accepted for ${answer.accepted.join(", ")}.`);
    for (const [address, reply] of Object.entries(answer.refused)) lines.push(`Refused for ${address}: ${reply}`);
    if (answer.unknown.length) lines.push(`Unknown for ${answer.unknown.join(", ")}: it may have been delivered, and may be delivered twice if you release it again.`);
    if (answer.not_sent.length) lines.push(`Not sent to ${answer.not_sent.join(", ")}.`);
    if (answer.error) lines.push(answer.error);
    return [lines.join("\n"), Boolean(answer.error) || Object.keys(answer.refused).length > 0];
  }

  // Keyboard and mouse

  function move(by, isFresh = false) {
    settle();
    const all = shown();
    if (!all.length) return;
    const at = all.findIndex((message) => message.number === cursor);
    const from = at < 0 && by === 1 ? -1 : at < 0 && by === -1 ? all.length : Math.max(at, 0);
    const to = isFresh ? 0 : Math.min(all.length - 1, Math.max(0, from + by));
    cursor = all[to].number;
    const top = to * rowHeight;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + rowHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + rowHeight - list.clientHeight;
    if (opened !== null) open(cursor, { replaces: true });
    draw();
  }

  list.addEventListener("scroll", draw, { passive: true });
  list.addEventListener("click", (event) => {
    const element = event.target.closest(".row");
    if (!element) return;
    const path = `/messages/${element.dataset.number}`;
    if (event.ctrlKey || event.metaKey) globalThis.open(path, "_blank", "noopener");
    else open(Number(element.dataset.number));
  });

  const singleKeys = $("single-keys");
  singleKeys.checked = remembered("smtplite-keys") !== "off";
  singleKeys.addEventListener("change", () => remember("smtplite-keys", singleKeys.checked ? "on" : "off"));

  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    const inList = document.activeElement === list;
    if (event.target.closest("input, textarea, select")) return;
    const onControl = event.target.closest("button, a, [role=tab], [role=tabpanel]");
    const page = Math.max(1, Math.floor(list.clientHeight / rowHeight) - 1);
    const keys = {
      j: () => move(1),
      k: () => move(-1),
      "/": () => { close_phone(); search.focus(); search.select(); },
      "?": showKeys,
      Delete: () => remove(opened ?? cursor),
      Escape: () => { if (opened !== null) close(); list.focus(); },
      ...(onControl ? {} : { Enter: () => { if (cursor !== null) open(cursor, { focuses: true }); } }),
      ...(inList ? {
        ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(page), PageUp: () => move(-page),
        Home: () => move(-Infinity), End: () => move(Infinity), " ": () => { if (cursor !== null) open(cursor); },
      } : {}),
    };
    if (!keys[event.key]) return;
    if (event.key.length === 1 && event.key !== " " && !singleKeys.checked && !inList) return;
    event.preventDefault();
    keys[event.key]();
  });

  function close_phone() {
    if (isPhone() && opened !== null) close();
  }

  function showKeys() {
    $("keys").showModal();
  }
  $("show-keys").addEventListener("click", showKeys);

  // Where we are

  function follow() {
    const match = /^\/messages\/(\d+)$/.exec(location.pathname);
    if (match) open(Number(match[1]), { pushes: false });
    else close({ pushes: false });
  }
  addEventListener("popstate", follow);

  function measure() {
    rowHeight = parseFloat(getComputedStyle(document.documentElement).fontSize) * 4.75;
    draw();
  }
  addEventListener("resize", measure);
  measure();
  follow();
  load();
}
