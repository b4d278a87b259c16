"""Figures: what is drawn is what the tables say, nothing global changes, and all can be read."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm, Normalize, SymLogNorm, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from analyses import depth_curves as depth_analysis
from analyses import example_traces
from docs.quotes import gallery
from figures import (
    ablation,
    ablation_matched,
    ablation_table,
    compute_matched,
    compute_matched_table,
    cost_over_length,
    depth_curves,
    dose_response,
    error_kinds,
    error_kinds_table,
    faithfulness,
    faithfulness_curves,
    fork_points,
    gold_graph,
    gold_loss,
    granularity,
    head_steering,
    head_transfer,
    layer_bands_table,
    mediation_answers,
    mediation_around,
    mediation_blocking,
    mediation_injection,
    mediation_paths,
    mediation_prediction,
    parts,
    patching,
    patching_heads,
    patching_paths,
    resampling,
    shallow_and_deep,
    style,
    token_and_step,
)
from figures.__main__ import all_figures, main
from figures.conditions import named, placebo_note
from figures.results import MissingResultsError, Results, read, setting
from step_saliency import load_model
from step_saliency.saliency.api import step_saliency
from step_saliency.tasks import make_problems
from step_saliency.trace import Region
from tests.figure_tables import (
    measured,
    write,
    write_ablation,
    write_all,
    write_faithfulness,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


@pytest.fixture
def axes():
    return Figure().subplots()


def test_dots_stand_at_the_estimates_with_their_intervals(axes):
    table = pd.DataFrame(
        {
            "name": ["a", "b", "a"],
            "kind": ["x", "x", "y"],
            "estimate": [0.5, 0.6, 0.7],
            "lower": [0.4, np.nan, 0.65],
            "upper": [0.9, np.nan, 0.8],
        }
    )
    parts.dots(axes, table, names="name", hue="kind", reference=0.3)
    first, second = axes.containers
    assert first[0].get_xdata().tolist() == [0.5, 0.6]
    segments = first[2][0].get_segments()
    assert segments[0][:, 0] == pytest.approx([0.4, 0.9])
    assert segments[1][:, 0] == pytest.approx([0.6, 0.6])
    assert second[2][0].get_segments()[0][:, 0] == pytest.approx([0.65, 0.8])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    assert round(first[0].get_ydata()[1]) == 1


def test_the_eighth_of_a_row_is_told_from_the_first(axes):
    hues = list("abcdefgh")
    table = pd.DataFrame({"name": "row", "hue": hues, "estimate": range(8)})
    parts.dots(axes, table, names="name", hue="hue")
    marks = [(c[0].get_marker(), c[0].get_markerfacecolor()) for c in axes.containers]
    assert len(set(marks)) == 8


def test_panels_say_of_how_many_problems_and_what_intervals_are():
    rows = [("a", 4, 0.1), ("a", 12, 0.2), ("b", 12, 0.3)]
    table = pd.DataFrame(rows, columns=["panel", "n", "estimate"]).assign(name="x", hue="h")
    figure = Figure()
    titles = {"b": "B", "c": "C", "a": "A"}
    options = {"by": "panel", "names": "name", "hue": "hue", "order": ["x"], "hues": ["h"]}
    axes = parts.panels(figure, table, titles, **options, xlabel="rho", ncols=1)
    told = [(ax.get_title(), ax.get_xlabel()) for ax in axes]
    assert told == [("B", "rho (n = 12)"), ("A", "rho (n = 4–12)")]
    assert "95% intervals over problems" in figure.legends[0].get_title().get_text()


def test_a_curve_and_its_band(axes):
    table = pd.DataFrame(
        {"layer": [1, 0], "estimate": [2.0, 1.0], "lower": [1, 0], "upper": [4, 3]}
    )
    parts.curve(axes, table, x="layer", colour="#000000", name="c")
    assert axes.lines[0].get_xydata().tolist() == [[0, 1], [1, 2]]
    corners = axes.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners.tolist()} >= {(0, 0), (0, 3), (1, 1), (1, 4)}


def test_a_step_grid_shows_values_and_regions(axes):
    table = pd.DataFrame(
        {"query": [0, 1, 1, 2, 2, 2], "key": [0, 0, 1, 0, 1, 2], "saliency": [1, 0.5, 2, 0, 3, 4]}
    )
    image = parts.step_grid(axes, table, ["question", "thinking", "summary"], LogNorm(0.1, 4))
    shown = image.get_array()
    assert shown[2, 1] == 3
    assert np.ma.getmaskarray(shown).tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 0]]
    strips = [line for line in axes.lines if str(line.get_label()).startswith("_")]
    expected = [style.REGION_COLOURS[name] for name in ("question", "thinking", "summary")]
    assert [line.get_color() for line in strips] == list(np.repeat(expected, 2))
    upright = [line.get_ydata() for line in strips[::2]]
    assert np.allclose(upright, [(1, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0)])


def test_bands_are_shaded_with_their_gaps_and_named_above(axes):
    table = pd.DataFrame(
        {"layer": [0, 1, 4, 5, 9, None], "band": ["shallow"] * 2 + ["middle"] + ["deep"] * 3}
    )
    parts.shade_bands(axes, table)
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches]
    assert spans == [(-0.5, 1.5), (4.5, 5.5), (8.5, 9.5)]
    assert [text.get_text() for text in axes.texts] == ["shallow", "deep", "deep"]


def test_arcs_are_the_largest_shares_and_their_widths_the_shares(axes):
    table = pd.DataFrame(
        {"query": [1, 2, 2, 2], "key": [0, 0, 1, 2], "share": [0.9, 0.2, 0.5, 0.3]}
    )
    parts.arcs(axes, table, ["question", "thinking", "summary"], colour="#000000", most=2)
    drawn = next(c for c in axes.collections if isinstance(c, PathCollection))
    ends = [(path.vertices[0][0], path.vertices[-1][0]) for path in drawn.get_paths()]
    assert ends == [(0, 1), (1, 2)]
    first, second = (float(width) - 0.3 for width in drawn.get_linewidths())
    assert first / second == pytest.approx(0.9 / 0.5)


def test_a_layer_grid_has_layer_0_at_the_bottom(axes):
    table = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "estimate": [1.0, 2, 3, -4]})
    image = parts.layer_grid(axes, table, columns="head")
    assert image.get_array().tolist() == [[1, 2], [3, -4]]
    assert image.origin == "lower"
    assert (image.norm.vmin, image.norm.vmax) == (-4, 4)


def test_a_table_says_estimate_and_interval():
    table = pd.DataFrame({"name": ["a"], "estimate": [0.5], "lower": [0.25], "upper": [0.75]})
    figure = parts.table_figure(
        table, title="t", columns={"method": "name", "accuracy": parts.with_interval(2)}
    )
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["method", "accuracy", "a", "0.50 [0.25, 0.75]"]


def test_colours_stay_apart_for_colour_blind_readers():
    """Okabe-Ito pairs, seen through Viénot's matrices of protanopia and deuteranopia."""
    matrices = {
        "protan": [[0.112, 0.888, 0.0], [0.112, 0.888, 0.0], [0.004, -0.004, 1.0]],
        "deutan": [[0.293, 0.707, 0.0], [0.293, 0.707, 0.0], [-0.022, 0.022, 1.0]],
    }
    pairs = [(style.CORRECT_COLOUR, style.ERROR_COLOUR), (style.CYCLE[0], style.CYCLE[1])]
    pairs += [(style.CYCLE[1], style.CYCLE[2]), (style.CYCLE[0], style.CYCLE[2])]
    for matrix in matrices.values():
        for a, b in pairs:
            seen = [np.array(matrix) @ np.array(to_rgb(colour)) ** 2.2 for colour in (a, b)]
            assert np.abs(seen[0].clip(0) ** (1 / 2.2) - seen[1].clip(0) ** (1 / 2.2)).max() > 0.1


