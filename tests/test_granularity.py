"""Dialogues and documents are cut where they should be, and relevance is what it says."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import step_saliency as ss
from analyses.granularity import GranularitySettings, summarise
from analyses.granularity.relevance import METRICS, granularity, mass_maps, relevance
from analyses.granularity.texts import Text, make_text, plain_solution
from analyses.material.problems import Item
from step_saliency.runs.inputs import Row
from step_saliency.tasks import make_problems
from step_saliency.trace import Region, Trace
from tests.shuffled import BOUNDS, LEVEL, N_SETS


@pytest.fixture(scope="module")
def model() -> Any:
    return ss.load_model("reasoner")


def items(n: int) -> list[Item]:
    return [Item(p.id, i, problem=p) for i, p in enumerate(make_problems(n, "easy"))]


def word_items(n: int) -> list[Item]:
    """Rows in words, as a file has them."""
    problems = make_problems(n, "easy", family="words")
    rows = [
        {"question": p.question, "answer": f"<<1+1=2>>{p.answer} it is.\n#### {p.answer}"}
        for p in problems
    ]
    return [Item(f"r{i}", i, row=Row(f"r{i}", i + 1, row)) for i, row in enumerate(rows)]


def test_solutions_lose_their_calculator_marks() -> None:
    solution = "She has 2+3=<<2+3=5>>5 left.\nSo 5*2=<<5*2=10>>10.\n#### 10"
    expected = "She has 2+3=5 left.\nSo 5*2=10.\n\nThe answer is 10."
    assert plain_solution(solution) == expected


def test_dialogue_has_a_part_for_every_turn(model: Any) -> None:
    mine, *others = items(3)
    text = make_text(model.tokenizer, "dialogue", mine, others)
    steps = [text.trace.steps[i].text for i in text.parts]
    assert len(steps) >= 5  # two questions and answers, and the question
    assert text.relevant is not None
    assert mine.question in text.trace.steps[text.parts[text.relevant]].text
    assert text.trace.region_steps(Region.SUMMARY)
    alone = make_text(model.tokenizer, "single", mine, others)
    assert alone.relevant is None
    assert len(alone.parts) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_document_is_cut_at_its_passages(model: Any, seed: int) -> None:
    mine, *others = word_items(4)
    text = make_text(model.tokenizer, "document", mine, others, seed=seed)
    assert len(text.parts) == 4
    passages = [text.trace.steps[i].text for i in text.parts]
    assert text.relevant is not None
    assert mine.question in passages[text.relevant]
    for place, passage in enumerate(passages):
        assert passage.lstrip().startswith(f"Problem {place + 1}.")
        assert passage.count("Problem") == 1
    places = {
        make_text(model.tokenizer, "document", mine, others, seed=s).relevant for s in range(12)
    }
    assert len(places) > 1


def test_unknown_text_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="text 'poem'"):
        make_text(model.tokenizer, "poem", items(1)[0], [])


def planted(weights: list[float]) -> tuple[torch.Tensor, Text]:
    """A map whose thinking rows fall on three context parts of 2, 4 and 6 tokens as given."""
    trace = Trace.from_tokens(
        list(range(16)),
        starts=[0, 2, 6, 12],
        regions=["question", "question", "question", "thinking"],
    )
    maps = torch.zeros(2, 4, 4)
    maps[:, 3, :3] = torch.tensor(weights)
    maps[:, 3, 3] = 7.0
    return maps, Text(trace, (0, 1, 2), 1)


def test_relevance_by_hand() -> None:
    found = relevance(*planted([1.0, 2.0, 3.0]))  # as the tokens are
    assert found["relevant"] == pytest.approx(1 / 3)
    assert found["excess"] == pytest.approx(0)
    found = relevance(*planted([1.0, 6.0, 1.0]))
    assert found["relevant"] == pytest.approx(0.75)
    assert found["excess"] == pytest.approx(0.75 - 1 / 3)
    assert found["top"] == 1
    assert relevance(*planted([5.0, 1.0, 1.0]))["top"] == 0


def at_random(n_sets: int, n_problems: int, *, favour: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Excess of maps that know nothing of which part is relevant: it is drawn at random.

    They follow the length of parts roughly, and favour the first one; ``favour`` is what the
    relevant part gets besides.
    """
    rng = np.random.default_rng(seed)
    shape = (n_problems, n_sets, 4)
    lengths = rng.integers(20, 80, shape)
    relevant = rng.integers(0, 4, shape[:2])[..., None]
    mass = lengths * rng.gamma(2, 1, shape) * [2.0, 1.0, 1.0, 1.0]
    mass = np.where(np.arange(4) == relevant, mass * favour, mass)
    shares, expected = (x / x.sum(-1, keepdims=True) for x in (mass, lengths))
    excess = np.take_along_axis(shares - expected, relevant, -1)[..., 0]
    problem, number = np.indices(excess.shape)
    told = {"splitter": "sentence", "method": "next_token", "metric": "excess", "layer": pd.NA}
    sizes = {"n_tokens": 300, "n_steps": 12, "n_parts": 4}
    return pd.DataFrame(
        {"problem": problem.ravel(), "text": number.ravel(), "value": excess.ravel()}
    ).assign(**told, **sizes)


