"""The unit that everything else takes and returns: one response of a model, cut into steps.

A trace is question | thinking | summary. Every token belongs to exactly one step and every step to
one region; template and special tokens (BOS, role markers, ``<think>``) belong to steps of region
``template``, which no metric counts. Tokens are those that the model read: nothing here decodes and
tokenises again.

Given ``starts`` s_0 = 0 < s_1 < ... < s_n-1 of a trace of T tokens, step i holds the tokens s_i to
s_i+1 - 1 (the last one up to T - 1), so the steps tile the tokens by construction. How text becomes
steps is said in :mod:`step_saliency.segment`.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from step_saliency.options import FormatName, SplitterLike, refuse
from step_saliency.segment import build
from step_saliency.segment.online import StepTracker
from step_saliency.segment.pieces import TokenIds, TokenPieces
from step_saliency.segment.regions import NO_MATH, REGION_COLOURS, Region
from step_saliency.segment.regions import Step as Step
from step_saliency.segment.segmentation import Segmentation
from step_saliency.segment.tiling import check_starts, check_tiling, steps_at


@dataclass(frozen=True, eq=False)
class Trace:
    """Tokens of one prompt and response, cut into steps that tile them without gap or overlap.

    Attributes:
        tokens: Token ids as the model reads them, shape ``pos``, on the CPU.
        steps: Steps in order; step n + 1 starts where step n stops.
        id: Name of the trace in tables and file names, if it has one.
        question: Text of the (last) question, without template.
        response: Text of the response as it was given, with its format marks.
        meta: Anything else that is known (gold answer, correctness, model), in JSON types.

    Raises:
        ValueError: The tokens are empty or not one row of integers, or the steps do not tile them.
    """

    tokens: Int[Tensor, "pos"]
    steps: tuple[Step, ...]
    id: str | None = None
    question: str = ""
    response: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _one_row(self.tokens))
        object.__setattr__(self, "steps", tuple(self.steps))
        refuse(
            {
                f"id={self.id!r} is no text": not isinstance(self.id, str | None),
                f"question={self.question!r:.80} is no text": not isinstance(self.question, str),
                f"response={self.response!r:.80} is no text": not isinstance(self.response, str),
                f"meta={self.meta!r:.80} is no mapping": not isinstance(self.meta, Mapping),
            }
        )
        check_tiling(self.steps, len(self.tokens))

    @classmethod
    def from_tokens(
        cls,
        tokens: TokenIds,
        *,
        starts: Sequence[int],
        regions: Sequence[str],
        texts: Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
        question: str = "",
        response: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> "Trace":
        """Cut tokens whose step starts are known.

        Args:
            tokens: Token ids, shape ``pos`` or ``1 pos``.
            starts: First position of each step, strictly increasing, the first of them 0.
            regions: Region of each step.
            texts: Text of each step.
            id: Name of the trace.
            question: Text of the question.
            response: Text of the response.
            meta: Anything else, in JSON types.

        Raises:
            ValueError: No tokens; starts out of order or out of range; lengths that differ; an
                unknown region.
        """
        row = _one_row(tokens)
        return cls(
            tokens=row,
            steps=steps_at(starts, regions, texts, len(row)),
            id=id,
            question=question,
            response=response,
            meta=dict(meta or {}),
        )

    @classmethod
    def from_text(
        cls,
        tokenizer: Any,
        *,
        question: str = "",
        response: str,
        prompt: str | None = None,
        format: FormatName = "auto",  # noqa: A002
        splitter: SplitterLike = "sentence",
        system: str | None = None,
        chat_template: bool | str = "auto",
        id: str | None = None,  # noqa: A002
        meta: Mapping[str, Any] | None = None,
    ) -> "Trace":
        """Cut a question and the response to it.

        Args:
            tokenizer: The tokenizer of the model.
            question: The question.
            response: What the model wrote, with its format marks.
            prompt: The exact text that the model read before it, in place of a template. If
                ``question`` is given too, that part of it is the question and the rest template;
                else what stands in the frame of the tokenizer's chat template as messages, and
                without such a frame all but special tokens.
            format: ``"think"``, ``"harmony"``, ``"plain"`` and others (`options.FORMATS`, and what
                `segment.register_format` was taught), or ``"auto"``, which goes by the marks in the
                response, else by the end of the prompt.
            splitter: ``"sentence"``, ``"paragraph"``, ``"line"``, ``"code"`` (sentences, and code
                blocks by statements), a causal splitter, or a function from the text of a region to
                the offsets (or spans) of its steps.
            system: System prompt.
            chat_template: ``"auto"`` takes the tokenizer's template if it has one, False none, True
                insists on it; any other string is a template itself. A ``prompt`` has none.
            id: Name of the trace.
            meta: Anything else that is known, in JSON types.

        Raises:
            ValueError: An empty response; neither question nor prompt; a prompt together with a
                system prompt or a template; an unknown format or splitter; a template asked for
                that is not there; a question that cannot be found in the prompt or, for want of
                offsets, in its tokens.
        """
        refuse(
            {
                "prompt='' is empty; leave it out, or give what the model read": prompt == "",
                **_not_template(chat_template),
                **{
                    f"{name}={text!r:.80} is no text": not isinstance(text, str | None)
                    for name, text in {"prompt": prompt, "system": system}.items()
                },
                f"question={question!r:.80} is no text": not isinstance(question, str),
                f"response={response!r:.80} is no text": not isinstance(response, str),
            }
        )
        cut = build.segment_text(
            tokenizer,
            question=question,
            response=response,
            prompt=prompt,
            format=format,
            splitter=splitter,
            system=system,
            chat_template=chat_template,
        )
        return cls._of(cut, question=question or None, response=response, id=id, meta=meta)

    @classmethod
    def from_messages(
        cls,
        tokenizer: Any,
        messages: Sequence[Mapping[str, str]],
        *,
        format: FormatName = "auto",  # noqa: A002
        splitter: SplitterLike = "sentence",
        chat_template: bool | str = "auto",
        id: str | None = None,  # noqa: A002
        meta: Mapping[str, Any] | None = None,
    ) -> "Trace":
        """Cut a conversation: the last message is the response, each turn before it one step.

        Args:
            tokenizer: The tokenizer of the model.
            messages: Dictionaries with ``role`` and ``content``, as chat templates take them; of
                the last one also thinking in a field of its own (``reasoning_content``,
                ``reasoning`` or ``thinking``), which is written before the content.
            format: As for :meth:`from_text`. Its marks stand around thinking of a field of its own;
                ``"auto"`` takes those that the end of the prompt or the chat template speaks of,
                else ``<think>``.
            splitter: As for :meth:`from_text`.
            chat_template: As for :meth:`from_text`.
            id: Name of the trace.
            meta: Anything else that is known, in JSON types.

        Raises:
            ValueError: Fewer than two messages; the last is not the assistant's; a message without
                role or content; thinking in a field of its own and a format without marks for it;
                or as :meth:`from_text`.
        """
        refuse(_not_template(chat_template))
        messages = build.with_thinking(
            tokenizer, messages, format=format, chat_template=chat_template
        )
        cut = build.segment_messages(
            tokenizer, messages, format=format, splitter=splitter, chat_template=chat_template
        )
        asked = (message["content"] for message in messages[::-1] if message["role"] == "user")
        question = next(asked, None)
        return cls._of(cut, question=question, response=messages[-1]["content"], id=id, meta=meta)

    @classmethod
    def from_generation(
        cls,
        tokenizer: Any,
        prompt_tokens: TokenIds,
        response_tokens: TokenIds,
        *,
        question: str | None = None,
        format: FormatName = "auto",  # noqa: A002
        splitter: SplitterLike = "sentence",
        tracker: StepTracker | None = None,
        id: str | None = None,  # noqa: A002
        meta: Mapping[str, Any] | None = None,
    ) -> "Trace":
        """Cut what a model read and wrote, by its very token ids; nothing is tokenised again.

        Args:
            tokenizer: The tokenizer of the model.
            prompt_tokens: What the model read, shape ``pos`` or ``1 pos``.
            response_tokens: What it wrote, shape ``pos`` or ``1 pos``.
            question: The question as it stands in the prompt; default: as of :meth:`from_text`.
            format: As for :meth:`from_text`.
            splitter: As for :meth:`from_text`.
            tracker: A tracker of this splitter that was started with this prompt and question and
                has read the response so far. It reads the rest, and is asked for the steps if it
                reads the format that the finished text has.
            id: Name of the trace.
            meta: Anything else that is known, in JSON types.

        Raises:
            ValueError: An empty response, or as :meth:`from_text`.
        """
        cut = build.segment_generation(
            tokenizer,
            prompt_tokens,
            response_tokens,
            question=question,
            format=format,
            splitter=splitter,
            tracker=tracker,
        )
        return cls._of(cut, question=question, id=id, meta=meta)

    @classmethod
    def from_tracker(
        cls,
        tracker: StepTracker,
        *,
        id: str | None = None,  # noqa: A002
        meta: Mapping[str, Any] | None = None,
    ) -> "Trace":
        """What a tracker has seen so far.

        Args:
            tracker: The tracker; it may go on afterwards.
            id: Name of the trace.
            meta: Anything else that is known, in JSON types.

        Raises:
            ValueError: There is no token yet.
        """
        return cls._of(tracker.segmentation(), id=id, meta=meta)

    @classmethod
    def _of(
        cls,
        cut: Segmentation,
        *,
        question: str | None = None,
        response: str | None = None,
        id: str | None = None,  # noqa: A002
        meta: Mapping[str, Any] | None = None,
    ) -> "Trace":
        return cls(
            tokens=_one_row(cut.tokens),
            steps=cut.steps,
            id=id,
            question=cut.question if question is None else question,
            response=cut.response if response is None else response,
            meta=dict(meta or {}),
        )

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def n_steps(self) -> int:
        return len(self.steps)

    @property
    def starts(self) -> list[int]:
        """First position of each step."""
        return [step.start for step in self.steps]

    @property
    def regions(self) -> list[Region]:
        """Region of each step."""
        return [step.region for step in self.steps]

    @property
    def step_ids(self) -> Int[Tensor, "pos"]:
        """Index of the step that each position is in."""
        lengths = torch.tensor([len(step) for step in self.steps])
        return torch.repeat_interleave(torch.arange(len(self.steps)), lengths)

    def region_steps(self, *regions: str) -> list[int]:
        """Indices of the steps of these regions, in order.

        Raises:
            ValueError: An unknown region.
        """
        members = {Region(region) for region in regions}
        return [i for i, step in enumerate(self.steps) if step.region in members]

    def step_text(self, step: int) -> str:
        """Text of one step (negative indices count from the end)."""
        return self.steps[step].text

    def with_steps(
        self,
        *,
        starts: Sequence[int],
        regions: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
        tokenizer: Any = None,
    ) -> "Trace":
        """The same tokens, cut elsewhere.

        Args:
            starts: First position of each new step.
            regions: Region of each new step; default: the region that its first token has now.
            texts: Text of each new step; default: decoded by ``tokenizer``, else joined from the
                steps of this trace where the new steps are unions of them, else empty.
            tokenizer: Tokenizer of these tokens.

        Raises:
            ValueError: As :meth:`from_tokens`.
        """
        check_starts(starts, len(self))
        if regions is None:
            ids = self.step_ids
            regions = [self.steps[int(ids[start])].region for start in starts]
        if texts is None:
            texts = self._texts(starts, tokenizer)
        return replace(self, steps=steps_at(starts, regions, texts, len(self)))

    def _texts(self, starts: Sequence[int], tokenizer: Any) -> list[str]:
        bounds = [*starts, len(self)]
        if tokenizer is not None:
            pieces = TokenPieces(tokenizer).pieces(self.tokens.tolist())
            return ["".join(pieces[a:b]) for a, b in pairwise(bounds)]
        if not set(starts) <= set(self.starts):
            return [""] * len(starts)
        return [
            "".join(step.text for step in self.steps if a <= step.start < b)
            for a, b in pairwise(bounds)
        ]

    def to_dict(self) -> dict[str, Any]:
        """This trace in JSON types; :meth:`from_dict` reads it back."""
        return {
            "id": self.id,
            "question": self.question,
            "response": self.response,
            "meta": dict(self.meta),
            "tokens": self.tokens.tolist(),
            "starts": self.starts,
            "regions": [str(region) for region in self.regions],
            "texts": [step.text for step in self.steps],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Trace":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: A field is missing or unknown, or as :meth:`from_tokens`.
        """
        fields = {"id", "question", "response", "meta", "tokens", "starts", "regions", "texts"}
        missing = {"tokens", "starts", "regions"} - set(data)
        if missing or set(data) - fields:
            raise ValueError(
                f"not a trace: fields missing {sorted(missing)}, unknown "
                f"{sorted(set(data) - fields)}; a trace has {sorted(fields)}"
            )
        return cls.from_tokens(**data)

    def __repr__(self) -> str:
        counts = [f"{len(self.region_steps(r))} {r}" for r in Region if self.region_steps(r)]
        name = f"{self.id!r}, " if self.id is not None else ""
        return f"Trace({name}{len(self)} tokens, {self.n_steps} steps: {', '.join(counts)})"

    def _repr_html_(self) -> str:
        rows = "".join(_html_row(i, step) for i, step in enumerate(self.steps))
        head = "".join(f"<th>{name}</th>" for name in ("step", "region", "tokens", "text"))
        return (
            f'<div class="{NO_MATH}"><p>{html.escape(repr(self))}</p>'
            '<table style="border-collapse:collapse;text-align:left">'
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )


