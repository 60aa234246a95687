// Words of the page in the reader's language; messages of the server are translated where a pattern knows them.

const table = await (await fetch("page/words.json")).json();
const KEY = "liveavatar.language";
const listeners = [];
export const languages = Object.keys(table.names);
let language = pick();

function pick() {
  const wanted = [stored(), ...navigator.languages, "en"].filter(Boolean);
  for (const tag of wanted) {
    const found = languages.find((name) => tag.toLowerCase().startsWith(name));
    if (found) return found;
  }
  return "en";
}

function stored() {
  try { return localStorage.getItem(KEY); } catch { return null; }
}

export function nameOf(name) { return table.names[name]; }

export function current() { return language; }

export function setLanguage(name) {
  language = name;
  try { localStorage.setItem(KEY, name); } catch { /* a private window forgets it */ }
  apply();
}

// The text of a key; {name} in it is replaced by a value.
export function t(key, values = {}) {
  const text = table[language][key] ?? table.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

// A message of the server in the reader's language.
export function said(text) {
  for (const [pattern, words] of table.said[language] ?? []) {
    const found = new RegExp(`^${pattern}$`, "s").exec(text);
    if (found) return words.replace(/\$(\d)/g, (_, n) => found[n] ?? "");
  }
  return text;
}

export function onLanguage(listener) { listeners.push(listener); }

export function apply() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : language;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-placeholder]")) element.placeholder = t(element.dataset.tPlaceholder);
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const listener of listeners) listener();
}

export function duration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return t("seconds", { n: whole });
  if (whole < 3600) return t("minutes", { n: Math.floor(whole / 60), s: whole % 60 });
  const minutes = Math.round(whole / 60);
  return t("hours", { n: Math.floor(minutes / 60), m: minutes % 60 });
}
