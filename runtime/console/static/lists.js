// The pages that are lists: errors and slow calls, alarms, backups.

import { repeated } from "./again.js";
import { ask, change, Refused } from "./api.js";
import { empty, h, live, panel, table } from "./dom.js";
import { confirm, errors, failed, legend, literal, missing, objectName, say, slowCalls } from "./parts.js";
import { lastLine } from "./object.js";
import { ago, at, bytes, count, plural, span } from "./words.js";

// A page that is asked for again every so often, and shown when it has changed. `lasting`: what is told without what is another
// number each time, as how late something is; that is shown anew every ten seconds.
function list(root, title, name, every_ms, render, lasting = (told) => told) {
  const body = h("div", { style: { display: "contents" } });
  root.replaceChildren(h("h1", {}, title), body);
  let now_ms = 0;
  const looking = repeated(every_ms, async (signal) => {
    try {
      const told = await ask(name, {}, signal);
      live(body, [lasting(told), Math.floor(now_ms / 10_000)], () => render(told, now_ms, looking.now));
    } catch (error) {
      if (error instanceof Refused && error.status !== 401) live(body, error.message, () => failed(error));
    }
  });
  return {
    update(seen) {
      now_ms = seen.now_ms;
      looking.due();
    },
    close: looking.close,
  };
}

export function showErrors(root) {
  return list(root, "Errors and slow calls", "errors", 2_000, (told, now_ms) => [
    missing(told),
    panel("Newest errors", h("span.muted.small.end", {}, "since the workers were started"), told.errors.length ? errors(told.errors, now_ms) : empty("No object has raised an error.")),
    panel("Newest slow calls", told.slow.length ? legend() : null, told.slow.length ? slowCalls(told.slow, now_ms) : empty(`No call has taken longer than ${told.slow_call_s} s.`)),
  ]);
}

export function showAlarms(root) {
  const lasting = (told) => ({ ...told, alarms: told.alarms.map(({ late_s, ...rest }) => rest) });
  return list(root, "Alarms", "alarms", 2_000, (told, now_ms, again) => {
    const turn = (each, what, abandoned) => () => confirm([`${what === "run" ? "Run" : "Drop"} the alarm of ${each.class}/`, literal(each.name), "?"],
      what === "run" ? "Its handler runs as soon as it can." : "Its handler will not run. Nothing brings the alarm back.", what === "run" ? "Run" : "Drop", async () => {
        await change("alarm", { class_name: each.class, name: each.name, do: what, ...(abandoned ? { abandoned_at: each.abandoned_at } : { due_ms: each.due_ms }) });
        say(what === "run" ? "It rings now" : "Dropped");
        again();
      }, what === "drop");
    const button = (kind, each, what, abandoned, text) => h(kind, { type: "button", onclick: turn(each, what, abandoned), "data-at": JSON.stringify([what, abandoned, each.class, each.name]) }, text);
    const buttons = (each, abandoned) => h("div.tools", {}, button("button", each, "run", abandoned, abandoned ? "Run again" : "Run now"), button("button.is-risky", each, "drop", abandoned, "Drop"));
    const gone = told.abandoned.map((each) => [
      [objectName(each.class, each.name), h("div.small.mono", {}, lastLine(each.error))], at(Date.parse(each.abandoned_at), now_ms), buttons(each, true),
    ]);
    const due = told.alarms.map((each) => {
      const late = each.late_s > 1 ? h("span.warn", {}, `${span(each.late_s * 1_000)} late`) : h("span.muted", {}, each.late_s > 0 ? "now" : `in ${span(-each.late_s * 1_000)}`);
      return [objectName(each.class, each.name), [at(each.due_ms, now_ms), h("div.small", {}, late)], buttons(each, false)];
    });
    return [
      missing(told),
      panel("Abandoned", h("span.muted.small", {}, "given up because their handlers failed again and again"), gone.length ? table([["Object"], ["Given up", "tight"], ["", "tight"]], gone) : empty("No alarm was abandoned.")),
      panel("Scheduled", h("span.muted.small.end", {}, due.length ? `${count(due.length)}${told.more ? " and more" : ""}, those due first` : ""), due.length ? table([["Object"], ["Due", "tight"], ["", "tight"]], due) : empty("No alarm is scheduled.")),
    ];
  }, lasting);
}

export function showBackups(root) {
  return list(root, "Backups", "backups", 10_000, (told, now_ms) => {
    if (!told.places.length) {
      return panel("No backup", null, empty("Of this data directory none was made."),
        empty("Make one: ", h("code", {}, "tidegate backup DEST"), ", or let a timer do it: ", h("code", {}, "tidegate install-service APP --backup DEST")));
    }
    const places = told.places.map((place) => {
      const rows = place.lineages.map((each) => [
        [at(each.until_ms, now_ms), h("div.small.muted", {}, ago(each.until_ms, now_ms))], at(each.from_ms, now_ms), `1 full, ${each.backups - 1} more`, bytes(each.bytes),
      ]);
      const made = place.at_ms ? `last made ${ago(place.at_ms, now_ms)}` : "never made";
      const failed = place.error ? h("p.complaint", {}, `The last one failed ${ago(place.failed_ms, now_ms)}: ${place.error}`) : null;
      return panel(place.place, h("span.muted.small.end", {}, made), failed, place.problems.map((each) => h("p.complaint", {}, each)),
        rows.length ? table([["Can be restored up to"], ["from"], ["Backups", "number"], ["Size", "number.tight"]], rows) : empty("There is no complete backup in this place yet."),
        h("p.small.muted", {}, "Restore: ", h("code", {}, `tidegate restore ${place.place} --list`)));
    });
    return [told.given_up ? h("p.complaint", {}, `The log was not kept for the next backup, which will be a full one: ${told.given_up}`) : null, ...places,
      h("p.small.muted", {}, `${bytes(told.kept_log_bytes)} of log wait for the next backup.`)];
  });
}

export function showQuarantine(root) {
  root.replaceChildren(h("h1", {}, "Quarantine"));
  const body = h("div");
  root.append(body);
  return {
    update({ status }) {
      live(body, status.quarantined_objects, (found) => {
        const rows = found.map((each) => {
          const [class_name, ...rest] = each.object.split("/");
          return [objectName(class_name, rest.join("/")), `${Math.round(each.for_s)} s`, plural(each.offences, "time"), h("span.mono", {}, each.code), each.why];
        });
        return panel("Objects whose callers are refused", null, found.length ? table([["Object"], ["For", "number.tight"], ["Held up or ended its worker", "tight"], ["The last time in"], ["Because"]], rows) : empty("No object is in quarantine."));
      });
    },
  };
}
