// One object: what went wrong with it, what it does now, its alarm, and what it has stored.

import { ask, change, Refused } from "./api.js";
import { debounced, empty, h, live, panel, table } from "./dom.js";
import { confirm, failed, openDialog, say } from "./parts.js";
import { ago, at, bytes, count, plural, seconds } from "./words.js";

const LOOK_MS = 2_000;
const PAGE = 100;

export function show(root, [class_name, name]) {
  const target = { class_name, name };
  const title = h("div");
  const newest = h("div.stack", { id: "newest-error" });
  const now = h("div");
  const alarm = h("div");
  const stored = h("div", { id: "stored" });
  const trouble = h("div");
  root.replaceChildren(title, trouble, newest, now, alarm, stored);
  let closed = false;
  let looked_ms = 0;
  let looking = false;
  let rows = null;

  async function look(now_ms) {
    if (looking) return;
    looking = true;
    looked_ms = now_ms;
    try {
      const told = await ask("object", target);
      if (closed) return;
      trouble.replaceChildren();
      live(title, [told.state, told.shard, told.used_s_ago > 2, told.stored, told.quarantine, told.cached], () => head(told));
      live(newest, [told.errors, Math.floor(now_ms / 10_000)], () => errorHistory(told.errors, now_ms));
      live(now, [told.gate, told.running, told.queue, told.undurable_keys], () => activity(told));
      live(alarm, [told.alarm, told.abandoned_alarm], () => alarms(told));
      if (rows === null) rows = storage(stored, target, () => look(Date.now()));
      else rows.refresh();
    } catch (error) {
      if (!closed && error instanceof Refused && error.status !== 401) {
        trouble.replaceChildren(h("h1", {}, `${class_name}/${name}`), failed(error));
        if (error.status === 404) for (const each of [title, newest, now, alarm, stored]) each.replaceChildren(), (each.said = undefined), (rows = null);
      }
    } finally {
      looking = false;
    }
  }

  function head(told) {
    const where = { awake: "in memory", "on disk": "on disk" }[told.state] ?? told.state;
    const facts = [
      h("span", {}, h("b", {}, where)), h("span", {}, "shard ", h("b", {}, String(told.shard))),
      told.cached ? h("span", {}, h("b", {}, plural(told.cached.keys, "key")), ` in its cache, ${bytes(told.cached.bytes)}`) : null,
      told.stored ? null : h("span", {}, "nothing of it is stored"), told.in_app ? null : h("span.warn", {}, "the app has no such class"),
    ];
    const evict = told.state === "on disk" ? null : h("button", { type: "button", onclick: leaveMemory, "data-at": "evict" }, "Evict from memory");
    const held = told.quarantine && h("div.problem", { role: "alert" }, h("span.where", {}, `In quarantine for ${seconds(told.quarantine.for_s)}`), ` because of ${told.quarantine.because_of}: its callers are refused. `,
      h("button", { type: "button", onclick: letOut }, "Release"));
    return [h("div.title", {}, h("div", {}, h("h1", {}, h("span.muted", {}, `${class_name}/`), name), h("div.facts", {}, facts)), h("div.tools", {}, evict)), held];
  }

  const leaveMemory = () => confirm(`Evict ${class_name}/${name}?`, "Only memory is lost; the next call makes a new instance. An object that is at work stays.", "Evict", async () => {
    await change("evict", target);
    look(Date.now());
  }, false);
  const letOut = () => confirm(`Release ${class_name}/${name}?`, "It is served again. If its code does the same again, it comes back for longer.", "Release", async () => {
    await change("release", target);
    say("Released");
    look(Date.now());
  }, false);

  function alarms(told) {
    if (!told.alarm && !told.abandoned_alarm) return null;
    const turn = (what, abandoned) => () => confirm(what === "run" ? "Let it ring now?" : "Drop the alarm?", what === "run" ? "Its handler runs as soon as it can." : "Its handler will not run. Nothing brings the alarm back.", what === "run" ? "Run now" : "Drop", async () => {
      await change("alarm", { ...target, do: what, abandoned });
      say(what === "run" ? "It rings now" : "Dropped");
      look(Date.now());
    }, what === "drop");
    const buttons = (abandoned) => h("div.tools", {}, h("button", { type: "button", onclick: turn("run", abandoned) }, abandoned ? "Run again" : "Run now"), h("button.is-risky", { type: "button", onclick: turn("drop", abandoned) }, "Drop"));
    const rowsOf = [];
    if (told.abandoned_alarm) rowsOf.push([[h("span.bad", {}, "Abandoned "), at(Date.parse(told.abandoned_alarm.at)), h("div.small.mono", {}, lastLine(told.abandoned_alarm.error))], buttons(true)]);
    if (told.alarm) rowsOf.push([["Due ", h("b", {}, at(Date.parse(told.alarm)))], buttons(false)]);
    return panel("Alarm", null, table([["When"], ["", "tight"]], rowsOf));
  }

  return {
    update(seen) {
      if (seen.now_ms - looked_ms >= LOOK_MS) look(seen.now_ms);
    },
    close() {
      closed = true;
    },
  };
}

