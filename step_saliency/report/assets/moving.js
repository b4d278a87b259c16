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
