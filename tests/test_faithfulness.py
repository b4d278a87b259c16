"""Cuts against what they must and must not change, and maps against planted edges."""

import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from analyses.faithfulness import faithfulness
from analyses.faithfulness.agreement import KEYS, correlations
from analyses.faithfulness.design import Design
from analyses.faithfulness.effects import Scope, edge_effects, rows_of_edges, scopes
from analyses.faithfulness.readings import trace_maps
from analyses.faithfulness.summary import differences, summarise
from analyses.instruments.knockout import (
    Cut,
    cut_hooks,
    cut_logits,
    cut_scores,
    divergence,
    logits_at,
)
from analyses.instruments.peers_span import digest_of, span_rows
from analyses.running.runner import main
from step_saliency.models.windows import windows
from step_saliency.saliency.pooling import step_layout
from step_saliency.stats.multiplicity import holm
from step_saliency.tasks import EdgeMatrices
from step_saliency.trace import Trace
from tests.shuffled import BOUNDS, rejected, valued_sets
from tests.tiny import ARCHS, BACKEND, BACKENDS, random_tokens, tiny_model

STARTS = [0, 2, 7, 12, 17, 23, 29, 35]
REGIONS = ["template", *["question"] * 3, *["thinking"] * 3, "summary"]
N_TOKENS = 41
NEEDS = {4: 2, 5: 1, 6: 4, 7: 6}
"""Planted: the one earlier step that each thinking step and the summary looks at."""


@pytest.fixture(scope="module", params=BACKENDS)
def model(request):
    return tiny_model("qwen2", backend=request.param)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.from_tokens(random_tokens(N_TOKENS)[0], starts=STARTS, regions=REGIONS, id="t")


def positions(step: int) -> tuple[int, ...]:
    return tuple(range(STARTS[step], [*STARTS, N_TOKENS][step + 1]))


@contextmanager
def planted(model, trace: Trace, needs: dict[int, int] = NEEDS):
    """A model in which a step sees itself and the one step that it needs, and nothing else."""
    ids = trace.step_ids
    allowed = ids[:, None] == ids[None, :]
    for query, key in needs.items():
        allowed |= (ids[:, None] == query) & (ids[None, :] == key)

    def force(scores, hook):
        n_queries, n_keys = scores.shape[-2:]
        mask = allowed[:n_keys, :n_keys][-n_queries:]
        return scores.masked_fill(~mask, -torch.inf)

    names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[(name, force) for name in names]):
        yield


def edges_of(trace: Trace, needs: dict[int, int] = NEEDS) -> EdgeMatrices:
    step, candidate = (torch.zeros(8, 8, dtype=torch.bool) for _ in range(2))
    for query, key in needs.items():
        step[query, key] = True
        candidate[query, 1:query] = True
    return EdgeMatrices(torch.zeros_like(step), step, candidate)


def test_cut_scores_by_hand():
    scores = torch.arange(9.0).reshape(1, 1, 3, 3)
    cut = torch.tensor([[[[0, 0, 0], [1, 1, 0], [1, 0, 1]]]], dtype=torch.bool)
    off = -torch.inf
    expected = torch.tensor([[[[0, 1, 2.0], [off, 4, 5], [off, 7, 8]]]])
    assert torch.equal(cut_scores(scores, cut), expected)


def test_an_edge_that_is_masked_already_changes_nothing_to_the_bit(model):
    tokens = random_tokens(20)
    clean = model(tokens)
    later = Cut(tuple(range(5)), tuple(range(5, 20)))
    with torch.no_grad():
        cut = model.run_with_hooks(tokens, fwd_hooks=cut_hooks(model, [later], 20))
    assert torch.equal(cut, clean)
    nothing = cut_hooks(model, [Cut((), ())], 20)
    assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=nothing), clean)


