"""From text to a trace: formats, splitters, token alignment, the online tracker.

One rule holds throughout: whether a token begins a step depends on the text up to and including
that token, never on what comes after it. The offline functions run the online tracker.
"""

from step_saliency.segment.build import (
    trace_from_generation,
    trace_from_messages,
    trace_from_text,
)
from step_saliency.segment.formats import Format, FormatName, detect_format, make_format
from step_saliency.segment.online import Cutter, StepEvent, StepTracker
from step_saliency.segment.pieces import TokenPieces
from step_saliency.segment.splitters import (
    GapSplitter,
    SentenceSplitter,
    Splitter,
    SplitterLike,
    SplitterName,
    make_splitter,
    split_text,
)

__all__ = [
    "Cutter",
    "Format",
    "FormatName",
    "GapSplitter",
    "SentenceSplitter",
    "Splitter",
    "SplitterLike",
    "SplitterName",
    "StepEvent",
    "StepTracker",
    "TokenPieces",
    "detect_format",
    "make_format",
    "make_splitter",
    "split_text",
    "trace_from_generation",
    "trace_from_messages",
    "trace_from_text",
]
