"""A problem as calibration sees it: a question, and whether a response to it is right."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from step_saliency.tasks.answers import Grader, is_correct
from step_saliency.trace import Trace

GOLD_FIELDS = ("gold_answer", "answer", "gold")


@dataclass(frozen=True)
class GradedQuestion:
    """A problem as it is asked and graded.

    Attributes:
        question: What the model is asked.
        grade: Whether a response is right.
    """

    question: str
    grade: Callable[[Trace], bool] = field(compare=False)

    @classmethod
    def of(cls, problem: Any, grade: Grader | None = None) -> "GradedQuestion":
        """A problem that grades itself, or one with a gold answer.

        Args:
            problem: Object or mapping.
            grade: Judges its responses in place of both, see `is_correct`.

        Raises:
            ValueError: it has no question, or nothing to grade by.
        """
        fields = dict(problem) if isinstance(problem, Mapping) else _Attributes(problem)
        question = None if isinstance(problem, str) else fields.get("question")
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{problem!r:.80} is no problem with a question and a gold answer")
        own_grade = fields.get("grade")
        if callable(own_grade) and grade is None:
            return cls(question, lambda trace: bool(own_grade(trace).is_correct))
        golds = [fields.get(name) for name in GOLD_FIELDS if fields.get(name) is not None]
        if grade is not None:
            known = str(golds[0]) if golds else ""
            return cls(question, lambda trace: bool(is_correct(trace, known, grade=grade)))
        if not golds:
            raise ValueError(
                f"the problem {question[:60]!r} has neither grade(trace) nor a gold answer; "
                "calibration needs to know which responses are right"
            )
        gold: Any = golds[0]
        is_correct("", gold)  # refuses a gold answer that cannot be read before anything is run
        return cls(question, lambda trace: bool(is_correct(trace, gold)))


@dataclass(frozen=True)
class _Attributes:
    """An object read like a mapping."""

    of: Any

    def get(self, name: str) -> Any:
        return getattr(self.of, name, None)
