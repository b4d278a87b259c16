"""Time and memory of a map over the length of the trace. Results: `benchmarks/saliency.py`."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from figures.parts import legend_below
from figures.results import AnyResults, MissingResultsError
from figures.style import COLUMN, CYCLE, GRID_COLOUR, MARKERS, label, new_figure, style

NAME = "cost_over_length"
METHODS = {
    "streaming": "streaming (this toolkit)",
    "plain": "plain forward + backward",
    "hooks": "hooks (reference path)",
    "eager": "eager attention, kept",
    "per_token": "a backward pass per token",
    "inseq": "inseq",
    "captum": "captum",
}


def load(results: AnyResults) -> pd.DataFrame:
    """Measurements on the CPU; the benchmark keeps them beside itself."""
    places = [results / "benchmarks"]
    if isinstance(results, Path):
        places.append(results.parent / "benchmarks" / "results")
    files = [file for place in places for file in sorted(place.glob("*-cpu.csv"))]
    if not files:
        raise MissingResultsError(f"{places[-1]} holds no *-cpu.csv")
    table = pd.read_csv(files[0])
    measured = table[table["method"].isin(METHODS)]
    return measured if (table["method"] == "plain").any() else _with_plain(measured)


def _with_plain(table: pd.DataFrame) -> pd.DataFrame:
    """The plain passes that the streaming ones were paired with, as rows of their own."""
    pairs = table[(table["method"] == "streaming") & table["plain_seconds"].notna()]
    plain = pairs.assign(method="plain", seconds=pairs["plain_seconds"], peak_bytes=float("nan"))
    return pd.concat([table, plain], ignore_index=True)


def draw(table: pd.DataFrame) -> Figure:
    """Seconds above, peak memory below, both on log scales."""
    with style():
        figure = new_figure(COLUMN, 4.2)
        axes = figure.subplots(2, 1, sharex=True)
        for number, (method, name) in enumerate(METHODS.items()):
            rows = table[table["method"] == method].sort_values("n_tokens")
            for ax, column, scale in ((axes[0], "seconds", 1), (axes[1], "peak_bytes", 1e9)):
                values = rows.dropna(subset=[column])
                if not values.empty:
                    ax.plot(
                        values["n_tokens"],
                        values[column] / scale,
                        marker=MARKERS[number],
                        color=CYCLE[number],
                        linestyle="-" if number < 2 else "--",
                        label=name,
                    )
        for ax, text in zip(axes, ("seconds", "peak memory (GB)"), strict=True):
            ax.set(xscale="log", yscale="log", ylabel=text)
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.grid(color=GRID_COLOUR, linewidth=0.5)
        lengths = sorted(table["n_tokens"].unique())
        axes[1].set_xticks(lengths, [f"{n:,}" for n in lengths])
        axes[1].xaxis.set_minor_formatter(NullFormatter())
        axes[1].set_xlabel("tokens")
        axes[0].set_title(f"{label(table['shape'].iloc[0])}, CPU")
        legend_below(figure, axes, ncols=2, note="")
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