export const lastLine = (text) => text.trim().split("\n").at(-1) ?? "";

function errorHistory(found, now_ms) {
  if (!found.length) return panel("Newest error", null, empty("Nothing has gone wrong with it since its worker was started."));
  const slow = found.filter((each) => each.kind === "slow");
  const [first, ...before] = found.filter((each) => each.kind !== "slow");
  const rowsOf = (some) => some.map((each) => [h("span.muted", { title: ago(each.time_ms, now_ms) }, at(each.time_ms, now_ms)), each.code || h("span.muted", {}, "–"), h("span.mono", {}, each.what)]);
  const slowCalls = slow.length ? panel("Slow calls", h("span.muted.small.end", {}, "the newest"), table([["When", "tight"], ["Method", "tight"], ["Where its time went"]], rowsOf(slow))) : null;
  if (!first) return slowCalls;
  const where = first.code ? `, in ${first.code}` : first.kind === "reset" ? ": it was reset" : "";
  const newest = h("div", {}, h("div.muted.small", {}, `${at(first.time_ms, now_ms)}, ${ago(first.time_ms, now_ms)}${where}`), h("div.what", {}, first.what));
  const rest = before.length ? h("div", { style: { "margin-top": "10px" } }, table([["Before", "tight"], ["Where", "tight"], ["What"]], rowsOf(before))) : null;
  const section = panel("Newest error", null, newest, rest);
  section.classList.add("trouble");
  return [section, slowCalls];
}

function activity(told) {
  if (!told.gate) return null;
  const busy = told.running.length || told.queue.length;
  if (told.gate.open && !busy) return null;
  const by = told.gate.closed_by ?? "the events before";
  const gate = told.gate.open ? "Its gate is open." : `Its gate is closed${told.gate.closed_for_s ? ` for ${seconds(told.gate.closed_for_s)}` : ""} by ${by}${told.gate.waits_for ? `, which waits for ${told.gate.waits_for}` : ""}.`;
  const running = told.running.map((each) => [each.method ?? "a task", each.at ? h("span.mono", {}, each.at) : "", each.waits_for ?? "", each.for_s === null ? "" : seconds(each.for_s)]);
  const queue = told.queue.map((each) => [each.method ?? each.what ?? "an event", each.called_by ?? "", each.waits_s === null ? "" : seconds(each.waits_s)]);
  return panel("Now", h("span.muted.small", {}, gate),
    running.length ? table([["Runs"], ["At"], ["Waits for"], ["For", "number.tight"]], running) : null,
    queue.length ? table([["Waits at the gate"], ["Called by"], ["For", "number.tight"]], queue) : null,
    told.queue_count > told.queue.length ? empty(`and ${count(told.queue_count - told.queue.length)} more wait`) : null);
}

// What is stored