@pytest.fixture(scope="module")
def model():
    return load_model("reasoner")


@pytest.fixture(scope="module")
def results(tmp_path_factory, model):
    """Results of both analyses, small."""
    folder = tmp_path_factory.mktemp("results")
    problem = make_problems(n=1, level="easy", seed=1)[0]
    frames = []
    for is_correct in (True, False):
        tables = example_traces.example_tables(model, problem.trace(model.tokenizer))
        frames += [
            table.assign(table=name, problem="p", is_correct=is_correct)
            for name, table in tables.items()
        ]
    summarised = example_traces.summarise(pd.concat(frames, ignore_index=True), {})
    for name, table in summarised.items():
        (folder / "example_traces").mkdir(exist_ok=True)
        table.to_parquet(folder / "example_traces" / f"{name}.parquet")
    diagnosed = depth_analysis.diagnosed_answers(
        model, make_problems(n=2, level="medium", seed=0), samples=2, seed=0
    )
    (folder / "depth_curves").mkdir()
    for name, table in depth_analysis.summarise(diagnosed, depth_analysis.CurveSettings()).items():
        table.to_parquet(folder / "depth_curves" / f"{name}.parquet")
    return folder


def test_example_tables_hold_the_maps(model, results):
    problem = make_problems(n=1, level="easy", seed=1)[0]
    trace = problem.trace(model.tokenizer)
    sal = step_saliency(model, trace, objective="log_odds")
    kept = [i for i, step in enumerate(trace.steps) if step.region != "template"]
    maps = read(results, "example_traces", "step_maps")
    chosen = maps[maps["is_correct"] & (maps["layer"] == 3)]
    expected = sal.layer(3)[kept][:, kept].numpy()
    rows, columns = np.tril_indices(len(kept))
    assert chosen["saliency"].to_numpy() == pytest.approx(expected[rows, columns], rel=5e-4)
    shares = read(results, "example_traces", "band_shares")
    totals = shares[shares["is_correct"]].groupby(["band", "query"])["share"].sum()
    assert totals.to_numpy() == pytest.approx(1, abs=2e-3)


