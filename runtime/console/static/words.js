// Numbers, times and names as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const dayAndYear = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

export const count = (number) => whole.format(number);
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
export const rate = (number) => (number > 0 && number < 10 ? one : whole).format(number);

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return ["–", ""];
  if (ms >= 10_000) return [one.format(ms / 1_000), "s"];
  return [ms >= 100 ? whole.format(ms) : String(Number(ms.toPrecision(2))), "ms"];
}

export function seconds(s) {
  if (s < 0.0005) return "0";
  if (s < 1) return `${whole.format(s * 1_000)} ms`;
  return s < 120 ? `${s.toFixed(s < 10 ? 2 : 1)} s` : span(s * 1_000);
}

export function bytes(size) {
  if (size < 1_024) return `${size} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let at = -1;
  do {
    size /= 1_024;
    at += 1;
  } while (size >= 1_024 && at < units.length - 1);
  return `${one.format(size)} ${units[at]}`;
}

export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1_000));
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${Math.floor((s % 3_600) / 60)} min`;
  return plural(Math.floor(s / 86_400), "day");
}

export function ago(ms, now_ms) {
  return now_ms - ms < 2_000 ? "now" : `${span(now_ms - ms)} ago`;
}

// The time of today, or with its day. `now_ms`: the server's, as everywhere.
export function at(ms, now_ms) {
  const time = new Date(ms);
  const text = clock.format(time);
  if (time.toDateString() === new Date(now_ms).toDateString()) return text;
  return `${(time.getFullYear() === new Date(now_ms).getFullYear() ? day : dayAndYear).format(time)} ${text}`;
}

// What a name holds, with what nobody would see, or what would turn a text round, spelled out.
export function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (each) => `\\u{${each.codePointAt(0).toString(16)}}`);
}

export function objectLink(class_name, name) {
  return `#/object/${encodeURIComponent(class_name)}/${encodeURIComponent(name)}`;
}
