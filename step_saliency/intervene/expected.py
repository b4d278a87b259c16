"""What a decoding loop knows of the rows of its next batch, for whoever follows their steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from step_saliency.options import FormatName, SplitterLike


@dataclass(frozen=True)
class ExpectedRows:
    """What is known of the rows of a batch before it is read.

    Attributes:
        questions: Question of each row, as it stands in its prompt; None where it is to be found.
        n_prompt: Prompt tokens, without padding, of every row or of each; by default read from the
            chat template.
        format: Format of the responses, see `Trace.from_text`.
        splitter: How responses are cut; causal.
    """

    questions: Sequence[str] | None = None
    n_prompt: int | Sequence[int] | None = None
    format: FormatName = "auto"
    splitter: SplitterLike = "sentence"
