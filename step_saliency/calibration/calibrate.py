"""Which layer bands, tau_max and alpha: chosen on a validation set, judged on what was left out.

Candidates are pairs of bands (shallow layers for the odds-equal bridge, deep layers for momentum)
with a strength of each. Every candidate answers every problem once, with the same random numbers;
a_cp is the accuracy of candidate c on problem p, averaged over samples. With F_1 ... F_k a split of
the problems,

    c_i        = argmax_c mean_{p not in F_i} a_cp            chosen without fold i
    held out   = mean_p a_{c_i(p) p} - a_{0 p}                i(p) the fold of p, 0 no intervention
    chosen     = argmax_c mean_p a_cp                         what is returned

The largest entry of the curve is biased upwards, since it was chosen for being large; the held-out
difference is not. Intervals draw problems with replacement (`resampling.Bootstrap`).

In stages, bands are chosen first, all at the default strengths, then tau_max and alpha for the
bands of each fold and of the whole; no fold's choice sees its own problems.

When it misleads: the folds' choices share most of their problems, so that the interval of the
held-out difference is somewhat too narrow; a gain within it is no gain. Problems of one kind
calibrate for that kind. No candidate need be better than none: look at ``held_out`` first.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from step_saliency.decoding.generate import DecodingMethod, generate
from step_saliency.diagnosis import BandChoice, Bands, diagnose, find_bands
from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.intervene.stepflow import StepFlow
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.options import Draws, check_option
from step_saliency.saliency.api import step_saliency
from step_saliency.segment.formats import FormatName
from step_saliency.segment.splitters import SplitterLike
from step_saliency.stats.resampling import Bootstrap
from step_saliency.storage.files import replacing
from step_saliency.storage.tables import write_frame
from step_saliency.tasks.answers import is_correct
from step_saliency.trace import Trace

Search = Literal["auto", "full", "staged"]

DEFAULT_TAU, DEFAULT_ALPHA = 0.15, 0.06
FULL_GRID = 24
"""Largest grid that "auto" evaluates in full."""
GOLD_FIELDS = ("gold_answer", "answer", "gold")
BASELINE = "none"
LABEL_FREE = "label-free"


@dataclass(frozen=True)
class Candidate:
    """One choice that can be made.

    Attributes:
        bands: Name of the pair of bands.
        shallow: Layers of the odds-equal bridge; none for no bridge.
        deep: Layers of momentum injection; none for no injection.
        tau_max: Bound of the bridge's mass; 0 without a bridge.
        alpha: Strength of momentum; 0 without injection.
    """

    bands: str
    shallow: tuple[int, ...]
    deep: tuple[int, ...]
    tau_max: float
    alpha: float

    @property
    def flow(self) -> StepFlow | None:
        """The intervention; None where nothing is left of it."""
        oeb = smi = None
        if self.shallow and self.tau_max:
            oeb = OddsEqualBridge(self.shallow, tau_max=self.tau_max)
        if self.deep and self.alpha:
            smi = StepMomentumInjection(self.deep, alpha=self.alpha)
        return None if oeb is None and smi is None else StepFlow(oeb=oeb, smi=smi)

    @property
    def file_name(self) -> str:
        """Name of the file of its answers."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]
        return f"tau{self.tau_max:g}-alpha{self.alpha:g}-{digest}.jsonl"