def test_the_first_pair_is_of_one_problem_and_both_kinds(model):
    problems = make_problems(n=40, level="hard", seed=0)
    problem, correct, error = example_traces.first_pair(model, problems, samples=4, seed=0)
    assert problem.grade(correct).is_correct
    assert not problem.grade(error).is_correct
    assert correct.regions == error.regions
    with pytest.raises(ValueError, match="take more problems"):
        example_traces.first_pair(model, problems[:0], samples=4, seed=0)


def test_figure_1_shows_the_maps_on_shared_scales(results):
    figure, data = token_and_step.make(results)
    grids = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in grids] == [
        "Correct: tokens",
        "Correct: steps",
        "Error: tokens",
        "Error: steps",
    ]
    assert grids[0].images[0].norm is grids[2].images[0].norm
    shown = grids[1].images[0].get_array().compressed()
    correct = data[data["is_correct"]]
    assert sorted(shown) == pytest.approx(sorted(correct["saliency"][correct["saliency"] > 0]))


def test_figure_2_has_four_maps_and_four_arc_diagrams(results):
    figure, data = shallow_and_deep.make(results)
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.images]
    assert titles == ["Shallow, correct", "Shallow, error", "Deep, correct", "Deep, error"]
    assert len([ax for ax in figure.axes if not ax.axison]) == 4
    assert set(data["band"]) == {"shallow", "deep"}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """Results of every analysis, with made-up numbers."""
    return write_all(tmp_path_factory.mktemp("analysed"))


def points(container):
    """Estimates of a container of dots, with their intervals."""
    middle = container[0].get_xdata().tolist()
    ends = [segment[:, 0].tolist() for segment in container[2][0].get_segments()]
    return [(x, *pair) for x, pair in zip(middle, ends, strict=True)]


def spread(*values):
    """What `tests.figure_tables.measured` makes of values."""
    return [pytest.approx((value, value - 0.1, value + 0.2)) for value in values]


def rows_of(ax):
    return [tick.get_text() for tick in ax.get_yticklabels()]


def hued(ax):
    """Containers of dots by the name in the legend."""
    return {container.get_label(): points(container) for container in ax.containers}


def cells(figure):
    """Lines of a table that is a figure."""
    lines = {}
    for text in figure.axes[0].texts:
        lines.setdefault(text.get_position()[1], []).append(text.get_text())
    return list(lines.values())


def test_depth_curves_are_the_tables(results):
    figure, data = depth_curves.make(results)
    group = data["group"].dropna().iloc[0]
    rows = data[(data["metric"] == "lock_in") & (data["group"] == group)].sort_values("layer")
    line = next(line for line in figure.axes[0].lines if str(line.get_label()).startswith(group))
    assert line.get_ydata().tolist() == rows["estimate"].tolist()


def test_differences_stand_beside_the_depth_curves(analysed):
    figure, _ = depth_curves.make(analysed)
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    assert lines["error − correct"].get_ydata() == pytest.approx([0, 0.1, 0.2, 0.3])
    matched = lines["pairs of similar length (50 problems)"]
    assert matched.get_ydata() == pytest.approx([0, 0.05, 0.1, 0.15])
    assert figure.axes[1].get_title(loc="left") == "Lock-in, within 50 problems"


