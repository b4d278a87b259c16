"""One loop for all readers: rows that end make room for the next prompts.

So many rows as there are slots are read together, a token of each a pass. A row that ends leaves
the batch at once; where an eighth of the slots is free and prompts are left, the next ones are read
in a pass of their own, with a cache of their own, and join the batch. Rows are aligned at their
newest token, with padding on the left that is as long as the longest row asks for.

Prompts are read some thousand tokens at a time. Where a model keeps something else than keys and
values (recurrent layers), or an intervention follows rows but cannot have them join, the slots are
filled again when all of them are free, and the prompts of all slots are read in one pass, however
long they are: there it is ``batch_size`` that bounds memory.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.decoding.readers import Reader
from step_saliency.decoding.rows import Row, StopRules
from step_saliency.decoding.sampling import Sampler
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.segment.online import StepTracker

PROMPT_TOKENS = 8192
"""Tokens of prompts, padding included, that are read in one pass where rows can join a batch; a
longer prompt is read alone."""


@runtime_checkable
class Follower(Protocol):
    """What an intervention yields if it wants to know which rows are decoded."""

    def expect(self, rows: ExpectedRows) -> None:
        """Hear what the rows of the next batch are."""

    def keep(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        """Hear that the batch goes on with these rows only, in this order."""


@runtime_checkable
class JoiningFollower(Follower, Protocol):
    """A follower whose rows may come one after another."""

    def aside(self, rows: ExpectedRows) -> None:
        """Hear that the next passes are of another batch, and what its rows are."""

    def join(self) -> None:
        """Hear that the batch before goes on, with the rows of the other one behind its own."""

    def trim(self, n_first: int) -> None:
        """Hear that the first positions, padding in every row, are forgotten."""


@runtime_checkable
class TrackingFollower(Follower, Protocol):
    """A follower that finds the steps of its rows."""

    @property
    def trackers(self) -> Sequence[StepTracker | None]:
        """What has found the steps of each row so far."""


class Slots:
    """The rows that are decoded together.

    Args:
        reader: Reads the model; nothing was read yet.
        n_slots: How many rows there may be.
        sampler: How tokens are drawn.
        rules: When rows are done.
        follower: Who hears of rows that come and go.
        expected: What a follower hears of new rows.

    Attributes:
        rows: The rows, none of which is done.
        n_slots: How many there may be.
        joins: Whether rows may join a batch that was begun.
    """

    def __init__(
        self,
        reader: Reader,
        n_slots: int,
        sampler: Sampler,
        rules: StopRules,
        *,
        follower: Follower | None = None,
        expected: Callable[[Sequence[Row]], ExpectedRows],
    ) -> None:
        self.rows: list[Row] = []
        self._reader = reader
        self.n_slots = n_slots
        self._sampler = sampler
        self._rules = rules
        self._follower = follower
        self._expected = expected
        self._tokens: Int[Tensor, "row"] = torch.empty(0, dtype=torch.long)
        self.joins = reader.can_join and (follower is None or isinstance(follower, JoiningFollower))

    def takes(self, waiting: Iterable[Row]) -> list[Row]:
        """Which of the waiting rows are to be read next; none while it does not pay yet."""
        n_free = self.n_slots - len(self.rows)
        if self.rows and (not self.joins or n_free < max(1, self.n_slots // 8)):
            return []
        taken: list[Row] = []
        longest = 0
        for row in islice(waiting, n_free):
            longest = max(longest, len(row.start))
            if taken and self.joins and longest * (len(taken) + 1) > PROMPT_TOKENS:
                break
            taken.append(row)
        return taken

    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Read prompts and draw their first tokens; the rows that are done with these."""
        if not self.joins:
            return self._begin(rows)
        beside = self._reader.beside(len(rows))
        if isinstance(self._follower, JoiningFollower):
            self._follower.aside(self._expected(rows))
        drawn, staying = self._read_prompts(beside, rows)
        self._take_trackers(rows)
        if len(staying) < len(rows):
            beside.keep(staying)
            self._keep_followed(staying)
        if isinstance(self._follower, JoiningFollower):
            self._follower.join()
        if staying:
            self._take_in(beside)
        self._tokens = torch.cat([self._tokens.to(drawn.device), drawn[staying]])
        self.rows += [rows[i] for i in staying]
        self._trim()
        return [row for row in rows if row.is_done]

    def _take_in(self, beside: Reader) -> None:
        if self.rows:
            self._reader.join(beside)
        else:
            self._reader = beside

    def _begin(self, rows: Sequence[Row]) -> list[Row]:
        """Read prompts into slots that are all free."""
        self._reader = self._reader.beside(len(rows))
        if self._follower is not None:
            self._follower.expect(self._expected(rows))
        self.rows = list(rows)
        self._tokens, staying = self._read_prompts(self._reader, rows)
        return self._leave(staying)

    def _read_prompts(
        self, reader: Reader, rows: Sequence[Row]
    ) -> tuple[Int[Tensor, "row"], list[int]]:
        return self._draw(rows, reader.read_prompts([row.start for row in rows]))

    def step(self) -> list[Row]:
        """Read each row's last token and draw the next; the rows that are done with it."""
        logits = self._reader.read(self._tokens.unsqueeze(-1), only_last=True)[:, -1]
        self._tokens, staying = self._draw(self.rows, logits)
        return self._leave(staying)

    def _draw(
        self, rows: Sequence[Row], logits: Float[Tensor, "row vocab"]
    ) -> tuple[Int[Tensor, "row"], list[int]]:
        """Each row's next token, and the rows that go on, so ordered that few change places."""
        uniforms = [row.draw() for row in rows] if self._sampler.is_random else ()
        drawn = self._sampler(logits[:, : self._rules.n_tokens], uniforms)
        for row, token in zip(rows, drawn.tolist(), strict=True):
            row.append(token, self._rules)
        return drawn, _staying([row.is_done for row in rows])

    def _leave(self, staying: list[int]) -> list[Row]:
        """Go on with some rows; those that are done."""
        done = [row for row in self.rows if row.is_done]
        if done:
            self._take_trackers(self.rows)
            self.rows = [self.rows[i] for i in staying]
            self._tokens = self._tokens[staying]
            if self.rows:
                self._reader.keep(staying)
            self._keep_followed(staying)
            self._trim()
        return done

    def _take_trackers(self, rows: Sequence[Row]) -> None:
        """Give the rows that are done what has found their steps."""
        if isinstance(self._follower, TrackingFollower):
            for row, tracker in zip(rows, self._follower.trackers, strict=True):
                row.tracker = tracker if row.is_done else None

    def _keep_followed(self, rows: Sequence[int]) -> None:
        if self._follower is not None:
            self._follower.keep(rows)

    def _trim(self) -> None:
        """Forget what is padding in every row."""
        if not self.rows or not self.joins:
            return
        longest = max(len(row) for row in self.rows) - 1
        excess = len(self._reader) - longest
        if excess > 0:
            self._reader.trim(excess)
            if isinstance(self._follower, JoiningFollower):
                self._follower.trim(excess)


