"""Prompts that begin alike are read once: a template, a system prompt, worked examples.

Keys and values of a prompt's tokens depend on what stands before them alone. So equal prompts, as
of several samples of one question, are one row of the pass that reads them, and what all prompts
begin with is read as one row and copied in front of the others; it is kept for the prompts that
come when slots are refilled.

Where edits act in what is read, as in words of a response that is gone on with, what stands before
the first of these is shared alike; rows are not, since each is edited.

When it misleads: nothing of this is done where something must see every position of a prompt (an
edit that reads the residual stream of all of them, or hooks); texts are those of prompts that were
read whole, up to rounding.
"""

from collections.abc import Sequence

from step_saliency.decoding.caches import ColumnCache

Prompt = tuple[int, ...]

LEAST_SAVED = 256
"""Tokens that must be spared for a beginning to be read in a pass of its own."""


class SharedBeginning:
    """What prompts begin with, as a batch of one row.

    Attributes:
        tokens: Its tokens.
        cache: Keys and values of these.
    """

    def __init__(self) -> None:
        self.tokens: Prompt = ()
        self.cache: ColumnCache | None = None

    def known(self, prompts: Sequence[Prompt]) -> int:
        """How many tokens of it all prompts begin with; each prompt is longer than that."""
        return common_beginning([self.tokens, *(prompt[:-1] for prompt in prompts)])

    def take(self, tokens: Prompt, cache: ColumnCache) -> None:
        """Keep the first row of a cache that has read these tokens."""
        self.tokens, self.cache = tokens, cache.spread([len(tokens)])

    def in_front_of(self, lengths: Sequence[int], n_later: int) -> ColumnCache:
        """A cache that each row can go on from.

        Args:
            lengths: Tokens of each row.
            n_later: Last positions of the batch, which are yet to be read.
        """
        assert self.cache is not None
        return self.cache.spread([max(0, length - n_later) for length in lengths])


def worth_reading(prompts: Sequence[Prompt], n_known: int, most: int | None = None) -> int:
    """Tokens that prompts begin with, if it pays to read these first; else 0.

    Args:
        prompts: Prompts that are rows of their own.
        n_known: Tokens of these that are known already.
        most: Tokens that may be read first; all by default.
    """
    n_alike = common_beginning([prompt[:-1] for prompt in prompts])
    n_alike = n_alike if most is None else min(n_alike, most)
    saved = (n_alike - n_known) * (len(prompts) - 1)
    return n_alike if saved >= LEAST_SAVED else 0


def common_beginning(prompts: Sequence[Prompt]) -> int:
    """How many tokens all prompts begin with."""
    first, last = min(prompts), max(prompts)  # all others begin as these two do
    unlike = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return next(unlike, min(len(first), len(last)))
