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
