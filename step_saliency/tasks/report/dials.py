"""The dials of a report, and the named levels."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from step_saliency.tasks.graph import Difficulty

MAX_NAMES = 48


@dataclass(frozen=True)
class ReportDifficulty(Difficulty):
    """The dials of a report.

    Attributes:
        n_steps: Thinking steps of the canonical solution.
        n_distractors: Premises that nothing to be found rests on.
        digits: Most digits of any number in the problem, 1 to 4.
        distance: Thinking steps after the last one whose value the summary restates; None is 0.
        n_values: Values that the summary restates.
        n_terms: Sentences that restate one; more than ``n_values`` restate some again, and None is
            as many.
        planned: Whether the question lists every step to take.
        gathered: Whether the summary has to gather the values itself, by what they are of.
    """

    n_values: int = 3
    n_terms: int | None = None
    planned: bool = True
    gathered: bool = False

    def __post_init__(self) -> None:
        if self.n_values < 1:
            raise ValueError(f"n_values={self.n_values}: a report restates at least 1 value")
        if self.n_distractors < 0:
            raise ValueError(f"n_distractors={self.n_distractors}: must be 0 or more")
        if self.n_steps + self.n_distractors > MAX_NAMES:
            raise ValueError(
                f"n_steps={self.n_steps} + n_distractors={self.n_distractors} exceed {MAX_NAMES}"
            )
        if not 1 <= self.digits <= 4:
            raise ValueError(f"digits={self.digits}: must be 1 to 4")
        if not 0 <= self.gap <= self.n_steps - self.n_values:
            raise ValueError(
                f"distance={self.distance}: must be 0 to n_steps - n_values = "
                f"{self.n_steps - self.n_values}"
            )

        if self.n_terms is not None and (
            self.n_terms < self.n_values
            or (self.n_terms > self.n_values and (self.n_values == 1 or self.gathered))
        ):
            raise ValueError(
                f"n_terms={self.n_terms}: must be n_values = {self.n_values}, or more where there "
                "are several values that are not gathered"
            )

    @property
    def gap(self) -> int:
        """The distance as a number."""
        return self.distance or 0

    @property
    def n_repeats(self) -> int:
        """Sentences that restate a value again."""
        return 0 if self.n_terms is None else self.n_terms - self.n_values


REPORT_LEVELS: Mapping[Literal["easy", "medium", "hard"], ReportDifficulty] = MappingProxyType(
    {
        "easy": ReportDifficulty(n_steps=4, n_distractors=1, distance=0, n_values=2, n_terms=3),
        "medium": ReportDifficulty(n_steps=6, n_distractors=2, distance=1, n_values=3, n_terms=5),
        "hard": ReportDifficulty(n_steps=8, n_distractors=3, distance=1, n_values=4, n_terms=6),
    }
)
"""Dials of the named levels, set on development problems by what the bundled reporter can do."""
