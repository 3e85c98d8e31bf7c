// What several pages show: names of objects, slow calls, errors, dialogs.

import { h, table, empty } from "./dom.js";
import { at, ago, objectLink, seconds, visible } from "./words.js";

// A name or a key, as it is: with all of its spaces, and whichever way it runs it turns nothing beside it.
export function literal(text) {
  return h("span.literal", {}, visible(text));
}

export function objectName(class_name, name) {
  if (!name) return h("span.object", {}, h("span.class", {}, class_name));
  return h("a.object", { href: objectLink(class_name, name) }, h("span.class", {}, `${class_name}/`), literal(name));
}

const PARTS = ["queue", "gate", "run", "commit"];
const MEANING = {
  queue: "queue: until it was started",
  gate: "gate: behind the input gate of its object",
  run: "run: its code, and all that it awaited",
  commit: "commit: until what it wrote was durable",
};

export function legend() {
  return h("div.legend.end", {}, PARTS.map((part) => h("span", { title: MEANING[part] }, h(`i.${part}`), part)));
}

export function slowCalls(calls, now_ms) {
  const cell = (each) => {
    const shown = PARTS.filter((part) => each[`${part}_s`] > 0);
    const told = shown.map((part) => `${part} ${seconds(each[`${part}_s`])}`).join(", ");
    const bars = shown.map((part) => h(`i.${part}`, { style: { width: `${(100 * each[`${part}_s`]) / each.took_s}%` } }));
    return [
      objectName(each.class, each.name),
      h("span.muted", {}, each.name && each.method ? `.${each.method}` : ` ${each.method}`),
      h("div.parts", { role: "img", "aria-label": told }, bars),
      h("div.partly", {}, told),
    ];
  };
  const rows = calls.map((each) => [cell(each), h("b", {}, seconds(each.took_s)), h("span.muted", { title: at(each.time_ms, now_ms) }, ago(each.time_ms, now_ms))]);
  return table([["Call"], ["Took", "number.tight"], ["When", "number.tight"]], rows);
}

// The same error of the same object is shown once, with how often it is among those that were kept.
export function errors(found, now_ms, most = found.length) {
  const kinds = new Map();
  for (const each of found) {
    const kind = JSON.stringify([each.class, each.name, each.code, each.what]);
    if (kinds.has(kind)) kinds.get(kind).times += 1;
    else kinds.set(kind, { ...each, times: 1 });
  }
  const rows = [...kinds.values()].slice(0, most).map((each) => [
    h("span.muted", { title: ago(each.time_ms, now_ms) }, at(each.time_ms, now_ms)),
    [
      objectName(each.class, each.name), each.code ? h("span.muted", {}, `.${each.code}`) : null,
      each.times > 1 ? h("span.muted.small", {}, ` ${each.times} times`) : null, h("div.small.mono", {}, each.what),
    ],
  ]);
  return table([["When", "tight"], ["Object, and what went wrong"]], rows);
}

export function missing(told) {
  return (told.missing ?? []).map((each) => h("p.complaint", {}, each));
}

export function failed(error) {
  return h("p.complaint", {}, error.message);
}

const dialog = document.getElementById("dialog");
const toast = document.getElementById("toast");
let toastTimer = 0;

// There is one dialog: what is returned closes it, unless it has another content by then.
export function openDialog(content) {
  dialog.replaceChildren(content);
  if (!dialog.open) dialog.showModal();
  return () => content.isConnected && dialog.close();
}

// Asks before something is done that cannot be taken back. `run` may reject: then the dialog says why.
export function confirm(title, text, doIt, run, risky = true) {
  const complaint = h("div", { role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await run();
      close();
    } catch (error) {
      complaint.replaceChildren(failed(error));
      button.disabled = false;
    }
  };
  const button = h(`button${risky ? ".is-risky" : ".is-main"}`, { type: "submit" }, doIt);
  const cancel = h("button", { type: "button", onclick: () => close() }, "Cancel");
  const close = openDialog(h("form", { onsubmit: submit }, h("h2", {}, title), h("p.muted", {}, text), complaint, h("div.tools", {}, cancel, button)));
}

export function say(text, action = "", run = null) {
  clearTimeout(toastTimer);
  const button = run && h("button", { type: "button", onclick: () => (toast.replaceChildren(), run()) }, action);
  toast.replaceChildren(h("div", {}, h("span", {}, text), button || ""));
  toastTimer = setTimeout(() => toast.replaceChildren(), run ? 12_000 : 5_000);
}

export { empty };
