// What an object has stored: its keys page by page, and an editor of a value.

import { ask, change } from "./api.js";
import { debounced, empty, h, live, panel, table } from "./dom.js";
import { failed, literal, openDialog, say } from "./parts.js";
import { bytes, visible } from "./words.js";

const PAGE = 100;
const TYPED_MS = 150;

// `changed` is called when something was.
export function storage(container, target, changed) {
  const leaving = new AbortController();
  let shown = [];
  let pages = 1; // As many as are shown. More than one stay as they were read.
  let isMore = false;
  let complaint = "";
  let newest = 0; // Number of the newest question: answers to those before come too late.
  let isAsking = false;
  const typed = debounced(TYPED_MS, () => load());
  const list = h("div");
  const filter = h("input", { type: "search", placeholder: "how the key begins", "aria-label": "How the key begins", autocomplete: "off", spellcheck: "false", oninput: typed });
  const add = h("button", { type: "button", onclick: () => edit(null) }, "New key");
  container.replaceChildren(panel("Stored", null, h("div.tools", { style: { padding: "6px 0 8px" } }, filter, add), list));

  // Again and again.
  const refresh = () => {
    if (pages === 1 && !isAsking && !document.getElementById("dialog").open) load();
  };
  const load = (count = 1) => read([], count);
  const goOn = () => read(shown, 1);

  // So many pages behind these rows. If it fails, what is shown stays.
  async function read(rows, count) {
    const number = (newest += 1);
    const before = rows.length ? pages : 0;
    isAsking = true;
    try {
      let told = null;
      let done = 0;
      do {
        told = await ask("rows", { ...target, prefix: filter.value, after: rows.at(-1)?.key ?? "", limit: PAGE }, leaving.signal);
        if (number !== newest) return;
        rows = [...rows, ...told.rows];
        done += 1;
      } while (done < count && told.more);
      [shown, pages, isMore, complaint] = [rows, before + done, told.more, ""];
    } catch (error) {
      if (number !== newest || leaving.signal.aborted) return;
      complaint = error.message;
    } finally {
      if (number === newest) isAsking = false;
    }
    draw();
  }

  function draw() {
    const none = filter.value ? `No key begins with “${filter.value}”.` : "It has no keys.";
    const rows = () => shown.map((row) => [
      h("button.is-plain", { type: "button", onclick: () => edit(row), title: "open", "data-at": row.key }, literal(row.key)),
      row.text === null ? h("span.muted", {}, "large; open it to see it") : visible(row.text), bytes(row.bytes),
    ]);
    live(list, [shown, isMore, none, complaint], () => [
      shown.length ? table([["Key", "key"], ["Value", "text"], ["Size", "number.tight"]], rows()) : complaint ? "" : empty(none),
      complaint ? failed({ message: complaint }) : "",
      isMore ? h("p", {}, h("button", { type: "button", onclick: goOn, "data-at": "more" }, "Show more")) : "",
    ]);
  }

  function edited() {
    load(pages);
    changed();
  }

  async function edit(row) {
    let digest = "";
    let text = "";
    if (row !== null) {
      try {
        ({ text, digest } = await ask("value", { ...target, key: row.key }, leaving.signal));
      } catch (error) {
        if (!leaving.signal.aborted) say(error.message);
        return;
      }
    }
    const key = h("input.mono", { "aria-label": "Key", placeholder: "key", required: true, value: row?.key ?? "", hidden: row !== null });
    const area = h("textarea", { "aria-label": "Value as JSON", spellcheck: "false", value: text });
    const alert = h("div", { role: "alert" });
    const save = h("button.is-main", { type: "submit" }, "Save");
    const drop = row && h("button.is-risky.first", { type: "button", onclick: () => attempt("delete", {}) }, "Delete key");
    const note = row === null ? "Saved only if there is no such key." : "Saved only if nobody has changed it since. The object's code does not run, and does not hear of it: evict it if it keeps the value in memory.";
    const close = openDialog(h("form", { onsubmit: (event) => (event.preventDefault(), attempt("put", { text: area.value })) },
      h("h2.mono", {}, row ? literal(row.key) : "New key"), key, area, h("p.muted.small", {}, note), alert,
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
        edited();
      } catch (error) {
        const isConflict = error.status === 409;
        const said = isConflict ? { message: "Somebody has changed it since it was read; nothing was changed now." } : error;
        const anew = isConflict && h("p", {}, h("button", { type: "button", onclick: () => showNow(asked.key) }, "Show what it is now"));
        alert.replaceChildren(failed(said), anew || "");
        save.disabled = false;
      }
    }

    // Beside what was typed, which stays; saved is it then if the value still is what is shown here.
    async function showNow(named) {
      try {
        const told = await ask("value", { ...target, key: named }, leaving.signal);
        digest = told.digest;
        alert.replaceChildren(h("p.small", {}, "It is now as below. Save puts what you have typed in its place."), h("pre.now", {}, told.text));
      } catch (error) {
        if (error.status === 404) digest = "";
        alert.replaceChildren(failed(error.status === 404 ? { message: "It is gone by now. Save makes it anew." } : error));
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
    edited();
  }

  return {
    refresh,
    close() {
      typed.cancel();
      leaving.abort();
    },
  };
}
