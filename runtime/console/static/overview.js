// The first page: what is wrong, how fast it goes, who is called most, what was slow, what failed, and where it runs.

import { repeated } from "./again.js";
import { ask, Refused } from "./api.js";
import { h, live, panel, table, empty } from "./dom.js";
import { errors, failed, legend, missing, objectName, slowCalls } from "./parts.js";
import { bytes, count, milliseconds, plural, rate } from "./words.js";

const HOT = 8;
const SHOWN = 5;
const TROUBLES_MS = 2_000;
const POINTS_MIN = 60; // Of a chart: with less it does not fill its width.

export function show(root) {
  const problems = h("div", { id: "problems" });
  const stats = h("section.stats", { "aria-label": "How fast it goes" });
  const hot = h("div", { id: "hottest" });
  const slow = h("div", { id: "slow" });
  const failures = h("div", { id: "errors" });
  const cores = h("div", { id: "cores" });
  const classes = h("div", { id: "classes" });
  root.replaceChildren(problems, stats, h("div.pair", {}, h("div.column", {}, hot, classes), h("div.column", {}, failures, slow)), cores);
  let now_ms = 0;

  const troubles = repeated(TROUBLES_MS, async (signal) => {
    try {
      showTroubles(await ask("errors", {}, signal));
    } catch (error) {
      // Where the console itself does not answer the banner says it; what was heard last stays.
      if (error instanceof Refused && error.status !== 401) live(failures, error.message, () => panel("Newest errors", null, failed(error)));
    }
  });

  function showTroubles(told) {
    const newest = told.errors;
    live(failures, { newest, missing: told.missing, at: Math.floor(now_ms / 10_000) }, () =>
      panel("Newest errors", newest.length ? h("a.link.small.end", { href: "#/errors" }, "all") : null, missing(told),
        newest.length ? errors(newest, now_ms, SHOWN) : empty("No object has raised an error since the workers were started.")));
    const slowest = [...told.slow].sort((a, b) => b.took_s - a.took_s).slice(0, SHOWN);
    live(slow, { slowest, bound: told.slow_call_s, at: Math.floor(now_ms / 10_000) }, () =>
      panel("Slowest calls of late", slowest.length ? legend() : null,
        slowest.length ? slowCalls(slowest, now_ms) : empty(`No call has taken longer than ${told.slow_call_s} s since the workers were started.`)));
  }

  return {
    update(seen) {
      const { status } = seen;
      now_ms = seen.now_ms;
      live(problems, status.problems, problemList);
      showStats(stats, seen);
      live(hot, { hot: seen.hot.slice(0, HOT), total: status.rates.calls_per_s ?? 0 }, hottest);
      live(cores, { processes: status.processes.map(processShown), rates: seen.shard_rates, shards: status.shards }, map);
      live(classes, { rates: status.class_rates, names: status.class_names }, classTable);
      troubles.due();
    },
    close: troubles.close,
  };
}

export function problemList(found) {
  return found.map((each) => h("div.problem", { role: "alert" }, h("span.where", {}, each.where), h("span", {}, ` ${each.what}`), h("div.next", {}, "Next: ", each.next)));
}

// Numbers

function showStats(container, seen) {
  const { rates } = seen.status;
  const points = seen.points;
  const tile = (name, current, of, { error = false, shown = rate, split = (number) => [shown(number)] } = {}) => {
    const [value, unit] = split(current);
    const values = points.map(of);
    const most = Math.max(0, current ?? 0, ...values.filter((each) => each !== null));
    const minutes = points.length > 1 ? Math.max(1, Math.round((points.at(-1)[0] - points[0][0]) / 60_000)) : 0;
    return h(`div.panel.stat${error ? ".is-error" : ""}`, { "data-stat": name },
      h("span.muted.small", {}, name), h("span.value", {}, value, unit ? h("small", {}, unit) : null),
      h("span.most", {}, h("span", {}, minutes ? `${minutes} min` : "from now on"), h("span", {}, `most ${shown(most)}`)), chart(values, most));
  };
  const time = (ms) => milliseconds(ms).join(" ");
  const latency = { shown: time, split: milliseconds };
  live(container, { rates, last: points.at(-1)?.[0] ?? 0 }, () => [
    tile("Calls a second", rates.calls_per_s ?? 0, (point) => point[1]),
    tile("Errors a second", rates.errors_per_s ?? 0, (point) => point[2], { error: (rates.errors_per_s ?? 0) > 0 }),
    tile("Answer, half within", rates.answer_p50_ms, (point) => point[3], latency),
    tile("Answer, 99 % within", rates.answer_p99_ms, (point) => point[4], latency),
  ]);
}

function chart(values, most) {
  const width = Math.max(values.length, POINTS_MIN) - 1;
  const height = 40;
  const from = width + 1 - values.length;
  const top = most > 0 ? most * 1.05 : 1;
  const line = values.map((value, at) => `${at ? "L" : "M"}${from + at} ${(height - ((value ?? 0) / top) * (height - 2)).toFixed(1)}`).join("");
  const area = values.length ? `${line}L${width} ${height}L${from} ${height}Z` : "";
  return h("svg.chart", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    h("path.area", { d: area }), h("path.line", { d: line }));
}

