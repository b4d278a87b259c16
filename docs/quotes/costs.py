"""What maps and decoding cost: the README's table, from the tables of ``benchmarks/results``."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CPU = "SmolLM2-135M, two CPU cores"
THREAD = "reasoner, one thread"
H200 = "shape of Qwen2-7B, bfloat16, H200"
PLAIN = "a plain forward and backward pass"
PASSES = {
    "streaming": "map",
    "hooks": "map by hooks",
    "eager": "eager attention, gradients of the pattern retained",
    "per_token": "one backward pass per token",
}
MAP_ROWS = (
    ("streaming", 512),
    ("streaming", 2048),
    ("streaming", 4096),
    ("streaming", 8192),
    ("hooks", 512),
    ("eager", 512),
    ("per_token", 512),
)
GPU_PASSES = {
    "inputs, checkpointed": "a checkpointed forward and backward pass to the inputs",
    "weights, checkpointed": "a checkpointed forward and backward pass to the weights",
    "inputs": "a pass that keeps all activations",
}
GPU_ROWS = (
    ("inputs, checkpointed", 4096),
    ("inputs, checkpointed", 8192),
    ("weights, checkpointed", 4096),
    ("weights, checkpointed", 8192),
    ("inputs", 8192),
)
"""Lengths that were measured with the code as it is."""
FEW = 3
"""Fewer rounds side by side are said."""
Row = tuple[str, str, str, str, str]
"""Where, what, beside what, how long, and memory above the weights."""


def table_text(folder: Path = ROOT / "benchmarks" / "results") -> str:
    """One row a measurement."""
    head = ("where", "what", "held against", "times as long", "GB above the weights")
    rows = [*_cpu_maps(folder), *_cpu_decoding(folder), *_mixed(folder), *_gpu(folder)]
    lines = [head, ("---", "---", "---", "---:", "---:"), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cpu_maps(folder: Path) -> Iterator[Row]:
    table = pd.read_csv(folder / "smollm2-135m-cpu.csv").set_index(["method", "n_tokens"])
    for method, tokens in MAP_ROWS:
        row = table.loc[method, tokens]
        memory = f"{row['peak_bytes'] / 1e9:.2f}"
        what = f"{PASSES[method]}, {tokens:,} tokens"
        if pd.isna(row["ratio"]):
            yield CPU, what, "-", f"{row['seconds']:.0f} s", memory
        else:
            ratio = _times(row["ratio"], row["ratio_lowest"], row["ratio_highest"])
            yield CPU, what, PLAIN, f"{ratio}{_caveat(row)}", memory


def _caveat(row: pd.Series) -> str:
    """How a time was come by, where it is not the median of several."""
    if "extrapolated" in str(row["note"]):
        return " (extrapolated)"
    return f" ({row['pairs']:.0f} rounds)" if row["pairs"] < FEW else ""


def _cpu_decoding(folder: Path) -> Iterator[Row]:
    table = pd.read_csv(folder / "smollm2-135m-decoding.csv").set_index(["way", "beside"])
    names = {"fast": "the same without", "plain": "transformers' `generate`"}
    for beside, name in names.items():
        row = table.loc["fast+flow", beside]
        ratio = _times(row["ratio"], row["ratio_lowest"], row["ratio_highest"])
        yield CPU, "8 responses with StepFlow", name, ratio, ""


def _mixed(folder: Path) -> Iterator[Row]:
    """Tokens a second there, so time is the inverse."""
    table = pd.read_csv(folder / "reasoner-mixed-lengths.csv").set_index(["way", "beside"])
    what = "256 responses of mixed length, slots refilled"
    rows = (
        ("refill", "static", what, "static batches"),
        ("refill", "sorted", what, "static batches, longest prompts first"),
        ("refill+flow", "refill", f"{what}, with StepFlow", "the same without"),
    )
    for way, beside, name, other in rows:
        faster = table.loc[way, beside]
        ends = (1 / faster[end] for end in ("faster", "faster_highest", "faster_lowest"))
        yield THREAD, name, other, _times(*ends), ""


def _gpu(folder: Path) -> Iterator[Row]:
    page = (folder / "qwen2-7b-cuda.md").read_text(encoding="utf-8")
    maps = {(row[1], int(row[0])): row for row in _cells(page, "Maps")}
    for name, tokens in GPU_ROWS:
        memory, ratio = float(maps["map", tokens][3]), maps[name, tokens][4]
        yield H200, f"map, {tokens:,} tokens", GPU_PASSES[name], ratio, f"{memory:.2f}"
    ways = {row[0]: row for row in _cells(page, "Decoding")}
    yield H200, "32 responses", "transformers' `generate`", ways["fast"][3], ""
    yield H200, "32 responses with StepFlow", "the same without", ways["StepFlow"][5], ""


def _cells(page: str, heading: str) -> list[list[str]]:
    """Cells of the rows of the first table under a heading."""
    lines = page.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    rows = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:]]


def _times(ratio: float, lowest: float, highest: float) -> str:
    digits = 0 if ratio >= 100 else 2
    return f"{ratio:.{digits}f} [{lowest:.{digits}f}, {highest:.{digits}f}]"


def parts() -> dict[tuple[Path, str], str]:
    """What is written into pages, by page and name of the mark."""
    return {(README, "costs"): table_text()}
