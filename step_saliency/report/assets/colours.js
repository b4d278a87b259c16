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
  const stops = (dark() ? [...data.colours].reverse() : data.colours).map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
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
