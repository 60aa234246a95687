// Entry of the studio page.

import { element } from "./api.js";
import * as form from "./form.js";
import { watch } from "./player.js";
import * as queue from "./queue.js";
import * as results from "./results.js";
import { apply, current, languages, nameOf, onLanguage, setLanguage } from "./words.js";

function drawLanguages() {
  document.getElementById("languages").replaceChildren(...languages.map((name) => {
    const button = element("button", { type: "button", textContent: nameOf(name), onclick: () => setLanguage(name) });
    button.setAttribute("aria-pressed", name === current());
    button.lang = name;
    return button;
  }), "");
}

// Links of the Prefect UI name the live output of a run behind the sign #.
function watchNamed() {
  const id = location.hash.slice(1);
  if (/^[0-9a-f]{32}$/.test(id)) watch(id);
}

onLanguage(drawLanguages);
await form.run();
apply();
watchNamed();
window.addEventListener("hashchange", watchNamed);
queue.onEnd(results.look);
queue.run();
results.run();
document.documentElement.dataset.ready = "1";
