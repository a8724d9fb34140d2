"use strict";
// The page's charts. All numbers come from the embedded data.
const data = JSON.parse(document.getElementById("data").textContent);
const DASHES = [[], [8, 4], [8, 3, 2, 3], [2, 3], [14, 3]];
const say = (text) => { document.getElementById("said").textContent = text; };
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const lineStyle = (row) => ({ stroke: colour(`--series-${row % 6}`), dash: DASHES[row % DASHES.length] });

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function short(value) {
  const size = Math.abs(value);
  return size !== 0 && (size < 0.01 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

// ---- charts: one panel per column; one colour and one dash per row ----

function checks(legend, names, swatch, changed) {
  const box = element("fieldset", { className: legend.toLowerCase() }, element("legend", { textContent: legend }));
  const inputs = names.map((name, index) => {
    const input = element("input", { type: "checkbox", checked: true, onchange: changed });
    const label = element("label", {}, input);
    if (swatch) label.append(sample(index));
    label.append(name);
    box.append(label);
    return input;
  });
  return { box, on: () => inputs.map((input) => input.checked) };
}

function sample(row) {
  const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  line.setAttribute("width", "28");
  line.setAttribute("height", "6");
  line.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M0 3H28");
  path.setAttribute("style", `stroke:var(--series-${row % 6});stroke-width:2.5;stroke-dasharray:${DASHES[row % DASHES.length]}`);
  line.append(path);
  return line;
}

class Charts {
  constructor(place, options, layers) {
    this.layers = layers;
    this.charts = options;
    const redraw = () => this.draw();
    const names = options.map((chart) => (chart.moment ? `${chart.label}, ${chart.moment}` : chart.label));
    this.chosen = element("select", { onchange: redraw }, ...names.map((name) => new Option(name)));
    this.rows = checks("Lines", data.rows, true, redraw);
    this.columns = checks("Panels", data.columns, false, redraw);
    this.single = element("input", { type: "checkbox", onchange: redraw });
    this.near = element("input", { type: "checkbox", onchange: redraw });
    const shown = element("label", {}, element("span", { textContent: "Show" }), this.chosen);
    const controls = element("div", { className: "controls" }, shown, this.rows.box, this.columns.box);
    if (!layers) {
      controls.append(element("label", {}, this.single, "Single runs"), element("label", {}, this.near, "Close-up of the end"));
    }
    controls.append(element("button", { type: "button", className: "save", textContent: "Save as PNG", onclick: () => save(this) }));
    this.panels = element("div", { className: "panels" });
    place.append(controls, this.panels);
    this.plots = [];
    this.draw();
  }

  draw() {
    this.plots.forEach((plot) => plot.destroy());
    this.plots = [];
    this.panels.replaceChildren();
    const chart = this.charts[this.chosen.selectedIndex];
    const rows = this.rows.on();
    const columns = this.columns.on();
    const kinds = this.single.checked ? ["mean", "run", "failed"] : ["mean", "failed"];
    const lines = chart.lines.filter((line) => rows[line.row] && columns[line.column] && kinds.includes(line.kind));
    const range = this.near.checked ? closeUp(lines) : reach(lines, this.layers, chart.accuracy);
    data.columns.forEach((name, column) => {
      if (!columns[column]) return;
      const here = lines.filter((line) => line.column === column);
      // the initialisation has a variance however the run ended
      const note = this.layers && here.length ? "" : failures(column, rows);
      if (note || chart.lines.some((line) => line.column === column)) this.panel(chart, name, here, range, note);
    });
    if (!this.panels.children.length) this.panels.append(element("p", { textContent: "No panel is chosen." }));
  }

  panel(chart, name, lines, range, note) {
    const figure = element("figure", {}, element("figcaption", { textContent: name }));
    this.panels.append(figure);
    if (!this.layers || note) figure.append(element("p", { className: "failures", textContent: note }));
    if (!lines.length && note) return;
    const plot = element("div", { className: "plot", tabIndex: 0 });
    plot.setAttribute("role", "img");
    const shown = lines.filter((line) => line.kind === "mean").map((line) => data.rows[line.row]);
    plot.setAttribute("aria-label", `${name}: ${chart.label} of ${shown.join(", ") || "no converged run"}. ${note ? `${note}. ` : ""}Arrow keys read values.`);
    const reading = element("div", { className: "reading", hidden: true });
    figure.append(plot, reading);
    const xs = this.layers ? chart.x.map((_, index) => index) : chart.x;
    const made = build(plot, chart, xs, lines, range, this.layers, (index) => show(made, figure, reading, chart, lines, index));
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !xs.length) return;
      event.preventDefault();
      plot.at = Math.min(xs.length - 1, Math.max(0, (plot.at ?? (step > 0 ? -1 : xs.length)) + step));
      made.setCursor({ left: made.valToPos(xs[plot.at], "x"), top: 10 });
      say(reading.innerText.replaceAll("\n", ", "));
    });
    plot.addEventListener("blur", () => { reading.hidden = true; });
    this.plots.push(made);
  }

  resize() {
    this.plots.forEach((plot) => plot.setSize({ width: plot.root.parentElement.clientWidth, height: plot.height }));
  }
}

