// What the console is asked. The secret came in the fragment of the link, which no browser sends anywhere; it is kept for this tab.

const KEPT = "tidegate-secret";
const SECRET = /^[A-Za-z0-9_-]{32}$/; // Any other fragment is the name of a page, or a place in one.

export class Refused extends Error {
  constructor(status, error) {
    super(error.message || error.code);
    this.status = status;
    this.code = error.code;
  }
}

// Whether the address had one.
export function takeSecret() {
  const fragment = location.hash.slice(1);
  if (!SECRET.test(fragment)) return false;
  sessionStorage.setItem(KEPT, fragment);
  history.replaceState(null, "", "#/"); // So that nobody copies it with the address of a page.
  return true;
}

export const hasSecret = () => sessionStorage.getItem(KEPT) !== null;

async function request(path, options) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEPT) ?? ""}`, ...options.headers };
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  const answer = read(await response.text());
  if (answer === undefined) throw new Refused(response.status, { code: "unreadable", message: `The console has answered what cannot be read (HTTP ${response.status}).` });
  if (!response.ok) throw new Refused(response.status, answer.error ?? { code: "http", message: response.statusText });
  return answer;
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export function ask(name, query = {}, signal = undefined) {
  return request(`api/${name}?${new URLSearchParams(query)}`, { signal });
}

export function change(name, what) {
  return request(`api/${name}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(what) });
}
