"""Pairs of plain text: a number of the question is changed, and a computed one is to follow.

In a response, the first expression ``a op b = c`` (with +, -, *, x, / and their signs, dollar signs
and units of one word or none) whose c is right and of which a or b stands exactly once in the
question:

    clean      Ann has 12 apples ...   12 + 30 =   4        c  = 42
    corrupted  Ann has 28 apples ...   28 + 30 =   5        c' = 58

The number is changed in the question and everywhere in the response before the equals sign, into
another of as many tokens; c' has as many digits as c and another first one. What is read is the
first token of the result, which stands nowhere before: nor does c'.

When it misleads: the operands stand in the step that is read, so that it carries the change from
the first layer on, and the question hardly matters to it: what is asked is where a result is
computed, not whether the question is read. What the response says beside the expression (an
estimate, a comparison) stays as it is and may no longer fit. An operand may have been computed from
the number that is changed in words alone. Models that are wrong about c' have pairs of a small gap,
which are dropped.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from analyses.instruments.number_forks import Respelled, TokenText
from analyses.patching.pairs import Pair, make_pair
from step_saliency.trace import Region, Trace

_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_UNIT = r"(?:\s[A-Za-z]+)?"
_EXPRESSION = re.compile(
    rf"(?<![\w.,])\$?\s*(?P<left>{_NUMBER}){_UNIT}\s*"
    r"(?P<op>[-+*/x×÷−]|\\times|\\div)\s*"
    rf"\$?(?P<right>{_NUMBER}){_UNIT}\s*=\s*\$?\s*(?P<result>{_NUMBER})(?!\d|[.,]\d|\s*%)"
)
_OPERATOR_BEFORE = re.compile(r"(?:[+*/×÷^−]|\\times|\\div|(?<=[\s\d])x|(?<!\n)-)[\s$]*\Z")
_OPS = {"\\times": "*", "x": "*", "×": "*", "\\div": "/", "÷": "/", "−": "-"}
_DRAWS = 200
"""Numbers that are tried in the place of one."""


@dataclass(frozen=True)
class Expression:
    """``left op right = result`` in a text.

    Attributes:
        left: First operand, as it is written.
        op: +, -, * or /.
        right: Second operand.
        result: What stands behind the equals sign.
        start: First character of the expression.
        result_start: First character of the result.
        result_stop: First character behind it.
    """

    left: str
    op: str
    right: str
    result: str
    start: int
    result_start: int
    result_stop: int

    def value(self, number: str = "", other: str = "") -> Fraction | None:
        """What it comes to, with a number in place of each operand that is written like another.

        Args:
            number: Operand that is replaced; by default none.
            other: What stands in its place.

        Returns:
            None for a division by zero.
        """
        operands = (other if side == number else side for side in (self.left, self.right))
        left, right = (Fraction(side.replace(",", "")) for side in operands)
        if self.op == "/":
            return left / right if right else None
        return {"+": left + right, "-": left - right, "*": left * right}[self.op]

    @property
    def is_right(self) -> bool:
        """Whether the result is exactly that."""
        return self.value() == Fraction(self.result.replace(",", ""))


def expressions(text: str, start: int = 0) -> Iterator[Expression]:
    """Expressions of two operands that are no parts of longer ones, in their order."""
    for match in _EXPRESSION.finditer(text, start):
        if not _OPERATOR_BEFORE.search(text, start, match.start()):
            op = _OPS.get(match["op"], match["op"])
            sides = match["left"], op, match["right"], match["result"]
            yield Expression(*sides, match.start("left"), *match.span("result"))


def expression_pair(tokenizer: Any, trace: Trace, *, seed: int) -> Pair | None:
    """Change a number of the question that the response computes with.

    Args:
        tokenizer: The model's.
        trace: A response of any model to any question.
        seed: Of the number's replacement.

    Returns:
        None if there is no expression whose number can be changed so.
    """
    written = trace.region_steps(Region.THINKING, Region.SUMMARY)
    if not written:
        return None
    whole = TokenText(tokenizer, trace.tokens.tolist())
    rng = np.random.default_rng([seed, 13])
    for expression in expressions(whole.text, whole.start_of(trace.steps[written[0]].start)):
        if not expression.is_right or not expression.result.replace(",", "").isdecimal():
            continue
        if _stands(expression.result, _before(trace, whole, expression)):
            continue
        for number in dict.fromkeys((expression.left, expression.right)):
            pair = _changed(trace, whole, expression, number, rng)
            if pair is not None:
                return pair
    return None


def _changed(
    trace: Trace, whole: TokenText, expression: Expression, number: str, rng: np.random.Generator
) -> Pair | None:
    """The pair in which one operand is changed; None where it cannot be had."""
    places = _places(trace, whole, expression, number)
    if places is None:
        return None
    text = _before(trace, whole, expression)
    low, high = 10 ** (len(number) - 1), 10 ** len(number)
    for drawn in dict.fromkeys(rng.integers(low, high, size=_DRAWS).tolist()):
        other = str(drawn)
        result = _result_like(expression, number, other)
        if result is None or other == result or _stands(other, text) or _stands(result, text):
            continue
        spelled = [whole.respelled(a, b, other) for a, b in places]
        fork = whole.fork(expression.result_start, expression.result_stop, result)
        first = whole.token_at(expression.result_start)
        if fork is None or fork.position + 1 != first or not _as_long(spelled):
            continue
        corrupted = trace.tokens.clone()
        for one in spelled:
            assert one is not None
            corrupted[one.start : one.stop] = corrupted.new_tensor(one.tokens)
        corrupted[first] = fork.right
        changed = replace(trace, tokens=corrupted, question="", response="")
        name = str(trace.meta.get("problem") or trace.id)
        return make_pair(trace, changed, fork.position, kind="computed", problem=name)
    return None


def _as_long(spelled: Sequence[Respelled | None]) -> bool:
    return all(one is not None and len(one.tokens) == one.stop - one.start for one in spelled)


def _result_like(expression: Expression, number: str, other: str) -> str | None:
    """The result with another operand; None unless it looks alike and begins otherwise."""
    value = expression.value(number, other)
    if value is None or value.denominator > 1 or value <= 0:
        return None
    result = f"{value.numerator:,}" if "," in expression.result else str(value.numerator)
    alike = len(result) == len(expression.result) and result[0] != expression.result[0]
    return result if alike else None


def _places(
    trace: Trace, whole: TokenText, expression: Expression, number: str
) -> list[tuple[int, int]] | None:
    """Characters of a number in the question and in the response up to an equals sign.

    Returns:
        None unless it is whole, stands once in the question, and no earlier step has computed with
        it.
    """
    if not number.isdecimal() or number.startswith("0"):
        return None
    spans = [
        (whole.start_of(step.start), min(whole.start_of(step.stop), expression.result_start), step)
        for step in trace.steps
        if step.region is not Region.TEMPLATE
    ]
    places: list[tuple[int, int]] = []
    n_asked = 0
    for begin, end, step in spans:
        matches = [m.span() for m in _whole(number).finditer(whole.text, begin, max(begin, end))]
        if step.region is Region.QUESTION:
            n_asked += len(matches)
        elif matches and "=" in whole.text[begin : min(end, expression.start)]:
            return None
        places += matches
    return places if n_asked == 1 else None


def _before(trace: Trace, whole: TokenText, expression: Expression) -> str:
    """Question and response up to the equals sign of an expression."""
    spans = [
        (whole.start_of(step.start), min(whole.start_of(step.stop), expression.result_start))
        for step in trace.steps
        if step.region is not Region.TEMPLATE
    ]
    return "\n".join(whole.text[begin:end] for begin, end in spans if begin < end)


def _stands(number: str, text: str) -> bool:
    return _whole(number).search(text) is not None


def _whole(number: str) -> re.Pattern[str]:
    """A number that is no part of another one or of a word."""
    return re.compile(rf"(?<![\w.,]){re.escape(number)}(?![\w]|[.,]\d)")