NO_FLOW = Candidate(BASELINE, (), (), 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was chosen, and how sure it is.

    Attributes:
        flow: The intervention that was best on all problems.
        chosen: The same as bands and strengths.
        curve: One row per candidate and one, ``bands="none"``, without intervention: ``stage,
            bands, shallow, deep, tau_max, alpha, estimate, lower, upper, n, error``; accuracy with
            its interval over ``n`` problems, or why the candidate failed.
        differences: The same of the accuracy minus that without intervention, paired by problem.
        folds: Per fold, what was chosen without it and three rows of accuracy on it by
            ``condition``: ``chosen``, ``baseline`` and ``difference``.
        held_out: The three conditions over all folds: what to expect on new problems.
        label_free: Bands read off the depth curves of the answers without intervention, which needs
            no grades; None where no curve could be had, or bands were given.
    """

    flow: StepFlow
    chosen: Candidate
    curve: pd.DataFrame
    differences: pd.DataFrame
    folds: pd.DataFrame
    held_out: pd.DataFrame
    label_free: BandChoice | None

    def __str__(self) -> str:
        found = self.held_out.set_index("condition").loc["difference"]
        return (
            f"bands {self.chosen.bands} (OEB in {_spelled(self.chosen.shallow)}, SMI in "
            f"{_spelled(self.chosen.deep)}), tau_max {self.chosen.tau_max:g}, alpha "
            f"{self.chosen.alpha:g}; held-out gain {found['estimate']:+.3f} "
            f"[{found['lower']:+.3f}, {found['upper']:+.3f}] over {found['n']:.0f} problems"
        )

    def _repr_html_(self) -> str:
        tables = {
            "Held out": self.held_out,
            "Folds": self.folds,
            "Accuracy of every candidate": self.curve,
        }
        shown = [
            f"<h4>{name}</h4>{table.to_html(index=False, na_rep='', float_format='{:.3g}'.format)}"
            for name, table in tables.items()
        ]
        return f"<p>{self}</p>{''.join(shown)}"


def calibrate(
    model: Any,
    problems: Sequence[Any],
    *,
    taus: Sequence[float | int] = (0.05, 0.15, 0.3),
    alphas: Sequence[float | int] = (0.02, 0.06, 0.12),
    bands: str | Mapping[str, Bands] = "auto",
    search: Search = "auto",
    n_folds: int = 5,
    n: int = 1,
    temperature: float | int = 0.6,
    top_p: float | int = 1.0,
    max_new_tokens: int = 2048,
    batch_size: int = 64,
    system: str | None = None,
    format: FormatName = "auto",  # noqa: A002
    splitter: SplitterLike = "sentence",
    seed: int = 0,
    method: DecodingMethod = "auto",
    n_label_free: int = 32,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Calibration:
    """Choose layer bands, tau_max and alpha of `StepFlow` on a validation set.

    Generates ``n`` responses per problem without intervention and for each candidate. In stages
    that is 1 + B + C (T A - 1) runs, with B pairs of bands (10 at most by default), T taus, A
    alphas, and C, from 1 to B, the different bands that the folds and the whole set choose: about
    20 to 50 runs by default. In full it is 1 + B T A.

    Args:
        model: HookedTransformer or TransformerBridge with a tokenizer.
        problems: Objects or mappings with a ``question`` and either ``grade(trace)``, whose result
            has ``is_correct``, or a gold ``answer``. Those with the same question count as one.
        taus: Candidates of tau_max; 0 is no bridge.
        alphas: Candidates of alpha; 0 is no injection.
        bands: Pairs by name; or ``"auto"``: bottom and top quarter, third and half, pairs of
            windows of a quarter, and the label-free choice of `find_bands`.
        search: ``"full"``, every combination; ``"staged"``, bands at the default strengths (0.15
            and 0.06, or the middle of those given), then strengths for the best bands; ``"auto"``,
            in full up to 24 combinations.
        n_folds: Folds of problems.
        n: Responses per problem and candidate.
        temperature: As for `generate`.
        top_p: As for `generate`.
        max_new_tokens: As for `generate`.
        batch_size: As for `generate`.
        system: As for `generate`.
        format: As for `generate`.
        splitter: As for `generate`.
        seed: Of all samples, of the folds and of the intervals.
        method: As for `generate`.
        n_label_free: Problems whose responses without intervention give the depth curves of the
            label-free choice.
        confidence: Level of the intervals.
        n_resamples: Draws of problems.
        out: Folder to which every response is written as it is done, and the tables at the end; a
            second call with the same settings goes on where the first was broken off.
        progress: Show a progress bar, and say how many responses are to come.

    Raises:
        ValueError: too few problems, a problem without a gold answer, an option out of range, or no
            candidate that could be evaluated.
    """
    check_option("search", search, ("auto", "full", "staged"))
    tasks = [_Task.of(problem) for problem in problems]
    questions = list(dict.fromkeys(task.question for task in tasks))
    _check(questions, n_folds, taus, alphas, bands)
    decoding = {
        "n": n,
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "system": system,
        "format": format,
        "splitter": splitter,
        "seed": seed,
        "method": method,
    }
    folder = None if out is None else Path(out)
    folds = fold_numbers(len(questions), n_folds, seed)
    grid = _Grid(tuple(map(float, taus)), tuple(map(float, alphas)))
    with _Trials(model, tasks, questions, decoding, folder, progress) as trials:
        traces = trials.run(NO_FLOW)
        choice, named = _named_bands(trials, model, bands, traces[: n_label_free * n])
        small = len(grid.of_all(named)) <= FULL_GRID
        is_full = search == "full" or (search == "auto" and small)
        choose = _searched(trials, grid, named, folds, is_full)
    intervals = Intervals(len(questions), confidence, n_resamples, seed)
    by_fold, held_out = cross_validated(trials.scores, folds, choose, intervals)
    chosen = choose(np.ones(len(questions), dtype=bool))
    assert chosen.flow is not None
    result = Calibration(
        flow=chosen.flow,
        chosen=chosen,
        curve=_curve(trials, intervals, relative=False),
        differences=_curve(trials, intervals, relative=True),
        folds=by_fold,
        held_out=held_out,
        label_free=choice,
    )
    if folder is not None:
        _write(folder, result)
    return result


@dataclass(frozen=True)
class _Task:
    """A problem as it is asked and graded."""

    question: str
    grade: Callable[[Trace], bool] = field(compare=False)

    @classmethod
    def of(cls, problem: Any) -> "_Task":
        fields = dict(problem) if isinstance(problem, Mapping) else _Attributes(problem)
        question = None if isinstance(problem, str) else fields.get("question")
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{problem!r:.80} is no problem with a question and a gold answer")
        grade = fields.get("grade")
        if callable(grade):
            return cls(question, lambda trace: bool(grade(trace).is_correct))
        found = [fields.get(name) for name in GOLD_FIELDS if fields.get(name) is not None]
        if not found:
            raise ValueError(
                f"the problem {question[:60]!r} has neither grade(trace) nor a gold answer; "
                "calibration needs to know which responses are right"
            )
        gold = str(found[0])
        is_correct("", gold)  # refuses a gold answer that cannot be read before anything is run
        return cls(question, lambda trace: is_correct(trace.response, gold))


@dataclass(frozen=True)
class _Attributes:
    """An object read like a mapping."""

    of: Any

    def get(self, name: str) -> Any:
        return getattr(self.of, name, None)


def _check(
    questions: Sequence[str],
    n_folds: int,
    taus: Sequence[float | int],
    alphas: Sequence[float | int],
    bands: str | Mapping[str, Bands],
) -> None:
    n = len(questions)
    wrong = {
        f"n_folds={n_folds} is below 2": n_folds < 2,
        f"{n} different problems are too few for {n_folds} folds": n < n_folds,
        f"taus={list(taus)} must be in [0, 1)": not taus or any(not 0 <= t < 1 for t in taus),
        f"alphas={list(alphas)} must be 0 or above": not alphas or any(a < 0 for a in alphas),
        f"bands={bands!r} is neither 'auto' nor a mapping from names to Bands": (
            bands != "auto" if isinstance(bands, str) else not bands
        ),
    }
    found = [what for what, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ValueError("; ".join(found))


def band_candidates(n_layers: int) -> dict[str, Bands]:
    """Pairs of shallow and deep bands: quarter, third, half, and pairs of windows of a quarter.

    Args:
        n_layers: Layers of the model.

    Returns:
        Bands by name, none twice; a model of one layer has none.
    """
    found: dict[str, Bands] = {}
    for name, shallow, deep in _band_pairs(n_layers):
        made = Bands.named({"shallow": shallow, "deep": deep}, n_layers)
        if made not in found.values():
            found[name] = made
    return found


def _band_pairs(n_layers: int) -> Iterable[tuple[str, range, range]]:
    for name, share in (("quarter", 4), ("third", 3), ("half", 2)):
        size = min(math.ceil(n_layers / share), n_layers // 2)
        if size:
            yield name, range(size), range(n_layers - size, n_layers)
    size = math.ceil(n_layers / 4)
    firsts = list(dict.fromkeys([*range(0, n_layers - size, size), n_layers - size]))
    windows = [range(first, first + size) for first in firsts]
    for i, low in enumerate(windows):
        for high in windows[i + 1 :]:
            if high.start >= low.stop:
                yield f"{_spelled(low)} and {_spelled(high)}", low, high


def _spelled(layers: Sequence[int]) -> str:
    if not layers:
        return "no layers"
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


@dataclass(frozen=True)
class _Grid:
    """Strengths to be tried."""

    taus: tuple[float, ...]
    alphas: tuple[float, ...]

    def default(self, name: str, bands: Bands) -> Candidate:
        """Bands at the default strengths."""
        tau, alpha = _usual(self.taus, DEFAULT_TAU), _usual(self.alphas, DEFAULT_ALPHA)
        return _candidate(name, bands, tau, alpha)

    def of(self, name: str, bands: Bands) -> list[Candidate]:
        """Bands at all strengths, the default first."""
        pairs = [(tau, alpha) for tau in self.taus for alpha in self.alphas]
        made = [self.default(name, bands), *(_candidate(name, bands, *pair) for pair in pairs)]
        return [candidate for candidate in dict.fromkeys(made) if candidate.flow is not None]

    def of_all(self, named: Mapping[str, Bands]) -> list[Candidate]:
        """The whole grid."""
        return [candidate for name, bands in named.items() for candidate in self.of(name, bands)]


def _usual(strengths: Sequence[float], default: float) -> float:
    return default if default in strengths else sorted(strengths)[len(strengths) // 2]


def _candidate(name: str, bands: Bands, tau: float, alpha: float) -> Candidate:
    """Without layers no strength, and without strength no layers."""
    shallow, deep = (bands.shallow if tau else ()), (bands.deep if alpha else ())
    return Candidate(name, shallow, deep, tau if shallow else 0.0, alpha if deep else 0.0)


class _Trials:
    """Candidates put to the problems, each once.

    Attributes:
        scores: Accuracy of each candidate by problem.
        errors: Why the others have none.
        stages: In which stage each was tried.
    """

    def __init__(
        self,
        model: Any,
        tasks: Sequence[_Task],
        questions: Sequence[str],
        decoding: Mapping[str, Any],
        folder: Path | None,
        progress: bool,
    ) -> None:
        self.scores: dict[Candidate, Float[np.ndarray, "problem"]] = {}
        self.errors: dict[Candidate, str] = {}
        self.stages: dict[Candidate, str] = {NO_FLOW: "baseline"}
        self._model = model
        self._tasks = tasks
        self._decoding = decoding
        self._folder = folder
        self._n = int(decoding["n"])
        self._problem = np.array([questions.index(task.question) for task in tasks])
        self._bar = tqdm(total=0, unit="response", desc="calibrate", disable=not progress)

    def __enter__(self) -> "_Trials":
        self._expect(1, "without intervention")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _expect(self, n_runs: int, what: str) -> None:
        n_responses = n_runs * len(self._tasks) * self._n
        if n_responses and not self._bar.disable:
            self._bar.total += n_responses
            self._bar.refresh()
            self._bar.write(f"calibrate: {n_responses} responses {what}")

    def run(self, candidate: Candidate) -> list[Trace]:
        """Let the model answer all problems; raises what generating raises."""
        save_to = None if self._folder is None else self._folder / "answers" / candidate.file_name
        traces = generate(
            self._model,
            [task.question for task in self._tasks],
            flow=candidate.flow,
            save_to=save_to,
            progress=False,
            **self._decoding,
        )
        grades = [self._tasks[i // self._n].grade(trace) for i, trace in enumerate(traces)]
        right = np.bincount(np.repeat(self._problem, self._n), weights=grades)
        self.scores[candidate] = right / (np.bincount(self._problem) * self._n)
        self._bar.update(len(traces))
        return traces

    def run_all(self, candidates: Iterable[Candidate], stage: str) -> None:
        """Evaluate those that are new; one that fails is kept with its error."""
        new = [candidate for candidate in candidates if candidate not in self.stages]
        self._expect(len(new), f"of {len(new)} candidates ({stage})")
        for candidate in new:
            self.stages[candidate] = stage
            try:
                self.run(candidate)
            except (ValueError, RuntimeError, ArithmeticError) as error:
                self.fail(candidate, error)

    def fail(self, candidate: Candidate, error: Exception) -> None:
        """Keep a candidate that could not be evaluated."""
        self.stages.setdefault(candidate, "bands")
        self.errors[candidate] = f"{type(error).__name__}: {error}"
        if not self._bar.disable:
            self._bar.write(f"calibrate: {candidate.bands} failed: {self.errors[candidate]}")


def _named_bands(
    trials: _Trials, model: Any, bands: str | Mapping[str, Bands], traces: Sequence[Trace]
) -> tuple[BandChoice | None, dict[str, Bands]]:
    """The label-free choice, and all pairs of bands by name."""
    if not isinstance(bands, str):
        return None, dict(bands)
    named = band_candidates(layers_of(model))
    try:
        choice = _label_free(model, traces)
    except ValueError as error:
        trials.fail(Candidate(LABEL_FREE, (), (), 0.0, 0.0), error)
        return None, named
    known = {(other.shallow, other.deep) for other in named.values()}
    if (choice.bands.shallow, choice.bands.deep) not in {*known, ((), ())}:
        named[LABEL_FREE] = choice.bands
    return choice, named


def _label_free(model: Any, traces: Sequence[Trace]) -> BandChoice:
    """Bands from the depth curves of the traces that have thinking and a summary."""
    whole = [
        trace
        for trace in traces
        if {"thinking", "summary"} <= {str(step.region) for step in trace.steps}
    ]
    return find_bands(diagnose(step_saliency(model, trace)) for trace in whole)


def fold_numbers(n_problems: int, n_folds: int, seed: int) -> Int[np.ndarray, "problem"]:
    """Fold of each problem, by lot, of equal size up to one."""
    order = np.random.default_rng([seed, 3]).permutation(n_problems)
    folds = np.empty(n_problems, dtype=np.int64)
    folds[order] = np.arange(n_problems) % n_folds
    return folds


Chooser = Callable[[np.ndarray], Candidate]
"""Chooses by the problems that a mask allows."""


def _searched(
    trials: _Trials,
    grid: _Grid,
    named: Mapping[str, Bands],
    folds: Int[np.ndarray, "problem"],
    is_full: bool,
) -> Chooser:
    """Evaluate the grid; returns what chooses from it."""
    if is_full:
        trials.run_all(grid.of_all(named), "full grid")
        return lambda train: _best(grid.of_all(named), trials, train)
    defaults = [grid.default(name, bands) for name, bands in named.items()]
    first = [candidate for candidate in defaults if candidate.flow is not None]
    trials.run_all(first, "bands")

    def choose_bands(train: np.ndarray) -> str:
        return _best(first, trials, train).bands

    trains = [np.ones(len(folds), dtype=bool), *(folds != fold for fold in np.unique(folds))]
    for name in dict.fromkeys(choose_bands(train) for train in trains):
        trials.run_all(grid.of(name, named[name]), "strengths")

    def choose(train: np.ndarray) -> Candidate:
        name = choose_bands(train)
        return _best(grid.of(name, named[name]), trials, train)

    return choose


def _best(candidates: Sequence[Candidate], trials: _Trials, train: np.ndarray) -> Candidate:
    left = {c: trials.scores[c] for c in candidates if c in trials.scores}
    if not left:
        told = "; ".join(dict.fromkeys(trials.errors.values())) or "there are none"
        raise ValueError(f"no candidate is left to choose from: {told}")
    return best_of(left, train)


def best_of(
    scores: Mapping[Candidate, Float[np.ndarray, "problem"]], train: Bool[np.ndarray, "problem"]
) -> Candidate:
    """The candidate with the highest mean over some problems; the first of those that are equal."""
    means = {candidate: float(score[train].mean()) for candidate, score in scores.items()}
    highest = max(means.values())
    return next(candidate for candidate, mean in means.items() if mean >= highest - 1e-12)


class Intervals:
    """Means over problems with their intervals, at one level.

    Args:
        n_problems: Number of all problems.
        confidence: Level.
        n_resamples: Draws of problems.
        seed: Of the draws.
    """

    def __init__(self, n_problems: int, confidence: float, n_resamples: int, seed: int) -> None:
        self._draws = Draws(confidence=confidence, n_resamples=n_resamples, seed=seed)
        self._made = {n_problems: self._bootstrap(n_problems)}

    def _bootstrap(self, n: int) -> Bootstrap:
        return Bootstrap(n, self._draws)

    def of(self, scores: Float[np.ndarray, "problem"]) -> dict[str, float | int]:
        """estimate, lower, upper and n."""
        n = len(scores)
        if n not in self._made:
            self._made[n] = self._bootstrap(n)
        lower, upper = self._made[n].interval(scores[:, None])
        numbers = {"estimate": float(scores.mean()), "lower": lower[0], "upper": upper[0]}
        return {**{name: float(x) for name, x in numbers.items()}, "n": n}


def cross_validated(
    scores: Mapping[Candidate, Float[np.ndarray, "problem"]],
    folds: Int[np.ndarray, "problem"],
    choose: Chooser,
    intervals: Intervals,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each fold chose by the other folds and how that did on it; then over all folds.

    Args:
        scores: Accuracy of each candidate by problem; `NO_FLOW` is the baseline.
        folds: Fold of each problem.
        choose: Chooses by the problems that a mask allows.
        intervals: Of means over problems.
    """
    rows: list[dict[str, Any]] = []
    held_out_scores, baseline = np.empty(len(folds)), scores[NO_FLOW]
    for fold in np.unique(folds).tolist():
        held_out = folds == fold
        chosen = choose(~held_out)
        held_out_scores[held_out] = scores[chosen][held_out]
        what = {"fold": fold, **_described(chosen)}
        rows += _conditions(held_out_scores[held_out], baseline[held_out], intervals, what)
    return pd.DataFrame(rows), pd.DataFrame(_conditions(held_out_scores, baseline, intervals, {}))


def _conditions(
    chosen: Float[np.ndarray, "problem"],
    baseline: Float[np.ndarray, "problem"],
    intervals: Intervals,
    what: Mapping[str, Any],
) -> list[dict[str, Any]]:
    by_name = {"chosen": chosen, "baseline": baseline, "difference": chosen - baseline}
    return [{**what, "condition": name, **intervals.of(x)} for name, x in by_name.items()]


def _described(candidate: Candidate) -> dict[str, Any]:
    return {
        "bands": candidate.bands,
        "shallow": _spelled(candidate.shallow),
        "deep": _spelled(candidate.deep),
        "tau_max": candidate.tau_max,
        "alpha": candidate.alpha,
    }


def _curve(trials: _Trials, intervals: Intervals, *, relative: bool) -> pd.DataFrame:
    missing = {"estimate": np.nan, "lower": np.nan, "upper": np.nan, "n": 0}
    rows = []
    for candidate, stage in trials.stages.items():
        found = trials.scores.get(candidate)
        if found is not None and relative:
            found = found - trials.scores[NO_FLOW]
        numbers = missing if found is None else intervals.of(found)
        error = trials.errors.get(candidate)
        rows.append({"stage": stage, **_described(candidate), **numbers, "error": error})
    return pd.DataFrame(rows).astype({"error": "string"})


def _write(folder: Path, result: Calibration) -> None:
    tables = {
        "curve": result.curve,
        "differences": result.differences,
        "folds": result.folds,
        "held_out": result.held_out,
    }
    for name, table in tables.items():
        write_frame(folder / f"{name}.parquet", table)
    with replacing(folder / "chosen.json") as part:
        part.write_text(json.dumps(asdict(result.chosen), indent=2), encoding="utf-8")
