// The form: a sound, a picture and a prompt, each checked at once; then the start.

import { element, get, post, upload } from "./api.js";
import { follow, look as lookAtQueue } from "./queue.js";
import { duration, onLanguage, said, t } from "./words.js";

const by = (id) => document.getElementById(id);
const TYPING = 300;  // milliseconds of rest after which the prompt is scored
const FACETS = ["person", "action", "lighting", "style", "camera", "setting", "mood"];
const LONGEST = 180;  // seconds of a recording
const VERDICTS = { "will speak": "will", "may not speak": "may", "will not speak": "never" };
const chosen = { audio: null, image: null, judged: null, prompt: null };
const sent = { audio: 0, image: 0 };  // files of a kind so far: the last one counts, whichever comes first
let options = { models: ["mini"], presets: [], preset: "quality" };

function ready() {
  const waits = by("start").dataset.busy === "1";
  by("start").disabled = waits || !(chosen.audio && chosen.image && by("prompt").value.trim());
}

async function send(kind, file, name, status, onStored) {
  const limit = options.most_bytes?.[kind] ?? Infinity, mine = ++sent[kind];
  chosen[kind] = null;
  ready();
  if (file.size > limit) { status.textContent = t("too_large", { n: Math.round(limit / 1e6) }); return; }
  status.textContent = t("sends", { n: 0 });
  try {
    const stored = await upload(kind, file, name, (share) => {
      if (mine === sent[kind]) status.textContent = share < 1 ? t("sends", { n: Math.round(100 * share) }) : t("checks");
    });
    if (mine !== sent[kind]) return;
    chosen[kind] = stored;
    onStored(stored);
  } catch (error) {
    if (mine === sent[kind]) status.textContent = said(error.message);
  }
  ready();
}

async function takeSound(file, name = file.name) {
  URL.revokeObjectURL(by("sound-play").src);
  by("sound-play").src = URL.createObjectURL(file);
  by("sound-play").hidden = false;
  await send("audio", file, name, by("sound-state"), drawSound);
  by("sound-play").hidden = chosen.audio === null;  // what was refused need not be a sound
}

function drawSound() {
  if (!chosen.audio) return;
  by("sound-state").textContent = `${chosen.audio.name}, ${duration(chosen.audio.seconds)}`;
}

async function takePicture(file) {
  by("framing").hidden = true;
  await send("image", file, file.name, by("picture-state"), (stored) => {
    by("picture-state").textContent = `${stored.name}, ${stored.width} × ${stored.height}`;
    by("preview").src = `api/previews/${stored.id}`;
    by("framing").hidden = false;
    judge(1);
  });
}

async function judge(face) {
  const asked = chosen.image;
  if (!asked) return;
  chosen.judged = null;
  by("frame").hidden = true;
  by("verdict").className = "pill";
  by("verdict").textContent = t("checks");
  by("reasons").replaceChildren();
  try {
    const judged = await post("api/portrait", { image: asked.id, model: by("model").value, face });
    if (asked !== chosen.image) return;
    chosen.judged = judged;
    faces(judged.faces ?? 0, face);
    drawPicture();
  } catch (error) {
    by("verdict").textContent = said(error.message);
  }
}

function faces(count, face) {
  by("face-row").hidden = count < 2;
  by("face").replaceChildren(...Array.from({ length: count }, (_, index) =>
    element("option", { value: index + 1, textContent: index + 1, selected: index + 1 === face })));
}

function drawPicture() {
  const judged = chosen.judged;
  if (!judged) return;
  by("verdict").textContent = judged.verdict === null ? t("any_picture") : t(VERDICTS[judged.verdict]);
  by("verdict").className = `pill ${VERDICTS[judged.verdict] ?? ""}`;
  const lines = [...judged.reasons, ...judged.remarks].map((text) => element("li", { textContent: said(text) }));
  by("reasons").replaceChildren(...lines);
  by("video-size").textContent = t(judged.frame ? "video_size" : "video_size_alone", { w: judged.video[0], h: judged.video[1] });
  by("frame").hidden = judged.frame === null;
  if (judged.frame) {
    const [left, top, right, bottom] = judged.frame.map((share) => Math.max(0, Math.min(1, share)));
    const percent = { left, top, width: right - left, height: bottom - top };
    for (const [side, share] of Object.entries(percent)) by("frame").style[side] = `${100 * share}%`;
  }
}

let typing = 0, asking = null;
function typed() {
  ready();
  clearTimeout(typing);
  typing = setTimeout(score, TYPING);
}

async function score() {
  asking?.abort();
  asking = new AbortController();
  try {
    chosen.prompt = await post("api/prompt", { prompt: by("prompt").value, model: by("model").value }, asking.signal);
    drawPrompt();
  } catch (error) {
    if (error.name !== "AbortError") by("grade").textContent = said(error.message);
  }
}

