"use strict";
// Draws what search/report/chart.py has written into the page. Text from outside is only ever set as text; in
// plotly's labels, which know a little HTML, it is escaped.

const data = JSON.parse(document.getElementById("data").textContent);
const { trials, values, axes, marks, directions, history } = data;
const byId = (id) => document.getElementById(id);
const MOST_NUMBERS = 60; // members whose number stands in the picture
const APART = { x: 0.022, y: 0.042 }; // of the picture's width and height, between two numbers
const LINE = 64; // characters of a label's line

function shown(value) {
  const size = Math.abs(value);
  if (size < 1000) return String(Number(value.toPrecision(4)));
  const step = Math.min(5, Math.floor(Math.log10(size) / 3));
  return `${(value / 1000 ** step).toFixed(2)} ${" kMGTP"[step]}`;
}

function escaped(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function wrapped(text) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1).length + word.length > LINE) lines.push("");
    lines[lines.length - 1] += `${word} `;
  }
  return lines.map((line) => escaped(line.trim())).join("<br>");
}

function headed(trial) {
  const place = trials.place[trial] === null ? "" : `${trials.place[trial]}: `;
  const number = trials.number[trial] === null ? "" : `, trial ${trials.number[trial]}`;
  return { title: place + trials.label[trial], line: trials.standing[trial] + number };
}

function hover(trial) {
  const { title, line } = headed(trial);
  const numbers = axes.filter(({ name }) => values[name][trial] !== null);
  const rows = numbers.map(({ name }) => `${escaped(name)} ${shown(values[name][trial])}`);
  const about = trials.about[trial] ? [wrapped(trials.about[trial])] : [];
  return [`<b>${wrapped(title)}</b>`, escaped(line), ...rows, ...about].join("<br>");
}

// Where links lead

const framed = window.parent !== window;
const caged = framed && window.origin === "null"; // a sandbox, as MLflow's view of artifacts: no way out by a click

function server() {
  if (location.protocol === "blob:") return new URL(location.pathname).origin;
  if (location.ancestorOrigins?.length) return location.ancestorOrigins[0];
  if (framed && document.referrer) return new URL(document.referrer).origin;
  return location.protocol.startsWith("http") ? location.origin : data.server;
}

function address(link) {
  if (!link) return null;
  const found = new URL(link, `${server()}/`);
  return ["http:", "https:"].includes(found.protocol) ? found.href : null;
}

function choose(trial) {
  const target = address(trials.link[trial]);
  const opened = target && !caged ? window.open(target, "_blank") : null;
  if (opened) opened.opener = null;
  describe(trial, target);
}

function describe(trial, target) {
  const panel = byId("chosen");
  const add = (parent, kind, text = "") => {
    const made = parent.appendChild(document.createElement(kind));
    made.textContent = text;
    return made;
  };
  const { title, line } = headed(trial);
  panel.replaceChildren();
  add(panel, "h3", title);
  add(panel, "div", trials.about[trial] ? `${line}; ${trials.about[trial]}` : line);
  const list = add(panel, "dl");
  for (const { name } of axes) {
    if (values[name][trial] === null) continue;
    const entry = add(list, "div");
    add(entry, "dt", name);
    add(entry, "dd", shown(values[name][trial]));
  }
  if (!target) {
    add(panel, "div", "No run in MLflow is known of it.").className = "hint";
  } else {
    const hint = caged ? "This frame may open nothing; copy the address of its run:" : "Its run in MLflow:";
    add(panel, "div", hint).className = "hint";
    const field = add(panel, "input");
    Object.assign(field, { className: "address", readOnly: true, value: target });
    field.addEventListener("focus", () => field.select());
  }
  panel.hidden = false;
}

// The picture of the trials

function column(name) {
  return axes.find((axis) => axis.name === name);
}