def test_the_gold_graph_figure_reads_the_summary_of_its_analysis(analysed):
    figure, data = gold_graph.make(analysed)
    shown = data[data["name"] == "Step-Saliency, log-odds"]["estimate"].tolist()
    assert shown == [0.9, 0.95, 0.97]
    (ax,) = [ax for ax in figure.axes if ax.containers]
    assert rows_of(ax) == ["Step-Saliency, log-odds", "attention"]
    assert [line.get_xdata() for line in ax.lines if line.get_linestyle() == ":"] == [[0.15, 0.15]]
    assert [name for name, *_ in hued(ax).items()] == [
        "mean of layers and heads",
        "best layer of the other half",
        "best head of the other half",
    ]


def test_cost_reads_the_benchmark(analysed):
    figure, _ = cost_over_length.make(analysed)
    times, memory = figure.axes
    assert times.lines[0].get_ydata().tolist() == [2.0, 4.0]
    assert times.lines[1].get_ydata().tolist() == [2.5, 5.5]
    assert memory.lines[0].get_ydata().tolist() == [0.3]


def test_ablation_dots_are_in_their_panels(analysed):
    figure, _ = ablation.make(analysed)
    shown = {
        ax.get_title(loc="left"): (rows_of(ax), points(ax.containers[0])) for ax in figure.axes
    }
    assert shown == {
        "Parts, outer quarters": (["OEB", "SMI", "StepFlow"], spread(0.02, 0.01, 0.03)),
        "Placebos": (["OEB, random keys"], spread(0.005)),
        "StepFlow in other layers": (["halves", "other layers, draw 2"], spread(0, 0.04)),
        "Parts in one window": (["SMI, layers 3"], spread(0.06)),
    }


def note_of(figure):
    return figure.legends[0].get_title().get_text()


def test_placebos_of_equal_dose_are_drawn_as_the_others_and_told_from_them(analysed):
    figure, _ = ablation_matched.make(analysed)
    _, placebos = (ax for ax in figure.axes if ax.axison)
    assert rows_of(placebos) == ["OEB, random keys, same KL", "SMI, random directions, same norm"]
    assert points(placebos.containers[0]) == spread(-0.7, 0.001)
    assert placebos.get_xscale() == "symlog"
    assert note_of(figure).startswith("placebos: dose matched on other solutions; scale: linear")
    unmatched, _ = ablation.make(analysed)
    assert unmatched.axes[0].get_xscale() == "linear"
    assert note_of(unmatched).startswith("placebos: dose not matched; bars")
    table, _ = ablation_table.make(analysed)
    assert "Placebos: dose not matched." in cells(table)[-1][0]


def test_the_note_of_doses_follows_the_table():
    table = pd.DataFrame({"group": ["method", "placebo", "placebo"], "match": [None, "kl", "mass"]})
    assert placebo_note(table) == "placebos: dose not matched, unless the name says so"
    assert placebo_note(table[:2]) == "placebos: dose matched on other solutions"
    assert placebo_note(table[2:]) == "placebos: dose not matched"
    assert placebo_note(table[:1]) == ""


def test_a_condition_under_two_names_is_drawn_once(analysed):
    table = read(analysed, "ablation")
    random = table[table["condition"] == "both-random-1"]
    twice = pd.concat([table, random.assign(condition="both-random")])
    assert len(named(twice)) == len(table)
    other = random.assign(condition="x", estimate=0.9)
    assert len(named(pd.concat([table, other]))) == len(table) + 1


def test_the_ablation_table_joins_accuracy_and_effect(analysed):
    figure, _ = ablation_table.make(analysed)
    lines = cells(figure)
    assert lines[1] == ["no edit", "0.700 [0.600, 0.900]", "–", "–", "–", "–"]
    both = ["StepFlow", "0.730 [0.630, 0.930]", "+0.030 [−0.070, +0.230]", "5", "3", "0.040"]
    assert lines[4] == both
    assert "50 problems" in lines[-1][0]


def test_the_table_of_bands_says_layers(analysed):
    figure, _ = layer_bands_table.make(analysed)
    lines = cells(figure)
    assert [line[:5] for line in lines[1:5]] == [
        ["outer quarters", "StepFlow", "0", "3", "0.730"],
        ["halves", "StepFlow", "0–1", "3", "0.700"],
        ["other layers, draw 2", "StepFlow", "0", "3", "0.740"],
        ["window from layer 1", "SMI", "–", "3", "0.760"],
    ]
    assert "0.700" in lines[-1][0]


def test_a_table_of_bands_needs_other_layers(analysed, tmp_path):
    table = read(analysed, "ablation")
    write(tmp_path, "ablation", "summary", table[table["group"] == "method"].to_dict("records"))
    with pytest.raises(MissingResultsError, match="no other layers"):
        layer_bands_table.make(tmp_path)


