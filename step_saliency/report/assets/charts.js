/* Depth curves. */
const WIDTH = 430, HEIGHT = 220, LEFT = 44, RIGHT = 10, TOP = 20, BOTTOM = 34;
function chart({ title, label, lines }) {
  const all = lines.flatMap((l) => [...l.values, ...(l.lower || []), ...(l.upper || []), ...[l.uniform ?? null].flat()]).filter((v) => v !== null);
  const [low, high] = all.length ? [Math.min(0, ...all), Math.max(...all)] : [0, 1];
  const room = (high - low) * 0.06 || 0.1;
  const y = (v) => TOP + ((high + room - v) / (high - low + 2 * room)) * (HEIGHT - TOP - BOTTOM);
  const first = Math.min(...data.layers), last = Math.max(...data.layers);
  const x = (layer) => LEFT + ((layer - first + 0.5) / (last - first + 1)) * (WIDTH - LEFT - RIGHT);
  const svg = draw("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} by layer: ${label}. The numbers are in the table below.` });
  for (const name of ["shallow", "deep"]) svg.append(...bandShade(name, x));
  svg.append(...axes(low, high, first, last, x, y));
  const now = draw("line", { class: "now", y1: TOP, y2: HEIGHT - BOTTOM });
  data.layers.forEach((layer, i) => { now.dataset[`x${i + 1}`] = x(layer); });
  svg.append(now, ...lines.flatMap((line) => curve(line, x, y)));
  return make("figure", {}, make("figcaption", {}, make("strong", {}, title), label), svg, keyRow(lines));
}
function bandShade(name, x) {
  const layers = data.diagnosis.bands[name].filter((l) => data.layers.includes(l));
  if (!layers.length) return [];
  const half = (x(1) - x(0)) / 2, left = x(Math.min(...layers)) - half, right = x(Math.max(...layers)) + half;
  const middle = (left + right) / 2;
  return [draw("rect", { class: "band", x: left, y: TOP, width: right - left, height: HEIGHT - TOP - BOTTOM }),
    draw("text", { class: "tick", x: middle, y: TOP - 6, "text-anchor": "middle" }, name)];
}
function axes(low, high, first, last, x, y) {
  const parts = [draw("path", { class: "axis", fill: "none", d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` })];
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1].find((s) => (high - low) / s <= 6) || 2;
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step)
    parts.push(draw("text", { class: "tick", x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, String(+v.toFixed(2)).replace("-", "−")));
  const stride = [1, 2, 4, 5, 10, 20, 50].find((s) => (last - first) / s <= 10) || 100;
  for (let l = Math.ceil(first / stride) * stride; l <= last; l += stride)
    parts.push(draw("text", { class: "tick", x: x(l), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, String(l)));
  parts.push(draw("text", { class: "tick", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "layer"));
  return parts;
}
function curve(line, x, y) {
  const ink = (element) => { element.style.setProperty("--c", `var(--${line.colour})`); return element; };
  const points = data.layers.map((layer, i) => [x(layer), line.values[i]]).filter(([, v]) => v !== null);
  const path = points.map(([px, v]) => `${px} ${y(v)}`).join("L");
  const parts = [];
  if (line.lower) {
    const ends = data.layers.map((layer, i) => [x(layer), line.lower[i], line.upper[i]]).filter(([, l, u]) => l !== null && u !== null);
    if (ends.length) parts.push(ink(draw("path", { class: "interval", d: `M${ends.map(([px, l]) => `${px} ${y(l)}`).join("L")}L${[...ends].reverse().map(([px, , u]) => `${px} ${y(u)}`).join("L")}Z` })));
  }
  if (Array.isArray(line.uniform)) {
    const ends = data.layers.map((layer, i) => [x(layer), line.uniform[i]]).filter(([, v]) => v !== null);
    if (ends.length) parts.push(ink(draw("path", { class: "uniform", fill: "none", d: `M${ends.map(([px, v]) => `${px} ${y(v)}`).join("L")}` })));
  } else if (line.uniform !== undefined && line.uniform !== null) parts.push(ink(draw("line", { class: "uniform", x1: LEFT, x2: WIDTH - RIGHT, y1: y(line.uniform), y2: y(line.uniform) })));
  if (points.length) parts.push(ink(draw("path", { class: line.n ? "line run" : "line", d: `M${path}` })));
  if (!line.n) parts.push(...points.map(([px, v]) => ink(draw("circle", { class: "dot", cx: px, cy: y(v), r: 2.6 }))));
  return parts;
}
function keyRow(lines) {
  return make("div", { class: "key-row" }, ...lines.map((line) => {
    const sample = draw("svg", { viewBox: "0 0 26 10", "aria-hidden": "true", class: "chart-key" }, draw("path", { d: "M0 5H26" }));
    sample.firstChild.style.cssText = `stroke: var(--${line.colour}); stroke-width: 2; fill: none;${line.n ? " stroke-dasharray: 6 3" : ""}`;
    return make("span", {}, sample, line.n ? `${line.name} (${line.traces}, of ${line.n} problems)` : line.name);
  }));
}
function curveTable() {
  const lines = data.diagnosis.charts.flatMap((c) => c.lines.map((l) => ({ ...l, name: `${c.title}, ${l.name}` })));
  const cell = (v) => (v === null ? "–" : v.toFixed(3).replace("-", "−"));
  const spelled = (l, i) => (l.lower && l.lower[i] !== null ? `${cell(l.values[i])} [${cell(l.lower[i])}, ${cell(l.upper[i])}]` : cell(l.values[i]));
  const head = make("tr", {}, make("th", { scope: "col" }, "layer"), ...lines.map((l) => make("th", { scope: "col", class: "n" }, l.name)));
  const body = data.layers.map((layer, i) => make("tr", {}, make("th", { scope: "row" }, String(layer)), ...lines.map((l) => make("td", { class: "n" }, spelled(l, i)))));
  return make("details", {}, make("summary", {}, "Numbers of the curves"), make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
}
function diagnosis() {
  const { indices, charts, reasons } = data.diagnosis;
  const head = make("tr", {}, make("td"), ...indices.columns.map((name) => make("th", { scope: "col" }, name)));
  const body = indices.rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.name), ...row.cells.map((c) => make("td", {}, c))));
  $("indices").replaceChildren(make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
  $("charts").replaceChildren(...charts.map(chart));
  $("charts").after(curveTable());
  const groups = charts.some((c) => c.lines.some((l) => l.lower)) ? " Bands and brackets are 95% intervals of means over problems, resampled by problem; with fewer than ten problems (n) they are rough. p: permutation within problems." : "";
  $("chart-note").textContent = `Dotted: what a map that prefers no position gives. Shaded: shallow and deep layers. Both indices are larger the worse it is.${groups} ${reasons.join("; ")}`;
}
