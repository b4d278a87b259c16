"""One response in the making, and when it is over.

A row knows nothing of its batch: its random numbers come from its own seeds, and its stop rules
read its own tokens, as they come. So it has the same text in any batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from step_saliency.segment.online import StepTracker
from step_saliency.segment.pieces import TokenPieces, TokenTable


@dataclass(frozen=True)
class StopRules:
    """When a response is over.

    Attributes:
        tokens: Token ids that end a response.
        texts: Texts that end a response as soon as they stand in what is new of it.
        context: Longest sequence of the model, prompt included.
        table: How the tokens spell text; needed with `texts`.
        n_tokens: How many token ids there are; a model may have more, which spell nothing and are
            not drawn. None draws from all.
    """

    tokens: frozenset[int]
    texts: tuple[str, ...]
    context: int
    table: TokenTable
    n_tokens: int | None = None


@dataclass(eq=False)
class Row:
    """One response in the making.

    Attributes:
        index: Place among all rows asked for.
        number: Number of the question in the seeds.
        sample: Which of the question's samples.
        question: Text of the question.
        prompt: Tokens read before the response.
        seed: Seed of the question's samples.
        limit: New tokens after which it is cut.
        continued: First tokens of the response, which are there before anything is decoded.
        response: New tokens so far.
        ended: Whether a stop token or text ended it.
        cut: Whether its length ended it.
        tracker: What has found its steps meanwhile, once it is done; None if nothing has.
    """

    index: int
    number: int
    sample: int
    question: str
    prompt: list[int]
    seed: int
    limit: int
    continued: list[int] = field(default_factory=list)
    response: list[int] = field(default_factory=list)
    ended: bool = False
    cut: bool = False
    tracker: StepTracker | None = None
    _tail: str = ""
    _pieces: TokenPieces | None = None

    @cached_property
    def start(self) -> list[int]:
        """All tokens that are read before the first new one."""
        return [*self.prompt, *self.continued]

    def __len__(self) -> int:
        """Tokens so far, prompt included."""
        return len(self.start) + len(self.response)

    @cached_property
    def _generator(self) -> np.random.Generator:
        """Random numbers of the new tokens: each place of the response has one of its own."""
        seeds = np.random.SeedSequence((self.seed, self.number, self.sample))
        return np.random.Generator(np.random.PCG64(seeds).advance(len(self.continued)))

    @property
    def is_done(self) -> bool:
        """Whether no token follows."""
        return self.ended or self.cut

    def draw(self) -> float:
        """The row's next random number in [0, 1); it must be asked for once a token."""
        return float(self._generator.random())

    def append(self, token: int, rules: StopRules) -> None:
        """Add a token, and see whether the response is over."""
        self.response.append(token)
        self.ended = token in rules.tokens or self._completes_text(token, rules)
        self.cut = not self.ended and (
            len(self) >= rules.context or len(self.response) >= self.limit
        )

    def _completes_text(self, token: int, rules: StopRules) -> bool:
        if not rules.texts:
            return False
        if self._pieces is None:
            self._pieces = TokenPieces(rules.table)
        rest = self._pieces.flush() if rules.table.is_special(token) else ""
        self._tail += rest + self._pieces.push(token)
        is_complete = any(text in self._tail for text in rules.texts)
        longest = max(len(text) for text in rules.texts)
        self._tail = self._tail[-longest:]
        return is_complete


ROWS_PER_SLOT = 16
"""Rows for each slot in a unit of work; so few of its slots are free while its last rows end."""


def units(rows: Sequence[Row], n_slots: int) -> Iterator[list[Row]]:
    """Rows in the order of work, as many at a time as are decoded without giving up the model.

    Those with most to read come first, and neighbours differ little, so that little is padding.

    Args:
        rows: The rows.
        n_slots: How many are decoded together.
    """
    ordered = sorted(rows, key=lambda row: -len(row.start))
    size = ROWS_PER_SLOT * n_slots
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Prompts of several lengths as one batch, and 1 where it is no padding."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)
