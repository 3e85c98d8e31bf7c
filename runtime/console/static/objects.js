// Objects by name: a class, the beginning of a name, and pages of what there is.

import { ask } from "./api.js";
import { debounced, empty, h, panel, table } from "./dom.js";
import { failed, missing, objectName } from "./parts.js";
import { count } from "./words.js";

const PAGE = 50;
const TYPED_MS = 120;

export function show(root, _, query) {
  let found = [];
  let lacking = []; // Of all pages that are shown.
  let asking = null;
  const typed = debounced(TYPED_MS, () => search());
  const select = h("select", { "aria-label": "Class", onchange: () => search() }, h("option", { value: "" }, "all classes"));
  const input = h("input", { type: "search", placeholder: "how the name begins", "aria-label": "How the name begins", autocomplete: "off", spellcheck: "false", value: query.get("prefix") ?? "", oninput: typed });
  const list = h("div", { id: "objects" });
  root.replaceChildren(h("h1", {}, "Objects"), h("div.tools", {}, select, input), list);
  input.focus();
  fillClasses();
  search();

  async function fillClasses() {
    const wanted = query.get("class_name") ?? "";
    if (wanted) addClass(wanted, "");
    try {
      const { classes } = await ask("classes");
      select.replaceChildren(select.firstElementChild);
      for (const [name, each] of Object.entries(classes)) addClass(name, ` (${count(each.objects)}${each.in_app ? "" : ", not in the app"})`);
      if (wanted && !(wanted in classes)) addClass(wanted, "");
      select.value = wanted;
    } catch {
      // The list says why, or the banner.
    }
    function addClass(name, of) {
      select.append(h("option", { value: name }, name + of));
      if (name === wanted) select.value = name;
    }
  }

  async function search(more = false) {
    const class_name = select.value || (select.options.length <= 1 ? query.get("class_name") ?? "" : "");
    const asked = { class_name, prefix: input.value, limit: PAGE };
    const last = found.at(-1);
    if (more && last) asked.after = `${last.class}/${last.name}`;
    else {
      query.set("class_name", class_name);
      history.replaceState(null, "", `#/objects?${new URLSearchParams({ class_name, prefix: input.value })}`);
    }
    asking?.abort();
    asking = new AbortController();
    try {
      const told = await ask("objects", asked, asking.signal);
      found = more ? [...found, ...told.objects] : told.objects;
      lacking = [...new Set([...(more ? lacking : []), ...told.missing])];
      list.replaceChildren(shown(told, class_name));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!more) list.replaceChildren(failed(error));
      else list.lastElementChild.append(failed(error));
    }
  }

  function shown(told, class_name) {
    const head = h("span.muted.small.end", { id: "found" }, `${count(found.length)}${told.more ? " and more" : ""}`);
    if (!found.length) {
      const what = input.value ? [`No object whose name begins with “${input.value}”`, class_name ? "." : "; without a class, begin with it: Class/name."] : ["There are no objects yet."];
      return panel("Found", null, missing({ missing: lacking }), empty(what));
    }
    const rows = found.map((each) => [objectName(each.class, each.name), each.in_memory ? "in memory" : h("span.muted", {}, "on disk")]);
    const button = told.more ? h("p", {}, h("button", { type: "button", onclick: () => search(true) }, "Show more")) : null;
    return panel("Found", head, missing({ missing: lacking }), table([["Object"], ["Where", "tight"]], rows), button);
  }

  return {
    close() {
      typed.cancel();
      asking?.abort();
    },
  };
}
