// Lets one move around in the picture of a ring, and move what is in it.
// The picture itself is complete without this.

const STEP = 40;
const ZOOM = 1.25;
const LEAST = 0.2;
const MOST = 8;

const frame = document.getElementById("picture");
const svg = frame.querySelector("svg");
const told = document.getElementById("told");
const whole = svg.viewBox.baseVal;
const start = { x: whole.x, y: whole.y, width: whole.width, height: whole.height };
const view = { ...start };
const nodes = [...svg.querySelectorAll("[data-node]")];
const moved = new Map(nodes.map((node) => [node.dataset.node, { x: 0, y: 0 }]));
const edges = [...svg.querySelectorAll("path.edge[data-from]")].map((path) => ({
  path,
  from: path.dataset.from,
  to: path.dataset.to,
  points: path.getAttribute("d").match(/-?[\d.]+/g).map(Number),
}));
let chosen = -1;

function show() {
  svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
}

function pan(dx, dy) {
  view.x += dx;
  view.y += dy;
  show();
}

function zoom(factor, x = view.x + view.width / 2, y = view.y + view.height / 2) {
  const width = Math.min(Math.max(view.width / factor, start.width / MOST), start.width / LEAST);
  const scale = width / view.width;
  view.x = x - (x - view.x) * scale;
  view.y = y - (y - view.y) * scale;
  view.width = width;
  view.height *= scale;
  show();
}

function place(name) {
  const offset = moved.get(name);
  for (const node of nodes) {
    if (node.dataset.node === name) node.setAttribute("transform", `translate(${offset.x} ${offset.y})`);
  }
  for (const edge of edges) {
    if (edge.from !== name && edge.to !== name) continue;
    const a = moved.get(edge.from) ?? { x: 0, y: 0 };
    const b = moved.get(edge.to) ?? { x: 0, y: 0 };
    const [x1, y1, x2, y2, x3, y3, x4, y4] = edge.points;
    edge.path.setAttribute(
      "d",
      `M${x1 + a.x} ${y1 + a.y}C${x2 + a.x} ${y2 + a.y} ${x3 + b.x} ${y3 + b.y} ${x4 + b.x} ${y4 + b.y}`,
    );
  }
}

function move(name, dx, dy) {
  const offset = moved.get(name);
  offset.x += dx;
  offset.y += dy;
  place(name);
}

function reset() {
  Object.assign(view, start);
  for (const [name, offset] of moved) {
    offset.x = 0;
    offset.y = 0;
    place(name);
  }
  choose(-1);
  show();
}

function choose(index) {
  nodes[chosen]?.classList.remove("chosen");
  chosen = index;
  nodes[chosen]?.classList.add("chosen");
  told.textContent = nodes[chosen]?.querySelector("title")?.textContent ?? "Nothing is held.";
}

const DOES = {
  in: () => zoom(ZOOM),
  out: () => zoom(1 / ZOOM),
  reset,
  next: () => nodes.length && choose((chosen + 1) % nodes.length),
};

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key];
  if (arrow) {
    const step = (STEP * view.width) / start.width;
    const [dx, dy] = arrow.map((way) => way * step);
    if (chosen >= 0) move(nodes[chosen].dataset.node, dx, dy);
    else pan(dx, dy);
  } else if (event.key === "+" || event.key === "=") DOES.in();
  else if (event.key === "-") DOES.out();
  else if (event.key === "0") DOES.reset();
  else if (event.key === "n" || event.key === "N") DOES.next();
  else if (event.key === "Escape" && chosen >= 0) choose(-1);
  else return;
  event.preventDefault();
}

function at(event) {
  const matrix = svg.getScreenCTM().inverse();
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
}

let held = null;

function grab(event) {
  if (event.button !== 0) return;
  const node = event.target.closest("[data-node]");
  held = { id: event.pointerId, node: node?.dataset.node ?? null, last: at(event) };
  frame.setPointerCapture(event.pointerId);
  frame.classList.add("held");
}

function drag(event) {
  if (!held || event.pointerId !== held.id) return;
  const now = at(event);
  const dx = now.x - held.last.x;
  const dy = now.y - held.last.y;
  if (held.node === null) {
    pan(-dx, -dy); // the ground under the pointer stays under it
    return;
  }
  move(held.node, dx, dy);
  held.last = now;
}

function release() {
  held = null;
  frame.classList.remove("held");
}

frame.classList.add("moving");
document.getElementById("tools").hidden = false;
document.getElementById("help").hidden = false;
frame.setAttribute("aria-describedby", "help");
for (const button of document.querySelectorAll("#tools [data-do]")) {
  button.addEventListener("click", DOES[button.dataset.do]);
}
frame.addEventListener("keydown", pressed);
frame.addEventListener("pointerdown", grab);
frame.addEventListener("pointermove", drag);
frame.addEventListener("pointerup", release);
frame.addEventListener("pointercancel", release);
frame.addEventListener(
  "wheel",
  (event) => {
    if (!event.ctrlKey) return; // the page scrolls, as everywhere
    event.preventDefault();
    const point = at(event);
    zoom(event.deltaY < 0 ? ZOOM : 1 / ZOOM, point.x, point.y);
  },
  { passive: false },
);
