"""Steering against attention and residuals worked out by hand; rivals of StepFlow side by side."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import step_saliency as ss
from analyses.instruments.steering import (
    ActivationSteering,
    AttentionSteering,
    mean_residuals,
    profiled,
    steering_vectors,
)
from analyses.material.problems import read_items
from analyses.rivals import RivalSettings, losses, rival_tables, rivals, units
from analyses.running.settings import parse
from step_saliency.trace import Trace
from tests.shuffled import BOUNDS, binary_sets, rejected
from tests.tiny import BACKENDS, random_tokens, tiny_model

REGIONS = ["template", "question", "question", "thinking", "thinking", "summary"]
STARTS = [0, 2, 6, 9, 13, 17]
N_TOKENS = 21
FAST: dict[str, Any] = {"n_resamples": 50, "n_permutations": 499}


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model("qwen2", backend=request.param)


def a_trace(seed: int = 0) -> Trace:
    tokens = random_tokens(N_TOKENS, seed=seed)[0]
    return Trace.from_tokens(tokens, starts=STARTS, regions=REGIONS)


def seen(model: Any, trace: Trace, name: str, edit: Any = None) -> torch.Tensor:
    found = {}

    def keep(value: torch.Tensor, hook: Any) -> None:
        found["it"] = value.detach()[0].clone()

    tokens = trace.tokens[None]
    if edit is None:
        model.run_with_hooks(tokens, fwd_hooks=[(name, keep)])
    else:
        with edit.attached(model, trace=trace):
            model.run_with_hooks(tokens, fwd_hooks=[(name, keep)])
    return found["it"]


def test_keys_of_the_question_keep_their_weight_and_all_others_are_scaled(model: Any) -> None:
    trace, name = a_trace(), "blocks.1.attn.hook_pattern"
    before = seen(model, trace, name)
    after = seen(model, trace, name, AttentionSteering([1], scale=0.05))
    factor = torch.where(torch.arange(N_TOKENS).clamp(2, 8) == torch.arange(N_TOKENS), 1.0, 0.05)
    expected = before * factor
    expected = expected / expected.sum(-1, keepdim=True)
    assert torch.allclose(after[:, 9:], expected[:, 9:], atol=1e-6)
    assert torch.equal(after[:, :9], before[:, :9]), "rows of the prompt stay"


def test_the_vector_is_added_where_the_model_writes(model: Any) -> None:
    trace, name = a_trace(), "blocks.1.hook_resid_post"
    vector = torch.linspace(-1, 1, model.cfg.d_model)
    before = seen(model, trace, name)
    after = seen(model, trace, name, ActivationSteering([1], vector, coefficient=2.0))
    expected = before.clone()
    expected[9:] += 2 * vector
    assert torch.allclose(after, expected, atol=1e-6)


def test_vectors_are_differences_of_means_over_tokens(model: Any) -> None:
    traces = [a_trace(seed) for seed in range(3)]
    vectors = steering_vectors(model, traces[:2], traces[2:], [0, 2])
    for layer in (0, 2):
        resids = [seen(model, t, f"blocks.{layer}.hook_resid_post")[9:] for t in traces]
        expected = torch.cat(resids[:2]).mean(0) - resids[2].mean(0)
        torch.testing.assert_close(vectors[layer], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        mean_residuals(model, traces[:1], [1])[0].float(),
        seen(model, traces[0], "blocks.1.hook_resid_post")[9:].mean(0),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="2 right and 0 wrong texts"):
        steering_vectors(model, traces[:2], [], [0])


def test_what_spoils_solutions_least_comes_first(model: Any) -> None:
    """A vector that raises the logits of the solutions' own tokens, against its opposite."""
    trace = a_trace()
    unembed = (
        model.W_U if hasattr(model, "W_U") else model.original_model.lm_head.weight.T
    ).detach()
    own = unembed[:, trace.tokens[9:]].float().mean(1)
    last = model.cfg.n_layers - 1
    good = ActivationSteering([last], 20 * own)
    bad = ActivationSteering([last], -20 * own)
    assert profiled(model, [bad, good], [trace])[0] is good
    with pytest.raises(ValueError, match=r"scale=0\.0 is not in"):
        AttentionSteering([0], scale=0.0)
    assert math.isclose(AttentionSteering([0]).scale, 0.01)


def test_words_are_no_rival_on_a_task_without_language() -> None:
    settings = parse(RivalSettings, "--n", "20", "--chunk", "10", "--n-losses", "10")
    assert settings.asked_for == ("attention_steering", "activation_steering")
    assert [unit.name for unit in units(settings)] == [
        "answers-00000", "answers-00010", "losses-00000",
    ]  # fmt: skip
    of_file = parse(RivalSettings, "--data", "rows.jsonl")
    assert len(of_file.asked_for) == 5
    with pytest.raises(ValueError, match="have read no language"):
        _ = parse(RivalSettings, "--rivals", "hint").asked_for


@pytest.mark.nightly
def test_all_rivals_answer_rows_of_a_file(tmp_path: Path) -> None:
    """The bundled model stands in for one that reads: what is counted is who answers what."""
    rows = [
        {"id": problem.id, "question": problem.question, "answer": str(problem.answer)}
        for problem in ss.tasks.make_problems(n=12, level="hard", seed=3)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ss.load_model("reasoner")
    settings = RivalSettings(n=2, data=str(file), max_new_tokens=192)
    frame = rivals(model, read_items(settings), settings)
    assert set(frame["condition"]) == {"baseline", "both", *settings.asked_for}
    assert (frame.groupby("condition").size() == 2).all()
    tokens = frame.groupby("condition")["n_tokens"].sum()
    assert tokens["budget_forcing"] > tokens["baseline"]
    assert tokens["hint"] > tokens["baseline"]


def as_values(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(kind="answers")


def test_a_rival_that_is_better_by_what_the_paper_reports_is_found() -> None:
    frame = next(binary_sets(["baseline", "both", "attention_steering"], n_problems=1000))
    rng = np.random.default_rng(0)
    helped = (frame["condition"] == "both") & (rng.random(len(frame)) < 0.2)
    frame["is_correct"] |= helped
    row = rival_tables(as_values(frame), **FAST)["rivals"].iloc[0]
    assert (row["condition"], row["reference"]) == ("both", "attention_steering")
    assert row["lower"] > 0


@pytest.mark.nightly
def test_false_positive_rate() -> None:
    names = ["baseline", "both", "attention_steering", "activation_steering"]

    def p_values(values: pd.DataFrame) -> np.ndarray:
        tables = rival_tables(as_values(values), **FAST)
        return np.concatenate([tables["summary"]["p"], tables["rivals"]["p"]])

    # fewer answers that differ make the test conservative: their sum takes few values
    sets = binary_sets(names, n_problems=400, seed=6)
    assert BOUNDS[0] <= rejected(sets, p_values) <= BOUNDS[1]


def test_the_bundled_model_is_steered_and_answers_are_held_against_both() -> None:
    model = ss.load_model("reasoner")
    settings = RivalSettings(n=4, n_losses=2, rivals=("attention_steering",))
    items = read_items(settings)
    frame = rivals(model, items, settings).assign(kind="answers")
    assert set(frame["condition"]) == {"baseline", "both", "attention_steering"}
    forced = losses(model, items[:2], settings).assign(kind="losses")
    tables = rival_tables(pd.concat([frame, forced]), **FAST)
    assert set(tables) == {"accuracy", "summary", "rivals", "losses", "loss_rivals"}
