"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const MAGMA = ["#fcfdbf", "#fed395", "#fea973", "#fa7d5e", "#e95462", "#c83e73", "#a3307e", "#7e2482", "#59157e", "#331067", "#120d31"];

  /* Elements. Text goes in as text nodes only. */
  const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /* Maps. Entry (query, key) of a lower triangle stands at query (query + 1) / 2 + key. */
  function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed.codes), (c) => c.charCodeAt(0));
    const codes = packed.bits === 16 ? new Uint16Array(bytes.length / 2) : bytes;
    if (packed.bits === 16) for (let i = 0; i < codes.length; i++) codes[i] = bytes[2 * i] | (bytes[2 * i + 1] << 8);
    return { ...packed, codes, largest: 2 ** packed.bits - 1 };
  }
  const nSteps = data.steps.length;
  const nEntries = (nSteps * (nSteps + 1)) / 2;
  const maps = unpack(data.maps);
  const heads = data.heads && unpack(data.heads);

  function entry(packed, map, query, key) {
    const code = packed.codes[map * nEntries + (query * (query + 1)) / 2 + key];
    if (code === 0) return NaN;
    if (code === 1) return 0;
    return packed.top[map] * 10 ** ((-packed.decades[map] * (packed.largest - code)) / (packed.largest - 2));
  }

  const counted = (step) => data.steps[step].region !== "template";
  const state = { layer: 0, head: null, value: "saliency", scale: "one", template: !data.steps.some((_, step) => counted(step)), query: 0, key: 0 };
  let shown = [], cellOf = new Map(), view = null, hover = null;

  /* The map in view: layer 0 of the slider is the mean over layers. */
  function source(layer = state.layer) {
    if (state.head !== null && layer > 0) {
      const kept = data.heads.kept[layer - 1];
      const place = kept.indexOf(state.head);
      const before = data.heads.kept.slice(0, layer - 1).reduce((count, of) => count + of.length, 0);
      if (place >= 0) return [heads, before + place];
    }
    return [maps, layer];
  }
  function values(layer = state.layer) {
    const [packed, map] = source(layer);
    const grid = new Float64Array(nSteps * nSteps).fill(NaN);
    for (let q = 0; q < nSteps; q++) for (let k = 0; k <= q; k++) grid[q * nSteps + k] = entry(packed, map, q, k);
    return grid;
  }
  function rowTotals(grid) {
    return data.steps.map((_, q) => {
      let total = 0;
      if (counted(q)) for (let k = 0; k <= q; k++) if (counted(k) && grid[q * nSteps + k] > 0) total += grid[q * nSteps + k];
      return total;
    });
  }
  const at = (query, key) => view.grid[query * nSteps + key];
  const share = (query, key) => (counted(query) && counted(key) && view.totals[query] > 0 ? at(query, key) / view.totals[query] : NaN);

  /* Log scale from the 2nd percentile of the positive entries, five decades at most, to the top. */
  function range(grid) {
    const positive = [];
    for (const q of shown) for (const k of shown) if (k <= q && grid[q * nSteps + k] > 0) positive.push(grid[q * nSteps + k]);
    if (!positive.length) return [0, 1];
    positive.sort((a, b) => a - b);
    const top = positive[positive.length - 1];
    const low = Math.max(positive[Math.floor(0.02 * (positive.length - 1))], top / 1e5);
    return [Math.min(low, top / 1.01), top];
  }
  function colourRange(grid) {
    if (state.value === "share") return [0, 1];
    if (state.scale === "one") return range(grid);
    const ranges = data.layers.map((_, i) => range(values(i + 1)));
    return [Math.min(...ranges.map((r) => r[0]).filter((v) => v > 0)), Math.max(...ranges.map((r) => r[1]))];
  }
  const dark = () => matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches;
  function palette() {
    const stops = (dark() ? [...MAGMA].reverse() : MAGMA).map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
    return (x) => {
      const place = Math.min(Math.max(x, 0), 1) * (stops.length - 1);
      const i = Math.min(Math.floor(place), stops.length - 2);
      return stops[i].map((a, c) => Math.round(a + (stops[i + 1][c] - a) * (place - i)));
    };
  }
  function position(value, [low, top]) {
    if (state.value === "share") return Math.sqrt(value);
    return value > 0 ? Math.log(value / low) / Math.log(top / low) : NaN;
  }

  /* Numbers as they are shown. */
  const digits = () => (source()[0].bits === 16 ? 3 : 2);
  function number(value, places = digits()) {
    if (Number.isNaN(value)) return "undefined";
    if (value === 0) return "0";
    return (value >= 0.01 && value < 1000 ? value.toPrecision(places) : value.toExponential(places - 1)).replace("-", "−");
  }
  const percent = (value) => (Number.isNaN(value) ? "" : value < 0.0005 ? "< 0.1%" : `${(100 * value).toFixed(1)}%`);
  const layerName = (layer) => (layer === 0 ? "mean of layers" : `layer ${data.layers[layer - 1]}`);
  const headName = () => (state.head === null || state.layer === 0 ? "mean of heads" : `head ${state.head}`);
  const stepName = (step) => `step ${step} (${data.steps[step].region})`;
  function excerpt(step, length = 240) {
    const text = data.steps[step].text.replace(/\s+/g, " ").trim();
    return text.length > length ? `${text.slice(0, length - 1)}…` : text || "(no text)";
  }

  /* Drawing the map. */
  function refresh() {
    const grid = values();
    view = { grid, totals: rowTotals(grid) };
    view.range = colourRange(grid);
    paint();
    frame();
    legend();
    select(state.query, state.key);
    $("layer-name").textContent = layerName(state.layer);
    $("layer").setAttribute("aria-valuetext", layerName(state.layer));
    document.querySelectorAll(".chart .now").forEach((line) => {
      const x = line.dataset[`x${state.layer}`];
      line.style.display = x === undefined ? "none" : "";
      if (x !== undefined) { line.setAttribute("x1", x); line.setAttribute("x2", x); }
    });
  }
  function paint() {
    const n = shown.length, canvas = $("canvas"), colour = palette();
    canvas.width = canvas.height = Math.max(n, 1);
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
    shown.forEach((q, row) => shown.forEach((k, column) => {
      if (k > q) return;
      const x = position(state.value === "share" ? share(q, k) : at(q, k), view.range);
      if (!Number.isNaN(x)) image.data.set([...colour(x), 255], 4 * (row * n + column));
    }));
    context.putImageData(image, 0, 0);
  }
  function runs() {
    const found = [];
    shown.forEach((step, cell) => {
      const region = data.steps[step].region;
      if (!found.length || found[found.length - 1].region !== region) found.push({ region, start: cell, stop: cell });
      found[found.length - 1].stop = cell + 1;
    });
    return found;
  }
  function frame() {
    const n = shown.length, overlay = $("overlay"), gap = 0.008 * n, strip = 0.014 * n;
    overlay.setAttribute("viewBox", `0 0 ${n} ${n}`);
    overlay.replaceChildren();
    for (const { region, start, stop } of runs()) {
      const style = `fill: var(--${region})`;
      overlay.append(
        styled(draw("rect", { x: -gap - strip, y: start, width: strip, height: stop - start }), region),
        styled(draw("rect", { x: start, y: n + gap, width: stop - start, height: strip }), region));
      if (start) overlay.append(draw("path", { class: "border", d: `M0 ${start}H${start}V${n}` }));
    }
    overlay.append(draw("path", { class: "guide", id: "guide" }), draw("rect", { class: "hover", id: "hover-cell", width: 1, height: 1, visibility: "hidden" }), draw("rect", { class: "cell", id: "cell", width: 1, height: 1 }));
    $("map").querySelectorAll(".tick-label").forEach((label) => label.remove());
    const stride = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000].find((s) => n / s <= 12) || 2000;
    shown.forEach((step, cell) => {
      if (step % stride) return;
      for (const [axis, side] of [["x", "left"], ["y", "top"]]) {
        const label = make("span", { class: `tick-label ${axis}`, "aria-hidden": "true" }, String(step));
        label.style[side] = `${(100 * (cell + 0.5)) / n}%`;
        $("map").append(label);
      }
    });
  }
  function styled(element, region) {
    element.style.fill = `var(--${region})`;
    return element;
  }
  function legend() {
    const colour = palette(), bar = make("div", { class: "bar" });
    const stops = [...Array(11).keys()].map((i) => `rgb(${colour(i / 10).join(" ")})`);
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const ends = state.value === "share" ? ["0", "25%", "100%"] : [number(view.range[0]), number(view.range[1])];
    const title = state.value === "share" ? "share of the row, root scale" : `saliency (${data.unit}), log scale`;
    const regions = ["question", "thinking", "summary", "template"].filter((r) => shown.some((s) => data.steps[s].region === r));
    $("legend").replaceChildren(
      make("div", {}, title), bar, make("div", { class: "ends" }, ...ends.map((e) => make("span", {}, e))),
      make("div", {}, ...regions.flatMap((r) => [make("span", { class: "name" }, make("span", { class: `swatch region-${r}` }), r), " "])));
  }

  /* Selecting a pair of steps: from the map, from the text, from the list of links. */
  function select(query, key, scroll = false) {
    const [row, column] = [cellOf.get(query), cellOf.get(key)];
    Object.assign(state, { query, key });
    place($("cell"), row, column);
    $("guide").setAttribute("d", `M0 ${row + 0.5}H${column} M${column + 0.5} ${row + 1}V${shown.length}`);
    tint();
    $("readout").replaceChildren(...describe(query, key));
    links();
    if (scroll) for (const step of [key, query]) reveal(items.get(step));
  }
  function place(rect, row, column) {
    rect.setAttribute("x", column);
    rect.setAttribute("y", row);
  }
  function describe(query, key) {
    const part = percent(share(query, key));
    const unit = Number.isNaN(at(query, key)) ? "" : ` ${data.unit}`;
    const head = `${layerName(state.layer)}, ${headName()}: step ${query} ← step ${key}: ${number(at(query, key))}${unit}${part && `, ${part} of the row`}`;
    const told = (word, step) => make("p", { class: `region-${data.steps[step].region}` }, make("b", {}, `${word} ${stepName(step)}`), ` ${excerpt(step)}`);
    return [make("p", { class: "head" }, head), told("writing", query), told("looking at", key)];
  }
  function links() {
    const found = shown.filter((k) => k <= state.query && at(state.query, k) > 0).sort((a, b) => at(state.query, b) - at(state.query, a)).slice(0, 6);
    const rows = found.map((k) => {
      const button = make("button", { type: "button" }, excerpt(k, 70));
      button.addEventListener("click", () => select(state.query, k, true));
      return make("tr", {}, make("td", { class: "n" }, String(k)), make("td", {}, button), make("td", { class: "n" }, number(at(state.query, k))), make("td", { class: "n" }, percent(share(state.query, k))));
    });
    const heading = ["step", "text", data.unit, "of the row"].map((name, i) => make("th", { scope: "col", class: i === 1 ? "" : "n" }, name));
    const none = make("caption", {}, `Step ${state.query} draws on nothing in this map.`);
    const caption = make("caption", {}, `What step ${state.query} draws on most (${data.reading})`);
    $("links").replaceChildren(rows.length ? make("table", {}, caption, make("thead", {}, make("tr", {}, ...heading)), make("tbody", {}, ...rows)) : make("table", {}, none));
  }

  /* The text. */
  const items = new Map();
  function list() {
    items.clear();
    $("steps").replaceChildren(...shown.map((step) => {
      const { region, text } = data.steps[step];
      const item = make("li", { role: "option", id: `step-${step}`, class: `region-${region}`, "aria-selected": "false", tabindex: "-1" },
        make("span", { class: "number" }, String(step)), make("span", { class: "words", dir: "auto" }, text.trim() || "(no text)"), make("span", { class: "part" }));
      item.addEventListener("click", () => { hover = null; choose(step); showHover(); });
      item.addEventListener("focus", () => { if (state.query !== step) choose(step); });
      item.addEventListener("pointerenter", () => { if (step <= state.query) { hover = [state.query, step]; showHover(); } });
      item.addEventListener("pointerleave", () => { hover = null; showHover(); });
      items.set(step, item);
      return item;
    }));
  }
  function choose(query) {
    const row = shown.filter((k) => k <= query && !Number.isNaN(at(query, k)));
    const best = row.reduce((a, b) => (at(query, b) > at(query, a) ? b : a), row[0] ?? query);
    select(query, best);
  }
  function tint() {
    for (const [step, item] of items) {
      const part = step <= state.query ? share(state.query, step) : NaN;
      item.style.setProperty("--share", Number.isNaN(part) ? 0 : (75 * Math.sqrt(part)).toFixed(1));
      item.querySelector(".part").textContent = percent(part);
      const chosen = step === state.query;
      item.setAttribute("aria-selected", String(chosen));
      item.tabIndex = chosen ? 0 : -1;
      item.classList.toggle("key", step === state.key);
    }
  }
  function reveal(item) {
    const box = $("steps");
    const inside = item.offsetTop >= box.scrollTop && item.offsetTop + item.offsetHeight <= box.scrollTop + box.clientHeight;
    if (!inside) box.scrollTop = item.offsetTop - box.clientHeight / 3;
  }

  /* Hovering: the cell under the pointer, or the step under it in the chosen row. */
  function showHover() {
    const rect = $("hover-cell");
    rect.setAttribute("visibility", hover ? "visible" : "hidden");
    if (hover) place(rect, cellOf.get(hover[0]), cellOf.get(hover[1]));
    for (const [step, item] of items) item.classList.toggle("hover", Boolean(hover) && hover.includes(step));
    $("readout").setAttribute("aria-live", hover ? "off" : "polite");
    $("readout").replaceChildren(...describe(...(hover || [state.query, state.key])));
  }
  function cellUnder(event) {
    const box = $("map").getBoundingClientRect(), n = shown.length;
    const column = Math.floor(((event.clientX - box.left) / box.width) * n);
    const row = Math.floor(((event.clientY - box.top) / box.height) * n);
    return row < 0 || row >= n || column < 0 || column > row ? null : [shown[row], shown[column]];
  }
  function move(rows, columns) {
    const row = Math.min(Math.max(cellOf.get(state.query) + rows, 0), shown.length - 1);
    const column = Math.min(Math.max(cellOf.get(state.key) + columns, 0), row);
    select(shown[row], shown[column], true);
  }
  function setLayer(layer) {
    state.layer = Math.min(Math.max(layer, 0), data.layers.length);
    $("layer").value = state.layer;
    offerHeads();
    refresh();
  }
  function offerHeads() {
    if (!data.heads) return;
    const kept = state.layer ? data.heads.kept[state.layer - 1] : [];
    const options = kept.map((head) => make("option", { value: head }, `head ${head}`));
    $("head").replaceChildren(make("option", { value: "" }, "mean of heads"), ...options);
    $("head").disabled = !kept.length;
    if (!kept.includes(state.head)) state.head = null;
    $("head").value = state.head === null ? "" : String(state.head);
  }
  function showSteps() {
    shown = data.steps.map((_, step) => step).filter((step) => state.template || counted(step));
    cellOf = new Map(shown.map((step, cell) => [step, cell]));
    const nearest = (step) => shown.filter((s) => s <= step).pop() ?? shown[0];
    state.query = nearest(state.query);
    state.key = Math.min(nearest(state.key), state.query);
    list();
    refresh();
  }

  /* Depth curves. */
  const WIDTH = 430, HEIGHT = 220, LEFT = 44, RIGHT = 10, TOP = 20, BOTTOM = 34;
  function chart({ title, label, lines }) {
    const all = lines.flatMap((l) => [...l.values, ...(l.lower || []), ...(l.upper || []), l.uniform ?? null]).filter((v) => v !== null);
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
    if (line.uniform !== undefined && line.uniform !== null) parts.push(ink(draw("line", { class: "uniform", x1: LEFT, x2: WIDTH - RIGHT, y1: y(line.uniform), y2: y(line.uniform) })));
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
    const told = (l, i) => (l.lower && l.lower[i] !== null ? `${cell(l.values[i])} [${cell(l.lower[i])}, ${cell(l.upper[i])}]` : cell(l.values[i]));
    const head = make("tr", {}, make("th", { scope: "col" }, "layer"), ...lines.map((l) => make("th", { scope: "col", class: "n" }, l.name)));
    const body = data.layers.map((layer, i) => make("tr", {}, make("th", { scope: "row" }, String(layer)), ...lines.map((l) => make("td", { class: "n" }, told(l, i)))));
    return make("details", {}, make("summary", {}, "Numbers of the curves"), make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
  }
  function diagnosis() {
    const { indices, charts, reasons } = data.diagnosis;
    const head = make("tr", {}, make("td"), ...indices.columns.map((name) => make("th", { scope: "col" }, name)));
    const body = indices.rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.name), ...row.cells.map((c) => make("td", {}, c))));
    $("indices").replaceChildren(make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
    $("charts").replaceChildren(...charts.map(chart));
    $("charts").after(curveTable());
    const groups = charts.some((c) => c.lines.some((l) => l.lower)) ? " Bands are 95% intervals of means over problems, resampled by problem; with fewer than ten problems they are rough." : "";
    $("chart-note").textContent = `Dotted: what a map that prefers no position gives. Shaded: shallow and deep layers. Both indices are larger the worse it is.${groups} ${reasons.join("; ")}`;
  }

  /* Effects: one table per edit, and a picture where it has layers and heads. */
  const whole = (name) => name.replaceAll("_", " ");
  const plain = (v) => (v === null ? "–" : Number.isInteger(v) ? v.toLocaleString("en") : v.toPrecision(3).replace("-", "−"));
  function effects() {
    if (!data.effects || !data.effects.groups.length) return;
    $("effects").hidden = false;
    $("effect-groups").replaceChildren(...data.effects.groups.map(effectGroup));
  }
  function effectGroup(group) {
    const columns = Object.keys(group.columns), rows = group.layers.map((_, i) => i);
    const hasHeads = group.heads.some((head) => head !== null);
    const head = ["layer", ...(hasHeads ? ["head"] : []), ...columns.map(whole)];
    const line = (i) => [group.layers[i], ...(hasHeads ? [group.heads[i]] : []), ...columns.map((c) => group.columns[c][i])];
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...head.map((h) => make("th", { scope: "col", class: "n" }, h)))),
      make("tbody", {}, ...rows.map((i) => make("tr", {}, ...line(i).map((v) => make("td", { class: "n" }, plain(v)))))));
    const pictures = hasHeads ? columns.map((c) => effectMap(group, c)) : [];
    const body = make("div", { class: "scroll" }, table);
    return make("section", {}, make("h3", {}, group.edit), make("div", { class: "effects" }, ...pictures),
      rows.length > 12 ? make("details", {}, make("summary", {}, `Numbers of ${group.edit}`), body) : body);
  }
  function effectMap(group, column) {
    const layers = [...new Set(group.layers)].sort((a, b) => a - b), heads = [...new Set(group.heads)].sort((a, b) => a - b);
    const cells = new Map(group.layers.map((layer, i) => [`${layer} ${group.heads[i]}`, group.columns[column][i]]));
    const top = Math.max(...group.columns[column].filter((v) => v !== null), 0);
    const row = (layer) => make("tr", {}, make("th", { scope: "row" }, `L${layer}`), ...heads.map((h) => {
      const value = cells.get(`${layer} ${h}`) ?? null;
      const cell = make("td", { title: `L${layer}H${h}: ${plain(value)}`, "aria-label": `L${layer}H${h}: ${plain(value)}` });
      if (value !== null) cell.style.background = `color-mix(in srgb, var(--decay) ${top > 0 ? Math.round((100 * Math.max(value, 0)) / top) : 0}%, var(--empty))`;
      return cell;
    }));
    const head = make("tr", {}, make("td"), ...heads.map((h) => make("th", { scope: "col" }, heads.length > 16 && h % 4 ? "" : String(h))));
    return make("table", { class: "effect-map" }, make("caption", {}, `${whole(column)} by layer and head, 0 to ${plain(top)}`), make("thead", {}, head), make("tbody", {}, ...layers.map(row)));
  }

  /* Wiring. */
  for (const [name, value] of Object.entries(data.facts)) $("facts").append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  $("precision").textContent = data.precision;
  $("layer").max = data.layers.length;
  $("layer").addEventListener("input", (event) => setLayer(Number(event.target.value)));
  $("head-label").hidden = !data.heads;
  $("head").addEventListener("change", (event) => { state.head = event.target.value === "" ? null : Number(event.target.value); refresh(); });
  $("value").addEventListener("change", (event) => { state.value = event.target.value; refresh(); });
  $("scale").addEventListener("change", (event) => { state.scale = event.target.value; refresh(); });
  $("template").addEventListener("change", (event) => { state.template = event.target.checked; showSteps(); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("map").addEventListener("pointermove", (event) => { hover = cellUnder(event); showHover(); });
  $("map").addEventListener("pointerleave", () => { hover = null; showHover(); });
  $("map").addEventListener("click", (event) => { const cell = cellUnder(event); if (cell) select(...cell, true); });
  $("map").addEventListener("keydown", (event) => {
    const actions = {
      ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0), ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1),
      Home: () => move(0, -nSteps), End: () => move(0, nSteps), PageUp: () => setLayer(state.layer + 1), PageDown: () => setLayer(state.layer - 1),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  });
  $("steps").addEventListener("keydown", (event) => {
    const place = cellOf.get(state.query);
    const target = { ArrowUp: place - 1, ArrowDown: place + 1, Home: 0, End: shown.length - 1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    const step = shown[Math.min(Math.max(target, 0), shown.length - 1)];
    choose(step);
    items.get(step).focus();
  });
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", refresh);
  diagnosis();
  effects();
  $("template").checked = state.template;
  state.layer = data.layers.length > 1 ? 0 : 1;
  $("layer").value = state.layer;
  state.query = data.steps.length - 1;
  offerHeads();
  showSteps();
  choose(shown[shown.length - 1]);
})();
