"""Patches against what they must recover, on models whose paths are planted by forced attention."""

import re
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.instruments.patching import Patch, patch_hooks, record, replace_rows
from analyses.material.problems import Item
from analyses.patching import PatchingSettings, by_role, item_pairs, summarise, tables
from analyses.patching.pairs import (
    Pair,
    answer_pair,
    computed_pair,
    make_pair,
    own_pair,
    planted_pair,
    premise_pair,
)
from analyses.patching.recovery import logit_diff, patch_pair, patched_logit_diffs, typed
from analyses.running.runner import main
from step_saliency.tasks import make_problems
from step_saliency.trace import Trace
from tests.tiny import BACKEND, BACKENDS, random_tokens, tiny_model, tiny_tokenizer
from training.tokenizer import build_tokenizer

STARTS = [0, 2, 7, 12, 17, 23]
REGIONS = ["template", "question", "question", "thinking", "thinking", "summary"]
N_TOKENS = 27
SOURCE, READ = 2, 5
HERE = 25
"""Position that is read, in the last step."""


@pytest.fixture(scope="module", params=BACKENDS)
def model(request):
    return tiny_model("qwen2", backend=request.param)


def step_trace(tokens: torch.Tensor) -> Trace:
    return Trace.from_tokens(tokens, starts=STARTS, regions=REGIONS, id="t")


def pair_of(model) -> Pair:
    """Two sequences that differ in the source step, and the tokens that they lead to."""
    clean = random_tokens(N_TOKENS)[0]
    corrupted = clean.clone()
    corrupted[8:10] = random_tokens(2, seed=9)[0]
    gap = (logits(model, clean) - logits(model, corrupted))[0, HERE]
    clean[HERE + 1], corrupted[HERE + 1] = gap.argmax(), gap.argmin()
    pair = make_pair(step_trace(clean), step_trace(corrupted), HERE, kind="premise", problem="p")
    assert pair is not None
    return pair


@torch.no_grad()
def logits(model, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens[None, : HERE + 1])


@contextmanager
def forced(model, see: dict[int, list[int]]):
    """A model in which each step sees itself and the steps that it is told, and nothing else."""
    ids = step_trace(random_tokens(N_TOKENS)[0]).step_ids
    allowed = ids[:, None] == ids[None, :]
    for query, keys in see.items():
        for key in keys:
            allowed |= (ids[:, None] == query) & (ids[None, :] == key)

    def force(scores, hook):
        n_queries, n_keys = scores.shape[-2:]
        return scores.masked_fill(~allowed[:n_keys, :n_keys][-n_queries:], -torch.inf)

    names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[(name, force) for name in names]):
        yield


def test_replace_rows_takes_the_chosen_entries():
    into, source = torch.zeros(2, 3, 1), torch.ones(1, 3, 1)
    chosen = torch.tensor([[1, 0, 0], [0, 0, 1]], dtype=torch.bool).unsqueeze(-1)
    assert replace_rows(into, source, chosen).squeeze(-1).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_patching_everything_recovers_all_and_nothing_nothing(model):
    table = patch_pair(model, pair_of(model))
    whole = table[(table["role"] == "all") & (table["site"] == "resid_post")]
    assert len(whole) == 2 * model.cfg.n_layers
    denoised = whole[whole["direction"] == "denoising"]["recovery"]
    noised = whole[whole["direction"] == "noising"]["recovery"]
    assert denoised.to_numpy() == pytest.approx(1, abs=1e-5)
    assert noised.to_numpy() == pytest.approx(0, abs=1e-5)


def test_patching_nothing_gives_the_run_itself_to_the_bit(model):
    pair = pair_of(model)
    nothing = Patch("resid_post", 1, (), "all")
    tokens = pair.corrupted.tokens[None]
    sources = record(model, pair.clean.tokens, ["blocks.1.hook_resid_post"])
    hooks = patch_hooks([nothing], sources, len(tokens[0]))
    with torch.no_grad():
        assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks), model(tokens))
    (found,) = patched_logit_diffs(model, pair, [nothing], direction="denoising")
    assert found == pytest.approx(logit_diff(model(tokens)[0, HERE], pair), abs=1e-5)