function axisOf(name) {
  const { title, log } = column(name);
  const drawn = values[name].filter((value) => value !== null);
  const large = drawn.some((value) => Math.abs(value) >= 1000);
  return {
    title: { text: escaped(title) },
    type: log ? "log" : "linear",
    dtick: log && Math.max(...drawn) < 1000 * Math.min(...drawn) ? "D2" : undefined,
    tickformat: large ? "~s" : undefined,
    gridcolor: "#e8ebef",
    zeroline: false,
    automargin: true,
  };
}

function trace(standing, found, x, y, more) {
  return {
    type: "scatter",
    mode: "markers",
    name: standing,
    legendgroup: standing,
    x: found.map((trial) => x(trial)),
    y: found.map((trial) => y(trial)),
    customdata: found,
    hovertext: found.map(hover),
    hovertemplate: "%{hovertext}<extra></extra>",
    ...more,
  };
}

function traces(xName, yName) {
  const drawn = [];
  let placeless = 0;
  for (const [standing, mark] of Object.entries(marks)) {
    const found = trials.standing.flatMap((one, trial) => (one === standing ? [trial] : []));
    if (!found.length) continue;
    const has = (name) => (trial) => values[name][trial] !== null;
    const both = found.filter((trial) => has(xName)(trial) && has(yName)(trial));
    const below = found.filter((trial) => has(xName)(trial) && !has(yName)(trial));
    const beside = found.filter((trial) => !has(xName)(trial) && has(yName)(trial));
    placeless += found.length - both.length - below.length - beside.length;
    const [of, at] = [(name) => (trial) => values[name][trial], () => 0.015];
    const marker = { ...mark, line: { width: 1.5, color: mark.color } };
    const name = `${standing} (${found.length})`;
    const ticks = (symbol) => ({ ...mark, symbol, size: 12, line: { width: 1.5, color: mark.color } });
    const groups = [
      trace(standing, both, of(xName), of(yName), { marker, name }),
      trace(standing, below, of(xName), at, { marker: ticks("line-ns"), name, yaxis: "y2" }),
      trace(standing, beside, at, of(yName), { marker: ticks("line-ew"), name, xaxis: "x2" }),
    ].filter((group) => group.x.length);
    drawn.push(...groups.map((group, place) => ({ ...group, showlegend: place === 0 })));
  }
  const said = `${placeless} ${placeless === 1 ? "trial has" : "trials have"} no place here: nothing is known of `;
  byId("placeless").textContent = placeless ? `${said}${yName} and ${xName}.` : "";
  return drawn;
}

function members() {
  return trials.place.flatMap((place, trial) => (place === null ? [] : [trial]));
}

function numbered(xName, yName) {
  const found = members().filter((trial) => values[xName][trial] !== null && values[yName][trial] !== null);
  const scale = (name) => {
    const log = column(name).log ? Math.log10 : (value) => value;
    const all = values[name].filter((value) => value !== null).map(log);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    return (trial) => (log(values[name][trial]) - low) / (high - low || 1);
  };
  const [across, up, kept] = [scale(xName), scale(yName), []];
  for (const trial of found) {
    const near = (other) => Math.abs(across(trial) - across(other)) < APART.x && Math.abs(up(trial) - up(other)) < APART.y;
    if (kept.length < MOST_NUMBERS && !found.slice(0, found.indexOf(trial)).some(near)) kept.push(trial);
  }
  return {
    type: "scatter",
    mode: "markers+text",
    x: kept.map((trial) => values[xName][trial]),
    y: kept.map((trial) => values[yName][trial]),
    text: kept.map((trial) => String(trials.place[trial])),
    textposition: "top center",
    marker: { size: marks.front.size, opacity: 0 },
    textfont: { size: 11, color: marks.front.color },
    hoverinfo: "skip",
    showlegend: false,
  };
}

