"""The unit that everything else takes and returns: one response of a model, cut into steps.

A trace is question | thinking | summary. Every token belongs to exactly one step and every step to
one region; template and special tokens (BOS, role markers, ``<think>``) belong to steps of region
``template``, which no metric counts. Tokens are those that the model read: nothing here decodes and
tokenises again.

Given ``starts`` s_0 = 0 < s_1 < ... < s_n-1 of a trace of T tokens, step i holds the tokens s_i to
s_i+1 - 1 (the last one up to T - 1), so the steps tile the tokens by construction. How text becomes
steps is told in :mod:`step_saliency.segment`.
"""

import html
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from step_saliency.segment.regions import Region as Region
from step_saliency.segment.regions import Step as Step

if TYPE_CHECKING:
    from step_saliency.segment.formats import FormatName
    from step_saliency.segment.splitters import SplitterLike
else:
    FormatName = str
    SplitterLike = Any


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
        _check_tiling(self.steps, len(self.tokens))

    @classmethod
    def from_tokens(
        cls,
        tokens: Int[Tensor, "..."] | Sequence[int] | Sequence[Sequence[int]],
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
            steps=_steps(starts, regions, texts, len(row)),
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

        See :func:`step_saliency.segment.trace_from_text`.
        """
        from step_saliency.segment.build import trace_from_text

        return trace_from_text(
            tokenizer,
            question=question,
            response=response,
            prompt=prompt,
            format=format,
            splitter=splitter,
            system=system,
            chat_template=chat_template,
            id=id,
            meta=meta,
        )

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
        """Cut a conversation.

        See :func:`step_saliency.segment.trace_from_messages`.
        """
        from step_saliency.segment.build import trace_from_messages

        return trace_from_messages(
            tokenizer,
            messages,
            format=format,
            splitter=splitter,
            chat_template=chat_template,
            id=id,
            meta=meta,
        )

    @classmethod
    def from_generation(
        cls,
        tokenizer: Any,
        prompt_tokens: Int[Tensor, "..."] | Sequence[int] | Sequence[Sequence[int]],
        response_tokens: Int[Tensor, "..."] | Sequence[int] | Sequence[Sequence[int]],
        *,
        question: str | None = None,
        format: FormatName = "auto",  # noqa: A002
        splitter: SplitterLike = "sentence",
        id: str | None = None,  # noqa: A002
        meta: Mapping[str, Any] | None = None,
    ) -> "Trace":
        """Cut what a model read and wrote, by its very token ids.

        See :func:`step_saliency.segment.trace_from_generation`.
        """
        from step_saliency.segment.build import trace_from_generation

        return trace_from_generation(
            tokenizer,
            prompt_tokens,
            response_tokens,
            question=question,
            format=format,
            splitter=splitter,
            id=id,
            meta=meta,
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
        wanted = {Region(region) for region in regions}
        return [i for i, step in enumerate(self.steps) if step.region in wanted]

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
        _check_starts(starts, len(self))
        if regions is None:
            ids = self.step_ids
            regions = [self.steps[int(ids[start])].region for start in starts]
        if texts is None:
            texts = self._texts(starts, tokenizer)
        return type(self).from_tokens(
            self.tokens,
            starts=starts,
            regions=regions,
            texts=texts,
            id=self.id,
            question=self.question,
            response=self.response,
            meta=self.meta,
        )

    def _texts(self, starts: Sequence[int], tokenizer: Any) -> list[str]:
        bounds = [*starts, len(self)]
        if tokenizer is not None:
            from step_saliency.segment.pieces import TokenPieces

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
            f"<div><p>{html.escape(repr(self))}</p>"
            '<table style="border-collapse:collapse;text-align:left">'
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )


def save_jsonl(path: str | os.PathLike[str], traces: Iterable[Trace]) -> Path:
    """Write traces, one JSON object a line. The file appears whole or not at all."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for trace in traces:
            file.write(json.dumps(trace.to_dict(), ensure_ascii=False) + "\n")
    part.replace(path)
    return path


def load_jsonl(path: str | os.PathLike[str]) -> list[Trace]:
    """Read traces that :func:`save_jsonl` wrote.

    Raises:
        ValueError: A line is not JSON or not a trace; the message names the file and the line.
    """
    return list(_read_jsonl(Path(path)))


def _read_jsonl(path: Path) -> Iterator[Trace]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield Trace.from_dict(_json_object(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


def _json_object(line: str) -> dict[str, Any]:
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object, got {type(data).__name__}")
    return data


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
    return row.detach().to("cpu", torch.long).clone()


def _steps(
    starts: Sequence[int], regions: Sequence[str], texts: Sequence[str] | None, n_tokens: int
) -> tuple[Step, ...]:
    _check_starts(starts, n_tokens)
    texts = [""] * len(starts) if texts is None else texts
    if not len(starts) == len(regions) == len(texts):
        raise ValueError(
            f"{len(starts)} starts, {len(regions)} regions and {len(texts)} texts; "
            "each step needs one of each"
        )
    stops = [*starts[1:], n_tokens]
    return tuple(
        Step(int(start), int(stop), Region(region), text)
        for start, stop, region, text in zip(starts, stops, regions, texts, strict=True)
    )


def _check_starts(starts: Sequence[int], n_tokens: int) -> None:
    if len(starts) == 0:
        raise ValueError("starts is empty; the first step starts at 0")
    if starts[0] != 0:
        raise ValueError(f"the first step must start at 0, got {starts[0]}")
    for before, after in pairwise(starts):
        if after <= before:
            raise ValueError(f"starts must strictly increase, got {after} after {before}")
    if starts[-1] >= n_tokens:
        raise ValueError(f"start {starts[-1]} is out of range for {n_tokens} tokens")


def _check_tiling(steps: Sequence[Step], n_tokens: int) -> None:
    position = 0
    for index, step in enumerate(steps):
        if step.start != position:
            fault = "overlaps the step before" if step.start < position else "leaves a gap"
            raise ValueError(
                f"step {index} starts at {step.start} and {fault}; it must start at {position}"
            )
        if step.stop <= step.start:
            raise ValueError(f"step {index} is empty: start {step.start}, stop {step.stop}")
        position = step.stop
    if position != n_tokens:
        raise ValueError(f"steps end at {position}, but the trace has {n_tokens} tokens")


_COLOURS = {
    Region.TEMPLATE: "#e8e8e8",
    Region.QUESTION: "#cfe3f7",
    Region.THINKING: "#fdf1cf",
    Region.SUMMARY: "#d5efd3",
}


def _html_row(index: int, step: Step) -> str:
    text = f'<td style="white-space:pre-wrap">{html.escape(step.text)}</td>'
    return (
        f'<tr style="background:{_COLOURS[step.region]};color:#111">'
        f"<td>{index}</td><td>{step.region}</td><td>{len(step)}</td>{text}</tr>"
    )