def test_a_patch_is_that_of_a_plain_hook(model):
    pair = pair_of(model)
    patches = [
        Patch("resid_post", 0, tuple(range(7, 12)), "source", 2),
        Patch("mlp_out", 2, (20, 25), "read"),
        Patch("attn_out", 1, tuple(range(12, 17)), "between_thinking", 3),
        Patch("z", 1, tuple(range(26)), "all", head=2),
        Patch("z", 2, (25,), "read", head=None),
    ]
    found = patched_logit_diffs(model, pair, patches, direction="noising", batch_size=2)
    for patch, value in zip(patches, found, strict=True):
        place = {"z": "attn.hook_z"}.get(patch.site, f"hook_{patch.site}")
        name = f"blocks.{patch.layer}.{place}"
        _, cache = model.run_with_cache(pair.corrupted.tokens[None])

        def plain(activation, hook, patch=patch, source=cache[name]):
            changed = activation.clone()
            where = list(patch.positions)
            if patch.head is None:
                changed[:, where] = source[:, where]
            else:
                changed[:, where, patch.head] = source[:, where, patch.head]
            return changed

        out = model.run_with_hooks(pair.clean.tokens[None], fwd_hooks=[(name, plain)])
        assert value == pytest.approx(logit_diff(out[0, HERE], pair), abs=2e-5)


def test_without_a_path_there_is_no_gap_and_the_pair_is_dropped(model):
    pair = pair_of(model)
    with forced(model, {}):
        table = patch_pair(model, pair)
    assert table["dropped"].tolist() == [True]
    assert table["clean"].item() == pytest.approx(table["corrupted"].item(), abs=1e-5)
    assert by_role(table)["dropped"].tolist() == [True]


def all_layer_cuts(table: pd.DataFrame) -> pd.Series:
    """Logit difference of the clean run with each path cut in all layers."""
    edges = table[(table["site"] == "edge") & table["layer"].isna()]
    return edges.set_index("role")["logit_diff"]


def recoveries(table: pd.DataFrame, direction: str, site: str = "resid_post") -> pd.DataFrame:
    """Recovery by step (rows) and layer (columns)."""
    chosen = table[(table["direction"] == direction) & (table["site"] == site)]
    return chosen.dropna(subset=["step"]).pivot(index="step", columns="layer", values="recovery")


def test_content_is_found_where_the_planted_path_has_carried_it(model):
    pair = pair_of(model)
    with forced(model, {READ: [SOURCE]}):
        table = patch_pair(model, pair, min_gap=-100.0)
    grid = recoveries(table, "denoising")
    last = model.cfg.n_layers - 1
    assert grid.loc[SOURCE, 0] != pytest.approx(0, abs=1e-3)
    assert grid.loc[SOURCE, last] == pytest.approx(0, abs=1e-5)
    assert grid.loc[READ, last] == pytest.approx(1, abs=1e-5)
    assert grid.loc[[3, 4]].to_numpy() == pytest.approx(0, abs=1e-5)
    edge = all_layer_cuts(table)
    nowhere = patch_gap(model, pair, {})
    assert edge["direct"] == pytest.approx(nowhere, abs=1e-4)
    assert edge["indirect"] == pytest.approx(table["clean"][0], abs=1e-4)


def patch_gap(model, pair: Pair, see: dict[int, list[int]]) -> float:
    with forced(model, see), torch.no_grad():
        return logit_diff(model(pair.clean.tokens[None])[0, HERE], pair)


def test_an_indirect_path_is_told_from_a_direct_one(model):
    pair = pair_of(model)
    with forced(model, {READ: [4], 4: [SOURCE]}):
        table = patch_pair(model, pair, min_gap=-100.0)
    edge = all_layer_cuts(table)
    assert edge["direct"] == pytest.approx(table["clean"][0], abs=1e-4)
    cut = patch_gap(model, pair, {READ: [4]})
    assert edge["indirect"] == pytest.approx(cut, abs=1e-4)
    assert edge["both"] == pytest.approx(cut, abs=1e-4)
    grid = recoveries(table, "denoising")
    assert grid.loc[4].abs().max() > 1e-3
    assert grid.loc[3].to_numpy() == pytest.approx(0, abs=1e-5)


def test_roles_part_the_steps_after_the_source(model):
    pair = pair_of(model)
    roles = [pair.role(step) for step in range(6)]
    assert roles == [None, "before", "source", "between_thinking", "between_thinking", "read"]
    assert pair.position == HERE
    table = patch_pair(model, pair, heads=False, paths=False)
    assert set(table["step"].dropna()) == {2, 3, 4, 5}


def test_pairs_must_lie_alike_and_lead_to_different_tokens():
    clean = random_tokens(N_TOKENS)[0]
    other = clean.clone()
    other[8] += 1
    options = {"kind": "own", "problem": "p"}
    assert make_pair(step_trace(clean), step_trace(other), HERE, **options) is None
    other[HERE + 1] += 1
    assert make_pair(step_trace(clean), step_trace(other), HERE, **options) is not None
    shifted = Trace.from_tokens(other, starts=[0, 2, 8, 12, 17, 23], regions=REGIONS)
    assert make_pair(step_trace(clean), shifted, HERE, **options) is None
    assert make_pair(step_trace(clean), step_trace(other), N_TOKENS, **options) is None
    only_last = clean.clone()
    only_last[HERE + 1] += 1
    assert make_pair(step_trace(clean), step_trace(only_last), HERE, **options) is None


