"""Parts of a trace, and the plain step: a range of tokens in one of them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from step_saliency.options import is_whole, refuse


class Region(StrEnum):
    """Part of a trace. Members equal their names: ``Region.THINKING == "thinking"``."""

    TEMPLATE = "template"
    QUESTION = "question"
    THINKING = "thinking"
    SUMMARY = "summary"

    @classmethod
    def _missing_(cls, value: object) -> "Region":
        raise ValueError(
            f"unknown region {value!r}; regions are {', '.join(repr(r.value) for r in cls)}"
        )


NO_MATH = "tex2jax_ignore mathjax_ignore"
"""Classes by which notebooks leave text as it stands, where dollars would begin formulas."""
REGION_COLOURS: dict[Region, str] = {
    Region.TEMPLATE: "#9a9a9a",
    Region.QUESTION: "#0072b2",
    Region.THINKING: "#d98200",
    Region.SUMMARY: "#00805f",
}
"""Colour of each region wherever it is drawn, told apart by colour-blind readers."""

if TYPE_CHECKING:
    RegionField = Region
else:
    RegionField = str  # a name is taken too, and becomes a Region


@dataclass(frozen=True)
class Step:
    """Tokens ``start`` (included) to ``stop`` (excluded) of a trace."""

    start: int
    stop: int
    region: RegionField
    text: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "region", Region(self.region))
        refuse(
            {
                f"start={self.start!r} and stop={self.stop!r} must be whole numbers": not (
                    is_whole(self.start) and is_whole(self.stop)
                ),
                f"text={self.text!r:.80} is no text": not isinstance(self.text, str),
            }
        )

    def __len__(self) -> int:
        return self.stop - self.start