// how the runs of a panel ended that did not converge: "all 5 at chance", "MSRA diverged at 103"
function failures(column, rows) {
  const cells = data.outcomes.filter((cell) => cell.column === column && rows[cell.row]);
  const texts = [...new Set(cells.map((cell) => cell.text))].filter(Boolean);
  return texts.map((text) => {
    const names = cells.filter((cell) => cell.text === text).map((cell) => data.rows[cell.row]);
    return `${names.length > 1 && names.length === cells.length ? `all ${names.length}` : names.join(", ")} ${text}`;
  }).join("; ");
}

// the smallest and the largest number in some lists, which hold null where there is no value
function extent(lists) {
  const values = lists.flat().filter((value) => value !== null);
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

// the range of the last third of the lines of converged runs; the other runs would widen it again
function closeUp(lines) {
  const last = lines.filter((line) => line.kind !== "failed").map((line) => line.y.slice(-Math.ceil(line.y.length / 3)));
  const [low, high] = extent(last);
  if (low > high) return [0, 1];
  const margin = 0.05 * (high - low) || 0.05;
  return [low - margin, high + margin];
}

function reach(lines, log, accuracy) {
  const [low, high] = extent(lines.flatMap((line) => [line.y, line.low ?? [], line.high ?? []]));
  if (low > high) return log ? [0.1, 10] : [0, 1];
  if (log) return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9)];
  return accuracy ? [0, Math.min(100, 1.08 * Math.max(high, data.chance ?? 0))] : [Math.max(0, 0.95 * low), 1.05 * high];
}

function build(place, chart, xs, lines, range, layers, moved) {
  const columns = [xs];
  const series = [{}];
  const bands = [];
  for (const line of lines) {
    const style = lineStyle(line.row);
    const thin = line.kind !== "mean";
    if (line.low) {
      const edge = { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true };
      columns.push(line.high, line.low);
      series.push({ ...edge }, { ...edge });
      bands.push({ series: [series.length - 2, series.length - 1], fill: `${style.stroke}33` });
    }
    columns.push(line.y);
    const single = line.y.filter((value) => value !== null).length === 1;
    series.push({
      stroke: style.stroke,
      width: thin ? 1 : 2,
      dash: style.dash,
      spanGaps: true,
      points: { show: single || (layers && !thin), size: single ? 7 : 5, fill: style.stroke },
    });
  }
  const ink = colour("--soft");
  const axis = { stroke: ink, grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
  const title = (label) => ({ label, labelSize: 18, labelGap: 2, labelFont: axis.font });
  // one line per power of ten, or fewer if there are many powers
  const powers = () => {
    const [from, to] = range.map((end) => Math.round(Math.log10(end)));
    const step = Math.max(1, Math.ceil((to - from) / 7));
    const first = Math.ceil(from / step) * step; // so that 1 is among them
    return Array.from({ length: Math.floor((to - first) / step) + 1 }, (_, index) => first + index * step);
  };
  return new uPlot({
    width: place.clientWidth || 320,
    height: layers ? 300 : 260,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { show: false }, y: false },
    scales: {
      x: { time: false, range: layers ? [-0.5, xs.length - 0.5] : [0, xs.length ? xs[xs.length - 1] : 1] },
      y: { distr: layers ? 3 : 1, log: 10, range },
    },
    axes: layers ? [
      { ...axis, ...title("layer, in forward order"), grid: { show: false }, splits: () => xs, values: () => chart.x, rotate: -90, size: 60, gap: 2, space: 8 },
      { ...axis, ...title(chart.label), size: 46, splits: () => powers().map((power) => 10 ** power), filter: (_, splits) => splits, values: () => powers().map((power) => (Math.abs(power) < 3 ? 10 ** power : `1e${power}`)) },
    ] : [
      { ...axis, ...title("iteration"), size: 32, values: (_, values) => values.map((value) => (value >= 1000 ? `${value / 1000}k` : value)) },
      { ...axis, ...title(chart.label), size: 40 },
    ],
    series,
    bands,
    hooks: {
      setCursor: [(plot) => moved(plot.cursor.left < 0 ? null : plot.cursor.idx)],
      drawAxes: [(plot) => marks(plot, layers, layers ? 1 : chart.accuracy ? data.chance : null)],
      draw: [(plot) => crosses(plot, xs, lines.filter((line) => line.kind === "failed"))],
    },
  }, columns, place);
}

