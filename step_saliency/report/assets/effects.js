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
