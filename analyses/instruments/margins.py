"""Where a wrong answer goes wrong, and how much the model prefers the wrong token there.

    margin = log p(right) - log p(written)

at the token where the first wrong step of an answer leaves what is `corrected` of it: negative
where the model wrote what it preferred. For rows of a file the two tokens are those of numbers, the
one that was written and the one that was due (`analyses.instruments.number_errors`).

When it misleads: margins are taken where the model was wrong, so whatever flattens its predictions
raises them; read them beside a placebo's. Where an answer takes a step too early, ``right`` is the
next step of the solution, and another might do as well. In bfloat16 logits are a sixteenth or an
eighth apart: take float32 for small differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from analyses.instruments.number_errors import number_error
from analyses.material.answers import AnswerSettings, greedy_answers
from analyses.material.problems import Item, is_right
from analyses.material.wrong_steps import is_told
from step_saliency.tasks import Problem
from step_saliency.tasks.grading import split_response
from step_saliency.tasks.notation import join_response, right_step
from step_saliency.trace import Region, Trace


@dataclass(frozen=True, eq=False)
class FirstError:
    """Where a wrong answer goes wrong.

    Attributes:
        problem: The problem of the bundled task; None for a row of a file.
        trace: The wrong answer.
        position: The token there is predicted at this position.
        right: Token that would have been right.
        written: Token of the answer.
        kind: Kind of the first error, where it is known.
    """

    problem: Problem | None
    trace: Trace
    position: int
    right: int
    written: int
    kind: str | None


def corrected(problem: Problem, response: str) -> str | None:
    """A response with its first wrong step put right, and then what the solution still lacks.

    Steps can be taken in several orders, so that an answer may leave the gold solution where it is
    still right. What is kept here are its own steps before the first wrong one. In that place comes
    the right step of the same name if all that it needs is there, otherwise the first step of the
    solution that is lacking; then the others that are lacking, and the summary.

    Returns:
        None if nothing in the response is wrong.
    """
    first = problem.grade(response).first_wrong_step
    if first is None:
        return None
    graph = problem.graph
    written, _ = split_response(response)
    lines, values = written[:first], {}
    for step in map(problem.read_step, lines):
        assert step is not None
        values[step.premise.name] = step.result
    names = [name for name in graph.order if name not in values]
    wrong = problem.read_step(written[first]) if first < len(written) else None
    name = None if wrong is None else wrong.premise.name
    if name in graph.index and set(graph[name].variables) <= set(values):
        names = [name, *(other for other in names if other != name)]
    for name in names:
        step = right_step(graph[name], values)
        values[name] = step.result
        lines.append(problem.write_step(step))
    return join_response(lines, problem.write_summary(values))


def first_error(model: Any, problem: Problem, response: str) -> FirstError | None:
    """Where a wrong answer leaves what is `corrected` of it.

    Returns:
        None where the answer is right, ends where it should go on, or leaves the corrected text
        before its first wrong step, in its layout.
    """
    grade = problem.grade(response)
    better = None if grade.is_correct else corrected(problem, response)
    if better is None:
        return None
    trace, right = problem.trace(model.tokenizer, response), problem.trace(model.tokenizer, better)
    pairs = zip(trace.tokens.tolist(), right.tokens.tolist(), strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if at is None or _steps_before(right, at) != grade.first_wrong_step:
        return None
    tokens = int(right.tokens[at]), int(trace.tokens[at])
    return FirstError(problem, trace, at - 1, *tokens, grade.error_kind)


def _steps_before(trace: Trace, position: int) -> int:
    """Steps of thinking and summary that are over at a position."""
    written = (Region.THINKING, Region.SUMMARY)
    return sum(step.region in written and step.stop <= position for step in trace.steps)


def row_error(model: Any, item: Item, trace: Trace) -> FirstError | None:
    """Where a wrong answer to a row of a file states its first number that is off.

    Args:
        model: The model.
        item: The row, with a worked solution.
        trace: The answer.

    Returns:
        None where the answer is right, where the solution computes nothing, or as `number_error`.
    """
    assert item.row is not None
    if is_right(item, trace.response) or not is_told(item, "first off"):
        return None
    fork = number_error(model.tokenizer, trace, item.question, str(item.row.gold))
    if fork is None:
        return None
    return FirstError(None, trace, fork.position, fork.right, fork.written, None)


def greedy_errors(
    model: Any, items: Sequence[Item], settings: AnswerSettings
) -> list[FirstError | None]:
    """Where the greedy answer to each problem goes wrong, if it does."""
    answers = greedy_answers(model, items, settings)
    return [
        row_error(model, item, trace)
        if item.problem is None
        else first_error(model, item.problem, trace.response)
        for item, trace in zip(items, answers, strict=True)
    ]


def margin(logits: Float[Tensor, "pos vocab"], at: FirstError) -> float:
    """Log-odds of the right token against the one that was written, nats."""
    return log_odds(logits[at.position], at)


def log_odds(row: Float[Tensor, "vocab"], at: FirstError) -> float:
    """The same from the logits of its position alone."""
    return float(row[at.right] - row[at.written])
