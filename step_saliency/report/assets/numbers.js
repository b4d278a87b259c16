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
