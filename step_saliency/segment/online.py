"""In which step is this token? The tracker that decides it as the tokens come.

The offline functions feed the same tracker, so a trace that is cut afterwards has the steps that
were seen while it was decoded.

Characters become steps by a `Cutter` (format and splitter together). Tokens follow them by
one rule: *a token belongs to the step that its first character other than white space is in*; a
token of nothing but white space, or of an incomplete character, belongs to the step before. So a
token that straddles a boundary stays in the earlier step, and the step begins with the token after
it. Special tokens are template. White space and template that follow each other form one step.

``push`` costs the characters of one token, whatever came before.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from step_saliency.options import FormatName, Splitter, SplitterLike
from step_saliency.segment.cutter import Cut, Cutter
from step_saliency.segment.formats import make_format
from step_saliency.segment.frame import cut_prompt
from step_saliency.segment.pieces import TokenIds, TokenPieces, TokenTable, token_row
from step_saliency.segment.prompt import PromptStep
from step_saliency.segment.regions import Region
from step_saliency.segment.segmentation import Segmentation
from step_saliency.segment.splitters import make_splitter


@dataclass(frozen=True)
class StepEvent:
    """What is known of a token as it comes.

    Attributes:
        position: Position of the token in the whole sequence, prompt included.
        step: Index of its step.
        region: Region of its step, as far as it is known by now.
        starts_step: Whether it is the first token of its step.
    """

    position: int
    step: int
    region: Region
    starts_step: bool


class StepTracker:
    """Steps of one sequence, token by token.

    Example:
        >>> tracker = StepTracker(tokenizer, format="think")
        >>> tracker.start(prompt_tokens, question=question)
        >>> event = tracker.push(next_token)
        >>> if event.starts_step and event.region == "thinking": ...
        >>> trace = Trace.from_tracker(tracker)

    For a batch take one tracker a sequence; ``tracker.copy()`` after ``start`` is cheap.

    Args:
        tokenizer: The tokenizer of the model, or its `TokenTable`.
        format: Format of the response. ``"auto"`` goes by the end of the prompt and by the first
            mark that decides for another, and reads a response without marks as plain.
        splitter: ``"sentence"``, ``"paragraph"``, ``"line"``, ``"code"``, or a causal ``Splitter``.

    Raises:
        ValueError: An unknown format or splitter; a splitter that is a function of the whole text,
            which cannot be applied before the text is there; a tokenizer that cannot decode.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        format: FormatName = "auto",  # noqa: A002
        splitter: SplitterLike | None = "sentence",
    ) -> None:
        causal = None if splitter is None else make_splitter(splitter)
        if causal is not None and not isinstance(causal, Splitter):
            raise ValueError(
                f"the splitter {splitter!r} is a function of the whole text, which a tracker does "
                "not have yet; give it reset() and push(char), or cut the finished text with "
                "Trace.from_text"
            )
        make_format(format)
        self._format: FormatName = format
        self._splitter = causal
        self._table = TokenTable.of(tokenizer)
        self.start()

    def start(
        self,
        prompt_tokens: TokenIds = (),
        *,
        question: str | None = None,
        prompt_steps: Sequence[PromptStep] | None = None,
    ) -> None:
        """Begin a sequence, forgetting the one before.

        Args:
            prompt_tokens: Tokens that the model reads before the response.
            question: The question as it stands in the prompt: one step of region question, the rest
                of the prompt being template. Default: the messages in the frame of the chat
                template; without one, all that is no special token.
            prompt_steps: Steps of the prompt where they are known.

        Raises:
            ValueError: The question is not in the prompt.
        """
        tokens = token_row(prompt_tokens)
        pieces = TokenPieces(self._table)
        self._tokens = tokens
        self._n_prompt = len(tokens)
        self._pieces = pieces.pieces(tokens)
        if prompt_steps is None:
            special = [self._table.is_special(token) for token in tokens]
            prompt_steps = cut_prompt(self._table.tokenizer, self._pieces, special, question)
        self._starts = [start for start, _ in prompt_steps]
        self._cuts = [Cut(-1, region) for _, region in prompt_steps]
        self._decoder = TokenPieces(self._table)
        self._implicit = False
        self._applied = 0
        self._begin_response()

    def _begin_response(self) -> None:
        prompt = "".join(self._pieces[-64:])
        reader = make_format(self._format)
        reader.start(prompt)
        if self._splitter is not None:
            self._splitter = copy.deepcopy(self._splitter)
            self._splitter.reset()
        self._cutter = Cutter(reader, self._splitter)

    def push(self, token: int) -> StepEvent:
        """Take the next token.

        Raises:
            ValueError: The token is not in the vocabulary.
        """
        token = int(token)
        if self._table.is_special(token):
            self._flush()
        begun = self._cutter.chars
        piece = self._decoder.push(token)
        if self._table.is_special(token):
            self._cutter.feed_special(piece)
        else:
            self._cutter.feed(piece)
        starts = self._place(begun, piece)
        self._tokens.append(token)
        self._pieces.append(piece)
        return StepEvent(
            position=len(self._tokens) - 1,
            step=len(self._starts) - 1,
            region=self._cuts[-1].region,
            starts_step=starts,
        )

    def _flush(self) -> None:
        rest = self._decoder.flush()
        self._cutter.feed(rest)
        if rest:
            self._pieces[-1] += rest

    def _place(self, begun: int, piece: str) -> bool:
        """Whether the token of this piece, which is not appended yet, begins a step."""
        reach = begun + len(piece) - len(piece.lstrip())
        cut = None
        while self._applied < len(self._cutter.cuts):
            due = self._cutter.cuts[self._applied]
            if due.char > reach:
                break
            cut = due
            self._applied += 1
        if cut is None:
            return self._begin_implicitly()
        if self._implicit:
            self._cuts[-1], self._implicit = cut, False
            return False
        if self._cuts and self._cuts[-1].region is cut.region is Region.TEMPLATE:
            return False
        self._starts.append(len(self._tokens))
        self._cuts.append(cut)
        return True

    def _begin_implicitly(self) -> bool:
        """White space before any step has no step before it to belong to: it joins the first."""
        if self._cuts:
            return False
        self._starts.append(0)
        self._cuts.append(Cut(0, self._cutter.region))
        self._implicit = True
        return True

    @property
    def starts(self) -> list[int]:
        """First position of each step so far."""
        return list(self._starts)

    @property
    def regions(self) -> list[Region]:
        """Region of each step so far."""
        return [cut.region for cut in self._cuts]

    def __len__(self) -> int:
        """Number of tokens so far, prompt included."""
        return len(self._tokens)

    def copy(self) -> "StepTracker":
        """A tracker that goes on from here by itself."""
        other = copy.copy(self)
        for name in ("_tokens", "_pieces", "_starts"):
            setattr(other, name, list(getattr(self, name)))
        other._cuts, other._cutter, other._splitter, other._decoder = copy.deepcopy(
            (self._cuts, self._cutter, self._splitter, self._decoder)
        )
        return other

    def unstarted(self) -> "StepTracker":
        """A tracker with the options of this one, to be started; far cheaper than a copy."""
        return copy.copy(self)

    def goes_on_to(self, tokens: Sequence[int], *, format: FormatName) -> bool:  # noqa: A002
        """Whether it reads this format, and has read the first of these tokens."""
        return self._format == format and self._tokens == list(tokens[: len(self._tokens)])

    def segmentation(self) -> Segmentation:
        """The steps so far, as plain data; `Trace.from_tracker` makes a trace of them."""
        pieces = list(self._pieces)
        if pieces:
            pieces[-1] += copy.deepcopy(self._decoder).flush()
        return Segmentation(
            tokens=tuple(self._tokens),
            pieces=tuple(pieces),
            starts=tuple(self._starts),
            regions=tuple(self.regions),
            n_prompt=self._n_prompt,
        )
