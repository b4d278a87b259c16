"""From text, messages or generated tokens to a `Segmentation`.

Prompt and response become token ids once; the steps are those that a
:class:`~step_saliency.segment.online.StepTracker` sees when it is fed these ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from step_saliency.options import FormatName, SplitFunction, Splitter, SplitterLike
from step_saliency.segment import prompt as prompts
from step_saliency.segment.choice import detect_format, format_of_prompt
from step_saliency.segment.formats import check_format
from step_saliency.segment.frame import asked_spans, cut_prompt
from step_saliency.segment.harmony import begins_with_header
from step_saliency.segment.marks import rows
from step_saliency.segment.online import StepTracker
from step_saliency.segment.pieces import TokenIds, TokenPieces, TokenTable, token_row
from step_saliency.segment.prompt import Prompt
from step_saliency.segment.regions import Region
from step_saliency.segment.segmentation import Segmentation
from step_saliency.segment.splitters import (
    make_splitter,
    split_text,
)
from step_saliency.segment.thinking import (
    format_of_model,
    holds_thinking,
    thought_of,
    with_marks,
)
from step_saliency.segment.unread import warn_of_unread_marks

_PROMPT_END = 32
"""Characters of the prompt that any tracker looks at."""


def segment_text(
    tokenizer: Any,
    *,
    question: str = "",
    response: str,
    prompt: str | None = None,
    format: FormatName = "auto",  # noqa: A002
    splitter: SplitterLike = "sentence",
    system: str | None = None,
    chat_template: bool | str = "auto",
) -> Segmentation:
    """Cut a question and the response to it; arguments and errors as of `Trace.from_text`."""
    check_format(format)
    _check_response(response)
    if prompt is not None:
        if system is not None:
            raise ValueError("give the system prompt inside prompt, or leave prompt out")
        if chat_template not in ("auto", False):
            raise ValueError(
                f"chat_template={chat_template!r:.60} with prompt=...: the prompt is taken as it "
                "is; leave one of them out"
            )
        framed = None if chat_template is False else tokenizer
        spans = asked_spans(framed, prompt, question or None)
        prefix = _tokenized(tokenizer, prompt, spans, add_special=True)
    else:
        prefix = _prompt(tokenizer, _messages(question, system), chat_template)
    return _cut(tokenizer, prefix, response, format, splitter)


def segment_messages(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    *,
    format: FormatName = "auto",  # noqa: A002
    splitter: SplitterLike = "sentence",
    chat_template: bool | str = "auto",
) -> Segmentation:
    """Cut a conversation: the last message is the response, each turn before it one step.

    Earlier turns of user and assistant have region question, system prompts are template. Arguments
    and errors as of `Trace.from_messages`.
    """
    check_format(format)
    _check_messages(messages)
    *earlier, last = messages
    _check_response(last["content"])
    prefix = _prompt(tokenizer, earlier, chat_template)
    return _cut(tokenizer, prefix, last["content"], format, splitter)


def segment_generation(
    tokenizer: Any,
    prompt_tokens: TokenIds,
    response_tokens: TokenIds,
    *,
    question: str | None = None,
    format: FormatName = "auto",  # noqa: A002
    splitter: SplitterLike = "sentence",
    tracker: StepTracker | None = None,
) -> Segmentation:
    """Cut what a model read and wrote, by its very token ids; as `Trace.from_generation`."""
    check_format(format)
    table = TokenTable.of(tokenizer)
    before, after = token_row(prompt_tokens), token_row(response_tokens)
    response = "".join(TokenPieces(table).pieces(after))
    if not after:
        _check_response(response)
    pieces = TokenPieces(table).pieces(before)
    steps = cut_prompt(tokenizer, pieces, [table.is_special(t) for t in before], question)
    prefix = Prompt("".join(pieces), before, steps)
    return _cut_tokens(table, prefix, after, response, format, splitter, tracker)


def prompt_tokens(
    tokenizer: Any,
    question: str,
    *,
    system: str | None = None,
    chat_template: bool | str = "auto",
) -> list[int]:
    """Token ids that a model reads before it answers the question.

    Args:
        tokenizer: The tokenizer of the model.
        question: The question.
        system: System prompt.
        chat_template: As of `Trace.from_text`.

    Raises:
        ValueError: As of `Trace.from_text`.
    """
    return _prompt(tokenizer, _messages(question, system), chat_template).tokens


def written_tokens(
    tokenizer: Any, question: str, response: str, *, system: str | None = None
) -> list[int]:
    """Token ids of a response's first words, as they follow those of `prompt_tokens`.

    A mark that the prompt ends with is not written a second time.

    Args:
        tokenizer: The tokenizer of the model.
        question: The question.
        response: The words; none where it is empty.
        system: System prompt.

    Raises:
        ValueError: As of `Trace.from_text`.
    """
    if not response:
        return []
    prompt = _prompt(tokenizer, _messages(question, system), "auto")
    words = _without_second_mark(prompt.text, response)
    return prompts.tokenize_response(tokenizer, prompt.text, words) if words else []


def _messages(question: str, system: str | None) -> list[dict[str, str]]:
    if not question.strip():
        raise ValueError("give a question, or the exact prompt text with prompt=...")
    asked = [{"role": "user", "content": question}]
    return asked if system is None else [{"role": "system", "content": system}, *asked]


def _check_response(response: str) -> None:
    if not response.strip():
        raise ValueError(
            f"the response is empty: {response!r}; a trace needs at least one token of it"
        )


def _check_characters(text: str) -> None:
    """Raise ValueError for half a character, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.start + 20]
        raise ValueError(
            "the text holds half a character (a lone surrogate, "
            f"U+{ord(text[error.start]):04X}) in {near!r}"
        ) from None