@pytest.mark.parametrize("family", ["symbols", "words"])
def test_premise_pairs_differ_in_one_number_that_is_read_where_it_is_written_again(family):
    tokenizer = build_tokenizer()
    for number, problem in enumerate(make_problems(n=20, family=family)):
        trace = problem.trace(tokenizer, split_question=True)
        pair = premise_pair(tokenizer, trace, seed=number)
        assert pair is not None
        differ = (pair.clean.tokens != pair.corrupted.tokens).nonzero().squeeze(-1)
        steps = {int(pair.clean.step_ids[i]) for i in differ}
        assert len(steps) == 1
        assert pair.role(pair.source_step) == "source"
        assert pair.clean.regions[pair.source_step] == "question"
        first = int(differ[0])
        assert pair.correct == pair.clean.tokens[first]
        assert pair.wrong == pair.corrupted.tokens[first]
        premise = tokenizer.decode(pair.clean.tokens[differ])
        assert premise in tokenizer.decode(trace.tokens[pair.position + 1 :])


@pytest.mark.parametrize("family", ["symbols", "words"])
def test_computed_pairs_are_read_where_a_step_computes_what_stood_nowhere(family):
    tokenizer = build_tokenizer()
    n_pairs = 0
    for number, problem in enumerate(make_problems(n=20, family=family)):
        item = Item(problem.id, number, problem=problem)
        pair = computed_pair(tokenizer, item, seed=number)
        if pair is None:
            continue
        n_pairs += 1
        text = tokenizer.decode(pair.clean.tokens)
        line = text.rsplit("\n", 1)[-1]
        assert line.endswith("=")
        assert "+" in line or "-" in line, "a step that computes"
        clean, wrong = (evaluated(tokenizer.decode(t.tokens)) for t in (pair.clean, pair.corrupted))
        assert clean != wrong
        for token, value in ((pair.correct, clean), (pair.wrong, wrong)):
            assert str(value).startswith(tokenizer.decode([token]).strip())
        assert pair.clean.regions[pair.source_step] == "question"
    assert n_pairs > 10


def evaluated(text: str) -> int:
    """What the last line comes to: ``...35-70=``."""
    left, op, right = re.search(r"(-?\d+)([+-])(-?\d+)=$", text).groups()
    return int(left) + int(right) if op == "+" else int(left) - int(right)


def test_paths_are_cut_up_to_a_layer(model):
    """Up to the last layer is all of them; up to the first is the first alone."""
    pair = pair_of(model)
    table = patch_pair(model, pair, heads=False, sites=(), min_gap=-100.0)
    edge = table[table["site"] == "edge"].set_index(["role", "layer"])["logit_diff"]
    last = model.cfg.n_layers - 1
    whole = table[(table["role"] == "direct") & table["layer"].isna()]["logit_diff"].item()
    assert edge[("direct up to", last)] == pytest.approx(whole, abs=1e-5)
    assert edge[("direct up to", 0)] == pytest.approx(edge[("direct", 0)], abs=1e-5)
    assert edge[("direct up to", 1)] != pytest.approx(edge[("direct", 1)], abs=1e-4)


def test_premise_pairs_of_plain_text():
    tokenizer = tiny_tokenizer()
    trace = Trace.from_text(
        tokenizer,
        question="Ann has 37 apples and Bob has 5.",
        response="Ann starts with 37 apples. So there are 42 apples.",
    )
    pairs = [premise_pair(tokenizer, trace, seed=seed) for seed in range(5)]
    for pair in pairs:
        if pair is not None:
            changed = tokenizer.decode(pair.corrupted.tokens)
            assert changed.endswith(("Ann starts with ", "Ann starts with"))
            assert "37" not in changed
    assert any(pair is not None for pair in pairs)
    nothing = Trace.from_text(tokenizer, question="Why?", response="Because of 3 things.")
    assert premise_pair(tokenizer, nothing, seed=0) is None


