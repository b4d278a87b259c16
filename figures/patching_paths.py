"""Where does a premise's content travel? Recovery when edges to it are cut in the clean run.

Results: `analyses.patching`. ``direct``: from the step that is read; ``indirect``: from all other
later tokens. 1 is no harm; with all content gone recovery is near a half where both runs are
equally sure, not 0.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import curve, dots, legend_below
from figures.results import AnyResults, MissingResultsError, read_all
from figures.style import CYCLE, MARKERS, NEUTRAL, PAGE, new_figure, style

NAME = "patching_paths"
PATHS = {"direct": "read step → source", "indirect": "all others → source", "both": "both paths"}
DIRECT = "direct"
"""Path that is cut in each layer as well; ``direct up to`` a layer is not drawn."""
LINES = ("-", "--", "-.", ":")


def load(results: AnyResults) -> pd.DataFrame:
    """Cuts of edges in all layers, and of the direct ones in each."""
    table = read_all(results, "patching", ("smollm2",))
    rows = table[table["site"] == "edge"]
    if rows.empty:
        raise MissingResultsError("results/patching has no cuts of edges")
    n = rows.groupby(["setting", "kind"])["n"].transform("max").astype(str)
    pair = rows["setting"] + ", " + rows["kind"] + " (n = " + n + ")"
    return rows.assign(path=rows["role"].map(PATHS), pair=pair)


def draw(table: pd.DataFrame) -> Figure:
    """All layers on the left, each layer on the right; colours are models and kinds of pair."""
    pairs = list(dict.fromkeys(table["pair"]))
    with style():
        figure = new_figure(PAGE, 2.3)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
        whole = table[table["layer"].isna()]
        dots(
            left,
            whole,
            names="path",
            hue="pair",
            order=list(PATHS.values()),
            hues=pairs,
            reference=1.0,
            xlabel="recovery of the logit difference",
        )
        left.set_title("Cut in all layers")
        for number, pair in enumerate(pairs):
            of_pair = table[(table["pair"] == pair) & table["layer"].notna()]
            of_pair = of_pair[of_pair["role"] == DIRECT]
            if not of_pair.empty:
                look = {"marker": MARKERS[number], "linestyle": LINES[number % len(LINES)]}
                curve(right, of_pair, x="layer", colour=CYCLE[number], **look)
        right.axhline(1, color=NEUTRAL, linestyle=":", linewidth=0.8)
        right.set(title="Read step → source, cut in one layer", xlabel="layer", ylabel="recovery")
        legend_below(figure, [left], ncols=2)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