function marks(plot, layers, level) {
  const { left, top, width, height } = plot.bbox;
  const context = plot.ctx;
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.strokeStyle = colour("--level");
  context.lineWidth = devicePixelRatio;
  const stroke = (x0, y0, x1, y1, dash) => {
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
  };
  if (level !== null && level >= plot.scales.y.min && level <= plot.scales.y.max) {
    const y = plot.valToPos(level, "y", true);
    stroke(left, y, left + width, y, []);
  }
  if (!layers) {
    for (const milestone of data.milestones) {
      const x = plot.valToPos(milestone, "x", true);
      stroke(x, top, x, top + height, [2, 4]);
    }
  }
  context.restore();
}

// × at the end of each run that did not converge
function crosses(plot, xs, lines) {
  const { ctx: context } = plot;
  const size = 4 * devicePixelRatio;
  context.save();
  context.lineWidth = 2 * devicePixelRatio;
  for (const line of lines) {
    const last = line.y.findLastIndex((value) => value !== null);
    const x = plot.valToPos(xs[last], "x", true);
    const y = plot.valToPos(line.y[last], "y", true);
    context.strokeStyle = lineStyle(line.row).stroke;
    context.beginPath();
    for (const side of [-1, 1]) {
      context.moveTo(x - size, y - side * size);
      context.lineTo(x + size, y + side * size);
    }
    context.stroke();
  }
  context.restore();
}

// ---- the values at the pointer, outside the panel that they explain ----

function show(plot, figure, reading, chart, lines, index) {
  if (!plot || index === null || index === undefined || !lines.length) {
    reading.hidden = true;
    return;
  }
  const x = chart.x[index];
  reading.replaceChildren(element("div", { textContent: typeof x === "string" ? x : `iteration ${x.toLocaleString("en")}` }));
  const named = lines.filter((line) => line.kind !== "run" && line.y[index] !== null);
  for (const line of named.sort((a, b) => b.y[index] - a.y[index]).slice(0, 10)) {
    const label = line.kind === "mean" ? data.rows[line.row] : `${data.rows[line.row]}, ${line.label}`;
    const spread = line.low && line.low[index] !== line.high[index] ? ` (${short(line.low[index])} to ${short(line.high[index])})` : "";
    reading.append(element("div", {}, sample(line.row), `${label} ${short(line.y[index])}${spread}`));
  }
  reading.hidden = false;
  const over = plot.over.getBoundingClientRect();
  const box = figure.getBoundingClientRect();
  const at = over.left - box.left + plot.valToPos(plot.data[0][index], "x");
  const room = box.width - reading.offsetWidth;
  reading.style.left = `${Math.max(0, Math.min(room, at > box.width / 2 ? at - reading.offsetWidth - 12 : at + 12))}px`;
  const above = box.top - document.querySelector("nav").offsetHeight;
  const height = reading.offsetHeight;
  reading.classList.toggle("above", innerHeight - box.bottom < height && above > height);
}
