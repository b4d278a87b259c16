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
$("template").disabled = !data.steps.some((_, step) => counted(step)); // without the template nothing is left to show
state.layer = data.layers.length > 1 ? 0 : 1;
$("layer").value = state.layer;
state.query = data.steps.length - 1;
offerHeads();
showSteps();
choose(shown[shown.length - 1]);