def test_planted_pairs_hold_the_gold_and_a_wrong_answer():
    tokenizer = build_tokenizer()
    found = 0
    for number, problem in enumerate(make_problems(n=12)):
        pair = planted_pair(tokenizer, Item(problem.id, number, problem=problem), seed=number)
        if pair is None:
            continue
        found += 1
        assert pair.clean.regions[pair.source_step] == "thinking"
        assert pair.clean.regions[-1] == "summary"
        gold = problem.trace(tokenizer, split_question=True)
        assert torch.equal(gold.tokens[: pair.position + 1], pair.clean.tokens)
        assert gold.tokens[pair.position + 1] == pair.correct != pair.wrong
    assert found >= 6


def test_own_pairs_need_a_correct_and_an_error_trace():
    tokens = random_tokens(N_TOKENS)[0]
    other = tokens.clone()
    other[18], other[24] = tokens[18] + 1, tokens[24] + 1

    def marked(row: torch.Tensor, correct: bool | None) -> Trace:
        meta = {"is_correct": correct}
        return Trace.from_tokens(row, starts=STARTS, regions=REGIONS, meta=meta)

    assert own_pair([marked(tokens, True), marked(other, True)], problem="p") is None
    assert own_pair([marked(tokens, True), marked(other, None)], problem="p") is None
    pair = own_pair([marked(other, False), marked(tokens, True)], problem="p")
    assert pair is not None
    assert (pair.position, pair.source_step, pair.kind) == (23, 4, "own")
    assert answer_pair(step_trace(tokens), step_trace(tokens), kind="own", problem="p") is None


def test_planted_pairs_need_the_task(tmp_path):
    settings = PatchingSettings(kinds=("planted",))
    with pytest.raises(ValueError, match="planted errors need problems of the bundled task"):
        list(item_pairs(tiny_model("qwen2", backend=BACKEND), Item("a", 0), settings, seed=0))


def test_summary_is_the_mean_over_problems_of_the_mean_over_a_roles_steps():
    rows = []
    for problem, values in (("a", [0.0, 1.0]), ("b", [0.25, 0.25])):
        base = {"problem": problem, "kind": "own", "direction": "noising", "site": "mlp_out"}
        base |= {"layer": 1, "role": "before", "clean": 2.0, "corrupted": -1.0, "dropped": False}
        rows += [{**base, "head": None, "step": s, "recovery": v} for s, v in enumerate(values)]
    values = by_role(pd.DataFrame(rows).astype({"head": "Int64"}))
    summary = summarise(values)
    assert summary["estimate"].tolist() == [0.375]
    assert summary["n"].tolist() == [2]


def test_pairs_that_are_all_dropped_are_counted_and_summarised_by_nothing():
    facts = {"problem": "a", "kind": "premise", "clean": 0.5, "corrupted": 0.4, "dropped": True}
    values = by_role(typed(pd.DataFrame([facts])))
    assert {name: len(table) for name, table in tables(values, PatchingSettings()).items()} == {
        "pairs": 1
    }
    assert tables(pd.DataFrame(), PatchingSettings()) == {}


def drawn_recoveries(rng, *, mean: float, n: int = 30) -> pd.DataFrame:
    """Recovery of pairs at some layers: skewed, and alike within a pair."""
    rows = []
    for problem in range(n):
        shared = rng.exponential(0.3) - 0.3
        for layer in range(6):
            row = {"problem": problem, "kind": "own", "direction": "denoising", "layer": layer}
            row |= {"site": "resid_post", "role": "before", "head": None, "dropped": False}
            row["recovery"] = mean + shared + rng.normal(0, 0.2)
            rows.append({**row, "clean": 2.0, "corrupted": -1.0})
    return pd.DataFrame(rows).astype({"head": "Int64"})


@pytest.mark.nightly
def test_intervals_of_recovery_miss_a_true_value_as_often_as_they_say_and_find_a_fifth():
    rng = np.random.default_rng(2)
    missed, found = [], []
    for _ in range(200):
        nothing = summarise(by_role(drawn_recoveries(rng, mean=0.0)))
        missed.append((nothing["lower"] > 0) | (nothing["upper"] < 0))
        some = summarise(by_role(drawn_recoveries(rng, mean=0.2)))
        found.append(some["lower"] > 0)
    assert 0.03 <= np.mean(missed) <= 0.07
    assert np.mean(found) > 0.8


def test_runs_from_the_command_line(tmp_path):
    arguments = "--n 2 --level easy --responses gold --kinds premise planted --no-heads"
    results = main(
        "analyses.patching", ["--out", str(tmp_path / "out"), "--no-progress", *arguments.split()]
    )
    assert set(results.tables) == {"summary", "pairs"}
    whole = results.tables["summary"].query("role == 'all' and site == 'resid_post'")
    assert whole.query("direction == 'denoising'")["estimate"].to_numpy() == pytest.approx(1)
    assert len(results.tables["pairs"]) >= 2
