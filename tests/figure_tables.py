"""Results folders with made-up numbers, in the columns that the analyses write."""

from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

N_LAYERS, N_HEADS = 4, 2
MISSING = float("nan")


def write(folder: Path, name: str, table: str, rows: list[dict[str, Any]]) -> None:
    """One table of one results folder."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / name / f"{table}.parquet")


def measured(value: float, **more: Any) -> dict[str, Any]:
    """An estimate with an uneven interval, so that its ends cannot be exchanged."""
    told = {"estimate": value, "lower": value - 0.1, "upper": value + 0.2, "n": 50}
    return {**told, "p": 0.02, "p_holm": 0.04, **more}


def mean(value: float) -> dict[str, Any]:
    """An estimate that nothing was tested of."""
    return {name: v for name, v in measured(value, p=MISSING).items() if name != "p_holm"}


def write_ablation(folder: Path) -> None:
    """Parts, placebos, doses, bands and windows."""
    quarter = {"bands": "quarter", "tau_max": 0.15, "alpha": 0.06, "placebo": None, "lot": 0}
    quarter |= {"oeb_layers": "0", "smi_layers": "3"}
    cases: list[tuple[str, str, str, float, dict[str, Any]]] = [
        ("oeb", "method", "oeb", 0.02, {"smi_layers": ""}),
        ("smi", "method", "smi", 0.01, {"oeb_layers": ""}),
        ("both", "method", "both", 0.03, {}),
        ("oeb-bridge", "placebo", "oeb", 0.005, {"placebo": "bridge", "smi_layers": ""}),
        ("oeb-tau-0.6", "tau_max", "oeb", -0.05, {"tau_max": 0.6, "smi_layers": ""}),
        ("smi-alpha-1", "alpha", "smi", -0.2, {"alpha": 1.0, "oeb_layers": ""}),
        ("both-half", "bands", "both", 0.0, {"bands": "half", "oeb_layers": "0 1"}),
        ("both-random-1", "bands", "both", 0.04, {"bands": "random", "lot": 1}),
        ("smi-window-1", "sliding", "smi", 0.06, {"bands": "window-1", "oeb_layers": ""}),
    ]
    effects, accuracy, losses = [], [], []
    for name, group, edit, value, more in cases:
        told = {"condition": name, "group": group, "edit": edit, **quarter, **more}
        counts = {"corrected": 5, "broken": 3, "mean": 0.7 + value, "mean_reference": 0.7}
        effects.append({**told, **measured(value), **counts})
        accuracy.append({**told, **mean(0.7 + value)})
        losses.append({**told, **measured(-value / 10), "outcome": "loss"})
        losses.append({**told, **measured(9.0), "outcome": "answer_loss"})
    base = {"condition": "baseline", "group": "method", "edit": "none", **quarter}
    write(folder, "ablation", "summary", effects)
    write(folder, "ablation", "accuracy", [{**base, **mean(0.7)}, *accuracy])
    write(folder, "ablation", "losses", losses)


def write_matched(folder: Path) -> None:
    """Parts, and placebos of their dose; one of them breaks nearly all answers."""
    columns = ("condition", "group", "edit", "estimate", "placebo", "match")
    cases = [
        ("oeb", "method", "oeb", 0.002, None, None),
        ("smi", "method", "smi", -0.001, None, None),
        ("oeb-bridge-kl", "placebo", "oeb", -0.7, "bridge", "kl"),
        ("smi-direction-kl", "placebo", "smi", 0.001, "direction", "kl"),
    ]
    rows = [dict(zip(columns, case, strict=True)) for case in cases]
    more = {"bands": "quarter", "lot": 0, "oeb_layers": "0", "smi_layers": "3"}
    rows = [{**row, **more, **measured(row["estimate"])} for row in rows]
    write(folder, "ablation_matched", "summary", rows)


def write_compute_matched(folder: Path) -> None:
    """Two limits, a sample and two votes, with and without StepFlow."""
    ways = [("greedy", 1, 96.0), ("greedy", 1, 192.0), ("sample", 1, MISSING)]
    ways += [("vote", 2, MISSING), ("vote", 4, MISSING)]
    summary, comparisons, costs = [], [], []
    for number, (method, k, limit) in enumerate(ways):
        way = {"method": method, "k": k, "limit": limit}
        for condition, more in (("baseline", 0.0), ("both", 0.01)):
            spent = {"tokens": 100.0 * (number + 1), "flops": 1e9 * (number + 1), "cpu_seconds": 1}
            outcomes = {"accuracy": 0.5 + 0.05 * number + more, **spent}
            for outcome, value in outcomes.items():
                row = {"condition": condition, **way, "outcome": outcome}
                summary.append({**row, **measured(value + more)})
        told = {**way, "condition": "both", "reference": "baseline"}
        both = {"mean": 0.52 + 0.05 * number, "mean_reference": 0.5 + 0.05 * number}
        comparisons.append({**told, **measured(0.02), **both, "question": "same way"})
        for outcome, scale in (("tokens", 1.0), ("flops", 1e7)):
            value = 100.0 * (number + 1) * scale
            pair = {"mean": value * 1.01, "mean_reference": value}
            costs.append({"outcome": outcome, **told, **measured(1.0), **pair})
    write(folder, "compute_matched", "summary", summary)
    comparisons.append({**comparisons[0], "question": "against greedy", "estimate": 9.0})
    write(folder, "compute_matched", "comparisons", comparisons)
    write(folder, "compute_matched", "costs", costs)
    ratios = [("per_token ratio", 1.3), ("tokens ratio", 1.01)]
    rows = [{"condition": "both", "outcome": name, **measured(value)} for name, value in ratios]
    unit = {"reference": "baseline", "unit": "chunk of problems"}
    write(folder, "compute_matched", "overhead", [{**row, **unit} for row in rows])


def write_error_kinds(folder: Path) -> None:
    """Two kinds of error under two conditions and a placebo."""
    setting = {"source": "x", "level": "medium", "family": "symbols", "temperature": 0.0}
    names = ("oeb", "both", "oeb-bridge")
    states = {"premise": 0.1, "arithmetic": 0.2}
    rates = [
        {"condition": condition, **measured(value * scale), "state": state, "per": per, **setting}
        for condition in ("baseline", *names)
        for state, value in states.items()
        for per, scale in (("answer", 1.0), ("step", 0.1))
    ]
    fates, changes = [], []
    for condition, (state, value) in product(names, states.items()):
        for rate, hits in (("corrected", 4), ("caused", 1)):
            counts = {"n_answers": 10, "n_hits": hits, "rate": rate, "state": state}
            fates.append({"condition": condition, **measured(hits / 10), **counts, **setting})
        change = {"state": state, "condition": condition, **measured(-value)}
        changes.append({**change, "reference": "baseline", **setting})
    flow = [
        {"condition": c, **measured(0.2), "n_flow": 10, "n_local": 10, "flow": 0.4, "local": 0.2}
        for c in names
    ]
    write(folder, "error_kinds", "rates", rates)
    write(folder, "error_kinds", "summary", fates)
    write(folder, "error_kinds", "changes", changes)
    write(folder, "error_kinds", "flow", [{**row, **setting} for row in flow])


def write_mediation(folder: Path) -> None:
    """All parts, few conditions."""
    mediators, outcomes = (
        ("bridge_mass", "step_mass", "summary_mass"),
        ("loss", "answer_loss", "margin"),
    )
    names = ("oeb", "oeb-strong", "smi-strong")
    write(
        folder,
        "mediation",
        "paths",
        [
            {"condition": c, "variable": v, "role": "x", **measured(0.1 * i + 0.01 * j)}
            for (i, c), (j, v) in product(enumerate(names), enumerate((*mediators, *outcomes)))
        ],
    )
    write(
        folder,
        "mediation",
        "summary",
        [
            {"contrast": contrast, "outcome": outcome, **measured(0.3)}
            for contrast in ("bridge total", "momentum through the summary")
            for outcome in outcomes
        ],
    )
    write(
        folder,
        "mediation",
        "correlations",
        [
            {"condition": c, "mediator": m, "outcome": o, **measured(0.4)}
            for c, m, o in product(("oeb", "smi-strong"), mediators, outcomes)
        ],
    )
    accuracy = [{"condition": c, "reference": "baseline", **measured(0.05)} for c in names]
    write(folder, "mediation", "answers_accuracy", accuracy)
    against = {"condition": "oeb-strong", "reference": "oeb-strong-random", **measured(0.07)}
    write(folder, "mediation", "answers_placebos", [against])
    write(
        folder,
        "mediation",
        "prediction",
        [
            {"control": control, "index": index, "ties": 0.25, "gap": 1.5, **measured(value)}
            for control, value in (("within", 0.02), ("matched", -0.03))
            for index in ("lock_in_index", "reach", "n_tokens")
        ],
    )
    injected = ("lock-in-shallow-0.5", "random-shallow-0.5")
    rows = [{"condition": c, **measured(-0.3 - i)} for i, c in enumerate(injected)]
    write(folder, "mediation", "injection_accuracy", rows)
    kinds = [
        {"condition": c, "state": s, **measured(0.1 * i)}
        for (i, c), s in product(enumerate(injected), ("correct", "premise", "format"))
    ]
    write(folder, "mediation", "injection_kinds", kinds)


def write_heads(folder: Path) -> None:
    """Single heads, and top heads transferred."""
    places = list(product(range(N_LAYERS), range(N_HEADS)))
    rows = [
        {"way": way, "layer": layer, "head": head, "outcome": outcome}
        | measured(layer - head, p_holm=0.01 if (layer, head) == (2, 1) else 0.9)
        for way in ("ablated", "oeb")
        for layer, head in places
        for outcome in ("margin", "loss")
    ]
    write(folder, "head_steering", "summary", rows)
    conditions = {"band": 0.3, "top-1": 0.1, "top-8": 0.2, "random-8": 0.05}
    forced = [
        {"condition": c, "reference": r, "outcome": o, **measured(v if r == "baseline" else 9)}
        for c, v in conditions.items()
        for r in ("baseline", "band")
        for o in ("margin", "loss")
    ]
    write(folder, "head_steering_transfer", "summary", forced)
    written = [
        {"condition": c, "reference": "baseline", **measured(v / 2)}
        for c, v in conditions.items()
        if c != "top-1"
    ]
    write(folder, "head_steering_transfer", "accuracy", written)


def write_granularity(folder: Path) -> None:
    """A dialogue and a document under two methods; two sizes of step."""
    rows = []
    for text, n_parts in (("dialogue", 4), ("document", 5)):
        told = {"text": text, "layer": None, "n_tokens": 90.0, "n_steps": 8.0, "n_parts": n_parts}
        for method, value in (("next_token", 0.2), ("attention", 0.3)):
            for metric in ("relevant", "excess", "top"):
                row = {**told, "splitter": "sentence", "method": method, "metric": metric}
                rows.append({**row, **measured(value)})
        for splitter, value in (("sentence", 0.4), ("line", 0.1)):
            for metric in ("lock_in_index", "decay_index"):
                row = {**told, "splitter": splitter, "method": "next_token", "metric": metric}
                rows.append({**row, **measured(value)})
    write(folder, "granularity", "summary", rows)


def write_faithfulness(folder: Path, name: str = "faithfulness", shift: float = 0.0) -> None:
    """Correlations and curves of three maps."""
    maps = [("saliency", "log_odds", "mass", 0.9), ("attention", None, "mass", 0.6)]
    maps += [("oracle", None, None, 1.0)]
    rows = []
    for method, objective, pool, value in maps:
        told = {"method": method, "objective": objective, "pool": pool}
        if method != "oracle":
            for scope, more in (("all", 0.0), ("top", 9.0)):
                row = {**told, "scope": scope, "measure": "rho_kl", "fraction": MISSING}
                rows.append({**row, **measured(value - shift + more)})
        for measure, (fraction, level) in product(
            ("deletion", "insertion"), ((0.0, 0.0), (0.5, value), (1.0, 1.0))
        ):
            shown = level if measure == "deletion" else 1 - level
            row = {**told, "scope": "all", "measure": measure, "fraction": fraction}
            rows.append({**row, **measured(shown)})
    write(folder, name, "summary", rows)


def write_patching(folder: Path, name: str = "patching") -> None:
    """Patches of steps and heads, and cuts of edges."""
    kind = {"kind": "premise"}
    rows: list[dict[str, Any]] = []
    for layer, role in product(range(N_LAYERS), ("source", "read")):
        value = layer / 4 if role == "read" else 1 - layer / 4
        place = {**kind, "site": "resid_post", "layer": layer, "head": None, "role": role}
        rows.append({**place, "direction": "denoising", **measured(value)})
        rows.append({**place, "direction": "noising", **measured(1 - value)})
    for layer, head in product(range(N_LAYERS), range(N_HEADS)):
        place = {**kind, "site": "z", "layer": layer, "head": head, "role": "read"}
        rows.append({**place, "direction": "denoising", **measured(0.1 * layer - 0.2 * head)})
    for role, value in (("direct", 0.6), ("indirect", 0.9), ("both", 0.5)):
        place = {**kind, "site": "edge", "head": None, "role": role, "direction": "noising"}
        rows.append({**place, "layer": None, **measured(value)})
        if role == "direct":
            rows += [{**place, "layer": i, **measured(1 - i / 10)} for i in range(N_LAYERS)]
            place["role"] = "direct up to"
            rows += [{**place, "layer": i, **measured(0.3)} for i in range(N_LAYERS)]
    write(folder, name, "summary", rows)


def write_gold_graph(folder: Path) -> None:
    """Readings of three maps, and other rows that are not to be drawn."""
    keys = {"edge": "premise", "ranking": "problem", "metric": "average_precision"}
    cases: list[tuple[Any, ...]] = [
        ("saliency", "log_odds", "mass", None, "mean", 0.9),
        ("saliency", "log_odds", "mean", None, "mean", 0.1),
        ("saliency", "log_odds", "mass", 2, "mean", 0.99),
        ("saliency", "log_odds", "mass", None, "best_layer", 0.95),
        ("saliency", "log_odds", "mass", None, "best", 0.97),
        ("attention", None, "mass", None, "mean", 0.8),
        ("random", None, None, None, "mean", 0.15),
    ]
    columns = ["method", "objective", "pool", "layer", "head", "estimate"]
    rows = [
        {**keys, "family": "symbols", "lower": 0.1, "upper": 0.9, "n": 10}
        | dict(zip(columns, case, strict=True))
        for case in cases
    ]
    rows.append({**rows[0], "edge": "step", "estimate": 0.3})
    write(folder, "gold_graph", "summary", rows)


def write_depth_curves(folder: Path) -> None:
    """Curves of both groups, and differences within problems with and without length."""
    curves, differences = [], []
    bands = ["shallow", "middle", "middle", "deep"]
    for metric, layer in product(("lock_in", "decay"), range(N_LAYERS)):
        place = {"metric": metric, "layer": layer, "head": None, "band": bands[layer]}
        for group, value in (("correct", 0.1), ("error", 0.2)):
            curves.append({"group": group, **place, **measured(value * layer), "n_traces": 30})
        for control, value in (("none", 0.1), ("length", 0.05)):
            row = {"control": control, **place, **measured(value * layer)}
            differences.append({**row, "n_traces": 60})
    write(folder, "depth_curves", "summary", curves)
    write(folder, "depth_curves", "comparison", differences)


def write_benchmark(folder: Path) -> None:
    """Two lengths of the streaming path."""
    columns = ["shape", "device", "method", "n_tokens", "seconds", "plain_seconds", "peak_bytes"]
    rows = [
        ["m", "cpu", "streaming", 512, 2.0, 2.5, 3e8],
        ["m", "cpu", "streaming", 1024, 4.0, 5.5, None],
    ]
    (folder / "benchmarks").mkdir()
    file = folder / "benchmarks" / "m-cpu.csv"
    pd.DataFrame(rows, columns=columns).to_csv(file, index=False)


def write_traces(folder: Path) -> None:
    """One correct and one error trace of three steps, two tokens each."""
    regions = ["question", "thinking", "summary"]
    steps, tokens, maps, shares = [], [], [], []
    for is_correct in (True, False):
        for i, region in enumerate(regions):
            told = {"problem": "p", "is_correct": is_correct, "step": i, "region": region}
            steps.append({**told, "start": 2 * i, "stop": 2 * i + 2, "objective": "log_odds"})
        for table, size in ((tokens, 6), (maps, 3)):
            for query in range(size):
                for key in range(query + 1):
                    value = 1 / (1 + query + key) + 0.1 * is_correct
                    row = {"is_correct": is_correct, "query": query, "key": key}
                    table.append({**row, "saliency": value, "layer": None})
        for band, query in product(("shallow", "deep"), range(3)):
            for key in range(query + 1):
                row = {"is_correct": is_correct, "band": band, "query": query, "key": key}
                shares.append({**row, "share": 1 / (query + 1)})
    for name, rows in (
        ("steps", steps),
        ("token_maps", tokens),
        ("step_maps", maps),
        ("band_shares", shares),
    ):
        write(folder, "example_traces", name, rows)


def write_around(folder: Path) -> None:
    """Three readings at two places, and other controls."""
    rows = [
        {"reading": reading, "index": index, "place": place, "control": control}
        | measured(value + 0.01 * number)
        for number, reading in enumerate(("loss", "log-odds", "attention"))
        for index, place, value in (
            ("lock_in", "before", 0.1),
            ("lock_in", "whole", 0.2),
            ("reach", "whole", 0.3),
        )
        for control in ("index", "risk set")
    ]
    write(folder, "mediation_around", "summary", rows)


def write_forks(folder: Path) -> None:
    """Shares and differences at both places and one of them."""
    names = ("baseline", "both", "both-layers-kl")
    shares = [
        {"place": place, "condition": name} | mean(0.2 + 0.05 * number)
        for place in ("any", "thinking")
        for number, name in enumerate(names)
    ]
    pairs = [("both", "edit - baseline"), ("both-layers-kl", "placebo - baseline")]
    pairs.append(("both", "edit - placebo"))
    differences = [
        {"place": place, "condition": name, "contrast": pair} | measured(0.05 * number)
        for place in ("any", "thinking")
        for number, (name, pair) in enumerate(pairs)
    ]
    write(folder, "fork_points", "accuracy", shares)
    write(folder, "fork_points", "summary", differences)


def write_resampling(folder: Path) -> None:
    """Maps, a rival and the other half."""
    scores = [("other half", "none", 0.8), ("loss", "summary", 0.3), ("position", "none", 0.4)]
    rows = [
        {"importance": importance, "outcome": outcome, "score": score, "rows": place}
        | measured(value)
        for importance in ("resample", "counterfactual")
        for outcome in ("right", "same")
        for score, place, value in scores
    ]
    write(folder, "resampling", "summary", rows)


def write_all(folder: Path) -> Path:
    """Results of every analysis."""
    for made in (
        write_ablation,
        write_matched,
        write_compute_matched,
        write_error_kinds,
        write_mediation,
        write_heads,
        write_granularity,
        write_faithfulness,
        write_patching,
        write_gold_graph,
        write_depth_curves,
        write_benchmark,
        write_traces,
        write_around,
        write_forks,
        write_resampling,
    ):
        made(folder)
    return folder
