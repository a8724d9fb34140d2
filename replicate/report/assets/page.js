"use strict";
// The page: its charts, tips, tables, copy buttons and list of runs.
const drawn = [];
const curves = Object.entries(data.curves).map(([name, chart]) => ({ ...chart, accuracy: name.endsWith("accuracy") }));
for (const place of document.querySelectorAll("[data-charts]")) {
  const layers = place.dataset.charts === "layers";
  drawn.push(new Charts(place, layers ? data.layers : curves, layers));
}
const redraw = () => drawn.forEach((charts) => charts.draw());
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return; // phones resize when their address bar disappears
  width = innerWidth;
  drawn.forEach((charts) => charts.resize());
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
// paper is always light
const printing = (on) => { document.documentElement.classList.toggle("printing", on); redraw(); };
addEventListener("beforeprint", () => printing(true));
addEventListener("afterprint", () => printing(false));

// ---- tips: the runs of a cell ----

let shown = null; // the button whose tip is open
const tipOf = (button) => document.getElementById(`${button.id}-runs`);
function hide() {
  if (shown) tipOf(shown).hidePopover();
  shown = null;
}
// next to the whole cell, never over it; if there is little room, the tip scrolls
function settle() {
  if (!shown) return;
  const tip = tipOf(shown);
  const box = shown.closest("td").getBoundingClientRect();
  const below = innerHeight - box.bottom - 12;
  const above = box.top - 12;
  tip.style.maxHeight = `${Math.max(below, above, 64)}px`;
  const own = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(innerWidth - own.width - 8, box.left + box.width / 2 - own.width / 2))}px`;
  tip.style.top = `${own.height <= below || below >= above ? box.bottom + 4 : box.top - own.height - 4}px`;
}
function openTip(button) {
  if (shown === button) return;
  hide();
  shown = button;
  tipOf(button).showPopover();
  settle();
}
// the pointer may move onto the tip, which is in the cell too, to read or copy its text
const leave = (button) => setTimeout(() => {
  if (shown === button && document.activeElement !== button && !button.closest("td").matches(":hover")) hide();
}, 150);
for (const button of document.querySelectorAll("button.cell")) {
  for (const event of ["focus", "click"]) button.addEventListener(event, () => openTip(button));
  button.closest("td").addEventListener("mouseenter", () => openTip(button));
  button.closest("td").addEventListener("mouseleave", () => leave(button));
  button.addEventListener("blur", () => { if (shown === button) hide(); });
}
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
addEventListener("scroll", settle, { capture: true, passive: true });

// ---- tables, and the navigation, that are wider than the page ----

const mark = (box) => {
  box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
  box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
};
const widths = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
for (const box of document.querySelectorAll(".scroll, nav ul")) {
  widths.observe(box);
  box.addEventListener("scroll", () => mark(box), { passive: true });
}

// ---- copying, and the list of runs ----

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without access to the clipboard: the old way
    const field = element("textarea", { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    await copy(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    say("Copied");
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

const search = document.getElementById("find");
search?.addEventListener("input", () => {
  const rows = [...document.querySelectorAll(".runs tbody tr")];
  const wanted = search.value.trim().toLowerCase();
  rows.forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
  document.getElementById("found").textContent = wanted ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
});
document.documentElement.dataset.ready = "true";