function storage(container, target, changed) {
  let shown = [];
  const list = h("div");
  const filter = h("input", { type: "search", placeholder: "how the key begins", "aria-label": "How the key begins", autocomplete: "off", spellcheck: "false", oninput: debounced(150, () => load()) });
  const add = h("button", { type: "button", onclick: () => edit(null) }, "New key");
  container.replaceChildren(panel("Stored", null, h("div.tools", { style: { padding: "6px 0 8px" } }, filter, add), list));
  load();

  // Again and again, unless more than a page is shown: that stays as it was read.
  const refresh = () => (shown.length <= PAGE && !document.getElementById("dialog").open ? load() : null);

  async function load(more = false) {
    const asked = { ...target, prefix: filter.value, limit: PAGE };
    if (more) asked.after = shown.at(-1).key;
    try {
      const told = await ask("rows", asked);
      shown = more ? [...shown, ...told.rows] : told.rows;
      const rows = shown.map((row) => [
        h("button.is-plain", { type: "button", onclick: () => edit(row), title: "open", "data-at": row.key }, row.key),
        row.text ?? h("span.muted", {}, "large; open it to see it"), bytes(row.bytes),
      ]);
      const none = filter.value ? `No key begins with “${filter.value}”.` : "It has no keys.";
      live(list, [shown, told.more, none], () => [
        shown.length ? table([["Key", "key"], ["Value", "text"], ["Size", "number.tight"]], rows) : empty(none),
        told.more ? h("p", {}, h("button", { type: "button", onclick: () => load(true), "data-at": "more" }, "Show more")) : "",
      ]);
    } catch (error) {
      live(list, error.message, () => failed(error));
    }
  }

  async function edit(row) {
    let digest = "";
    let text = "";
    if (row !== null) {
      try {
        ({ text, digest } = await ask("value", { ...target, key: row.key }));
      } catch (error) {
        return say(error.message);
      }
    }
    const key = h("input.mono", { "aria-label": "Key", placeholder: "key", required: true, value: row?.key ?? "", hidden: row !== null });
    const area = h("textarea", { "aria-label": "Value as JSON", spellcheck: "false", value: text });
    const complaint = h("div", { role: "alert" });
    const save = h("button.is-main", { type: "submit" }, "Save");
    const drop = row && h("button.is-risky.first", { type: "button", onclick: () => attempt("delete", {}) }, "Delete key");
    const note = row === null ? "Saved only if there is no such key." : "Saved only if nobody has changed it since. The object's code does not run, and does not hear of it: evict it if it keeps the value in memory.";
    const close = openDialog(h("form", { onsubmit: (event) => (event.preventDefault(), attempt("put", { text: area.value })) },
      h("h2.mono", {}, row?.key ?? "New key"), key, area, h("p.muted.small", {}, note), complaint,
      h("div.tools", {}, drop, h("button", { type: "button", onclick: () => close() }, "Cancel"), save)));
    area.focus();
    area.setSelectionRange(0, 0);

    async function attempt(what, given) {
      save.disabled = true;
      const asked = { ...target, key: row?.key ?? key.value, digest, ...given };
      try {
        const told = await change(what, asked);
        close();
        say(what === "put" ? "Saved" : "Deleted", "Undo", () => undo(asked.key, told));
        load();
        changed();
      } catch (error) {
        const said = error.status === 409 ? { message: "Somebody has changed it since it was read; nothing was changed now." } : error;
        const anew = error.status === 409 && row && h("p", {}, h("button", { type: "button", onclick: () => edit(row) }, "Show what it is now"));
        complaint.replaceChildren(failed(said), anew || "");
        save.disabled = false;
      }
    }
  }

  async function undo(key, { before, after }) {
    try {
      if (before === null) await change("delete", { ...target, key, digest: after.digest });
      else await change("put", { ...target, key, text: before.text, digest: after?.digest ?? "" });
      say("Undone");
    } catch (error) {
      say(error.message);
    }
    load();
    changed();
  }
  return { refresh };
}