// The edge of what the front dominates; it means that only where these two are all the objectives.
function staircase(xName, yName) {
  const names = Object.keys(directions);
  const found = members();
  if (names.length !== 2 || !names.includes(xName) || !names.includes(yName) || xName === yName || !found.length) return [];
  const down = (name) => directions[name] === "minimize";
  const worst = (name) => {
    const drawn = trials.standing.flatMap((_, trial) =>
      values[xName][trial] === null || values[yName][trial] === null ? [] : [values[name][trial]]);
    return down(name) ? Math.max(...drawn) : Math.min(...drawn);
  };
  const steps = found.map((trial) => [values[xName][trial], values[yName][trial]]);
  steps.sort((one, other) => (down(xName) ? 1 : -1) * (one[0] - other[0]));
  const corners = [[steps[0][0], worst(yName)]];
  for (const [x, y] of steps) corners.push([x, corners.at(-1)[1]], [x, y]);
  corners.push([worst(xName), steps.at(-1)[1]]);
  return [{
    type: "scatter",
    mode: "lines",
    x: corners.map(([x]) => x),
    y: corners.map(([, y]) => y),
    line: { color: marks.front.color, width: 1.3 },
    hoverinfo: "skip",
    showlegend: false,
  }];
}

const FRAME = { margin: { l: 70, r: 20, t: 34, b: 56 }, font: { size: 13 }, hoverlabel: { align: "left" } };
const CONFIG = { responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };

function drawFront() {
  const [xName, yName] = [byId("x").value, byId("y").value];
  const hidden = { overlaying: "free", range: [0, 1], visible: false, fixedrange: true };
  const drawn = [...staircase(xName, yName), ...traces(xName, yName), numbered(xName, yName)];
  const empty = { text: "nothing measured yet", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 };
  Plotly.react(byId("front"), drawn, {
    ...FRAME,
    xaxis: axisOf(xName),
    yaxis: axisOf(yName),
    xaxis2: { ...hidden, overlaying: "x" },
    yaxis2: { ...hidden, overlaying: "y" },
    hovermode: "closest",
    legend: { groupclick: "togglegroup" },
    annotations: drawn.some(({ x }) => x.length) ? [] : [empty],
  }, CONFIG);
}

function drawHistory() {
  const clock = byId("clock").value;
  const drawn = {
    type: "scatter",
    mode: "lines",
    x: history[clock],
    y: history.hypervolume,
    text: history.shown,
    line: { shape: "hv", color: marks.front.color },
    hovertemplate: "%{x}: %{text}<extra></extra>",
  };
  const large = history.hypervolume.some((value) => Math.abs(value) >= 1000);
  Plotly.react(byId("history"), [drawn], {
    ...FRAME,
    xaxis: { title: { text: clock }, gridcolor: "#e8ebef", zeroline: false, rangemode: "tozero" },
    yaxis: { gridcolor: "#e8ebef", tickformat: large ? "~s" : undefined, automargin: true },
    showlegend: false,
  }, CONFIG);
}

// The tables

function sortBy(head) {
  const [table, place] = [head.closest("table"), head.cellIndex];
  const sign = head.ariaSort === "ascending" ? -1 : 1;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const compare = (one, other) => {
    const [a, b] = [one.cells[place], other.cells[place]];
    const numbers = "order" in a.dataset && "order" in b.dataset;
    return sign * (numbers ? a.dataset.order - b.dataset.order : a.textContent.localeCompare(b.textContent));
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

for (const head of document.querySelectorAll(".sortable th")) head.addEventListener("click", () => sortBy(head));
for (const link of document.querySelectorAll("a.run")) {
  const trial = trials.link.indexOf(link.dataset.link);
  const target = address(link.dataset.link);
  if (target) link.href = target;
  link.addEventListener("click", (event) => {
    event.preventDefault();
    choose(trial);
    byId("chosen").scrollIntoView({ block: "nearest" });
  });
}
const objectives = Object.keys(directions);
for (const [id, first] of [["y", objectives[0]], ["x", objectives[1] ?? axes[1]?.name ?? objectives[0]]]) {
  byId(id).append(...axes.map(({ name }) => new Option(name, name, name === first, name === first)));
  byId(id).addEventListener("change", drawFront);
}
byId("clock").addEventListener("change", drawHistory);
drawFront();
drawHistory();
byId("front").on("plotly_click", ({ points }) => choose(points[0].customdata));
