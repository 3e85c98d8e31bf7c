// The frame: which page is shown, what the service says once a second, and what is said while nobody answers.

import { ask, hasSecret, Refused, takeSecret } from "./api.js";
import { h, live } from "./dom.js";
import { empty } from "./parts.js";
import { at, plural, span } from "./words.js";
import * as overview from "./overview.js";
import * as objects from "./objects.js";
import * as object from "./object.js";
import { showAlarms, showBackups, showErrors, showQuarantine } from "./lists.js";

const EVERY_MS = 1_000;
const POINTS_MAX = 300;
const PAGES = [
  ["", "Overview", overview.show],
  ["objects", "Objects", objects.show],
  ["errors", "Errors", showErrors],
  ["alarms", "Alarms", showAlarms],
  ["quarantine", "Quarantine", showQuarantine],
  ["backups", "Backups", showBackups],
];
const main = document.getElementById("main");
const banner = document.getElementById("banner");
let page = null;
let seen = null;
let points = [];
let failures = 0;

function route() {
  const [[name, ...given], query] = place();
  page?.close?.();
  document.getElementById("dialog").close();
  const show = name === "object" ? object.show : (PAGES.find(([each]) => each === name) ?? PAGES[0])[2];
  const current = name === "object" ? "objects" : name;
  live(document.getElementById("nav"), [current, counts()], () => links(current));
  page = show(main, given, new URLSearchParams(query ?? ""));
  scrollTo(0, 0);
  if (seen) page.update?.(seen);
}

// Where the address leads: names, and a query. One that cannot be read leads to the overview.
function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  try {
    const names = path.split("/").map(decodeURIComponent);
    if (names[0] !== "object" || names.length > 2) return [names, query];
  } catch {
    // Broken escapes.
  }
  return [[""], ""];
}

function counts() {
  if (!seen) return {};
  const abandoned = seen.status.processes.reduce((sum, each) => sum + (each.statistics?.alarms_abandoned ?? 0), 0);
  return { "": seen.status.problems.length, alarms: abandoned, quarantine: seen.status.quarantined_objects.length };
}

function links(current) {
  const many = counts();
  return PAGES.map(([name, title]) => h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, title, many[name] ? h("span.count", {}, String(many[name])) : null));
}

function frame() {
  const { status, lost, now_ms } = seen;
  const wrong = status.problems.length;
  const state = lost ? "no answer" : wrong ? plural(wrong, "problem") : status.state;
  live(document.getElementById("service"), [status.app, status.listen, status.version], () => [h("span", { title: `${status.app}, data in ${status.data}` }, `${status.app.split("/").at(-1)} on ${status.listen}, Tidegate ${status.version}`)]);
  live(document.getElementById("state"), [state, Math.floor(now_ms / 60_000)], () => [lost || wrong ? state : `${state} for ${span(now_ms - status.started_at_ms)}`]);
  const pill = document.getElementById("state");
  pill.hidden = false;
  pill.className = `pill${lost || wrong ? " is-bad" : status.state === "serving" ? "" : " is-warn"}`;
  document.title = `${lost ? "No answer" : wrong ? plural(wrong, "problem") : "Tidegate"} – ${status.app.split("/").at(-1)}`;
  const [[name]] = place();
  const current = name === "object" ? "objects" : name;
  live(document.getElementById("nav"), [current, counts()], () => links(current));
}

function sayBanner(said) {
  live(banner, said, () => said && h(`div${said.calm ? ".calm" : ""}`, {}, h("strong", {}, said.title), ` ${said.text}`));
}

async function look() {
  try {
    const told = await ask("overview", { after: points.at(-1)?.[0] ?? 0 });
    failures = 0;
    heard(told);
  } catch (error) {
    if (error.status === 401) return locked();
    failures += 1;
    if (error instanceof Refused) sayBanner({ title: "The console cannot answer.", text: error.message });
    else if (failures > 1) sayBanner({ title: "The console does not answer.", text: "It has ended, or the connection is lost; it is tried again every second. If it was started anew, open the link that it has printed then." });
  }
  setTimeout(look, document.hidden ? 5 * EVERY_MS : EVERY_MS);
}

function heard(told) {
  points = [...points, ...told.points].slice(-POINTS_MAX); // Their times are of a clock that nobody sets.
  seen = { ...told, points };
  const { lost, status, heard_ms, now_ms } = seen;
  if (lost) sayBanner({ title: "The service does not answer.", text: `${lost.why}. What you see was heard at ${at(heard_ms, now_ms)}; it goes on as soon as there is an answer.` });
  else if (status.state === "stopping") sayBanner({ title: "The service is stopping.", text: "It answers what it has begun, and takes nothing new.", calm: true });
  else sayBanner(null);
  frame();
  page.update?.(seen);
}

function locked() {
  page?.close?.();
  page = null;
  sayBanner(null);
  main.replaceChildren(h("section.panel", {}, h("div.head", {}, h("h2", {}, "Open the link of this console")), h("div.body", {},
    empty("This page shows nothing without the secret in the link that ", h("code", {}, "tidegate console"), " has printed. Each start has a new one, and each tab needs the link once."))));
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // Its fragment is a place in the page, and those of this console are pages.
  main.focus();
});
takeSecret();
addEventListener("hashchange", () => {
  if (takeSecret()) location.reload(); // Another console: nothing of the one before is left.
  else if (page !== null) route();
});
if (hasSecret()) {
  route();
  look();
} else locked();
