// Requests to the server of the page. Refusals are errors whose message is the server's line.

import { t } from "./words.js";

async function answered(response) {
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `${response.status} ${response.statusText}`);
  return answer;
}

// What browsers say of a server that is away helps nobody, and is English.
async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(t("offline"));
  }
}

export async function get(path) {
  return answered(await reached(path, { cache: "no-store" }));
}

export async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return answered(await reached(path, { method: "POST", headers, body: JSON.stringify(body), signal }));
}

// Send a file; onProgress is called with the share that is sent. (fetch does not tell it.)
export function upload(kind, file, name, onProgress) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", `api/inputs/${kind}?name=${encodeURIComponent(name)}`);
    request.upload.onprogress = (event) => onProgress(event.loaded / Math.max(1, event.total));
    request.onerror = () => failed(new Error(t("offline")));
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* told by the status */ }
      if (request.status === 200) done(answer);
      else failed(new Error(answer.error ?? `${request.status} ${request.statusText}`));
    };
    request.send(file);
  });
}

export const wait = (ms) => new Promise((done) => setTimeout(done, ms));

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Call `look` again and again while the page is seen.
export async function repeat(ms, look) {
  for (;;) {
    if (!document.hidden) await look();
    await wait(ms);
  }
}
