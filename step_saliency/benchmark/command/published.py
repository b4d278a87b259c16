"""Numbers that were published, in percent, each with its source; what is not known is not here.

The paper's own page was not at hand when these were checked. Each cell stands in a public summary
of the paper (`SUMMARY`); cells without an edit that DeepSeek published before stand in its own
table too (`DEEPSEEK`), digit by digit, and count as verified. All others are marked in the printed
table. Of AMC23, R1-Distill-Qwen-14B and QwQ-32B (the paper names QwQ-32B-Preview) no number is
known here, and no source gives intervals.

The authors' scripts for mathematics and GPQA (`SCRIPTS`) decode greedily, one response a problem,
which the paper's 16 and 8 samples are not (of LiveCodeBench their length and release were seen);
so a difference to a published number need not be one between models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PAPER = "arXiv 2604.06695, table 1"
ABLATION = "arXiv 2604.06695, table 2"
SUMMARY = "zhaoyang97/Paper-Notes-en on GitHub (ACL2026/interpretability)"
DEEPSEEK = "README of deepseek-ai/DeepSeek-R1, distilled model evaluation"
SCRIPTS = "XiaoyuXu-Vincent/step-saliency on GitHub (scripts/run_*.sh)"
SUITES = ("aime24", "aime25", "math500", "gpqa_diamond", "livecodebench")


@dataclass(frozen=True)
class Published:
    """A number and where it stands.

    Attributes:
        percent: The number.
        source: Where it was published.
        checked: Where it was looked up.
        is_verified: Whether that is a table of whoever measured it.
    """

    percent: float
    source: str
    checked: str
    is_verified: bool


def _cells(
    model: str,
    condition: str,
    percents: Sequence[float | None],
    *,
    source: str = PAPER,
    by_deepseek: Sequence[str] = (),
) -> dict[tuple[str, str, str], Published]:
    return {
        (model, suite, condition): Published(
            percent,
            source,
            DEEPSEEK if suite in by_deepseek else SUMMARY,
            is_verified=suite in by_deepseek,
        )
        for suite, percent in zip(SUITES, percents, strict=True)
        if percent is not None
    }


_OSS = "GPT-OSS-20B (medium)"
PUBLISHED: Mapping[tuple[str, str, str], Published] = {
    **_cells(
        "R1-Distill-Qwen-7B",
        "baseline",
        (54.0, 39.2, 92.8, 49.1, 37.6),
        by_deepseek=("math500", "gpqa_diamond", "livecodebench"),
    ),
    **_cells("R1-Distill-Qwen-7B", "stepflow", (62.5, 43.8, 93.8, 57.6, 47.1)),
    **_cells(
        "R1-Distill-Qwen-32B",
        "baseline",
        (72.6, 54.9, 94.3, 62.1, 57.2),
        by_deepseek=("aime24", "math500", "gpqa_diamond", "livecodebench"),
    ),
    **_cells("R1-Distill-Qwen-32B", "stepflow", (74.5, 66.7, 95.6, 64.5, 63.0)),
    **_cells(_OSS, "baseline", (63.4, 62.0, 89.2, 65.2, 70.0)),
    **_cells(_OSS, "stepflow", (66.0, 69.2, 90.5, 70.3, 79.5)),
    **_cells(_OSS, "oeb", (None, 64.5, None, 66.7, 74.5), source=ABLATION),
    **_cells(_OSS, "smi", (None, 64.0, None, 67.2, 75.0), source=ABLATION),
}
"""By name of the model in the table, suite and condition."""


def published(model: str | None, suite: str, condition: str) -> Published | None:
    """A published number; None where none is known."""
    return None if model is None else PUBLISHED.get((model, suite, condition))