def excess_p_values(values: pd.DataFrame) -> pd.Series:
    return summarise(values.astype({"layer": "Int64"}), GranularitySettings(seed=0))["summary"]["p"]


@pytest.mark.nightly
def test_false_positive_rate_of_the_excess() -> None:
    p = excess_p_values(at_random(N_SETS, 40))
    assert len(p) == N_SETS
    assert BOUNDS[0] <= (p <= LEVEL).mean() <= BOUNDS[1]
    assert (excess_p_values(at_random(20, 40, favour=3.0)) <= LEVEL).mean() > 0.9


def test_random_maps_have_no_excess() -> None:
    rng = np.random.default_rng(0)
    draws = [
        relevance(*planted((rng.exponential(1, 3) * [2, 4, 6]).tolist()))["excess"]
        for _ in range(400)
    ]
    assert abs(np.mean(draws)) < 0.04


def test_attention_map_sums_to_one(model: Any) -> None:
    mine, *others = items(2)
    text = make_text(model.tokenizer, "dialogue", mine, others)
    _, maps = mass_maps(model, text.trace, "attention")
    assert maps.sum(-1).numpy() == pytest.approx(np.ones(maps.shape[:2]), abs=1e-4)


def test_small_run(model: Any) -> None:
    mine, *others = items(3)
    frame = granularity(
        model,
        [mine],
        [mine, *others],
        texts=["single", "dialogue"],
        splitters=["sentence", "paragraph"],
        n_others=2,
    )
    assert set(frame["metric"]) == set(METRICS)
    again = granularity(
        model,
        [mine],
        [mine, *others],
        texts=["single", "dialogue"],
        splitters=["sentence", "paragraph"],
        n_others=2,
    )
    assert frame.equals(again)
    tables = summarise(frame, GranularitySettings(seed=0))
    summary = tables["summary"]
    tested = summary["metric"] == "excess"
    assert summary.loc[tested, "p"].notna().all()
    assert (summary.loc[tested, "p_holm"] >= summary.loc[tested, "p"]).all()
    assert summary.loc[~tested, ["p", "p_holm"]].isna().all(axis=None)
    other = summarise(frame, GranularitySettings(seed=1))["summary"]
    drawn = ["lower", "upper", "p", "p_holm"]
    pd.testing.assert_frame_equal(summary.drop(columns=drawn), other.drop(columns=drawn))
    dialogue = tables["summary"].query("text == 'dialogue' and metric == 'relevant'")
    assert dialogue["estimate"].between(0, 1).all()
    assert set(tables["curves"]["metric"]) == {"lock_in", "decay"}


def test_a_part_that_is_always_on_top_is_not_certainly_so() -> None:
    about = {"text": "dialogue", "splitter": "line", "method": "attention", "layer": None}
    sizes = {"n_tokens": 30, "n_steps": 5, "n_parts": 4}
    rows = [
        {"problem": p, "metric": metric, "value": value, **about, **sizes}
        for p in range(20)
        for metric, value in (("top", 1.0), ("excess", 0.1))
    ]
    summary = summarise(pd.DataFrame(rows), GranularitySettings())["summary"].set_index("metric")
    assert summary.loc["top", "lower"] == pytest.approx(20 / (20 + 1.959964**2))  # Wilson
    assert summary.loc["excess", "interval"] == "bootstrap"
