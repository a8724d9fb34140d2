"use strict";
// Saves the panels of a chart as they are shown, with their title and legend, as one PNG file.

// a text in lines of at most this width
function wrapped(context, text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

function picture(charts) {
  const box = charts.panels.getBoundingClientRect();
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const font = (size, weight = 400) => { context.font = `${weight} ${size}px system-ui, sans-serif`; };
  const margin = 12;
  // the legend's entries: [row, x, line of the legend]
  font(13);
  const entries = [];
  let [x, lines] = [margin, 1];
  charts.rows.on().forEach((on, row) => {
    if (!on) return;
    const width = context.measureText(data.rows[row]).width + 56;
    if (x + width > box.width && x > margin) [x, lines] = [margin, lines + 1];
    entries.push([row, x, lines]);
    x += width;
  });
  const top = 34 + 20 * lines;
  const ratio = devicePixelRatio;
  canvas.width = (box.width + 2 * margin) * ratio;
  canvas.height = (top + box.height + margin) * ratio;
  context.scale(ratio, ratio);
  context.fillStyle = colour("--paper");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = colour("--ink");
  font(16, 650);
  context.fillText(`${document.querySelector("h1").textContent}: ${charts.chosen.value}`, margin, 22);
  font(13);
  context.lineWidth = 2.5;
  for (const [row, at, line] of entries) {
    const { stroke, dash } = lineStyle(row);
    const y = 22 + 20 * line;
    context.strokeStyle = stroke;
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(at, y - 4);
    context.lineTo(at + 28, y - 4);
    context.stroke();
    context.fillText(data.rows[row], at + 34, y);
  }
  context.textAlign = "center";
  for (const part of charts.panels.querySelectorAll("figcaption, .failures, canvas")) {
    const own = part.getBoundingClientRect();
    const [left, upper] = [own.left - box.left + margin, own.top - box.top + top];
    if (part instanceof HTMLCanvasElement) {
      context.drawImage(part, left, upper, own.width, own.height);
    } else {
      context.font = getComputedStyle(part).font;
      const texts = wrapped(context, part.textContent, own.width);
      texts.forEach((text, line) => context.fillText(text, left + own.width / 2, upper + 15 + (line * own.height) / texts.length, own.width));
    }
  }
  return canvas;
}

function save(charts) {
  const name = `${document.querySelector("h1").textContent} ${charts.chosen.value}`.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  element("a", { href: picture(charts).toDataURL(), download: `${name.replace(/^-|-$/g, "")}.png` }).click();
}
