// One object: what went wrong with it, what it does now, its alarm, and what it has stored.

import { repeated } from "./again.js";
import { ask, change, Refused } from "./api.js";
import { empty, h, live, panel, table } from "./dom.js";
import { confirm, failed, literal, say } from "./parts.js";
import { storage } from "./storage.js";
import { ago, at, bytes, count, plural, seconds } from "./words.js";

const LOOK_MS = 2_000;

export function show(root, [class_name, ...rest]) {
  const name = rest.join("/");
  const target = { class_name, name };
  const title = h("div");
  const newest = h("div.stack", { id: "newest-error" });
  const now = h("div");
  const alarm = h("div");
  const stored = h("div", { id: "stored" });
  const trouble = h("div");
  root.replaceChildren(title, trouble, newest, now, alarm, stored);
  let now_ms = 0;
  let rows = null;

  const looking = repeated(LOOK_MS, async (signal) => {
    try {
      const told = await ask("object", target, signal);
      trouble.replaceChildren();
      const lately = Math.floor(now_ms / 10_000);
      live(title, [told.state, told.shard, told.used_s_ago > 2, told.stored, told.quarantine && [told.quarantine.because_of, lately], told.cached], () => head(told));
      live(newest, [told.errors, lately], () => errorHistory(told.errors, now_ms));
      live(now, [told.gate, told.running, told.queue, told.undurable_keys], () => activity(told));
      live(alarm, [told.alarm, told.alarm_due_ms, told.abandoned_alarm], () => alarms(told));
      rows ??= storage(stored, target, looking.now);
      rows.refresh();
    } catch (error) {
      if (!(error instanceof Refused) || error.status === 401) return;
      trouble.replaceChildren(h("h1", {}, `${class_name}/`, literal(name)), failed(error));
      if (error.status === 404) forget();
    }
  });

  // There is no such object: nothing of what was shown is left.
  function forget() {
    rows?.close();
    rows = null;
    for (const each of [title, newest, now, alarm, stored]) {
      each.replaceChildren();
      each.said = undefined;
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
      h("button", { type: "button", onclick: letOut, "data-at": "release" }, "Release"));
    return [h("div.title", {}, h("div", {}, h("h1", {}, h("span.muted", {}, `${class_name}/`), literal(name)), h("div.facts", {}, facts)), h("div.tools", {}, evict)), held];
  }

  const leaveMemory = () => confirm([`Evict ${class_name}/`, literal(name), "?"], "Only memory is lost; the next call makes a new instance. An object that is at work stays.", "Evict", async () => {
    await change("evict", target);
    looking.now();
  }, false);
  const letOut = () => confirm([`Release ${class_name}/`, literal(name), "?"], "It is served again. If its code does the same again, it comes back for longer.", "Release", async () => {
    await change("release", target);
    say("Released");
    looking.now();
  }, false);

  function alarms(told) {
    if (!told.alarm && !told.abandoned_alarm) return null;
    const turn = (what, abandoned) => () => confirm(what === "run" ? "Let it ring now?" : "Drop the alarm?", what === "run" ? "Its handler runs as soon as it can." : "Its handler will not run. Nothing brings the alarm back.", what === "run" ? "Run now" : "Drop", async () => {
      await change("alarm", { ...target, do: what, ...(abandoned ? { abandoned_at: told.abandoned_alarm.at } : { due_ms: told.alarm_due_ms }) });
      say(what === "run" ? "It rings now" : "Dropped");
      looking.now();
    }, what === "drop");
    const button = (kind, what, abandoned, text) => h(kind, { type: "button", onclick: turn(what, abandoned), "data-at": `${what} ${abandoned}` }, text);
    const buttons = (abandoned) => h("div.tools", {}, button("button", "run", abandoned, abandoned ? "Run again" : "Run now"), button("button.is-risky", "drop", abandoned, "Drop"));
    const rowsOf = [];
    if (told.abandoned_alarm) rowsOf.push([[h("span.bad", {}, "Abandoned "), at(Date.parse(told.abandoned_alarm.at), now_ms), h("div.small.mono", {}, lastLine(told.abandoned_alarm.error))], buttons(true)]);
    if (told.alarm) rowsOf.push([["Due ", h("b", {}, at(Date.parse(told.alarm), now_ms))], buttons(false)]);
    return panel("Alarm", null, table([["When"], ["", "tight"]], rowsOf));
  }

  return {
    update(seen) {
      now_ms = seen.now_ms;
      looking.due();
    },
    close() {
      looking.close();
      rows?.close();
    },
  };
}

export const lastLine = (text) => text.trim().split("\n").at(-1) ?? "";

// Without the parts that took nothing.
function whereTimeWent(line) {
  const [took, parts] = line.split(": ");
  return parts ? `${took}: ${parts.split(", ").filter((part) => !part.endsWith(" 0.000 s")).join(", ")}` : line;
}

function errorHistory(found, now_ms) {
  if (!found.length) return panel("Newest error", null, empty("Nothing has gone wrong with it since its worker was started."));
  const slow = found.filter((each) => each.kind === "slow");
  const [first, ...before] = found.filter((each) => each.kind !== "slow");
  const rowsOf = (some) => some.map((each) => [h("span.muted", { title: ago(each.time_ms, now_ms) }, at(each.time_ms, now_ms)), each.code || h("span.muted", { title: "not noted: its code ran for a moment only" }, "–"), h("span.mono", {}, each.what)]);
  const slowCalls = slow.length ? panel("Slow calls", h("span.muted.small.end", {}, "the newest"), table([["When", "tight"], ["Method", "tight"], ["Where its time went"]], rowsOf(slow.map((each) => ({ ...each, what: whereTimeWent(each.what) }))))) : null;
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
