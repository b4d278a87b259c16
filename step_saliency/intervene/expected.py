"""What a decoding loop knows of the rows of its next batch, for whoever follows their steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from step_saliency.options import FormatName, SplitterLike, is_whole
from step_saliency.trace import Trace


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

    def __post_init__(self) -> None:
        given = self.n_prompt
        if given is None or is_whole(given, least=0):
            return
        lengths = [] if isinstance(given, str) or not isinstance(given, Sequence) else given
        if not lengths or not all(is_whole(length, least=0) for length in lengths):
            raise ValueError(
                f"n_prompt={given!r:.80} must be a whole number of tokens, 0 or above, or one for "
                "each row"
            )


def listed_traces(traces: Iterable[Trace]) -> list[Trace]:
    """Traces that are gone through more than once, from any iterable.

    Raises:
        ValueError: there are none, or something else is among them.
    """
    is_many = isinstance(traces, Iterable) and not isinstance(traces, str | Mapping)
    listed = list(traces) if is_many else []
    if not is_many or not all(isinstance(trace, Trace) for trace in listed):
        raise ValueError(f"traces={traces!r:.80} is no list of traces")
    if not listed:
        raise ValueError("traces=[] is empty; at least one trace is needed")
    return listed


def known_traces(trace: Trace | None, traces: Sequence[Trace] | None) -> list[Trace] | None:
    """The traces that rows are run over: one for all rows or one for each; None where unknown.

    Raises:
        ValueError: both are given, or what is given is no trace, or none.
    """
    if trace is not None and traces is not None:
        raise ValueError("trace and traces are both given; give one of them")
    if isinstance(trace, Trace) or (trace is None and traces is None):
        return None if trace is None else [trace]
    if trace is not None:
        raise ValueError(f"trace={trace!r:.80} is no Trace")
    listed = list(traces) if isinstance(traces, list | tuple) else []
    if not listed or not all(isinstance(one, Trace) for one in listed):
        raise ValueError(f"traces={traces!r:.80} is no list of traces, one a row")
    return listed
