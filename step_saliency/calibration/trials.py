"""Candidates put to the problems, each once: their answers, their accuracy, or why they failed."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from step_saliency.calibration.candidates import NO_FLOW, Candidate
from step_saliency.calibration.problems import GradedQuestion
from step_saliency.decoding.generate import generate
from step_saliency.models.memory import is_out_of_memory
from step_saliency.options import Decoding, DecodingMethod
from step_saliency.storage.lock import InUseError
from step_saliency.trace import Trace


class Trials:
    """Candidates put to the problems, each once.

    Args:
        model: The model.
        problems: The problems; those with the same question count as one.
        decoding: How responses are decoded.
        method: By which loop, see `generate`.
        out: Folder to which every response is written as it is done; None for none.
        progress: Show a progress bar, and say how many responses are to come.

    Attributes:
        questions: The different questions.
        scores: Accuracy of each candidate by question.
        errors: Why the others have none.
        stages: In which stage each was tried.
    """

    def __init__(
        self,
        model: Any,
        problems: Sequence[GradedQuestion],
        decoding: Decoding,
        *,
        method: DecodingMethod,
        out: Path | None,
        progress: bool,
    ) -> None:
        self.questions = list(dict.fromkeys(problem.question for problem in problems))
        self.scores: dict[Candidate, Float[np.ndarray, "problem"]] = {}
        self.errors: dict[Candidate, str] = {}
        self.stages: dict[Candidate, str] = {NO_FLOW: "baseline"}
        self._model = model
        self._problems = problems
        self._decoding = decoding
        self._method = method
        self._out = out
        self._place = np.array([self.questions.index(problem.question) for problem in problems])
        self._bar = tqdm(total=0, unit="response", desc="calibrate", disable=not progress)

    def __enter__(self) -> "Trials":
        self._announce(1, "without intervention")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _announce(self, n_runs: int, what: str) -> None:
        n_responses = n_runs * len(self._problems) * self._decoding.n
        if n_responses and not self._bar.disable:
            self._bar.total += n_responses
            self._bar.refresh()
            self._bar.write(f"calibrate: {n_responses} responses {what}")

    def run(self, candidate: Candidate) -> list[Trace]:
        """Let the model answer all problems; raises what generating raises."""
        answers = None if self._out is None else self._out / "answers" / candidate.file_name
        traces = generate(
            self._model,
            [problem.question for problem in self._problems],
            flow=candidate.flow,
            method=self._method,
            decoding=self._decoding,
            save_to=answers,
            progress=False,
        )
        self.scores[candidate] = self._accuracy(traces)
        self._bar.update(len(traces))
        return traces

    def _accuracy(self, traces: Sequence[Trace]) -> Float[np.ndarray, "problem"]:
        n = self._decoding.n
        grades = [self._problems[i // n].grade(trace) for i, trace in enumerate(traces)]
        right = np.bincount(np.repeat(self._place, n), weights=grades)
        accuracy: Float[np.ndarray, "problem"] = right / (np.bincount(self._place) * n)
        return accuracy

    def run_all(self, candidates: Iterable[Candidate], stage: str) -> None:
        """Evaluate those that are new; one that fails stands with its error.

        Raises:
            Exception: what is no fault of a candidate: memory that was not enough for the batch, a
                file that somebody else writes.
        """
        new = [candidate for candidate in candidates if candidate not in self.stages]
        known = {candidate.effect: candidate for candidate in self.stages}
        unknown = [candidate for candidate in new if candidate.effect not in known]
        self._announce(len(unknown), f"of {len(unknown)} candidates ({stage})")
        for candidate in new:
            self.stages[candidate] = stage
            if candidate.effect in known:
                self._repeat(candidate, known[candidate.effect])
                continue
            try:
                self.run(candidate)
            except (ValueError, RuntimeError, ArithmeticError) as error:
                if isinstance(error, InUseError) or is_out_of_memory(error):
                    raise
                self.fail(candidate, error)

    def _repeat(self, candidate: Candidate, known: Candidate) -> None:
        """Take what is known of the same intervention under another name."""
        if known in self.scores:
            self.scores[candidate] = self.scores[known]
        if known in self.errors:
            self.errors[candidate] = self.errors[known]

    def fail(self, candidate: Candidate, error: Exception) -> None:
        """Note a candidate that could not be evaluated."""
        self.stages.setdefault(candidate, "bands")
        self.errors[candidate] = f"{type(error).__name__}: {error}"
        if not self._bar.disable:
            self._bar.write(f"calibrate: {candidate.bands} failed: {self.errors[candidate]}")

    def warn(self) -> None:
        """Say once how many candidates are missing from what is chosen from."""
        if self.errors:
            reasons = "; ".join(dict.fromkeys(self.errors.values()))
            warnings.warn(
                f"{len(self.errors)} of {len(self.stages) - 1} candidates failed and were not "
                f"chosen from: {reasons:.300}",
                stacklevel=3,
            )
