"""What does the model read before the response, and which part of it is the question?

The prompt is the tokenizer's chat template around the question (with the mark after which the model
answers), or the exact text that the caller gives, or the plain question and a line break. Question
text is one step of region question; an earlier turn of a conversation is a step of its own of the
same region; all else (system prompt, role markers, BOS) is template.

Assumption: a template writes each message literally or stripped of white space at its ends, or
leaves the thinking of an earlier turn out. Where it does something else the place of the message
cannot be told and an error says so.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any, TypeAlias

from jinja2 import TemplateError

from step_saliency.segment.marks import rows
from step_saliency.segment.pieces import TokenPieces, TokenTable
from step_saliency.segment.regions import Region

PromptStep: TypeAlias = tuple[int, Region]
Span: TypeAlias = tuple[int, int]

SYSTEM_ROLES = frozenset({"system", "developer"})
_SENTINEL = "QZX{}XZQ"


@dataclass(frozen=True)
class Prompt:
    """Tokens that the model reads before the response, cut into steps.

    Attributes:
        text: The text, without what ``tokens`` has before it (BOS).
        tokens: Its token ids.
        steps: First token and region of each step.
    """

    text: str
    tokens: list[int]
    steps: list[PromptStep]


def chat_prompt(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], *, template: str | None
) -> tuple[str, list[Span]]:
    """Text of a chat prompt, and where the messages other than the system's stand in it.

    Raises:
        ValueError: The template raises, or a message cannot be found in what it made of it.
    """
    text = _render(tokenizer, messages, template)
    marked = [
        {**message, "content": _SENTINEL.format(i)}
        if message["role"] not in SYSTEM_ROLES
        else message
        for i, message in enumerate(messages)
    ]
    frame = _render(tokenizer, marked, template)
    spans: list[Span] = []
    cursor = 0
    for i, message in enumerate(messages):
        if message["role"] in SYSTEM_ROLES:
            continue
        before, sentinel, frame = frame.partition(_SENTINEL.format(i))
        after = frame[: frame.find(_SENTINEL[:3])] if _SENTINEL[:3] in frame else frame
        span = _locate(text, cursor, before, message["content"], after) if sentinel else None
        if span is None:
            raise ValueError(
                f"the chat template does not write message {i} ({message['role']}) as it is: "
                f"{message['content'][:60]!r} is not where it should be. Give the exact prompt "
                "text with prompt=..., or known token ids to Trace.from_generation"
            )
        spans.append(span)
        cursor = span[1]
    return text, spans


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], template: str | None) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"the chat template does not take these messages ({roles}): {error}. Set another "
            "tokenizer.chat_template, or none for plain text"
        ) from error
    return str(text)


def _locate(text: str, cursor: int, before: str, content: str, after: str) -> Span | None:
    if not text.startswith(before, cursor):
        return None
    start = cursor + len(before)
    spoken = content.rpartition("</think>")[2]
    for variant in (content, content.strip(), spoken, spoken.strip()):
        if text.startswith(variant + after, start):
            return start, start + len(variant)
    return None


def find_question(prompt: str, question: str) -> Span:
    """Where the question stands in the prompt; the last place if there are several.

    A place inside of a longer word ("hi" in "<think>") counts only where there is no other. What
    tokens spell may be a normal form of what was asked: Qwen's tokenizers write NFC.

    Raises:
        ValueError: It is not there.
    """
    own = question.strip()
    for text in (own, *(unicodedata.normalize(form, own) for form in ("NFC", "NFKC"))):
        if text and text in prompt:
            start = _last_place(prompt, text)
            return start, start + len(text)
    raise ValueError(
        f"the question {question[:60]!r} does not stand in the prompt {prompt[:60]!r}...; give "
        "it as it is written there, or leave it out to take the whole prompt as the question"
    )


def _last_place(prompt: str, text: str) -> int:
    before = r"(?<!\w)" if text[0].isalnum() else ""
    after = r"(?!\w)" if text[-1].isalnum() else ""
    alone = [match.start() for match in re.finditer(before + re.escape(text) + after, prompt)]
    return alone[-1] if alone else prompt.rfind(text)


def whole_prompt(prompt: str) -> Span:
    """The prompt without a mark that opens the thinking."""
    body = prompt.rstrip()
    openings = (row.open for row in rows() if row.open)
    mark = next((mark for mark in openings if body.endswith(mark)), "")
    return 0, len(body.removesuffix(mark).rstrip())


def tokenize_prompt(tokenizer: Any, text: str, *, add_special: bool) -> tuple[list[int], int]:
    """Token ids of the prompt, and how many stand before the text (BOS).

    Special tokens that the tokenizer adds by itself are added at the front only, once: not where
    ``text`` begins with the first of them.
    """
    ids = _ids(tokenizer, text)
    if not add_special:
        return ids, 0
    with_special = _ids(tokenizer, text, add_special_tokens=True)
    front = _special_prefix(tokenizer, with_special)
    own = _special_prefix(tokenizer, ids)
    added = [] if ids[:1] == front[:1] else front[: len(front) - len(own)]
    return [*added, *ids], len(added)


def _special_prefix(tokenizer: Any, tokens: Sequence[int]) -> list[int]:
    special = set(tokenizer.all_special_ids)
    return list(takewhile(special.__contains__, tokens))


def _ids(tokenizer: Any, text: str, *, add_special_tokens: bool = False) -> list[int]:
    encoded = tokenizer(text, add_special_tokens=add_special_tokens)
    return [int(token) for token in encoded["input_ids"]]


def tokenize_response(tokenizer: Any, prompt: str, response: str) -> list[int]:
    """Token ids of the response as the model reads them after the prompt.

    Prompt and response are tokenised together; where that would merge characters of both into one
    token, which a model that decodes cannot have done, the response is tokenised by itself.
    """
    before = _ids(tokenizer, prompt)
    together = _ids(tokenizer, prompt + response)
    if before and together[: len(before)] == before and len(together) > len(before):
        return together[len(before) :]
    return _ids(tokenizer, response)


def align_prompt(
    tokenizer: Any, table: TokenTable, text: str, tokens: Sequence[int], n_added: int
) -> list[Span]:
    """Characters of ``text`` that each token stands for.

    Raises:
        ValueError: The tokens do not spell the text and the tokenizer has no offsets.
    """
    pieces = TokenPieces(table).pieces(tokens[n_added:])
    if "".join(pieces).removeprefix(" ") == text.removeprefix(" "):
        shift = len(text) - sum(map(len, pieces))
        spans = [(max(0, a + shift), max(0, b + shift)) for a, b in piece_spans(pieces)]
    elif getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [(int(a), int(b)) for a, b in encoded["offset_mapping"]]
    else:
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets, and its tokens do not spell "
            f"the prompt {text[:60]!r}...; so the question cannot be found among the tokens. Use a "
            "fast tokenizer, or Trace.from_tokens with known starts"
        )
    return [(0, 0)] * n_added + spans


def piece_spans(pieces: Sequence[str]) -> list[Span]:
    """Where each piece stands in the text that they make up."""
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    return list(pairwise(ends))


def steps_of_spans(
    text: str, token_spans: Sequence[Span], special: Sequence[bool], spans: Sequence[Span]
) -> list[PromptStep]:
    """Steps of a prompt: one for each span of content, the rest template.

    A token goes by its first character other than white space; without one, by the token before.
    """
    steps: list[PromptStep] = []
    previous: int | None = None
    for position, ((start, stop), is_special) in enumerate(zip(token_spans, special, strict=True)):
        owner = -1 if is_special else _owner(text, start, stop, spans)
        if owner is None:
            owner = -1 if previous is None else previous
        if owner != previous:
            steps.append((position, Region.TEMPLATE if owner < 0 else Region.QUESTION))
        previous = owner
    return steps


def _owner(text: str, start: int, stop: int, spans: Sequence[Span]) -> int | None:
    part = text[start:stop]
    if not part.strip():
        return None
    first = start + len(part) - len(part.lstrip())
    for index, (begin, end) in enumerate(spans):
        if begin <= first < end:
            return index
    return -1