def with_thinking(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    format: FormatName,  # noqa: A002
    chat_template: bool | str,
) -> list[Mapping[str, Any]]:
    """Messages, the last with its thinking in its content where it stood in a field of its own.

    Content with marks of thinking has it already.
    """
    said = list(messages)
    _check_turns(said)
    last = said[-1] if said else {}
    thought, content = thought_of(last), last.get("content") or ""
    if not thought or not isinstance(content, str) or holds_thinking(content):
        return said
    check_format(format)
    said[-1] = {**last, "content": content.strip()}
    _check_messages(said)
    name: str = format
    if format == "auto":
        text, _ = _prompt_text(tokenizer, said[:-1], chat_template)
        own = _given_template(chat_template) or getattr(tokenizer, "chat_template", None)
        name = format_of_model(text, str(own or ""))
    said[-1] = {**last, "content": with_marks(name, thought, content.strip())}
    return said


def _check_turns(messages: Sequence[Any]) -> None:
    unlike = [message for message in messages if not isinstance(message, Mapping)]
    if unlike:
        raise ValueError(f"messages need role and content, got {unlike[:1]!r:.80}")
    empty = [
        index
        for index, message in enumerate(messages)
        if message.get("role") == "user" and not str(message.get("content", "absent")).strip()
    ]
    if empty:
        raise ValueError(f"messages {empty} of the user are empty")


def _check_messages(messages: Sequence[Mapping[str, str]]) -> None:
    if len(messages) < 2:
        raise ValueError(
            f"a conversation needs a question and a response, got {len(messages)} messages"
        )
    for i, message in enumerate(messages):
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise ValueError(
                f"message {i} needs 'role' and 'content' as text, got {dict(message)!r}"
            )
    if messages[-1]["role"] != "assistant":
        raise ValueError(
            f"the last message must be the assistant's response, got role {messages[-1]['role']!r}"
        )


def _prompt(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], chat_template: bool | str
) -> Prompt:
    text, spans = _prompt_text(tokenizer, messages, chat_template)
    return _tokenized(tokenizer, text, spans, add_special=_is_plain(tokenizer, chat_template))


def _prompt_text(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], chat_template: bool | str
) -> tuple[str, list[prompts.Span]]:
    if _is_plain(tokenizer, chat_template):
        return _plain_prompt(messages)
    return prompts.chat_prompt(tokenizer, messages, template=_given_template(chat_template))


def _is_plain(tokenizer: Any, chat_template: bool | str) -> bool:
    """Whether a prompt has no template."""
    has_own = bool(getattr(tokenizer, "chat_template", None))
    if chat_template is True and not has_own:
        raise ValueError(
            f"{type(tokenizer).__name__} has no chat template; give one as text, or "
            "chat_template=False for the plain question"
        )
    return chat_template is False or (chat_template == "auto" and not has_own)