function drawPrompt() {
  const report = chosen.prompt;
  if (!report) return;
  by("score").value = report.score;
  by("grade").textContent = t(`grade_${report.grade}`);
  const found = report.facets ?? {};
  by("facets").replaceChildren(...FACETS.map((facet) => element("span", {
    className: found[facet]?.length && !report.missing.includes(facet) ? "has" : "",
    textContent: t(`facet_${facet}`), title: (found[facet] ?? []).join(", "),
  })));
  const lines = report.grade === "empty" ? [] : [...report.problems, ...report.suggestions];
  by("missing").replaceChildren(...lines.map((text) => element("li", { textContent: said(text) })));
  by("rewrite").hidden = !report.rewrite;
  by("rewrite").firstElementChild.textContent = report.rewrite ?? "";
  by("heard").textContent = report.heard?.line ? said(report.heard.line) : "";
}

function drawChoices() {
  const preset = document.querySelector("[name=preset]:checked")?.value ?? options.preset;
  by("presets").replaceChildren(...options.presets.map((name) => element("label", {},
    element("input", { type: "radio", name: "preset", value: name, checked: name === preset }),
    ` ${t(`preset_${name}`)}`, element("small", { textContent: t(`preset_${name}_is`) }))));
  const model = by("model").value || options.models[0];
  by("model").replaceChildren(...options.models.map((name) =>
    element("option", { value: name, textContent: name, selected: name === model })));
}

async function start(event) {
  event.preventDefault();
  const seed = by("seed").value.trim();
  if (seed && !(/^\d+$/.test(seed) && Number.isSafeInteger(Number(seed)))) {
    by("start-state").textContent = t("seed_wrong");
    by("seed").closest("details").open = true;
    by("seed").focus();
    return;
  }
  by("start").dataset.busy = "1";
  ready();
  try {
    const { id } = await post("api/jobs", {
      audio: chosen.audio.id, image: chosen.image.id, prompt: by("prompt").value, model: by("model").value,
      preset: document.querySelector("[name=preset]:checked")?.value, watch: by("watch").checked,
      seed: seed ? Number(seed) : null, face: Number(by("face").value || 1),
    });
    follow(id);
    by("start-state").textContent = t("queued");
    lookAtQueue();
  } catch (error) {
    by("start-state").textContent = said(error.message);
  }
  by("start").dataset.busy = "";
  ready();
}

function dropsInto(zone, take) {
  const over = (event, on) => { event.preventDefault(); zone.classList.toggle("over", on); };
  zone.addEventListener("dragover", (event) => over(event, true));
  zone.addEventListener("dragleave", (event) => over(event, false));
  zone.addEventListener("drop", (event) => {
    over(event, false);
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}

let recorder = null;
async function record() {
  if (recorder) { recorder.stop(); return; }
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
    by("sound-state").textContent = t("no_recorder");
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [], begun = performance.now();
    recorder = new MediaRecorder(stream);
    const clock = setInterval(() => {
      const seconds = (performance.now() - begun) / 1000;
      by("sound-state").textContent = t("records", { n: seconds.toFixed(0) });
      if (seconds > LONGEST) recorder?.stop();
    }, 250);
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = () => {
      clearInterval(clock);
      stream.getTracks().forEach((track) => track.stop());
      const kind = recorder.mimeType.split(";")[0], ending = kind.includes("mp4") ? "m4a" : kind.split("/")[1];
      recorder = null;
      drawRecord();
      const day = new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-");
      takeSound(new Blob(parts, { type: kind }), `recording-${day}.${ending}`);
    };
    recorder.start(1000);
    drawRecord();
  } catch {
    recorder = null;
    by("sound-state").textContent = t("no_microphone");
  }
}

function drawRecord() {
  by("record").textContent = t(recorder ? "stop" : "record");
  by("record").classList.toggle("recording", recorder !== null);
}

export async function run() {
  dropsInto(by("sound"), takeSound);
  dropsInto(by("picture"), takePicture);
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
  by("sound-file").onchange = (event) => event.target.files[0] && takeSound(event.target.files[0]);
  by("picture-file").onchange = (event) => event.target.files[0] && takePicture(event.target.files[0]);
  by("record").onclick = record;
  by("face").onchange = () => judge(Number(by("face").value));
  by("model").onchange = () => { judge(1); score(); };
  by("prompt").oninput = typed;
  by("rewrite").lastElementChild.onclick = () => {
    by("prompt").value = chosen.prompt.rewrite;
    typed();
  };
  by("job").onsubmit = start;
  onLanguage(() => { drawChoices(); drawSound(); drawPicture(); drawPrompt(); drawRecord(); });
  try {
    options = await get("api/options");
  } catch (error) {
    by("notice").hidden = false;
    by("notice").textContent = said(error.message);
  }
  drawChoices();
  score();
}
