"""Parts of a trace, and the plain step: a range of tokens in one of them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING


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

    def __len__(self) -> int:
        return self.stop - self.start
