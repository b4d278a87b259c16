"""At which token does a number part from another that stands in its place?

    text      ... 12 + 30 = 4 2 ...        written 42, the other number 45
    tokens                  4 2 | 4 5      they part at the second digit

The other number is spelled as the tokenizer spells it behind the tokens that stand before; a
tokenizer that writes several digits as one token parts at the first token that differs.

When it misleads: a model may have been about to write the other number in another form (with a
unit, a decimal point, more digits), which the two tokens say nothing of.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from step_saliency.segment.pieces import TokenPieces, TokenTable

_CONTEXT = 8
"""Tokens before a number that it is spelled behind."""


@dataclass(frozen=True)
class Fork:
    """Where two numbers part.

    Attributes:
        position: Position at which the token is predicted.
        right: Token of the other number.
        written: Token that stands there.
    """

    position: int
    right: int
    written: int


@dataclass(frozen=True)
class Respelled:
    """Tokens of another number in the place of one.

    Attributes:
        start: First token of the number that stands there.
        stop: First token behind it.
        tokens: Of the other number.
    """

    start: int
    stop: int
    tokens: tuple[int, ...]


class TokenText:
    """Tokens, the text that they spell, and which characters are whose.

    Attributes:
        tokens: Token ids.
        text: All of their text, special tokens included.

    Args:
        tokenizer: The model's.
        tokens: Token ids.
    """

    def __init__(self, tokenizer: Any, tokens: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._pieces = TokenPieces(tokenizer).pieces(tokens)
        self._ends = list(accumulate(map(len, self._pieces)))
        self.tokens = list(tokens)
        self.text = "".join(self._pieces)

    def start_of(self, token: int) -> int:
        """First character of a token."""
        return self._ends[token - 1] if token else 0

    def token_at(self, character: int) -> int:
        """Token that a character belongs to."""
        return bisect_right(self._ends, character)

    def respelled(self, start: int, stop: int, text: str) -> Respelled | None:
        """Tokens of a text in the place of some characters.

        Args:
            start: First character of what stands there.
            stop: First character behind it.
            text: What is to stand there.

        Returns:
            None where the characters end within a token, where the tokens are not those that the
            tokenizer spells them with, or where the text changes tokens before it.
        """
        first, last = self.token_at(start), self.token_at(stop - 1)
        if self._ends[last] != stop:
            return None
        begin = self.start_of(max(0, first - _CONTEXT))
        old = self._ids(self.text[begin:stop])
        new = self._ids(self.text[begin:start] + text)
        kept = len(old) - (last + 1 - first)
        written = self.tokens[first : last + 1]
        if kept < 0 or old[kept:] != written or new[:kept] != old[:kept]:
            return None
        return Respelled(first, last + 1, tuple(new[kept:]))

    def fork(self, start: int, stop: int, text: str) -> Fork | None:
        """Where a number that stands at some characters parts from another.

        Returns:
            None as `respelled`, where one of the numbers begins with the tokens of the other, or
            where one of the two tokens begins with the text of the other, so that both begin the
            same number.
        """
        other = self.respelled(start, stop, text)
        if other is None or other.start == 0:
            return None
        pairs = zip(self.tokens[other.start : other.stop], other.tokens, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if at is None:
            return None
        written, right = self.tokens[other.start + at], other.tokens[at]
        table = TokenTable.of(self._tokenizer)
        one, two = table.part(written), table.part(right)
        if one.startswith(two) or two.startswith(one):
            return None
        return Fork(other.start + at - 1, right, written)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
