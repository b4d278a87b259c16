"""What segmentation returns: the tokens of a prompt and a response, and where their steps begin."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from step_saliency.segment.regions import Region, Step


@dataclass(frozen=True)
class Segmentation:
    """Plain steps over tokens.

    Attributes:
        tokens: Token ids of prompt and response.
        pieces: Text that each token adds; joined, they are the whole text.
        starts: First position of each step.
        regions: Region of each step.
        n_prompt: How many of the tokens are the prompt.
    """

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    starts: tuple[int, ...]
    regions: tuple[Region, ...]
    n_prompt: int = 0

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps with their texts; they tile the tokens."""
        bounds = pairwise((*self.starts, len(self.tokens)))
        return tuple(
            Step(start, stop, region, "".join(self.pieces[start:stop]))
            for (start, stop), region in zip(bounds, self.regions, strict=True)
        )

    @property
    def question(self) -> str:
        """Text of the last step of region question; empty without one."""
        texts = [step.text for step in self.steps if step.region is Region.QUESTION]
        return "".join(texts[-1:]).strip()

    @property
    def response(self) -> str:
        """Text of the tokens after the prompt."""
        return "".join(self.pieces[self.n_prompt :])

    def cut_anew(self, starts: Sequence[int], regions: Sequence[Region]) -> "Segmentation":
        """The same tokens with other steps."""
        return replace(self, starts=tuple(starts), regions=tuple(regions))
