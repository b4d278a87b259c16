"""Figures: what is drawn is what the tables say, nothing global changes, and all can be read."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure

from analyses import depth_curves as depth_analysis
from analyses import example_traces
from figures import (
    ablation,
    ablation_table,
    cost_over_length,
    depth_curves,
    dose_response,
    faithfulness,
    gold_graph,
    parts,
    patching,
    patching_heads,
    shallow_and_deep,
    style,
    token_and_step,
)
from figures.__main__ import all_figures, main
from figures.results import MissingResultsError, read
from step_saliency import load_model
from step_saliency.saliency.api import step_saliency
from step_saliency.tasks import make_problems

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


def test_a_curve_and_its_band(axes):
    table = pd.DataFrame(
        {"layer": [1, 0], "estimate": [2.0, 1.0], "lower": [1, 0], "upper": [4, 3]}
    )
    parts.curve(axes, table, x="layer", colour="#000000", name="c")
    assert axes.lines[0].get_xydata().tolist() == [[0, 1], [1, 2]]
    corners = axes.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners.tolist()} >= {(0, 0), (0, 3), (1, 1), (1, 4)}


def test_a_step_grid_shows_values_and_regions(axes):
    values = np.array([[1.0, np.nan, np.nan], [0.5, 2.0, np.nan], [0.0, 3.0, 4.0]])
    image = parts.step_grid(axes, values, ["question", "thinking", "summary"], LogNorm(0.1, 4))
    shown = image.get_array()
    assert shown[2, 1] == 3
    assert np.ma.getmaskarray(shown).tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 0]]
    strips = [tuple(patch.get_facecolor()[0][:3]) for patch in axes.collections]
    expected = [to_rgb(style.REGION_COLOURS[name]) for name in ("question", "thinking", "summary")]
    assert np.allclose(strips, np.repeat(expected, 2, axis=0))


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
    for name, table in depth_analysis.summarise(diagnosed, {"seed": 0}).items():
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


def test_depth_curves_are_the_tables(results):
    figure, data = depth_curves.make(results)
    group = data["group"].iloc[0]
    rows = data[(data["metric"] == "lock_in") & (data["group"] == group)].sort_values("layer")
    line = next(line for line in figure.axes[0].lines if str(line.get_label()).startswith(group))
    assert line.get_ydata().tolist() == rows["estimate"].tolist()


def test_the_gold_graph_figure_reads_the_summary_of_its_analysis(tmp_path):
    keys = {"edge": "premise", "ranking": "problem", "metric": "average_precision"}
    row = {**keys, "family": "symbols", "lower": 0.1, "upper": 0.9, "n": 10}
    cases = [
        ("saliency", "log_odds", "mass", None, "mean", 0.9),
        ("saliency", "log_odds", "mean", None, "mean", 0.1),
        ("saliency", "log_odds", "mass", 2, "mean", 0.95),
        ("saliency", "log_odds", "mass", 3, "mean", 0.2),
        ("saliency", "log_odds", "mass", None, "best", 0.97),
        ("attention", None, "mass", None, "mean", 0.8),
        ("random", None, None, None, "mean", 0.15),
    ]
    columns = ["method", "objective", "pool", "layer", "head", "estimate"]
    table = pd.DataFrame([row | dict(zip(columns, case, strict=True)) for case in cases])
    (tmp_path / "gold_graph").mkdir()
    table.to_csv(tmp_path / "gold_graph" / "summary.csv", index=False)
    figure, data = gold_graph.make(tmp_path)
    shown = data[data["name"] == "Step-Saliency, log-odds"]["estimate"].tolist()
    assert shown == [0.9, 0.95, 0.97]
    (ax,) = [ax for ax in figure.axes if ax.containers]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        "Step-Saliency, log-odds",
        "attention",
    ]
    assert [line.get_xdata() for line in ax.lines if line.get_linestyle() == ":"] == [[0.15, 0.15]]


def test_cost_reads_the_benchmark(tmp_path):
    columns = ["shape", "device", "method", "n_tokens", "seconds", "plain_seconds", "peak_bytes"]
    rows = [
        ["m", "cpu", "streaming", 512, 2.0, 2.5, 3e8],
        ["m", "cpu", "streaming", 1024, 4.0, 5.5, None],
    ]
    (tmp_path / "benchmarks").mkdir()
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(tmp_path / "benchmarks" / "m-cpu.csv", index=False)
    figure, _ = cost_over_length.make(tmp_path)
    times, memory = figure.axes
    assert times.lines[0].get_ydata().tolist() == [2.0, 4.0]
    assert times.lines[1].get_ydata().tolist() == [2.5, 5.5]
    assert memory.lines[0].get_ydata().tolist() == [0.3]


@pytest.fixture
def analysed(tmp_path):
    """Tables with the columns of the analyses."""
    spread = {"lower": -0.1, "upper": 0.2, "n": 50}
    condition = {"corrected": 5, "broken": 3, "p_holm": 0.5, "tau_max": 0.15, "alpha": 0.06}
    cases = [
        ("both", "method", "both", 0.03, {}),
        ("oeb", "method", "oeb", 0.02, {}),
        ("smi", "method", "smi", 0.01, {}),
        ("oeb-tau-0.6", "tau_max", "oeb", -0.05, {"tau_max": 0.6}),
        ("smi-alpha-1", "alpha", "smi", -0.2, {"alpha": 1.0}),
        ("both-third", "bands", "both", 0.0, {}),
        ("oeb-bridge", "placebo", "oeb", 0.005, {}),
    ]
    effects = [
        {"condition": c, "group": g, "edit": e, "estimate": v, **spread, **condition, **more}
        for c, g, e, v, more in cases
    ]
    write(tmp_path, "ablation", "summary", effects)
    accuracy = [{"condition": row["condition"], "estimate": 0.7} for row in effects]
    write(tmp_path, "ablation", "accuracy", accuracy)
    maps = [("saliency", "log_odds", "mass", 0.9), ("attention", None, "mean", 0.6)]
    write(
        tmp_path,
        "faithfulness",
        "summary",
        [
            {"method": m, "objective": o, "pool": p, "scope": "all", "measure": "rho_kl"}
            | {"estimate": v, **spread}
            for m, o, p, v in maps
        ],
    )
    patched = {"kind": "premise", "direction": "denoising", **spread}
    roles = [
        {**patched, "site": "resid_post", "layer": layer, "head": None, "role": role}
        | {"estimate": layer / 4 if role == "read" else 1 - layer / 4}
        for layer in range(4)
        for role in ("source", "read")
    ]
    heads = [
        {**patched, "site": "z", "layer": layer, "head": head, "role": "read"}
        | {"estimate": 0.1 * layer - 0.2 * head}
        for layer in range(4)
        for head in range(2)
    ]
    write(tmp_path, "patching", "summary", roles + heads)
    return tmp_path


def write(folder, name, table, rows):
    (folder / name).mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / name / f"{table}.parquet")


def test_ablation_dots_are_in_their_panels(analysed):
    figure, _ = ablation.make(analysed)
    shown = {
        ax.get_title(loc="left"): ax.containers[0][0].get_xdata().tolist() for ax in figure.axes
    }
    assert shown == {
        "Halves (50 problems)": [0.03, 0.02, 0.01],
        "Layers (50 problems)": [0.0],
        "Placebos (50 problems)": [0.005],
    }


def test_the_ablation_table_joins_accuracy_and_effect(analysed):
    figure, _ = ablation_table.make(analysed)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[6:12] == ["both", "0.700", "0.030 [-0.100, 0.200]", "5", "3", "0.5"]


def test_doses_are_joined_by_the_default_strength(analysed):
    figure, _ = dose_response.make(analysed)
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0.15, 0.02], [0.6, -0.05]]
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[0.06, 0.01], [1.0, -0.2]]


def test_faithfulness_puts_the_best_map_first(analysed):
    figure, _ = faithfulness.make(analysed)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == ["Step-Saliency, log-odds", "attention"]


def test_patching_maps_are_layer_by_role_and_by_head(analysed):
    figure, _ = patching.make(analysed)
    image = figure.axes[0].images[0]
    assert image.get_array().tolist() == [[1, 0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["source", "read"]
    figure, _ = patching_heads.make(analysed)
    assert figure.axes[0].images[0].get_array()[3].tolist() == pytest.approx([0.3, 0.1])


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


def test_text_is_at_least_six_and_a_half_points(results):
    for make in (token_and_step.make, shallow_and_deep.make, depth_curves.make):
        figure, _ = make(results)
        with style.style():
            figure.draw_without_rendering()
        sizes = [t.get_fontsize() for t in figure.findobj(mpl.text.Text) if t.get_text()]
        assert min(sizes) >= 6.5
        assert figure.get_figwidth() in (style.COLUMN, style.PAGE)


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


def test_the_kept_results_can_be_drawn(tmp_path):
    """Every figure whose results are in the repository."""
    for name, make in all_figures().items():
        try:
            figure, data = make(RESULTS)
        except MissingResultsError:
            continue
        assert not data.empty, name
        assert style.save(figure, data, tmp_path, name)[0].is_file()
