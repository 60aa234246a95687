// Finished videos, and two of them side by side in step.

import { element, get, post, repeat } from "./api.js";
import { play } from "./player.js";
import { follow, look as lookAtQueue } from "./queue.js";
import { current, duration, onLanguage, said, t } from "./words.js";

const list = document.getElementById("results"), none = document.getElementById("no-results");
const pair = Object.fromEntries(["compare", "video-a", "video-b", "name-a", "name-b", "pair-play", "pair-at",
  "pair-time", "pair-sound", "pair-close"].map((id) => [id, document.getElementById(id)]));
const a = pair["video-a"], b = pair["video-b"];
const FAR = 0.2, NEAR = 0.02;  // seconds apart: beyond the first one jumps, beyond the second it catches up
let runs = [], told = "", chosen = [];

const label = (run) => `${run.name}${run.seed === null ? "" : `, ${t("seed_is", { n: run.seed })}`}`;

function card(run) {
  const still = element("button", { type: "button", className: "still" });
  still.setAttribute("aria-label", `${t("play")}: ${label(run)}`);
  still.append(element("img", { src: run.picture, alt: "", loading: "lazy" }));
  still.onclick = () => show(run);
  const facts = [new Date(1000 * run.finished).toLocaleString(current() === "zh" ? "zh-CN" : "en")];
  if (run.seconds) facts.push(duration(run.seconds));
  if (run.seed !== null) facts.push(t("seed_is", { n: run.seed }));
  const about = element("div", { className: "about" },
    element("b", { textContent: run.name }),
    element("span", {}, element("span", { className: `pill ${run.status}`, textContent: t(run.status) })),
    element("span", { className: "facts", textContent: facts.join(" · ") }),
    element("span", { className: "facts prompt", textContent: run.prompt ?? "", title: run.prompt ?? "" }),
    buttons(run));
  const item = element("li", {}, still, about);
  item.dataset.run = run.id;
  return item;
}

function buttons(run) {
  const again = element("button", { type: "button", textContent: t("again"), onclick: () => repeatRun(run, again) });
  const compare = element("button", { type: "button", textContent: t("ab"), onclick: () => choose(run.id) });
  compare.setAttribute("aria-pressed", chosen.includes(run.id));
  const file = `${run.name.replace(/[^\p{L}\p{N}.-]+/gu, "-")}-${run.seed ?? ""}.mp4`;
  return element("div", { className: "do" },
    element("a", { className: "button", href: run.report, target: "_blank", rel: "noopener", textContent: t("report") }),
    element("a", { className: "button", href: run.video, download: file, textContent: t("download") }),
    again, compare);
}

function show(run) {
  play(run.video, label(run));
  document.getElementById("video").scrollIntoView({ block: "center", behavior: "smooth" });
}

async function repeatRun(run, button) {
  button.disabled = true;
  try {
    follow((await post("api/again", { run: run.id })).id);
    button.textContent = t("queued");
    lookAtQueue();
  } catch (error) {
    button.textContent = said(error.message);
  }
}

function choose(id) {
  chosen = chosen.includes(id) ? chosen.filter((other) => other !== id) : [...chosen, id].slice(-2);
  press();
  const both = chosen.map((id) => runs.find((run) => run.id === id));
  pair.compare.hidden = both.length < 2;
  if (both.length < 2) { a.pause(); b.pause(); return; }
  for (const [video, run, name] of [[a, both[0], "name-a"], [b, both[1], "name-b"]]) {
    if (video.getAttribute("src") !== run.video) video.src = run.video;
    pair[name].textContent = `${name === "name-a" ? "A" : "B"}: ${label(run)} (${t(run.status)})`;
  }
  pair.compare.scrollIntoView({ block: "center", behavior: "smooth" });
}

// Keep B at A's time: a small lead or lag is caught up by a little more or less speed, which nobody hears in a mute one.
function step() {
  const apart = b.currentTime - a.currentTime, end = length();
  if (!a.paused && !b.paused) {
    if (Math.abs(apart) > FAR) b.currentTime = a.currentTime;
    b.playbackRate = Math.abs(apart) > NEAR ? 1 - Math.max(-0.25, Math.min(0.25, 2 * apart)) : 1;
    if (a.currentTime >= end - 0.04) stop();
  }
  if (document.activeElement !== pair["pair-at"] || !a.paused) pair["pair-at"].value = a.currentTime;
  pair["pair-at"].max = end || 1;
  pair["pair-time"].textContent = `${a.currentTime.toFixed(2)} / ${end.toFixed(2)} s`;
  pair.compare.dataset.apart = apart.toFixed(3);
  if (!pair.compare.hidden) requestAnimationFrame(step);
}

const length = () => Math.min(a.duration || 0, b.duration || 0);

function stop() {
  a.pause();
  b.pause();
  pair["pair-play"].textContent = t("play");
}

async function start() {
  if (a.currentTime >= length() - 0.1) a.currentTime = 0;
  b.currentTime = a.currentTime;
  pair["pair-play"].textContent = t("pause");
  await Promise.all([a.play(), b.play()]).catch(stop);
}

pair["pair-play"].onclick = () => (a.paused ? start() : stop());
pair["pair-at"].oninput = () => {
  stop();
  a.currentTime = b.currentTime = Number(pair["pair-at"].value);
};
pair["pair-sound"].onclick = () => {
  [a.muted, b.muted] = [b.muted, a.muted];
  pair["pair-sound"].textContent = t(a.muted ? "sound_b" : "sound_a");
};
pair["pair-close"].onclick = () => { chosen = []; stop(); pair.compare.hidden = true; press(); };
new MutationObserver(() => { if (!pair.compare.hidden) requestAnimationFrame(step); })
  .observe(pair.compare, { attributeFilter: ["hidden"] });

// Say which results are compared; the buttons stay where the keyboard is.
function press() {
  for (const item of list.children) {
    item.querySelector("[aria-pressed]").setAttribute("aria-pressed", chosen.includes(item.dataset.run));
  }
}

function draw() {
  none.hidden = runs.length > 0;
  list.replaceChildren(...runs.map(card));
}

export async function look() {
  try {
    const found = await get("published.json"), text = JSON.stringify(found);
    if (text === told) return;
    [runs, told] = [found, text];
    chosen = chosen.filter((id) => runs.some((run) => run.id === id));
    draw();
  } catch { /* the next look tells */ }
}

onLanguage(draw);
export const run = () => repeat(6000, look);