function hottest({ hot, total }) {
  const most = hot[0]?.calls_per_s || 1;
  const rows = hot.map((each) => [
    [objectName(each.class_name, each.name), h("div.meter", {}, h("i", { style: { width: `${(100 * each.calls_per_s) / most}%` } }))],
    rate(each.calls_per_s),
    total > 0 ? `${Math.min(100, Math.round((100 * each.calls_per_s) / total))} %` : "",
    rate(each.minute_per_s),
  ]);
  const columns = [["Object"], ["Calls/s", "number.tight"], ["Of all", "number.tight"], ["Last minute", "number.tight"]];
  return panel("Hottest objects", h("span.muted.small.end", {}, "called most, right now"),
    hot.length ? table(columns, rows) : empty("Nothing was called in the last minute."));
}

// Where it runs

function processShown(process) {
  const { name, state, core, shards, cpu_percent, rss_mib, silent_s, flapping, restarts, last_problem, rates, statistics, pid } = process;
  const { activations, queued_calls, space } = statistics ?? {};
  return { name, state, core, shards, cpu_percent, rss_mib, silent_s, flapping, restarts, last_problem, rates, pid, activations, queued_calls, sizes: space?.shard_bytes };
}

function map({ processes, rates, shards }) {
  const workers = processes.filter((each) => each.shards);
  const others = processes.filter((each) => !each.shards);
  const most = Math.max(1, ...Object.values(rates));
  const body = [h("div.cores", {}, workers.map((each) => worker(each, rates, most))), otherProcesses(others)];
  return panel("Cores", h("span.muted.small", {}, `${plural(workers.length, "worker")}, ${plural(shards, "shard")}; the stronger its colour, the more a shard is called`), body);
}

function worker(each, rates, most) {
  const wrong = each.flapping || each.silent_s !== null || each.state !== "ready";
  const state = each.silent_s !== null ? `silent for ${Math.round(each.silent_s)} s` : each.state;
  const fact = (name, value) => [h("div", {}, h("dt", {}, name), h("dd", {}, value))];
  const tile = (shard) => {
    const called = rates[shard] ?? 0;
    const size = each.sizes?.[shard];
    const share = wrong ? 0 : called / most;
    const title = `shard ${shard}: ${rate(called)} calls/s${size === undefined ? "" : `, ${bytes(size)} of data`}`;
    return h(`span${share > 0.55 ? ".is-hot" : ""}`, { title, style: { "--share": share.toFixed(2) } }, String(shard));
  };
  const [p99, unit] = milliseconds(each.rates?.answer_p99_ms);
  return h(`div.core${wrong ? ".is-bad" : ""}`, {},
    h("div.name", {}, h("span", {}, each.core === null ? each.name : `core ${each.core}`, h("span.muted.small", {}, each.core === null ? "" : ` ${each.name}`)),
      h(`span.small.${wrong ? "bad" : "muted"}`, {}, state, each.restarts ? `, restarted ${each.restarts}×` : "")),
    h("dl", {}, fact("CPU", each.cpu_percent === null || each.cpu_percent === undefined ? "–" : `${each.cpu_percent} %`), fact("calls/s", rate(each.rates?.calls_per_s ?? 0)), fact("p99", `${p99} ${unit}`),
      fact("memory", each.rss_mib ? `${count(each.rss_mib)} MiB` : "–"), fact("objects", count(each.activations ?? 0)), fact("queued", count(each.queued_calls ?? 0))),
    h("div.shards", {}, each.shards.map(tile)));
}

function otherProcesses(others) {
  const rows = others.map((each) => [
    each.name, each.silent_s ? h("span.bad", {}, `silent for ${Math.round(each.silent_s)} s`) : each.state ?? "ready",
    each.cpu_percent === null || each.cpu_percent === undefined ? "–" : `${each.cpu_percent} %`, each.rss_mib ? `${count(each.rss_mib)} MiB` : "–",
    each.rates?.calls_per_s === undefined ? "" : rate(each.rates.calls_per_s), each.pid ?? "–",
  ]);
  return h("div", { style: { "margin-top": "10px" } }, table([["Process"], ["State"], ["CPU", "number"], ["Memory", "number"], ["Calls/s", "number"], ["PID", "number.optional"]], rows));
}

function classTable({ rates, names }) {
  const all = [...new Set([...names, ...Object.keys(rates)])];
  const of = (name) => rates[name] ?? {};
  all.sort((a, b) => (of(b).calls_per_s ?? 0) - (of(a).calls_per_s ?? 0) || a.localeCompare(b));
  const rows = all.map((name) => [
    h("a.object", { href: `#/objects?class_name=${encodeURIComponent(name)}` }, name), rate(of(name).calls_per_s ?? 0), rate(of(name).errors_per_s ?? 0),
    milliseconds(of(name).answer_p50_ms).join(" "), milliseconds(of(name).answer_p99_ms).join(" "),
  ]);
  return panel("Classes", null, table([["Class"], ["Calls/s", "number"], ["Errors/s", "number"], ["p50", "number"], ["p99", "number"]], rows));
}