def _not_template(chat_template: object) -> dict[str, bool]:
    """For `refuse`: that a chat template is none."""
    return {
        f"chat_template={chat_template!r} is neither True, False, 'auto' nor a template": not (
            isinstance(chat_template, bool) or (isinstance(chat_template, str) and chat_template)
        )
    }


def _one_row(tokens: Any) -> Int[Tensor, "pos"]:
    row = torch.as_tensor(tokens)
    if row.numel() == 0:
        raise ValueError("a trace needs at least one token, got none")
    if row.ndim == 2 and row.shape[0] == 1:
        row = row[0]
    if row.ndim != 1:
        raise ValueError(f"tokens must have shape [pos] or [1, pos], got {list(row.shape)}")
    if row.dtype == torch.bool or row.is_floating_point() or row.is_complex():
        raise ValueError(f"tokens must be integers, got {row.dtype}")
    with torch.inference_mode(False):  # what is made in inference mode can take no part in a graph
        return row.detach().to("cpu", torch.long).clone()


def _html_row(index: int, step: Step) -> str:
    text = f'<td dir="auto" style="white-space:pre-wrap">{html.escape(step.text)}</td>'
    return (
        f'<tr style="background:{REGION_COLOURS[step.region]}33">'
        f"<td>{index}</td><td>{step.region}</td><td>{len(step)}</td>{text}</tr>"
    )