def _given_template(chat_template: bool | str) -> str | None:
    return chat_template if isinstance(chat_template, str) and chat_template != "auto" else None


def _plain_prompt(messages: Sequence[Mapping[str, str]]) -> tuple[str, list[prompts.Span]]:
    text, spans = "", []
    for message in messages:
        if message["role"] not in prompts.SYSTEM_ROLES:
            spans.append((len(text), len(text) + len(message["content"])))
        text += message["content"] + "\n"
    return text, spans


def _tokenized(
    tokenizer: Any, text: str, spans: Sequence[prompts.Span], *, add_special: bool
) -> Prompt:
    _check_characters(text)
    table = TokenTable(tokenizer)
    tokens, n_added = prompts.tokenize_prompt(tokenizer, text, add_special=add_special)
    token_spans = prompts.align_prompt(tokenizer, table, text, tokens, n_added)
    special = [table.is_special(token) for token in tokens]
    return Prompt(text, tokens, prompts.steps_of_spans(text, token_spans, special, spans))


def _cut(
    tokenizer: Any,
    prompt: Prompt,
    response: str,
    format: FormatName,  # noqa: A002
    splitter: SplitterLike,
) -> Segmentation:
    _check_characters(response)
    tail = _without_second_mark(prompt.text, response)
    tokens = prompts.tokenize_response(tokenizer, prompt.text, tail)
    return _cut_tokens(tokenizer, prompt, tokens, response, format, splitter)


def _without_second_mark(prompt: str, response: str) -> str:
    """The response without a mark that opens the thinking and that the prompt has already."""
    end, opened = prompt.rstrip(), response.lstrip()
    marks = (row.open for row in rows() if row.open)
    twice = next((mark for mark in marks if end.endswith(mark) and opened.startswith(mark)), None)
    if twice is None:
        return response
    rest = opened.removeprefix(twice)
    return rest.removeprefix("\n") if prompt.endswith("\n") else rest


def _cut_tokens(
    tokenizer: Any,
    prompt: Prompt,
    tokens: Sequence[int],
    response: str,
    format: FormatName,  # noqa: A002
    splitter: SplitterLike,
    tracker: StepTracker | None = None,
) -> Segmentation:
    name = detect_format(prompt=prompt.text, response=response) if format == "auto" else format
    if not tokens:
        raise ValueError(f"the tokenizer makes no tokens of the response {response[:60]!r}")
    split = make_splitter(splitter)
    causal = split if isinstance(split, Splitter) else None
    read = format if _tracker_sees_format(prompt.text, response) else name
    every = [*prompt.tokens, *tokens]
    if tracker is None or not tracker.goes_on_to(every, format=read):
        tracker = StepTracker(tokenizer, format=read, splitter=causal)
        tracker.start(prompt.tokens, prompt_steps=prompt.steps)
    for token in every[len(tracker) :]:
        tracker.push(token)
    whole = tracker.segmentation()
    if format == "auto":
        warn_of_unread_marks(whole, name)
    return whole if isinstance(split, Splitter) else _recut(whole, split)


def _tracker_sees_format(prompt: str, response: str) -> bool:
    """Whether a tracker finds the format by itself: then its steps are those seen while decoding.

    It does where the prompt tells one; but header words alone are told by the letter after them.
    """
    told = format_of_prompt(prompt[-_PROMPT_END:]) is not None
    return told and not begins_with_header(response)


def _recut(whole: Segmentation, split: SplitFunction) -> Segmentation:
    """Cut each thinking and summary step, where there is one for each region."""
    starts: list[int] = []
    regions: list[Region] = []
    for step in whole.steps:
        inner = [step.start]
        if step.region in (Region.THINKING, Region.SUMMARY):
            inner = _token_starts(whole.pieces[step.start : step.stop], step.start, split)
        starts += inner
        regions += [step.region] * len(inner)
    return whole.cut_anew(starts, regions)


def _token_starts(pieces: Sequence[str], offset: int, split: SplitFunction) -> list[int]:
    chars = split_text("".join(pieces), split)[1:]
    starts = [offset]
    position = 0
    for index, piece in enumerate(pieces):
        reach = position + len(piece) - len(piece.lstrip())
        due = [char for char in chars if char <= reach and (piece.strip() or char < reach)]
        if due and index:
            starts.append(offset + index)
        chars = chars[len(due) :]
        position += len(piece)
    return starts
