"""Which answer do most samples of a question give? Self-consistency.

    answer of a question = the answer that most of its n responses give

Answers are read as the tasks read them (the last boxed or announced expression after the thinking),
and 1/2, 0.5 and \\frac{1}{2} are one answer. Of answers with equally many votes the one that was
came first wins. Responses without an answer have no vote, but count in n.

When it misleads: with few samples the share of the winner is no probability of being right; samples
that share one mistake outvote the right answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from step_saliency.tasks.answers import (
    Grader,
    final_answer,
    gold_answer,
    is_correct,
    same_answer,
)
from step_saliency.trace import Trace

Reader = Callable[[str], str | None]
COLUMNS = ("question_index", "question", "answer", "votes", "n", "n_answered", "gold", "is_correct")


@dataclass
class _Candidate:
    """One answer, the first response that gave it, and its votes."""

    answer: str
    trace: Trace
    votes: int = 1


def vote(
    traces: Sequence[Trace],
    *,
    problems: Sequence[Any] | None = None,
    gold: Sequence[str] | None = None,
    reader: Reader | None = None,
    grade: Grader | None = None,
) -> pd.DataFrame:
    """Majority answer of each question.

    Args:
        traces: Responses, `n` to a question, as `generate` returns them. Responses belong together
            that have the same ``question_index`` in their meta, or else the same question.
        problems: The problems asked, one a question: objects or mappings with a ``question``, by
            which they are found, and an ``answer``; graders of their own read and judge answers
            of a trace. Where none asks what was answered (as where prompts wrap the questions),
            they are in the order of the first responses.
        gold: Gold answer of each question, in the order of the first responses to them, in place of
            problems; by default ``gold_answer`` of the traces' meta, where it is known.
        reader: From the text of a response to its answer, None without one; by default
            `step_saliency.tasks.answers.final_answer` of the trace.
        grade: Judges the first response with the winning answer, in place of the problems' own
            graders and of ours: a function of the part that is graded and the gold answer (empty
            without one), see `step_saliency.tasks.answers.is_correct`.

    Returns:
        One row per question, in order of the first response: question_index, question, answer,
        votes, n, n_answered, gold and is_correct (missing where no gold answer is known; False
        where no response has an answer).

    Raises:
        ValueError: no trace; problems and gold together; as many of them as there are no questions;
            two questions under one ``question_index``; a question that no problem asks, while
            problems ask others.
    """
    groups = _by_question(traces)
    if problems is not None and gold is not None:
        raise ValueError("give problems or gold answers, not both")
    for name, answers in (("problems", problems), ("gold answers", gold)):
        if answers is not None and len(answers) != len(groups):
            raise ValueError(f"{len(answers)} {name} for {len(groups)} questions; give one each")
    asked = [None] * len(groups) if problems is None else _in_order(problems, groups)
    golds = [_known_gold(group) for group in groups] if gold is None else gold
    rows = [
        _count(group, problem, known, reader, grade)
        for group, problem, known in zip(groups, asked, golds, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    return frame.astype({"is_correct": "boolean"})


def _by_question(traces: Sequence[Trace]) -> list[list[Trace]]:
    if not isinstance(traces, Sequence) or not all(isinstance(one, Trace) for one in traces):
        raise ValueError(f"traces={traces!r:.80} is no list of responses, as ss.generate gives it")
    if not traces:
        raise ValueError("traces=[] is empty; a vote needs at least one response")
    groups: dict[Any, list[Trace]] = {}
    for trace in traces:
        groups.setdefault(trace.meta.get("question_index", trace.question), []).append(trace)
    for name, group in groups.items():
        others = [trace.question for trace in group if trace.question != group[0].question]
        if others:
            raise ValueError(
                f"question_index {name} stands for {group[0].question!r:.60} and for "
                f"{others[0]!r:.60}; decode questions of several calls with question_numbers= of "
                "their own"
            )
    return list(groups.values())


def _in_order(problems: Sequence[Any], groups: Sequence[Sequence[Trace]]) -> list[Any]:
    """The problem of each group: by its question, or all as they come if no question is asked.

    Raises:
        ValueError: some questions are asked by problems, and others are not.
    """
    answered = [group[0].question for group in groups]
    by_question = {str(_field(problem, "question")): problem for problem in reversed(problems)}
    unknown = [question for question in answered if question not in by_question]
    if len(unknown) == len(answered):
        return list(problems)
    if unknown:
        raise ValueError(
            f"no problem asks {unknown[0]!r:.60}, while others ask what was answered; give the "
            "problems with their questions as they were decoded"
        )
    return [
        here if _field(here, "question") == question else by_question[question]
        for here, question in zip(problems, answered, strict=True)
    ]


def _field(problem: Any, name: str, default: Any = None) -> Any:
    """A field of an object or a mapping."""
    if isinstance(problem, Mapping):
        return problem.get(name, default)
    return getattr(problem, name, default)


def _known_gold(group: Sequence[Trace]) -> str | None:
    known = group[0].meta.get("gold_answer")
    return None if known is None else str(known)


def _count(
    group: Sequence[Trace],
    problem: Any,
    gold: str | None,
    reader: Reader | None,
    grade: Grader | None,
) -> dict[str, Any]:
    candidates: list[_Candidate] = []
    for trace in group:
        answer = _read(trace, problem, reader)
        if answer is not None:
            _add(candidates, answer, trace)
    # max takes the first of equals
    winner = max(candidates, key=lambda candidate: candidate.votes, default=None)
    return {
        "question_index": group[0].meta.get("question_index"),
        "question": group[0].question,
        "answer": None if winner is None else winner.answer,
        "votes": 0 if winner is None else winner.votes,
        "n": len(group),
        "n_answered": sum(candidate.votes for candidate in candidates),
        "gold": _field(problem, "answer", gold),
        "is_correct": _judge(winner, problem, gold, reader, grade),
    }


def _read(trace: Trace, problem: Any, reader: Reader | None) -> str | None:
    if reader is not None:
        return reader(trace.response)
    if problem is not None and hasattr(problem, "grade"):
        answer: str | None = problem.grade(trace).answer
        return answer
    return final_answer(trace)


def _add(candidates: list[_Candidate], answer: str, trace: Trace) -> None:
    for candidate in candidates:
        if same_answer(candidate.answer, answer):
            candidate.votes += 1
            return
    candidates.append(_Candidate(answer, trace))


def _judge(
    winner: _Candidate | None,
    problem: Any,
    gold: str | None,
    reader: Reader | None,
    grade: Grader | None,
) -> bool | None:
    expected = _field(problem, "answer", gold)
    if grade is not None:
        known = "" if expected is None else str(expected)
        return winner is not None and is_correct(winner.trace, known, grade=grade)
    if problem is not None and hasattr(problem, "grade") and reader is None:
        return winner is not None and bool(problem.grade(winner.trace).is_correct)
    if expected is None:
        return None
    if winner is None:
        return False
    if reader is None:
        return is_correct(winner.trace, str(expected))
    return same_answer(winner.answer, gold_answer(str(expected)))
