"""A response that was begun: where decoding goes on, for how long, and by which random numbers.

    prompt | written | new tokens

What was written is response, not prompt: it is cut into steps with what follows, and an edit that
reads steps acts on it as if the model had just written it. Random numbers belong to places of a
response, so that one that is broken off and gone on with under its seed has the text that it would
have had.

When it misleads: text is tokenised by the tokenizer, which need not give the tokens that a model
wrote it with. Texts that end a response are looked for in the new tokens alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from step_saliency.options import is_whole, refuse


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What one response goes on from.

    Attributes:
        written: Its first tokens, as token ids or as text; none by default.
        max_new_tokens: New tokens after which it is cut; that of the call by default.
        seed: Of its samples; that of the call by default.

    Raises:
        ValueError: a value out of range.
    """

    written: str | Sequence[int] | Int[Tensor, "pos"] = ""
    max_new_tokens: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        written = self.written
        if not isinstance(written, str):
            listed = written.tolist() if isinstance(written, Tensor) else written
            tokens = listed if isinstance(listed, Sequence) else [listed]
            object.__setattr__(self, "written", tuple(tokens))
        limit, seed = self.max_new_tokens, self.seed
        refuse(
            {
                f"written={written!r:.80} must be text or token ids, 0 or above": not isinstance(
                    self.written, str
                )
                and not all(is_whole(token, least=0) for token in self.written),
                f"max_new_tokens={limit!r} is no whole number above 0": limit is not None
                and not is_whole(limit, least=1),
                f"seed={seed!r} is no whole number, 0 or above": seed is not None
                and not is_whole(seed, least=0),
            }
        )
