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