def test_a_cut_changes_its_queries_and_what_reads_them_and_nothing_before(model):
    tokens = random_tokens(20)
    clean = model(tokens)
    cut = Cut((10, 11), (3, 4))
    changed = model.run_with_hooks(tokens, fwd_hooks=cut_hooks(model, [cut], 20))
    differs = (changed != clean).any(-1)[0]
    assert not differs[:10].any()
    assert differs[10:].all()
    assert torch.equal(model(tokens), clean)


def test_a_cut_is_a_smaller_context(model):
    """What no query may look at might as well not be there: compare with a window by hand."""
    tokens = random_tokens(12)
    cuts = [Cut((t,), tuple(range(1, t))) for t in range(12)]
    every = Cut(tuple(range(12)), ())
    assert every.keys == ()
    edges = cut_hooks(model, [Cut(tuple(range(12)), tuple(range(12)))], 12)
    alone = model.run_with_hooks(tokens, fwd_hooks=edges)
    single = model(tokens[:, :1])
    torch.testing.assert_close(alone[:, 0], single[:, 0])
    rows = list(cut_logits(model, tokens[0], cuts[2:3], [2]))
    by_hand = model.run_with_hooks(tokens, fwd_hooks=cut_hooks(model, cuts[2:3], 12))
    torch.testing.assert_close(rows[0][0], by_hand[0, 2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ["qwen2", "gpt2-like", "gemma2", "gpt_oss", "neox"])
def test_shared_prefixes_and_batches_change_nothing(arch):
    assert arch in ARCHS
    model = tiny_model(arch, backend=BACKEND)
    tokens = random_tokens(30)[0]
    cuts = [
        Cut((12, 13, 14), (3, 4, 5)),
        Cut((12, 13), (8,), layers=(1,)),
        Cut((14, 15), (0, 1), layers=(0, 2), heads=(1,)),
        Cut((12,), (2,), heads=(0, 3)),
    ]
    read = [13, 14, 20, 28]
    found = torch.stack(list(cut_logits(model, tokens, cuts, read, batch_size=3)))
    for row, cut in zip(found, cuts, strict=True):
        expected = model.run_with_hooks(tokens[None], fwd_hooks=cut_hooks(model, [cut], 30))
        torch.testing.assert_close(row, expected[0, read], atol=2e-5, rtol=1e-4)
    clean = logits_at(model, tokens[None], read)[0]
    assert (found[0] - clean).abs().max() > 1e-4


def test_divergence_by_hand():
    clean, other = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert divergence(clean, other).item() == pytest.approx(expected)


def test_only_planted_edges_have_an_effect(model, trace):
    layout = step_layout(trace.step_ids, rows="query")
    rows = rows_of_edges(trace, layout)
    assert rows == {i: list(range(1, i)) for i in (4, 5, 6, 7)}
    with planted(model, trace):
        effects = edge_effects(model, trace, rows, layout, scopes(model.cfg.n_layers))
    is_planted = effects["query_step"].map(NEEDS) == effects["key_step"]
    whole = effects["scope"] == "all"
    assert (effects.loc[is_planted & whole, "kl"] > 1e-3).all()
    assert (effects.loc[~is_planted, "kl"].abs() < 1e-9).all()
    assert (effects.loc[~is_planted & whole, "answer"].abs() < 1e-5).all()
    on_the_way = effects["query_step"].isin([4, 6, 7]) & is_planted & whole
    assert (effects.loc[on_the_way, "answer"].abs() > 1e-4).all()
    aside = (effects["query_step"] == 5) & whole
    assert (effects.loc[aside, "answer"].abs() < 1e-5).all()


def test_where_lock_in_is_planted_no_earlier_step_has_an_effect(model, trace):
    with planted(model, trace, {}):
        values = faithfulness(model, [trace], rows="query", pools=["mass"], curve_pools=["mass"])
        layout = step_layout(trace.step_ids, rows="query")
        effects = edge_effects(model, trace, rows_of_edges(trace, layout), layout, scopes(3))
    assert (effects[["kl", "loss", "answer"]].abs().max() < 1e-5).all()
    assert not values["measure"].str.startswith(("deletion", "insertion")).any()


def test_effects_are_those_of_a_plain_run_with_the_edge_cut(model, trace):
    layout = step_layout(trace.step_ids, rows="target")
    effects = edge_effects(model, trace, {5: [2, 4]}, layout, [Scope("L1H2", (1,), 2)])
    queries = [position - 1 for position in positions(5)]
    cut = Cut(tuple(queries), positions(4), (1,), (2,))
    clean = model(trace.tokens[None])[0].double().log_softmax(-1)
    hooks = cut_hooks(model, [cut], N_TOKENS)
    after = model.run_with_hooks(trace.tokens[None], fwd_hooks=hooks)[0].double().log_softmax(-1)
    targets = trace.tokens[torch.tensor(queries) + 1]
    row = effects[effects["key_step"] == 4].iloc[0]
    loss = (clean - after)[queries, targets].mean()
    assert row["loss"] == pytest.approx(loss.item(), abs=1e-6)
    kl = (clean[queries].exp() * (clean - after)[queries]).sum(-1).mean()
    assert row["kl"] == pytest.approx(kl.item(), abs=1e-6)
    answer = torch.tensor(positions(7))
    loss = (clean - after)[answer - 1, trace.tokens[answer]].mean()
    assert row["answer"] == pytest.approx(loss.item(), abs=1e-6)
    first = clean[answer[0] - 1]
    rival = max((v.item(), i) for i, v in enumerate(first) if i != trace.tokens[answer[0]])[1]
    gap = (after - clean)[answer[0] - 1]
    expected = gap[trace.tokens[answer[0]]] - gap[rival]
    assert row["logit_diff"] == pytest.approx(expected.item(), abs=1e-5)


def test_correlations_are_spearmans_within_rows(model, trace):
    layout = step_layout(trace.step_ids, rows="target")
    rows = rows_of_edges(trace, layout)
    where = scopes(model.cfg.n_layers)
    effects = edge_effects(model, trace, rows, layout, where)
    maps = trace_maps(model, trace, rows="target", seed=0, edges=None)
    table = pd.DataFrame(correlations(effects, maps, layout, where, ["mass"]))
    import step_saliency as ss

    sal = ss.step_saliency(model, trace, pool="mass", rows="target", method="hooks")
    for scope in where:
        matrix = sal.maps[list(scope.layers)].mean(0)
        of_scope = effects[effects["scope"] == scope.name]
        rhos = [
            spearmanr(matrix[i, list(keys)], of_scope[of_scope["query_step"] == i]["kl"]).statistic
            for i, keys in rows.items()
        ]
        found = table.query(
            "method == 'saliency' and objective == 'next_token' and measure == 'rho_kl' "
            "and scope == @scope.name"
        )["value"].item()
        assert found == pytest.approx(np.mean(rhos), abs=1e-6)


def test_saliency_finds_planted_edges_and_random_numbers_do_not(model, trace):
    edges = edges_of(trace)
    with planted(model, trace):
        values = faithfulness(
            model, [trace], edges=[edges], rows="query", pools=["mass"], curve_pools=["mass"]
        )
    whole = values[values["scope"] == "all"]
    found = whole.set_index(["method", "objective", "measure"])["value"]
    assert found["knockout", "kl", "auroc_gold"] == 1.0
    exact = whole.query("method == 'saliency' and objective == 'next_token'")
    area = exact.set_index("measure")["value"]
    ideal = whole[whole["method"] == "gold"].set_index("measure")["value"]
    assert area["deletion_auc"] == pytest.approx(ideal["deletion_auc"])
    assert area["insertion_auc"] == pytest.approx(ideal["insertion_auc"])
    worst = whole[whole["method"] == "worst"].set_index("measure")["value"]
    assert area["deletion_auc"] > worst["deletion_auc"] + 0.3
    assert area["insertion_auc"] < worst["insertion_auc"] - 0.3


def test_curves_run_from_nothing_to_all_and_the_oracle_is_not_beaten_by_the_worst(trace):
    values = faithfulness(tiny_model("llama", backend=BACKEND), [trace], curve_pools=["mass"])
    curves = values[values["fraction"].notna()].set_index(["method", "measure", "fraction"])
    curves = curves[curves.index.get_level_values("method").isin(["oracle", "worst"])]["value"]
    for method in ("oracle", "worst"):
        assert curves[method, "deletion", 0.0] == curves[method, "insertion", 1.0] == 0.0
        assert curves[method, "deletion", 1.0] == curves[method, "insertion", 0.0] == 1.0
    area = values.set_index(["method", "measure"])["value"]
    assert area["oracle", "deletion_auc"] > area["worst", "deletion_auc"]
    assert area["oracle", "insertion_auc"] < area["worst", "insertion_auc"]


def test_rows_and_keys_are_chosen_by_seed_and_template_is_left_out(trace):
    layout = step_layout(trace.step_ids, rows="query")
    few = rows_of_edges(trace, layout, max_rows=2, max_keys=3, seed=1)
    assert len(few) == 2
    assert all(len(keys) == 3 and 0 not in keys for keys in few.values())
    assert few == rows_of_edges(trace, layout, max_rows=2, max_keys=3, seed=1)
    drawn = {str(rows_of_edges(trace, layout, max_rows=2, max_keys=3, seed=s)) for s in range(9)}
    assert len(drawn) > 1


def test_bands_part_the_layers_and_unknown_layers_are_refused():
    found = {scope.name: scope.layers for scope in scopes(8, heads=[(3, 1)])}
    assert found["bottom"] + found["middle"] + found["top"] == found["all"] == tuple(range(8))
    assert found["L3H1"] == (3,)
    with pytest.raises(ValueError, match=r"layers \[8\] of the heads are not among 0 to 7"):
        scopes(8, heads=[(8, 0)])


def windowed_case(arch):
    """Steps of four tokens under windows of fourteen."""
    trace = Trace.from_tokens(
        random_tokens(32)[0],
        starts=list(range(0, 32, 4)),
        regions=["question"] * 2 + ["thinking"] * 5 + ["summary"],
    )
    model = tiny_model(arch, backend=BACKEND, window=14)
    return model, trace, step_layout(trace.step_ids, rows="query")


def test_what_the_windows_of_all_layers_hide_is_no_edge():
    model, trace, layout = windowed_case("mistral")
    of_layers = windows(model)
    assert of_layers == (14, 14, 14)
    rows = rows_of_edges(trace, layout, of_layers=of_layers)
    # token 4i sees back to 4i - 13, the last token of the step four before
    assert rows == {i: list(range(max(0, i - 4), i)) for i in range(3, 8)}
    blind = {7: [0, 1, 2, *rows[7]]}
    effects = edge_effects(model, trace, blind, layout, scopes(3))
    assert set(effects["key_step"]) == set(rows[7])
    hidden = Cut(tuple(range(28, 31)), tuple(range(12)))
    clean = logits_at(model, trace.tokens[None], [28, 30])[0]
    (cut,) = cut_logits(model, trace.tokens, [hidden], [28, 30])
    assert torch.equal(clean, cut)


def test_a_scope_has_the_edges_that_its_own_layers_see():
    model, trace, layout = windowed_case("gemma2")
    rows = rows_of_edges(trace, layout, of_layers=windows(model))
    assert rows[7] == list(range(7))
    effects = edge_effects(model, trace, {7: rows[7]}, layout, scopes(3))
    keys = effects.groupby("scope")["key_step"].apply(list).to_dict()
    assert windows(model) == (14, None, 14)
    near = [3, 4, 5, 6]
    assert keys == {"all": rows[7], "middle": rows[7], "bottom": near, "top": near}
    values = faithfulness(model, [trace], rows="query", pools=["mean"], with_curves=False)
    assert {"all", "bottom", "middle", "top"} == set(values["scope"])


def test_a_trace_without_an_answer_has_no_answer_effects():
    model = tiny_model("qwen2", backend=BACKEND)
    trace = Trace.from_tokens(
        random_tokens(30)[0], starts=[0, 5, 10, 15, 20], regions=["question"] * 3 + ["thinking"] * 2
    )
    values = faithfulness(model, [trace], with_curves=False, bands=False)
    assert set(values["measure"]) == {"rho_kl", "rho_loss"}
    assert not values["objective"].isin(["answer", "logit_diff"]).any()


def test_keywords_change_the_design_and_unknown_ones_are_refused(trace):
    model = tiny_model("qwen2", backend=BACKEND)
    few = Design(with_curves=False, bands=False, pools=["mass"], max_rows=2)
    by_design = faithfulness(model, [trace], design=few)
    by_keywords = faithfulness(
        model, [trace], design=Design(max_rows=2), with_curves=False, bands=False, pools=["mass"]
    )
    pd.testing.assert_frame_equal(by_design, by_keywords)
    assert set(by_design["scope"]) == {"all"}
    assert set(by_design["pool"].dropna()) == {"mass"}
    with pytest.raises(TypeError, match="curve_pool'"):
        faithfulness(model, [trace], curve_pool=["mass"])


def test_tables_hold_every_map_and_pair_differences_by_problem(trace):
    model = tiny_model("qwen2", backend=BACKEND)
    others = [
        Trace.from_tokens(
            random_tokens(N_TOKENS, seed=s)[0], starts=STARTS, regions=REGIONS, id=f"{s}"
        )
        for s in range(3)
    ]
    values = faithfulness(model, others, with_curves=False, bands=False, heads=[(1, 2)])
    summary = summarise(values)
    assert (summary["n"] == 3).all()
    objectives = set(summary.query("method == 'saliency'")["objective"])
    assert objectives == {"next_token", "log_odds", "sequence", "answer", "logit_diff"}
    assert set(summary.query("scope == 'L1H2'")["method"]) == {
        "saliency",
        "gradient",
        "score_gradient",
        "attention",
        "attention_norm",
        "distance",
        "key_length",
        "random",
    }
    table = differences(values).query("reference == 'distance' and measure == 'rho_kl'")
    row = table.query("map == 'saliency next_token mass' and scope == 'all'").iloc[0]
    both = summary.query("measure == 'rho_kl' and scope == 'all'")
    mass = both.query("objective == 'next_token' and pool == 'mass' and method == 'saliency'")
    near = both.query("method == 'distance'")
    assert row["estimate"] == pytest.approx(mass["estimate"].item() - near["estimate"].item())


def rhos_of(seed: int, shift: float) -> np.ndarray:
    return shift + np.random.default_rng(seed).normal(0, 0.05, 12)


def test_poolings_that_rank_alike_are_one_test_and_what_needs_no_map_is_none():
    attention = rhos_of(0, 0.0)
    of_maps = {
        ("saliency", "next_token", "mean"): rhos_of(1, 0.02),
        ("saliency", "next_token", "sum"): rhos_of(2, 0.05),
        ("attention", None, "mass"): attention,
        ("attention", None, "sum"): attention,
        ("distance", None, None): rhos_of(3, -0.3),
        ("random", None, None): rhos_of(4, -0.4),
        ("oracle", None, None): rhos_of(5, 0.4),
    }
    of_maps["saliency", "next_token", "block_mean"] = of_maps["saliency", "next_token", "mean"]
    values = pd.concat(
        pd.DataFrame({"problem": list("abcdefghijkl"), "value": rhos}).assign(
            **dict(zip(KEYS[:3], label, strict=True))
        )
        for label, rhos in of_maps.items()
    ).assign(scope="all", measure="rho_kl", fraction=np.nan)
    table = differences(values).query("reference == 'attention mass'").set_index("map")
    p, p_holm = table["p"], table["p_holm"]
    two = ["saliency next_token mean", "saliency next_token sum"]
    assert p_holm[two].to_numpy() == pytest.approx(holm(p[two].to_numpy()))
    assert p_holm["saliency next_token block_mean"] == p_holm["saliency next_token mean"]
    assert set(p_holm.index[p_holm.isna()]) == {"attention sum", "distance", "random", "oracle"}


@pytest.mark.nightly
def test_false_positive_rate_of_differences_between_maps():
    labels = {"attention mass": ("attention", None, "mass"), "distance": ("distance", None, None)}
    labels["saliency"] = ("saliency", "next_token", "mass")

    def p_values(values: pd.DataFrame) -> np.ndarray:
        named = [dict(zip(KEYS[:3], labels[name], strict=True)) for name in values["condition"]]
        rho = np.tanh(1 - values["value"])  # rank correlations, with ties
        whole = pd.concat([values[["problem"]], pd.DataFrame(named)], axis=1)
        whole = whole.assign(scope="all", measure="rho_kl", fraction=np.nan, value=rho)
        return differences(whole)["p"].to_numpy()

    rate = rejected(valued_sets(list(labels), seed=4), p_values)
    assert BOUNDS[0] <= rate <= BOUNDS[1]


def test_runs_from_the_command_line(tmp_path):
    arguments = "--n 1 --level easy --responses gold --max-rows 2 --max-keys 4 --no-bands"
    results = main(
        "analyses.faithfulness",
        ["--out", str(tmp_path / "out"), "--no-progress", *arguments.split()],
    )
    assert set(results.tables) == {"summary", "differences"}
    assert "gold" in set(results.tables["summary"]["method"])
    assert "deletion_auc" in set(results.tables["summary"]["measure"])


@pytest.mark.parametrize("rows", ["target", "query"])
def test_peers_are_asked_about_the_positions_that_are_cut(trace, rows):
    layout = step_layout(trace.step_ids, rows=rows)
    spans = span_rows(trace.to_dict(), rows)
    for step in range(len(trace.steps)):
        found = (layout.row_steps == step).nonzero().squeeze(-1).tolist()
        assert list(range(spans[step][0], spans[step][1] + 1)) == found


def test_maps_of_peers_are_read_for_their_own_trace_only(trace, tmp_path):
    model = tiny_model("qwen2", backend=BACKEND)
    matrix = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    digest = digest_of(trace.tokens.tolist())
    entry = {"problem": "t", "tokens": digest, "method": "ifr_span", "rows": "target"}
    file = tmp_path / "maps.jsonl"
    file.write_text(json.dumps({**entry, "map": matrix.tolist()}) + "\n")
    values = faithfulness(model, [trace], peers=file, with_curves=False, heads=[(0, 0)])
    assert set(values[values["method"] == "ifr_span"]["scope"]) == {"all"}
    layout = step_layout(trace.step_ids, rows="target")
    rows = rows_of_edges(trace, layout)
    effects = edge_effects(model, trace, rows, layout, scopes(model.cfg.n_layers)[:1])
    rhos = [
        spearmanr(matrix[i, keys], effects[effects["query_step"] == i]["kl"]).statistic
        for i, keys in rows.items()
    ]
    found = values.query("method == 'ifr_span' and measure == 'rho_kl' and pool == 'mass'")
    assert found["value"].item() == pytest.approx(np.mean(rhos), abs=1e-6)
    other = Trace.from_tokens(random_tokens(N_TOKENS, seed=1)[0], starts=STARTS, regions=REGIONS)
    with pytest.raises(ValueError, match="has no map of the tokens of"):
        faithfulness(model, [other], peers=file)