def test_gold_losses_are_in_thousandths_and_a_second_model_beside(analysed, tmp_path):
    figure, _ = gold_loss.make(analysed)
    (ax,) = figure.axes
    assert points(ax.containers[0])[0] == pytest.approx((-2.0, -102.0, 198.0))
    write_ablation(tmp_path)
    shutil.copytree(tmp_path / "ablation", tmp_path / "ablation_smollm2")
    figure, _ = gold_loss.make(tmp_path)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["ablation", "ablation_smollm2"]


def test_doses_are_joined_by_the_default_strength(analysed):
    figure, _ = dose_response.make(analysed)
    tau, alpha, tau_loss, _ = figure.axes
    assert tau.lines[0].get_xydata().tolist() == [[0.15, 0.02], [0.6, -0.05]]
    assert alpha.lines[0].get_xydata().tolist() == [[0.06, 0.01], [1.0, -0.2]]
    assert tau_loss.lines[0].get_xydata() == pytest.approx(np.array([[0.15, -0.002], [0.6, 0.005]]))
    assert tau_loss.get_yscale() == "symlog"


def test_compute_is_accuracy_over_cost(analysed):
    figure, _ = compute_matched.make(analysed)
    tokens, flops, ratios = figure.axes
    names = [container.get_label() for container in tokens.containers]
    assert names[:3] == ["greedy (cut at 96, 192), no edit", "sample, no edit", "vote, no edit"]
    vote = tokens.containers[2][0].get_xydata()
    assert vote == pytest.approx(np.array([[400, 0.65], [500, 0.7]]))
    assert flops.containers[2][0].get_xdata() == pytest.approx([4.0, 5.0])
    assert points(ratios.containers[0]) == spread(1.3, 1.01)


def test_the_compute_table_has_pairs(analysed):
    figure, _ = compute_matched_table.make(analysed)
    lines = cells(figure)
    assert len(lines) == 1 + 5 + 1
    assert lines[1][:5] == [
        "greedy, cut after 96 tokens",
        "0.500 / 0.520",
        "+0.020 [−0.080, +0.220]",
        "0.040",
        "100 / 101",
    ]
    assert lines[5][0] == "vote of 4 samples"


def test_kinds_of_error_by_condition(analysed):
    figure, _ = error_kinds.make(analysed)
    corrected, caused, change = figure.axes
    assert rows_of(corrected) == ["premise (10)", "arithmetic (10)"]
    assert list(hued(corrected)) == ["OEB", "StepFlow", "OEB, random keys"]
    assert hued(corrected)["OEB"] == spread(0.4, 0.4)
    assert hued(caused)["OEB"] == spread(0.1, 0.1)
    assert hued(change)["StepFlow"] == spread(-0.1, -0.2)


def test_the_table_of_kinds_counts_answers(analysed):
    figure, _ = error_kinds_table.make(analysed)
    lines = cells(figure)
    assert lines[0][4:] == ["OEB", "random keys", "SMI", "moved", "StepFlow"]
    premise = ["premise", "0.100 [0.000, 0.300]", "0.0100", "10", "4 / 1", "4 / 1"]
    assert lines[1][:6] == premise
    assert lines[1][6:] == ["– / –", "– / –", "4 / 1"]
    assert lines[3][:5] == ["flow between steps", "–", "–", "10", "4 / –"]
    assert lines[4][4] == "2 / –"


def test_mediation_paths_are_mediators_over_outcomes(analysed):
    figure, _ = mediation_paths.make(analysed)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0] == "Mass on the bridge, shallow"
    assert titles[-1] == "Margin at the error"
    assert rows_of(figure.axes[0]) == ["OEB, τ 0.15", "OEB, τ 0.3", "SMI, α 0.5"]
    assert points(figure.axes[-1].containers[0]) == spread(0.05, 0.15, 0.25)


def test_blocked_paths_stand_over_correlations(analysed):
    figure, _ = mediation_blocking.make(analysed)
    assert rows_of(figure.axes[0]) == ["OEB: total", "SMI: through the summary"]
    millinats = pytest.approx((300, 200, 500))  # of losses; a margin is drawn as it is
    assert points(figure.axes[0].containers[0]) == [millinats, millinats]
    assert points(figure.axes[2].containers[0]) == spread(0.3, 0.3)
    assert hued(figure.axes[3])["mass on the bridge"] == spread(0.4, 0.4)
    assert figure.axes[3].get_xlim() == (-1.02, 1.02)


