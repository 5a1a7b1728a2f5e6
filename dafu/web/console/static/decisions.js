// Follows decisions as they are made. Rows come rendered and escaped from the worker.

const MOST_ROWS = 100;
const TOLD_EVERY_MS = 8000;

const live = document.getElementById("live");
const pause = document.getElementById("pause");
const pace = document.getElementById("pace");
const told = document.getElementById("told");
const body = document.getElementById("decisions");
let source = null;
let unsaid = { shown: 0, block: 0, review: 0 };

function add(news) {
  const holder = document.createElement("template");
  holder.innerHTML = news.rows;
  // Whoever reads a row with the keyboard keeps it: no row goes while the focus is inside.
  body.prepend(holder.content);
  for (const row of [...body.rows].slice(MOST_ROWS)) {
    if (!row.contains(document.activeElement)) row.remove();
  }
  document.getElementById("none")?.remove();
  pace.textContent = `${news.per_second} decisions a second, ${news.matching} new, ${news.shown} of them shown`;
  unsaid.shown += news.matching;
  unsaid.review += news.review;
  unsaid.block += news.block;
}

function say() {
  if (source && unsaid.shown) {
    told.textContent = `${unsaid.shown} new decisions: ${unsaid.review} to review, ${unsaid.block} blocked.`;
    unsaid = { shown: 0, block: 0, review: 0 };
  }
}

function follow() {
  source = new EventSource(live.dataset.stream);
  source.addEventListener("decisions", (event) => add(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    pace.textContent = source?.readyState === EventSource.CLOSED
      ? "The connection was refused; reload the page."
      : "The connection was lost; trying again.";
  });
  pause.textContent = "Pause";
  pause.setAttribute("aria-pressed", "false");
}

function halt() {
  source?.close();
  source = null;
  pause.textContent = "Go on";
  pause.setAttribute("aria-pressed", "true");
  pace.textContent = "Paused.";
}

if (live) {
  live.hidden = false;
  pause.addEventListener("click", () => (source ? halt() : follow()));
  setInterval(say, TOLD_EVERY_MS);
  follow();
}
