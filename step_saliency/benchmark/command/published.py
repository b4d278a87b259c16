"""Numbers that were published, in percent, each with its source; what is not known is not here.

No source gives intervals. The cells of R1-Distill-Qwen-7B without an edit on MATH-500, GPQA-Diamond
and LiveCodeBench are those of DeepSeek's own table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PAPER = "arXiv 2604.06695, main table"
PAPER_DEEPSEEK = "arXiv 2604.06695, main table; the same number as in arXiv 2501.12948"
SUITES = ("aime24", "aime25", "math500", "gpqa_diamond", "livecodebench")


@dataclass(frozen=True)
class Published:
    """A number and where it stands."""

    percent: float
    source: str


def _cells(
    model: str, condition: str, percents: Sequence[float | None], also: Sequence[str] = ()
) -> dict[tuple[str, str, str], Published]:
    return {
        (model, suite, condition): Published(percent, PAPER_DEEPSEEK if suite in also else PAPER)
        for suite, percent in zip(SUITES, percents, strict=True)
        if percent is not None
    }


_OSS = "GPT-OSS-20B (medium)"
PUBLISHED: Mapping[tuple[str, str, str], Published] = {
    **_cells(
        "R1-Distill-Qwen-7B",
        "baseline",
        (54.0, 39.2, 92.8, 49.1, 37.6),
        also=("math500", "gpqa_diamond", "livecodebench"),
    ),
    **_cells("R1-Distill-Qwen-7B", "stepflow", (62.5, 43.8, 93.8, 57.6, 47.1)),
    **_cells("R1-Distill-Qwen-32B", "baseline", (72.6, 54.9, 94.3, 62.1, 57.2)),
    **_cells("R1-Distill-Qwen-32B", "stepflow", (74.5, 66.7, 95.6, 64.5, 63.0)),
    **_cells(_OSS, "baseline", (63.4, 62.0, 89.2, 65.2, 70.0)),
    **_cells(_OSS, "stepflow", (66.0, 69.2, 90.5, 70.3, 79.5)),
    **_cells(_OSS, "oeb", (None, 64.5, None, 66.7, 74.5)),
    **_cells(_OSS, "smi", (None, 64.0, None, 67.2, 75.0)),
}
"""By name of the model in the table, suite and condition."""


def published(model: str | None, suite: str, condition: str) -> Published | None:
    """A published number; None where none is known."""
    return None if model is None else PUBLISHED.get((model, suite, condition))