def test_mediation_answers_name_the_placebo(analysed):
    figure, _ = mediation_answers.make(analysed)
    assert rows_of(figure.axes[1]) == ["OEB, τ 0.3\n− random keys"]
    assert points(figure.axes[1].containers[0]) == spread(0.07)


def test_prediction_tells_pairs_ties_and_test(analysed):
    figure, _ = mediation_prediction.make(analysed)
    assert points(figure.axes[0].containers[0]) == spread(0.02, -0.03)
    told = [text.get_text() for text in figure.axes[0].texts]
    assert told == ["n = 50, 25% ties, p = 0.040"] * 2


def test_injection_has_its_conditions_on_the_axis(analysed):
    figure, _ = mediation_injection.make(analysed)
    accuracy, *kinds = [ax for ax in figure.axes if ax.axison]
    assert rows_of(accuracy) == [
        "own step, shallow, mass 0.5",
        "random keys, shallow, mass 0.5",
    ]
    assert hued(accuracy) == {"own step": spread(-0.3), "random keys": spread(-1.3)}
    assert [ax.get_title(loc="left") for ax in kinds] == ["Premise", "Format"]
    assert hued(kinds[1])["random keys"] == spread(0.1)
    assert kinds[0].get_xlim() == kinds[1].get_xlim()
    assert not figure.legends[0].get_texts()


def test_injection_is_drawn_from_its_own_folder_with_placebos_of_equal_dose(tmp_path):
    names = {"lock-in-deep-0.5": -0.2, "random-deep-0.5-kl": -0.1}
    rows = [{"condition": c, **measured(value)} for c, value in names.items()]
    write(tmp_path, "mediation_injection", "injection_accuracy", rows)
    kinds = [{**row, "state": "premise"} for row in rows]
    write(tmp_path, "mediation_injection", "injection_kinds", kinds)
    figure, _ = mediation_injection.make(tmp_path)
    assert rows_of(figure.axes[0])[1] == "random keys, deep, KL of 0.5"
    assert hued(figure.axes[0])["random keys"] == spread(-0.1)


def test_single_heads_are_layer_by_head_with_marks(analysed):
    figure, _ = head_steering.make(analysed)
    grids = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in grids[:2]] == ["Output set to 0", "OEB"]
    assert grids[0].images[0].get_array().tolist() == [[0, -1], [1, 0], [2, 1], [3, 2]]
    assert grids[0].collections[0].get_offsets().tolist() == [[1, 2]]
    assert isinstance(grids[0].images[0].norm, Normalize)
    assert isinstance(grids[-1].images[0].norm, SymLogNorm)
    assert grids[0].images[0].norm is grids[1].images[0].norm


def test_transferred_heads_stand_by_number(analysed):
    figure, data = head_transfer.make(analysed)
    margin, _, written = figure.axes
    assert rows_of(margin) == ["1 head", "8 heads", "whole band"]
    assert hued(margin)["best on the other half"] == spread(0.1, 0.2)
    assert hued(margin)["random heads"] == spread(0.05)
    assert hued(written)["whole band"] == spread(0.15)
    assert set(data["reference"]) == {"baseline"}


def test_granularity_has_chance_and_sizes_of_step(analysed):
    figure, _ = granularity.make(analysed)
    excess, top, lock_in, _ = figure.axes
    assert hued(excess)["map: attention"] == spread(0.3, 0.3)
    assert excess.get_xlabel().endswith("(n = 50)")
    chance = [line.get_xdata()[0] for line in top.lines if line.get_linestyle() == ":"]
    assert chance == pytest.approx([1 / 4, 1 / 5])
    assert hued(lock_in)["steps: lines"] == spread(0.1, 0.1)


def test_faithfulness_puts_the_best_map_first(analysed):
    figure, _ = faithfulness.make(analysed)
    assert rows_of(figure.axes[0]) == ["Step-Saliency, log-odds", "attention"]
    assert hued(figure.axes[0]) == {"mass": spread(0.9, 0.6)}
    assert figure.get_figwidth() == style.COLUMN


def test_two_models_stand_beside_each_other(tmp_path):
    write_faithfulness(tmp_path)
    write_faithfulness(tmp_path, "faithfulness_smollm2", shift=0.5)
    manifest = {"settings": {"model": "smollm2-135m-instruct", "data": "x/gsm8k_test.jsonl"}}
    (tmp_path / "faithfulness_smollm2" / "manifest.json").write_text(json.dumps(manifest))
    figure, _ = faithfulness.make(tmp_path)
    assert figure.axes[1].get_title(loc="left") == "SmolLM2-135M,\nGSM8K"
    assert hued(figure.axes[1]) == {"mass": spread(0.4, 0.1)}
    assert figure.get_figwidth() == style.PAGE


