// What the console is asked. The secret came in the fragment of the link, which no browser sends anywhere; it is kept for this tab.

const KEPT = "tidegate-secret";

export class Refused extends Error {
  constructor(status, error) {
    super(error.message || error.code);
    this.status = status;
    this.code = error.code;
  }
}

export function takeSecret() {
  const fragment = location.hash.slice(1);
  if (fragment && !fragment.startsWith("/")) {
    sessionStorage.setItem(KEPT, fragment);
    history.replaceState(null, "", "#/"); // So that nobody copies it with the address of a page.
  }
}

export const hasSecret = () => sessionStorage.getItem(KEPT) !== null;

async function request(path, options) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEPT) ?? ""}`, ...options.headers };
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  const answer = await response.json();
  if (!response.ok) throw new Refused(response.status, answer.error ?? { code: "http", message: response.statusText });
  return answer;
}

export function ask(name, query = {}, signal = undefined) {
  return request(`api/${name}?${new URLSearchParams(query)}`, { signal });
}

export function change(name, what) {
  return request(`api/${name}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(what) });
}
