"""What was measured, one row per method and length: read, written and drawn."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from step_saliency.storage.files import replacing, write_text


@dataclass(frozen=True)
class Row:
    """One method at one length."""

    shape: str
    device: str
    method: str
    n_tokens: int
    seconds: float | None
    plain_seconds: float | None
    ratio: float | None
    ratio_lowest: float | None
    ratio_highest: float | None
    pairs: int
    peak_bytes: int | None
    note: str = ""


def read_csv(path: Path) -> list[Row]:
    """Rows that an earlier run wrote; none if there was none."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [_read_row(line) for line in csv.DictReader(file)]


def _read_row(line: dict[str, str]) -> Row:
    counts, texts = ("n_tokens", "pairs", "peak_bytes"), ("shape", "device", "method", "note")
    values: dict[str, Any] = {
        name: text if name in texts else int(text) if name in counts else float(text)
        for name, text in line.items()
        if text or name in texts
    }
    return Row(**dict.fromkeys(line) | values)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def write_markdown(rows: Sequence[Row], path: Path) -> None:
    """The same table for people."""
    lines = [
        f"# {rows[0].shape} on {rows[0].device}",
        "",
        "Ratio: time over one plain forward and backward pass with SDPA beside it that takes the "
        "gradient of the inputs alone (of the weights where plain_inputs is not in the table), "
        "median of the pairs [smallest, largest]. Memory: peak above the weights.",
        "",
        "| method | T | seconds | ratio | pairs | memory, GB | note |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        ratio = ""
        if row.ratio is not None:
            ratio = f"{row.ratio:.2f} [{row.ratio_lowest:.2f}, {row.ratio_highest:.2f}]"
        memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f}"
        cells = [row.method, f"{row.n_tokens:,}", seconds, ratio, str(row.pairs), memory, row.note]
        lines.append("| " + " | ".join(cells) + " |")
    write_text(path, "\n".join(lines) + "\n")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Seconds and memory over T."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for method in dict.fromkeys(row.method for row in rows):
        of_method = [row for row in rows if row.method == method]
        seconds = [(row.n_tokens, row.seconds) for row in of_method if row.seconds is not None]
        memory = [(row.n_tokens, row.peak_bytes / 1e9) for row in of_method if row.peak_bytes]
        for axes, points in ((time_axes, seconds), (memory_axes, memory)):
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=method)
    time_axes.set(ylabel="time (s)")
    memory_axes.set(ylabel="peak memory above the weights (GB)")
    for axes in (time_axes, memory_axes):
        axes.set(xlabel="trace length T (tokens)", xscale="log", yscale="log")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
    if any(row.seconds is not None for row in rows):
        time_axes.legend(fontsize="small")
    figure.suptitle(f"{rows[0].shape} on {rows[0].device}")
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=150)


def write(rows: Sequence[Row], stem: Path) -> None:
    """Table, the same for people, and plot."""
    write_csv(rows, stem.with_suffix(".csv"))
    write_markdown(rows, stem.with_suffix(".md"))
    plot(rows, stem.with_suffix(".png"))
