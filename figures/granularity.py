"""Do maps find the relevant part of dialogues and documents, and do the indices hold elsewhere?

Results: `analyses.granularity`. Dotted in the second panel: chance, one over the number of parts.
In a dialogue the relevant part is also the nearest, so that distance alone finds it.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import counted, dots, legend_below
from figures.results import AnyResults, read_all
from figures.style import NEUTRAL, PAGE, label, new_figure, style

NAME = "granularity"
METHODS = {
    "next_token": "map: Step-Saliency, loss",
    "log_odds": "map: Step-Saliency, log-odds",
    "attention": "map: attention",
}
PANELS = {
    "excess": ("On the relevant part", "share − share of tokens"),
    "top": ("Relevant part on top", "share of texts, dotted: chance"),
    "lock_in_index": ("Lock-in, shallow", "share beyond uniform"),
    "decay_index": ("Decay, deep", "loss of share"),
}
BY_SPLITTER = ("lock_in_index", "decay_index")


def load(results: AnyResults) -> pd.DataFrame:
    """Means over problems, of every setting that was run."""
    table = read_all(results, "granularity", ("gsm8k",))
    return table[table["metric"].isin(PANELS)]


def draw(table: pd.DataFrame) -> Figure:
    """A row of panels per setting: two of what maps find, two of the indices by size of step."""
    settings = list(dict.fromkeys(table["setting"]))
    splitters = list(dict.fromkeys(table["splitter"]))
    with style():
        figure = new_figure(PAGE, 1.0 + 1.8 * len(settings))
        axes = figure.subplots(len(settings), len(PANELS), squeeze=False)
        for number, (row, setting) in enumerate(zip(axes, settings, strict=True)):
            of_setting = table[table["setting"] == setting]
            texts = list(dict.fromkeys(of_setting["text"]))
            for ax, (metric, (title, xlabel)) in zip(row, PANELS.items(), strict=True):
                of_metric = of_setting[of_setting["metric"] == metric]
                by_splitter = metric in BY_SPLITTER
                if by_splitter:
                    of_metric = of_metric[of_metric["method"] == "next_token"]
                else:
                    of_metric = of_metric[of_metric["splitter"] == splitters[0]]
                shown = [text for text in texts if (of_metric["text"] == text).any()]
                dots(
                    ax,
                    of_metric.assign(
                        method=of_metric["method"].map(METHODS),
                        splitter=[f"steps: {label(name)}s" for name in of_metric["splitter"]],
                    ),
                    names="text",
                    hue="splitter" if by_splitter else "method",
                    order=shown,
                    hues=[f"steps: {label(name)}s" for name in splitters]
                    if by_splitter
                    else list(METHODS.values()),
                    reference=None if metric == "top" else 0.0,
                    xlabel=f"{xlabel}\n({counted(of_metric)})",
                )
                if number == 0:
                    ax.set_title(title)
            parts = of_setting[of_setting["metric"] == "top"].drop_duplicates("text")
            for _, part in parts.iterrows():
                y = [text for text in texts if text != "single"].index(part["text"])
                row[1].plot([1 / part["n_parts"]] * 2, [y - 0.4, y + 0.4], ":", color=NEUTRAL)
            row[0].set_ylabel(setting.replace(", ", "\n"))
        legend_below(figure, axes[0][::2], ncols=2)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
