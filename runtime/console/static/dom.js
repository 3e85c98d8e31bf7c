// How a page is made: of nodes, never of markup. What a service tells is text, whatever is in it.

const SVG = "http://www.w3.org/2000/svg";

// A node: `h("a.object", { href }, "text", node, null)`. A key that begins with "on" is a listener, "style" custom or plain properties.
export function h(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const node = tag === "svg" || tag === "path" ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [property, set] of Object.entries(value)) node.style.setProperty(property, set);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// What `render(data)` returns becomes the content, but only when the data have changed; who has the focus keeps it.
export function live(container, data, render) {
  const said = JSON.stringify(data);
  if (container.said === said) return;
  container.said = said;
  const focused = container.contains(document.activeElement) ? document.activeElement.dataset.at ?? document.activeElement.getAttribute("href") : null;
  container.replaceChildren(...[render(data)].flat(Infinity).filter(Boolean));
  if (focused) [...container.querySelectorAll("[data-at], [href]")].find((each) => (each.dataset.at ?? each.getAttribute("href")) === focused)?.focus();
}

export function panel(title, head, ...body) {
  return h("section.panel", { "aria-label": title }, h("div.head", {}, h("h2", {}, title), head), h("div.body", {}, body));
}

// `columns`: [name, class]; `rows`: lists of cells, each a node, a text, or [class, content].
export function table(columns, rows) {
  const cell = (tag, kind, content) => h(kind ? `${tag}.${kind}` : tag, tag === "th" ? { scope: "col" } : {}, content);
  const head = h("tr", {}, columns.map(([name, kind]) => cell("th", kind, name)));
  const body = rows.map((row) => h("tr", {}, row.map((content, at) => cell("td", columns[at][1], content))));
  return h("div.scroll", {}, h("table", {}, h("thead", {}, head), h("tbody", {}, body)));
}

export function empty(...text) {
  return h("p.empty", {}, text);
}

export function debounced(wait_ms, run) {
  let timer = 0;
  const later = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), wait_ms);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}
