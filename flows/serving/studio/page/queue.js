// The queue: what runs, what waits, what ended without a video.

import { element, get, post, repeat } from "./api.js";
import { shown, watch } from "./player.js";
import { current, duration, onLanguage, said, t } from "./words.js";

const list = document.getElementById("queue"), idle = document.getElementById("idle");
const hidden = new Set(stored());
const mine = new Set();  // jobs started on this page: the first to render is shown
let jobs = [];
let changed = () => {};

function stored() {
  try { return JSON.parse(sessionStorage.getItem("liveavatar.hidden") ?? "[]"); } catch { return []; }
}

export function follow(id) { mine.add(id); }

export function onEnd(listener) { changed = listener; }

function status(job) {
  if (["Cancelling", "Cancelled"].includes(job.label)) return said(job.label);
  if (job.state === "ended") return t("ended_as", { state: said(job.label), why: said(plain(job.message)) });
  const left = job.left_s === null ? "" : t("left", { time: duration(job.left_s) });
  if (job.state === "waiting") return [t("waits"), left].filter(Boolean).join(", ");
  const blocks = job.percent !== null && (job.stage === null || job.stage === "render");
  const done = blocks ? t("renders", { n: Math.round(job.percent) }) : t(`stage_${job.stage ?? "start"}`);
  return [done, left].filter(Boolean).join(", ");
}

// What Prefect writes around the line of a refusal says nothing to who reads it here.
const plain = (message) => message
  .replace(/^Process exited with status code: (-?\d+).*$/s, "the process of this run has ended (exit code $1)")
  .replace(/^Flow run encountered an exception:? (\w+: )?/, "")
  .replace(/^Validation of flow parameters failed.*? - parameters\.(\w+): (Value error, )?/s, "$1: ")
  .slice(0, 400);

function picture(job) {
  return job.image
    ? element("img", { src: `api/previews/${job.image}`, alt: "", loading: "lazy" })
    : element("span", { className: "blank" });
}

function facts(job) {
  const lines = [element("b", { textContent: job.name }), element("span", { className: "facts", textContent: status(job) })];
  if (job.memory) lines.push(element("span", { className: "facts", textContent: said(job.memory) }));
  for (const line of job.short) lines.push(element("span", { className: "facts short", textContent: said(line) }));
  if (job.state === "running") {
    const bar = element("progress", { max: 100 });
    if (job.percent !== null) bar.value = job.percent;
    lines.push(bar);
  }
  return lines;
}

function buttonsOf(job) {
  const buttons = element("div", { className: "do" });
  if (job.live && job.state === "running") {
    buttons.append(element("button", { type: "button", textContent: t("watch"), onclick: () => watch(job.live) }));
  }
  if (job.state === "ended") {
    if (job.can_go_on) {
      buttons.append(element("button", { type: "button", textContent: t("go_on"), onclick: (event) => goOn(job, event.target) }));
    }
    buttons.append(element("button", { type: "button", textContent: t("hide"), onclick: () => hide(job.id) }));
  } else if (job.label !== "Cancelling") {
    buttons.append(element("button", { type: "button", textContent: t("cancel"), onclick: (event) => cancel(job, event.target) }));
  }
  return buttons;
}

// Write a row anew, but leave its buttons alone while they stay the same: one of them may be under a finger.
function fill(line, job) {
  const told = JSON.stringify([job.state, job.label === "Cancelling", job.can_go_on, job.live, job.image, current()]);
  if (line.dataset.told !== told) line.replaceChildren(picture(job), element("div"), buttonsOf(job));
  Object.assign(line.dataset, { job: job.id, state: job.state, told });
  line.children[1].replaceChildren(...facts(job));
}

function hide(id) {
  hidden.add(id);
  try { sessionStorage.setItem("liveavatar.hidden", JSON.stringify([...hidden])); } catch { /* until it is loaded again */ }
  draw();
}

async function cancel(job, button) {
  await ask("api/cancel", job, button);
}

async function goOn(job, button) {
  if (await ask("api/go_on", job, button)) follow(job.id);
}

// Ask for a job; what is refused stands on the button, which can be pressed again.
async function ask(path, job, button) {
  button.disabled = true;
  try {
    await post(path, { id: job.id });
    return true;
  } catch (error) {
    button.disabled = false;
    button.textContent = said(error.message);
    return false;
  } finally {
    look();
  }
}

function draw() {
  const seen = jobs.filter((job) => !hidden.has(job.id));
  idle.hidden = seen.length > 0;
  idle.textContent = t("idle");
  const lines = new Map([...list.children].map((line) => [line.dataset.job, line]));
  const wanted = new Set(seen.map((job) => job.id));
  for (const [id, line] of lines) if (!wanted.has(id)) line.remove();
  seen.forEach((job, index) => {
    const line = lines.get(job.id) ?? element("li");
    fill(line, job);
    if (list.children[index] !== line) list.insertBefore(line, list.children[index] ?? null);
  });
}

async function look() {
  try {
    const before = new Set(jobs.filter((job) => job.state !== "ended").map((job) => job.id));
    jobs = await get("api/jobs");
    const going = new Set(jobs.filter((job) => job.state !== "ended").map((job) => job.id));
    if ([...before].some((id) => !going.has(id))) changed();
    draw();
    const next = jobs.find((job) => job.live && job.state === "running" && mine.has(job.id));
    if (next && shown !== next.live) {
      mine.delete(next.id);
      watch(next.live);
    }
  } catch (error) {
    idle.hidden = false;
    idle.textContent = said(error.message);
  }
}

onLanguage(draw);
export const run = () => repeat(1500, look);
export { look };
