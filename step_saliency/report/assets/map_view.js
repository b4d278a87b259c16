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
  const spans = [];
  shown.forEach((step, cell) => {
    const region = data.steps[step].region;
    if (!spans.length || spans[spans.length - 1].region !== region) spans.push({ region, start: cell, stop: cell });
    spans[spans.length - 1].stop = cell + 1;
  });
  return spans;
}
function frame() {
  const n = shown.length, overlay = $("overlay"), gap = 0.008 * n, strip = 0.014 * n;
  overlay.setAttribute("viewBox", `0 0 ${n} ${n}`);
  overlay.replaceChildren();
  for (const { region, start, stop } of runs()) {
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
