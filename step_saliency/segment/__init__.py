"""From text to plain steps: formats, splitters, token alignment, the online tracker; no trace here.

One rule holds throughout: whether a token begins a step depends on the text up to and including
that token, never on what comes after it. The offline functions run the online tracker.
"""

from step_saliency.options import FormatName, Splitter, SplitterLike, SplitterName
from step_saliency.segment.build import (
    prompt_tokens,
    segment_generation,
    segment_messages,
    segment_text,
)
from step_saliency.segment.choice import detect_format
from step_saliency.segment.code import CodeSplitter
from step_saliency.segment.cutter import Cutter
from step_saliency.segment.formats import make_format
from step_saliency.segment.gaps import GapSplitter
from step_saliency.segment.marks import register_format
from step_saliency.segment.online import StepEvent, StepTracker
from step_saliency.segment.pieces import TokenPieces
from step_saliency.segment.reader import Format
from step_saliency.segment.regions import Region, Step
from step_saliency.segment.segmentation import Segmentation
from step_saliency.segment.sentences import SentenceSplitter
from step_saliency.segment.splitters import make_splitter, split_text

__all__ = [
    "CodeSplitter",
    "Cutter",
    "Format",
    "FormatName",
    "GapSplitter",
    "Region",
    "Segmentation",
    "SentenceSplitter",
    "Splitter",
    "SplitterLike",
    "SplitterName",
    "Step",
    "StepEvent",
    "StepTracker",
    "TokenPieces",
    "detect_format",
    "make_format",
    "make_splitter",
    "prompt_tokens",
    "register_format",
    "segment_generation",
    "segment_messages",
    "segment_text",
    "split_text",
]
