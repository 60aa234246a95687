// The large player: a render while it is made (HLS segments through Media Source Extensions), or a finished video.

import { wait } from "./api.js";
import { t } from "./words.js";

const video = document.getElementById("video"), state = document.getElementById("state");
const restart = document.getElementById("restart");
const POLL = 500, KEEP = 60;  // milliseconds between two looks; seconds kept behind what is shown
const BEHIND = 10;  // seconds: who comes later than so far into a render sees its newest part
const PATIENCE = 240;  // looks at a playlist that is not there yet, or for a server that is away
let generation = 0;
export let shown = null;  // id of the live output

const Source = window.ManagedMediaSource ?? window.MediaSource;

// Get a file of the live output. A server that is away may come back: `serve` is started again, and the render goes on.
async function fetched(path, mine, missing = 0) {  // missing: how many looks it may take until the file is there
  for (let looks = 0; ; looks++) {
    const answer = await fetch(path, { cache: "no-store" }).catch(() => null);
    if (answer?.ok) return answer;
    const most = answer === null ? PATIENCE : missing;
    if (looks >= most || mine !== generation) throw new Error(answer ? `${path}: ${answer.status}` : t("offline"));
    await wait(POLL);
  }
}

// The codec string of an init segment: profile, constraints and level from its avcC box, and AAC when it has sound.
function codecs(bytes) {
  const text = new TextDecoder("latin1").decode(bytes), at = text.indexOf("avcC");
  const hex = (n) => bytes[at + n].toString(16).padStart(2, "0");
  const sound = text.includes("mp4a") ? ", mp4a.40.2" : "";
  return `video/mp4; codecs="avc1.${hex(5)}${hex(6)}${hex(7)}${sound}"`;
}

function append(buffer, bytes) {
  return new Promise((done, failed) => {
    buffer.addEventListener("updateend", done, { once: true });
    buffer.addEventListener("error", () => failed(new Error("a segment cannot be played")), { once: true });
    buffer.appendBuffer(bytes);
  });
}

async function trim(buffer) {
  const until = video.currentTime - KEEP;
  if (!buffer.buffered.length || buffer.buffered.start(0) >= until - KEEP) return;
  await new Promise((done) => {
    buffer.addEventListener("updateend", done, { once: true });
    buffer.remove(0, until);
  });
}

const begin = () => video.play().catch(() => { video.muted = true; return video.play().catch(() => {}); });

const playlist = async (base, mine) => (await fetched(base + "index.m3u8", mine, PATIENCE)).text();

async function stream(id, mine) {
  const base = `live/${id}/`;
  if (!Source) {  // Safari on older phones plays the playlist itself
    await playlist(base, mine);
    video.src = base + "index.m3u8";
    begin();
    return;
  }
  const source = new Source();
  video.disableRemotePlayback = true;  // ManagedMediaSource asks for it
  video.src = URL.createObjectURL(source);
  await new Promise((done) => source.addEventListener("sourceopen", done, { once: true }));
  let buffer = null, taken = 0, seconds = 0, begun = false;
  while (mine === generation) {
    const list = await playlist(base, mine);
    if (mine !== generation) return;
    const lines = list.split("\n");
    const names = lines.filter((line) => line && !line.startsWith("#"));
    const ended = list.includes("#EXT-X-ENDLIST");
    if (!buffer && names.length) {
      const head = new Uint8Array(await (await fetched(base + "init.mp4", mine)).arrayBuffer());
      buffer = source.addSourceBuffer(codecs(head));
      await append(buffer, head);
    }
    for (; taken < names.length && mine === generation; taken++) {
      await append(buffer, await (await fetched(base + names[taken], mine)).arrayBuffer());
      await trim(buffer);
    }
    seconds = lines.reduce((sum, line) => sum + (line.startsWith("#EXTINF:") ? parseFloat(line.slice(8)) : 0), 0);
    if (!begun && taken) {
      begun = true;
      if (seconds > BEHIND) video.currentTime = seconds - 2;
      begin();
    }
    if (mine !== generation) return;
    state.textContent = t(ended ? "live_ended" : "live_so_far", { n: seconds.toFixed(1) });
    if (ended) {
      if (source.readyState === "open") source.endOfStream();
      return;
    }
    await wait(POLL);
  }
}

export function watch(id) {
  const mine = ++generation;
  shown = id;
  restart.hidden = false;
  state.textContent = t("live_soon");
  stream(id, mine).catch((error) => { if (mine === generation) state.textContent = error.message; });
}

export function play(url, name) {
  generation++;
  shown = null;
  restart.hidden = true;
  video.src = url;
  state.textContent = name;
  begin();
}

restart.onclick = () => { video.currentTime = 0; begin(); };