def test_deletion_curves_are_the_tables(analysed):
    figure, _ = faithfulness_curves.make(analysed)
    deletion, insertion = figure.axes
    by_name = {line.get_label(): line for line in deletion.lines}
    assert by_name["attention"].get_xydata().tolist() == [[0, 0], [0.5, 0.6], [1, 1]]
    assert insertion.lines[0].get_ydata() == pytest.approx([1, 0.1, 0])


def test_patching_maps_are_layer_by_role_and_by_head(analysed):
    figure, _ = patching.make(analysed)
    into_corrupted, into_clean = figure.axes[:2]
    image = into_corrupted.images[0]
    assert image.get_array().tolist() == [[1, 0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]
    assert (image.norm.vmin, image.norm.vmax) == (-1, 1)
    assert into_clean.images[0].get_array()[0].tolist() == [0, 1]
    assert (into_clean.images[0].norm.vmin, into_clean.images[0].norm.vmax) == (0, 2)
    assert [tick.get_text() for tick in into_clean.get_xticklabels()] == ["source", "read"]
    figure, _ = patching_heads.make(analysed)
    assert figure.axes[0].images[0].get_array()[3].tolist() == pytest.approx([0.3, 0.1])


def test_cut_paths_in_all_layers_and_in_each(analysed):
    figure, _ = patching_paths.make(analysed)
    whole, single = figure.axes
    assert rows_of(whole) == ["read step → source", "all others → source", "both paths"]
    assert points(whole.containers[0]) == spread(0.6, 0.9, 0.5)
    assert single.lines[0].get_ydata() == pytest.approx([1, 0.9, 0.8, 0.7])
    assert [name.rpartition(", ")[2] for name in hued(whole)] == ["premise (n = 50)"]


def test_the_error_stands_among_the_answers_still_right_there(analysed):
    figure, data = mediation_around.make(analysed)
    assert set(data["control"]) == {"risk set"}
    lock_in, reach = figure.axes
    assert rows_of(lock_in) == ["before the first wrong step", "all rows"]
    assert hued(lock_in)["log-odds"] == spread(0.11, 0.21)
    assert hued(reach)["attention"] == spread(0.32)


def test_forks_have_shares_and_differences(analysed):
    figure, _ = fork_points.make(analysed)
    shares, differences = figure.axes
    assert rows_of(shares) == ["no edit", "StepFlow", "StepFlow, random layers, same dose"]
    assert hued(shares)["error in the thinking"] == spread(0.2, 0.25, 0.3)
    assert rows_of(differences)[-1] == "StepFlow\n− its placebo"
    assert hued(differences)["wherever the error is"] == spread(0.0, 0.05, 0.1)


def test_what_noise_allows_stands_below_the_maps(analysed):
    figure, _ = resampling.make(analysed)
    rows = ["loss from the summary", "position", "other half of the drawn answers"]
    assert rows_of(figure.axes[0]) == rows
    assert hued(figure.axes[1])["the right answer"] == spread(0.8, 0.3, 0.4)


def test_another_model_is_named_by_what_its_folders_end_in(tmp_path, capsys):
    write_ablation(tmp_path)
    (tmp_path / "ablation").rename(tmp_path / "ablation_qwen")
    (tmp_path / "ablation_qwen/manifest.json").write_text(
        json.dumps({"settings": {"model": "qwen2.5-coder-0.5b-instruct.gguf", "data": "task"}})
    )
    figure, data = ablation.make(Results(tmp_path, "_qwen"))
    assert len(data)
    assert len(figure.axes)
    folder = Results(tmp_path, "_qwen") / "ablation"
    assert setting(folder) == "Qwen2.5-Coder-0.5B, bundled task"
    out = tmp_path / "out"
    options = ["--results", str(tmp_path), "--suffix", "qwen", "--out", str(out)]
    assert main([*options, "ablation", "ablation_table"]) == 0
    assert {file.stem for file in out.iterdir()} == {"ablation_qwen", "ablation_table_qwen"}
    assert main([*options, "cost_over_length"]) == 1
    assert "benchmarks_qwen holds no" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(all_figures()))
