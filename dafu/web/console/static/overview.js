// Fetches the figures of the overview again and again, and puts them in place.

const EVERY_MS = 3000;

const figures = document.getElementById("figures");
const pause = document.getElementById("pause");
const told = document.getElementById("told");
let paused = false;

function busy() {
  // Nobody should lose the table he is reading with the keyboard.
  return paused || document.hidden || figures.contains(document.activeElement);
}

async function refresh() {
  if (busy()) return;
  const response = await fetch(figures.dataset.source, { headers: { Accept: "text/html" } });
  if (!response.ok) throw new Error(String(response.status));
  const text = await response.text();
  if (busy()) return;
  const open = [...figures.querySelectorAll("details[open]")].map((details) => details.id);
  figures.innerHTML = text;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  told.textContent = "";
}

async function keepOn() {
  try {
    await refresh();
  } catch {
    told.textContent = "The worker does not answer; trying again.";
  }
  setTimeout(keepOn, EVERY_MS);
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Go on" : "Pause";
  pause.setAttribute("aria-pressed", String(paused));
});
setTimeout(keepOn, EVERY_MS);
