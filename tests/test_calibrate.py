"""Calibration: a planted best candidate is found, and none is where there is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from edit_passes import a_trace, load
from tiny import BACKENDS

import step_saliency as ss
from step_saliency.calibration import band_pairs, trials
from step_saliency.calibration.band_pairs import band_candidates, label_free
from step_saliency.calibration.calibrate import calibrate
from step_saliency.calibration.candidates import NO_FLOW, Candidate
from step_saliency.calibration.folds import Intervals, best_of, cross_validated, fold_numbers
from step_saliency.diagnosis import BandChoice, Bands, diagnose, find_bands
from step_saliency.options import Decoding, Draws
from step_saliency.storage.lock import FolderLock, InUseError
from step_saliency.trace import Trace

BANDS = {
    name: Bands.named({"shallow": shallow, "deep": deep}, 8)
    for name, shallow, deep in (("a", [0], [7]), ("b", [1, 2], [6]), ("c", [3], [4, 5]))
}
OPTIONS: dict[str, Any] = {"progress": False, "n_resamples": 200}
RIGHT, WRONG = (
    Trace.from_tokens(torch.tensor([1]), starts=[0], regions=["summary"], response=response)
    for response in ("right", "wrong")
)


@dataclass(frozen=True)
class Stub:
    """A problem that is graded by what its response says."""

    question: str

    def grade(self, trace: Trace) -> SimpleNamespace:
        return SimpleNamespace(is_correct=trace.response == "right")


def stubs(n: int) -> list[Stub]:
    return [Stub(f"question {i}") for i in range(n)]


def candidate_of(flow: Any) -> tuple[Any, ...]:
    """Shallow layers, deep layers, tau_max and alpha of a flow."""
    if flow is None:
        return (), (), 0.0, 0.0
    oeb, smi = flow.oeb, flow.smi
    return (
        oeb.layers if oeb else (),
        smi.layers if smi else (),
        oeb.tau_max if oeb else 0.0,
        smi.alpha if smi else 0.0,
    )


class Answers:
    """Stands in for `generate`: each response is right with a chance that depends on the flow."""

    def __init__(self, chance: Callable[..., float], *, seed: int = 0, paired: bool = True) -> None:
        self.chance, self.seed, self.paired = chance, seed, paired
        self.asked: list[tuple[Any, ...]] = []

    def __call__(
        self, _model: Any, questions: Sequence[str], *, flow: Any, decoding: Decoding, **_: Any
    ) -> list[Trace]:
        candidate = candidate_of(flow)
        self.asked.append(candidate)
        chance = self.chance(*candidate)
        draws = np.random.default_rng([self.seed, 0 if self.paired else len(self.asked)])
        n_responses = len(questions) * decoding.n
        return [RIGHT if draw < chance else WRONG for draw in draws.random(n_responses)]


def planted(shallow: tuple[int, ...], deep: tuple[int, ...], tau: float, alpha: float) -> float:
    """0.3 without intervention; bands b help, most with a strong bridge and weak momentum."""
    if not shallow and not deep:
        return 0.3
    if shallow != (1, 2):
        return 0.25
    return 0.7 if (tau, alpha) == (0.3, 0.02) else 0.45


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answers]:
    def use(chance: Callable[..., float], **options: Any) -> Answers:
        made = Answers(chance, **options)
        monkeypatch.setattr(trials, "generate", made)
        return made

    return use


@pytest.mark.parametrize("search", ["full", "staged", "auto"])
def test_a_planted_best_candidate_is_found(search: str, answers: Callable[..., Answers]) -> None:
    asked = answers(planted)
    found = calibrate(None, stubs(200), bands=BANDS, search=search, n=2, **OPTIONS)
    assert candidate_of(found.flow) == ((1, 2), (6,), 0.3, 0.02)
    assert (found.chosen.bands, found.chosen.tau_max, found.chosen.alpha) == ("b", 0.3, 0.02)
    folds = found.folds[found.folds["condition"] == "chosen"]
    assert (folds["bands"] == "b").all()
    assert (folds["tau_max"] == 0.3).all()
    gain = found.held_out.set_index("condition").loc["difference"]
    assert gain["lower"] < 0.4 < gain["upper"]
    assert gain["lower"] > 0.2
    assert gain["n"] == 200
    assert len(asked.asked) == (1 + 3 * 9 if search == "full" else 1 + 3 + 8)
    assert len(set(asked.asked)) == len(asked.asked), "no candidate runs twice"
    curve = found.curve.set_index(["bands", "tau_max", "alpha"])["estimate"]
    assert curve["none", 0.0, 0.0] == pytest.approx(0.3, abs=0.07)
    assert curve["b", 0.3, 0.02] == curve.max()
    relative = found.differences.set_index(["bands", "tau_max", "alpha"])["estimate"]
    assert np.allclose(relative, curve - curve["none", 0.0, 0.0])
    assert "held-out gain +0." in str(found)
    assert "Held out" in found._repr_html_()


def test_numbers_of_the_curve_by_hand(answers: Callable[..., Answers]) -> None:
    """Problem 0 is asked twice and counts once."""
    answers(planted)
    problems = [*stubs(6), Stub("question 0")]
    found = calibrate(None, problems, bands=BANDS, n_folds=2, n=2, **OPTIONS)
    draws = np.random.default_rng([0, 0]).random(14).reshape(7, 2)
    right = (draws < 0.3).mean(1)
    by_problem = [(right[0] + right[6]) / 2, *right[1:6]]
    first = found.curve.iloc[0]
    assert (first["stage"], first["bands"], first["n"]) == ("baseline", "none", 6)
    assert first["estimate"] == pytest.approx(np.mean(by_problem))
    assert first["lower"] < first["estimate"] < first["upper"]


def test_held_out_gains_are_unbiased_where_nothing_helps() -> None:
    """Twelve candidates of coin tosses: the best looks good where it was chosen, not elsewhere."""
    rng = np.random.default_rng(0)
    candidates = [Candidate(str(i), (0,), (1,), 0.1, 0.1) for i in range(12)]
    held_out, looked_good = [], []
    for seed in range(200):
        tosses = rng.integers(0, 2, size=(13, 30)).astype(float)
        scores = dict(zip(candidates, tosses[1:], strict=True))
        folds = fold_numbers(30, 5, seed)
        intervals = Intervals(Draws(n_resamples=2))
        by_fold, total = cross_validated(
            {NO_FLOW: tosses[0], **scores},
            folds,
            lambda train, s=scores: best_of(s, train),
            intervals,
        )
        held_out.append(total.set_index("condition").loc["difference", "estimate"])
        looked_good.append(tosses[1:].mean(1).max() - tosses[0].mean())
        parts = by_fold[by_fold["condition"] == "difference"]
        assert np.average(parts["estimate"], weights=parts["n"]) == pytest.approx(held_out[-1])
    error = np.std(held_out) / np.sqrt(len(held_out))
    assert abs(np.mean(held_out)) < 4 * error
    assert np.mean(looked_good) > 10 * error


def test_stages_leak_nothing_either(answers: Callable[..., Answers]) -> None:
    gains, looked_good = [], []
    for seed in range(60):
        answers(lambda *_: 0.5, seed=seed, paired=False)
        found = calibrate(None, stubs(20), bands=BANDS, seed=seed, progress=False, n_resamples=2)
        gains.append(found.held_out.set_index("condition").loc["difference", "estimate"])
        looked_good.append(found.differences["estimate"].max())
    error = np.std(gains) / np.sqrt(len(gains))
    assert abs(np.mean(gains)) < 4 * error
    assert np.mean(looked_good) > 4 * error


def test_a_candidate_that_fails_is_told_and_the_others_go_on(
    answers: Callable[..., Answers],
) -> None:
    def chance(shallow: tuple[int, ...], deep: Any, tau: float, alpha: float) -> float:
        if shallow == (0,) or (tau, alpha) == (0.05, 0.12):
            raise ValueError("logits are not finite")
        return planted(shallow, deep, tau, alpha)

    answers(chance)
    with pytest.warns(UserWarning, match=r"2 of 11 candidates failed .*: ValueError: logits are"):
        found = calibrate(None, stubs(60), bands=BANDS, **OPTIONS)
    assert "; 2 of 11 candidates failed" in str(found)
    failed = found.curve[found.curve["error"].notna()]
    assert set(zip(failed["bands"], failed["tau_max"], strict=True)) == {("a", 0.15), ("b", 0.05)}
    assert failed["estimate"].isna().all()
    assert (failed["error"] == "ValueError: logits are not finite").all()
    assert found.chosen.bands == "b"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"
        ),
        InUseError("answers.jsonl is in use by process 3"),
    ],
)
def test_what_is_no_fault_of_a_candidate_ends_the_call(
    answers: Callable[..., Answers], error: Exception
) -> None:
    def chance(shallow: tuple[int, ...], *_: Any) -> float:
        if shallow == (3,):
            raise error
        return 0.5

    answers(chance)
    with pytest.raises(type(error), match=str(error)[-12:]):
        calibrate(None, stubs(10), bands=BANDS, **OPTIONS)


def test_one_call_writes_a_folder_at_a_time(
    answers: Callable[..., Answers], tmp_path: Path
) -> None:
    asked = answers(planted)
    with FolderLock(tmp_path), pytest.raises(ValueError, match="is in use by process"):
        calibrate(None, stubs(10), bands=BANDS, out=tmp_path, **OPTIONS)
    assert not asked.asked
    calibrate(None, stubs(10), bands=BANDS, out=tmp_path, **OPTIONS)
    assert (tmp_path / "curve.parquet").exists()


@pytest.mark.parametrize("search", ["full", "staged"])
def test_bands_that_differ_in_idle_layers_are_one_candidate(
    search: str, answers: Callable[..., Answers]
) -> None:
    pairs = {
        name: Bands.named({"shallow": shallow, "deep": [7]}, 8)
        for name, shallow in (("low", [0]), ("high", [1, 2]))
    }
    asked = answers(planted)
    options: dict[str, Any] = {"bands": pairs, "search": search, "alphas": (0.02, 0.06), **OPTIONS}
    found = calibrate(None, stubs(40), taus=(0,), **options)
    assert len(asked.asked) == len(set(asked.asked)) == 1 + 2
    assert found.curve["bands"].tolist() == ["none", "low", "low"]
    asked = answers(planted)
    calibrate(None, stubs(40), taus=(0, 0.3), **options)
    assert len(asked.asked) == len(set(asked.asked))


def test_without_any_candidate_left(answers: Callable[..., Answers]) -> None:
    def chance(shallow: tuple[int, ...], *_: Any) -> float:
        if shallow:
            raise ValueError("logits are not finite")
        return 0.5

    answers(chance)
    with pytest.raises(ValueError, match=r"no candidate is left .*not finite"):
        calibrate(None, stubs(10), bands=BANDS, **OPTIONS)
    with pytest.raises(ValueError, match="which leaves no candidate"):
        calibrate(None, stubs(10), bands=BANDS, taus=[0.0], alphas=[0.0], **OPTIONS)


def test_strengths_of_zero_leave_a_half_out(answers: Callable[..., Answers]) -> None:
    asked = answers(lambda *_: 0.5)
    calibrate(None, stubs(10), bands=BANDS, taus=[0.0, 0.15], alphas=[0.0], **OPTIONS)
    layers = [(shallow, deep) for shallow, deep, _, _ in asked.asked]
    assert layers == [((), ()), ((0,), ()), ((1, 2), ()), ((3,), ())]


def test_pairs_of_bands() -> None:
    found = band_candidates(28)
    pairs = {name: (b.shallow, b.deep) for name, b in found.items()}
    assert pairs["quarter"] == (tuple(range(7)), tuple(range(21, 28)))
    assert pairs["third"] == (tuple(range(10)), tuple(range(18, 28)))
    assert pairs["half"] == (tuple(range(14)), tuple(range(14, 28)))
    assert pairs["7-13 and 14-20"] == (tuple(range(7, 14)), tuple(range(14, 21)))
    assert len(pairs) == 3 + 5, "windows of the bottom and top quarter are the quarter again"
    for depth in range(1, 50):
        made = band_candidates(depth)
        assert len(made) <= 9
        assert bool(made) == (depth > 1)
        assert len({(b.shallow, b.deep) for b in made.values()}) == len(made)
        assert all(b.shallow and b.deep and b.shallow[-1] < b.deep[0] for b in made.values())


def test_the_label_free_choice_is_a_candidate(
    answers: Callable[..., Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("qwen2", n_layers=8)
    bands = Bands.named({"shallow": [0, 1, 2], "deep": [7]}, 8)
    choice = BandChoice(bands, {"lock_in": 1.0, "decay": 1.0}, {}, pd.DataFrame())
    monkeypatch.setattr(band_pairs, "label_free", lambda *_: choice)
    answers(lambda shallow, deep, *_: 0.8 if (shallow, deep) == ((0, 1, 2), (7,)) else 0.3)
    found = calibrate(model, stubs(60), **OPTIONS)
    assert found.label_free is choice
    assert found.chosen.bands == "label-free"
    assert {"quarter", "third", "half", "label-free"} <= set(found.curve["bands"])


def test_label_free_bands_of_traces() -> None:
    model = load("qwen2", n_layers=4)
    traces = [replace(a_trace(seed=seed), question=f"question {seed}") for seed in range(5)]
    cut = replace(a_trace(regions="_QT", lengths=(1, 3, 5)), question="cut")
    found = label_free(model, [*traces, cut])
    truth = find_bands([diagnose(ss.step_saliency(model, trace)) for trace in traces])
    assert found.bands == truth.bands
    assert found.layers.equals(truth.layers)


def test_folds() -> None:
    folds = fold_numbers(23, 5, seed=1)
    assert sorted(np.bincount(folds).tolist()) == [4, 4, 5, 5, 5]
    assert np.array_equal(folds, fold_numbers(23, 5, seed=1))
    assert not np.array_equal(folds, fold_numbers(23, 5, seed=2))


def test_objects_and_keywords_are_one_call(answers: Callable[..., Answers]) -> None:
    """One seed for answers, folds and intervals, unless the draws have one of their own."""
    options: dict[str, Any] = {"bands": BANDS, "progress": False}
    answers(planted)
    keywords = calibrate(None, stubs(20), n=2, seed=3, confidence=0.8, n_resamples=50, **options)
    shared = Decoding(n=2, seed=3)
    answers(planted)
    objects = calibrate(
        None,
        stubs(20),
        decoding=shared,
        draws=Draws(confidence=0.8, n_resamples=50, seed=3),
        **options,
    )
    answers(planted)
    both = calibrate(
        None,
        stubs(20),
        decoding=shared,
        draws=Draws(seed=3),
        confidence=0.8,
        n_resamples=50,
        **options,
    )
    for other in (objects, both):
        for name in ("curve", "differences", "folds", "held_out"):
            pd.testing.assert_frame_equal(getattr(other, name), getattr(keywords, name))
    answers(planted)
    own_seed = Draws(confidence=0.8, n_resamples=50, seed=9)
    other = calibrate(None, stubs(20), decoding=shared, draws=own_seed, **options)
    assert other.curve["estimate"].equals(keywords.curve["estimate"])
    assert not other.curve["lower"].equals(keywords.curve["lower"])


class BrokenOff(KeyboardInterrupt):
    """A run that is stopped from outside."""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_real_run_goes_on_where_it_was_broken_off(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("qwen2", backend, n_layers=4)
    problems: list[Any] = [*ss.tasks.make_problems(n=3, level="easy")]
    problems.append({"question": "What is 3 and 4?", "answer": "7"})
    options: dict[str, Any] = {
        "taus": [0.15, 0.4],
        "alphas": [0.06],
        "n_folds": 2,
        "temperature": 1.0,
        "max_new_tokens": 6,
        "search": "staged",
        **OPTIONS,
    }
    unbroken = calibrate(model, problems, out=tmp_path / "unbroken", **options)
    real, calls = trials.generate, []

    def broken(*arguments: Any, **named: Any) -> list[Trace]:
        calls.append(named["flow"])
        if len(calls) == 3:
            raise BrokenOff
        return real(*arguments, **named)

    monkeypatch.setattr(trials, "generate", broken)
    with pytest.raises(BrokenOff):
        calibrate(model, problems, out=tmp_path / "out", **options)
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "out/answers").glob("*.jsonl")}
    assert len(done) == 2
    monkeypatch.setattr(trials, "generate", real)
    resumed = calibrate(model, problems, out=tmp_path / "out", **options)
    assert all(file.stat().st_mtime_ns == at for file, at in done.items()), "nothing is done again"
    for name in ("curve", "folds", "held_out", "differences"):
        written = pd.read_parquet(tmp_path / f"out/{name}.parquet")
        pd.testing.assert_frame_equal(getattr(resumed, name), getattr(unbroken, name))
        pd.testing.assert_frame_equal(written, getattr(resumed, name), check_dtype=False)
    texts = [
        sorted(file.read_text() for file in (tmp_path / where / "answers").glob("*.jsonl"))
        for where in ("unbroken", "out")
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == resumed.curve["error"].isna().sum()
    failed = resumed.curve[resumed.curve["error"].notna()]
    assert failed["bands"].tolist() == ["label-free"], "answers of a few tokens have no summary"


def mapping(**fields: Any) -> list[Mapping[str, Any]]:
    return [{"question": f"question {i}", **fields} for i in range(6)]


@pytest.mark.parametrize(
    ("problems", "options", "match"),
    [
        (["What is 3 and 4?"] * 6, {}, "no problem with a question"),
        (mapping(), {}, "neither grade.trace. nor a gold answer"),
        (mapping(answer=""), {}, "no number or expression"),
        (stubs(4), {}, "4 different problems are too few for 5 folds"),
        ([*stubs(4), *stubs(4)], {}, "4 different problems"),
        (stubs(6), {"n_folds": 1}, "n_folds=1 is below 2"),
        (stubs(6), {"taus": (0,), "alphas": (0,)}, "leaves no candidate"),
        (stubs(6), {"taus": [1.0]}, "taus"),
        (stubs(6), {"alphas": []}, "alphas"),
        (stubs(6), {"bands": "best"}, "bands='best'"),
        (stubs(6), {"bands": {}}, "neither 'auto' nor a mapping"),
    ],
)
def test_bad_input(problems: list[Any], options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        calibrate(None, problems, **{**OPTIONS, **options})