def test_every_figure_can_be_read_and_changes_nothing_global(analysed, name):
    before = dict(mpl.rcParams)
    figure, data = all_figures()[name](analysed)
    assert dict(mpl.rcParams) == before
    assert not data.empty
    assert figure.get_figwidth() in (style.COLUMN, style.PAGE)
    with style.style():
        figure.draw_without_rendering()
        drawn, size = figure.get_tightbbox(), figure.bbox_inches
    texts = [t for t in figure.findobj(mpl.text.Text) if t.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 6.5
    assert min(drawn.x0, drawn.y0) > -0.02
    assert drawn.x1 < size.x1 + 0.02
    assert drawn.y1 < size.y1 + 0.02


@pytest.mark.parametrize("name", sorted(all_figures()))
def test_missing_results_are_said(name, tmp_path):
    with pytest.raises(MissingResultsError, match="holds no"):
        all_figures()[name](tmp_path / "results")


def test_all_are_found_and_those_without_results_are_named(results, tmp_path, capsys):
    expected = {"token_and_step", "shallow_and_deep", "gold_graph", "depth_curves"}
    assert expected | {"cost_over_length"} <= set(all_figures())
    assert main(["--results", str(results), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "gold_graph: skipped" in told
    for name in ("token_and_step", "shallow_and_deep", "depth_curves"):
        for ending in ("png", "pdf", "csv"):
            assert (tmp_path / f"{name}.{ending}").stat().st_size > 100
    assert (tmp_path / "depth_curves.pdf").read_bytes()[:5] == b"%PDF-"
    assert main(["gold_graph", "--results", str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    with pytest.raises(MissingResultsError, match="holds no summary"):
        read(tmp_path, "none")


def test_drawing_changes_nothing_global(results):
    before = dict(mpl.rcParams)
    figure, data = depth_curves.make(results)
    style.save(figure, data, results / "out", "x")
    assert dict(mpl.rcParams) == before


def test_importing_figures_loads_no_pyplot_and_sets_nothing():
    code = (
        "import sys, matplotlib as mpl\n"
        "before = dict(mpl.rcParams)\n"
        "from figures.__main__ import all_figures\n"
        "all_figures()\n"
        "assert dict(mpl.rcParams) == before\n"
        "assert 'transformer_lens' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@dataclass(frozen=True)
class Recorded(Results):
    """Results that remember which folders were read."""

    folders: list[str] = field(default_factory=list)

    def __truediv__(self, folder):
        self.folders.append(folder)
        return super().__truediv__(folder)


def test_the_kept_results_can_be_drawn_and_the_gallery_shows_them():
    """Every figure whose results are in the repository."""
    drawn = {"cost_over_length"}  # it reads what is kept beside the benchmarks
    for name, make in all_figures().items():
        results = Recorded(RESULTS)
        with suppress(MissingResultsError):
            figure, data = make(results)
            assert not data.empty, name
            figure.draw_without_rendering()
            drawn.add(name)
        assert set(results.folders) == set(gallery.FOLDERS[name]), name
    assert gallery.FOLDERS.keys() == all_figures().keys()
    pictures = list(gallery.PICTURES.iterdir())
    assert {file.stem for file in pictures} == drawn
    assert sum(file.stat().st_size for file in pictures) <= gallery.MOST_BYTES


def test_a_picture_of_the_gallery_is_small_and_of_its_figure():
    figure = style.new_figure(style.COLUMN, 1.5)
    figure.subplots().plot([0, 1], [1, 0])
    image = Image.open(io.BytesIO(gallery.small(figure)))
    assert image.width == round(gallery.PER_INCH * style.COLUMN)
    assert image.height / image.width == pytest.approx(1.5 / style.COLUMN, abs=0.01)
    assert len(image.getcolors()) <= gallery.COLOURS


def test_a_picture_of_the_gallery_keeps_colours_of_small_areas_apart():
    """Under a map that fills the picture, the patches of a legend."""
    figure = style.new_figure(style.COLUMN, 2.5)
    axes = figure.subplots(1, 5)
    axes[0].imshow([[i * 8 + j for j in range(8)] for i in range(8)], cmap=style.MAP_COLOURS)
    regions = [region for region in style.REGION_COLOURS if region is not Region.TEMPLATE]
    for ax, region in zip(axes[1:], regions, strict=False):
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax.axis("off")
        ax.scatter([0.5], [0.5], s=60, color=style.REGION_COLOURS[region])
    image = Image.open(io.BytesIO(gallery.small(figure))).convert("RGB")
    drawn = [colour for _, colour in image.getcolors()]
    for region in regions:
        wanted = [round(255 * part) for part in to_rgb(style.REGION_COLOURS[region])]
        apart = [max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) for colour in drawn]
        assert min(apart) < 25, (region, wanted)
    assert (255, 255, 255) in drawn
