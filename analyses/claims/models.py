"""Models side by side: their names, what their results folders end in, what is asked of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ClaimModel:
    """A model of the table.

    Attributes:
        suffix: What the names of its results folders end in.
        kind: Whether it was trained on the bundled task, reads language and is hardly ever right,
            or reasons in language.
    """

    suffix: str
    kind: Literal["bundled", "language", "reasoning"]


MODELS: Mapping[str, ClaimModel] = {
    "reasoner": ClaimModel("", "bundled"),
    "reporter": ClaimModel("_reporter", "bundled"),
    "smollm2": ClaimModel("_smollm2", "language"),
    "qwen": ClaimModel("_qwen", "reasoning"),
}
"""Another model is a line here and folders ``results/ANALYSIS_SUFFIX``."""
