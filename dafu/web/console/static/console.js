// What every page does: the switch between light, dark and what the system prefers.

const THEMES = ["auto", "light", "dark"];
const YEAR = 31536000;

const button = document.getElementById("theme");
if (button) {
  const shown = button.querySelector("span");
  button.hidden = false;
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const next = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
    root.dataset.theme = next;
    shown.textContent = next;
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `dafu_theme=${next}; Path=/console; Max-Age=${YEAR}; SameSite=Strict${secure}`;
  });
}
