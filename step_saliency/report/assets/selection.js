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
  const line = (word, step) => make("p", { class: `region-${data.steps[step].region}` }, make("b", {}, `${word} ${stepName(step)}`), ` ${excerpt(step)}`);
  return [make("p", { class: "head" }, head), line("writing", query), line("looking at", key)];
}
function links() {
  const keys = shown.filter((k) => k <= state.query && at(state.query, k) > 0).sort((a, b) => at(state.query, b) - at(state.query, a)).slice(0, 6);
  const rows = keys.map((k) => {
    const button = make("button", { type: "button" }, excerpt(k, 70));
    button.addEventListener("click", () => select(state.query, k, true));
    return make("tr", {}, make("td", { class: "n" }, String(k)), make("td", {}, button), make("td", { class: "n" }, number(at(state.query, k))), make("td", { class: "n" }, percent(share(state.query, k))));
  });
  const heading = ["step", "text", data.unit, "of the row"].map((name, i) => make("th", { scope: "col", class: i === 1 ? "" : "n" }, name));
  const none = make("caption", {}, `Step ${state.query} draws on nothing in this map.`);
  const caption = make("caption", {}, `What step ${state.query} draws on most (${data.reading})`);
  $("links").replaceChildren(rows.length ? make("table", {}, caption, make("thead", {}, make("tr", {}, ...heading)), make("tbody", {}, ...rows)) : make("table", {}, none));
}