def _staying(done: Sequence[bool]) -> list[int]:
    """Rows that go on: the last ones take the places of those that leave."""
    n_left = done.count(False)
    movers = [i for i in range(n_left, len(done)) if not done[i]]
    return [movers.pop() if done[i] else i for i in range(n_left)]


@torch.no_grad()
def decode(slots: Slots, rows: Sequence[Row]) -> Iterator[Row]:
    """Fill the rows' responses; yields each row when it is done.

    Args:
        slots: Where they are decoded.
        rows: Rows in the order of work.
    """
    waiting = deque(rows)
    if len(rows) > slots.n_slots and not slots.joins:
        warnings.warn(
            "slots are refilled only when all of them are free, which is slower, and all their "
            "prompts are read in one pass: this model keeps more than keys and values, or what "
            "follows its rows cannot have others join",
            stacklevel=2,
        )
    while waiting or slots.rows:
        taken = slots.takes(waiting)
        while taken:
            for _ in taken:
                waiting.popleft()
            yield from slots.admit(taken)
            taken = slots.takes(waiting)
        if slots.rows:
            yield from slots.step()


def described_rows(rows: Sequence[Row], decoding: Any) -> ExpectedRows:
    """What followers hear of rows."""
    return ExpectedRows(
        questions=[row.question for row in rows],
        n_prompt=[len(row.prompt) for row in rows],
        format=decoding.format,
        splitter=decoding.splitter,
    )
