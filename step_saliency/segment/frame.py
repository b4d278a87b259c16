"""Token ids alone: how many of them are the prompt, and which part of it was asked?

A chat template is rendered around marked messages; what it writes before, between and after them is
its frame. The prompt ends where the generation prompt stands after the last turn of the user that
has one. Without a template it ends before the first ``<think>``, without that it is all there is.
The messages in the frame are questions, one step each; system prompt and role words are template.

When it misleads: a template that writes messages otherwise than as they are, or one that folds the
system prompt into the turn of the user, whose question then includes it. Where the prompt is known,
say so instead (``n_prompt``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError

from step_saliency.segment.pieces import TokenPieces, TokenTable
from step_saliency.segment.prompt import (
    PromptStep,
    Span,
    find_question,
    piece_spans,
    steps_of_spans,
    whole_prompt,
)

_MARKS = ("QZX0XZQ", "QZX1XZQ", "QZX2XZQ")
THINK_MARK = "<think>"


@dataclass(frozen=True)
class ChatFrame:
    """What a chat template writes around messages.

    Attributes:
        opening: Before the first message, if a user's is the first.
        user_open: Before the message of a user.
        to_assistant: Between a user's message and the assistant's.
        to_user: Between an assistant's message and the user's.
        generation: After the last user's message, up to where the model goes on.
    """

    opening: str
    user_open: str
    to_assistant: str
    to_user: str
    generation: str

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatFrame | None":
        """Frame of the tokenizer's own template; None without one that takes three turns."""
        if not getattr(tokenizer, "chat_template", None):
            return None
        try:
            asked = _rendered(tokenizer, 3, generation=True)
            answered = _rendered(tokenizer, 2, generation=False)
        except TemplateError:
            return None
        if any(asked.count(mark) != 1 for mark in _MARKS) or _MARKS[1] not in answered:
            return None
        opening, _, after = asked.partition(_MARKS[0])
        to_assistant, _, tail = after.partition(_MARKS[1])
        to_user, _, generation = tail.partition(_MARKS[2])
        end_of_answer = answered.partition(_MARKS[1])[2]
        user_open = _alike_at_the_end(opening, to_user.removeprefix(end_of_answer))
        return cls(opening, user_open, to_assistant, to_user, generation)

    def prompt_end(self, text: str) -> int | None:
        """Where the prompt in a text ends; None if the frame is not there."""
        opened = text.rfind(self.user_open) if self.user_open else -1
        while opened >= 0:
            start = text.find(self.generation, opened + len(self.user_open))
            if self.generation and start >= 0:
                return start + len(self.generation)
            opened = text.rfind(self.user_open, 0, opened)
        return None

    def messages(self, prompt: str) -> list[Span]:
        """Where the messages of users and assistants stand in a prompt; none if it has no frame."""
        opened = prompt.find(self.user_open) if self.user_open else -1
        if opened < 0:
            return []
        spans: list[Span] = []
        start = opened + len(self.user_open)
        while (turn := prompt.find(self.to_user, start)) >= 0:
            answer = prompt.find(self.to_assistant, start, turn)
            if answer >= 0:
                spans += [(start, answer), (answer + len(self.to_assistant), turn)]
            else:
                spans.append((start, turn))
            start = turn + len(self.to_user)
        # A prompt that was written without the mark that opens the thinking ends earlier.
        ends = (self.generation, _alike_at_the_start(self.generation, self.to_assistant))
        places = [prompt.find(end, start) for end in ends if end.strip()]
        return [*spans, (start, next((at for at in places if at >= 0), len(prompt)))]


def _alike_at_the_start(text: str, other: str) -> str:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    return "".join(char for char, _ in pairs)


def _alike_at_the_end(opening: str, user_open: str) -> str:
    """What stands before a user's first message and before a later one alike.

    An answer that ends the conversation may end otherwise than one that is followed by a question,
    so that the latter begins with the rest of its end.
    """
    from_behind = zip(reversed(opening), reversed(user_open), strict=False)
    n_alike = len(list(takewhile(lambda pair: pair[0] == pair[1], from_behind)))
    alike = user_open[len(user_open) - n_alike :]
    return alike if alike.strip() else user_open


def _rendered(tokenizer: Any, n_turns: int, *, generation: bool) -> str:
    roles = ("user", "assistant", "user")
    turns = zip(roles, _MARKS, strict=True)
    messages = [{"role": role, "content": mark} for role, mark in turns][:n_turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    return str(text)


class PromptReader:
    """Finds the prompt, and the questions in it, among token ids.

    Args:
        tokenizer: The tokenizer of the model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._table = TokenTable(tokenizer)
        self._frame = ChatFrame.of(tokenizer)

    def prompt_length(self, tokens: Sequence[int]) -> int:
        """How many of the tokens, which may go on with a response, are the prompt."""
        framed = self.framed_length(tokens)
        if framed is not None:
            return framed
        pieces = TokenPieces(self._table).pieces(tokens)
        mark = "".join(pieces).find(THINK_MARK)
        return len(tokens) if mark < 0 else _tokens_before(pieces, mark)

    def framed_length(self, tokens: Sequence[int]) -> int | None:
        """The same by the frame of the template alone; None if it is not there."""
        pieces = TokenPieces(self._table).pieces(tokens)
        end = self._frame.prompt_end("".join(pieces)) if self._frame is not None else None
        return None if end is None else _tokens_before(pieces, end)

    def is_unfinished(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens begin the template's frame, and do not reach the end of it."""
        if self._frame is None or not self._frame.user_open:
            return False
        text = "".join(TokenPieces(self._table).pieces(tokens))
        begins = self._frame.opening.startswith(text) or self._frame.user_open in text
        return begins and self._frame.prompt_end(text) is None

    def steps(self, prompt: Sequence[int]) -> list[PromptStep] | None:
        """Steps of a prompt; None if it does not stand in the frame of the template."""
        pieces = TokenPieces(self._table).pieces(prompt)
        text = "".join(pieces)
        messages = self._frame.messages(text) if self._frame is not None else []
        if not messages:
            return None
        special = [self._table.is_special(token) for token in prompt]
        return steps_of_spans(text, piece_spans(pieces), special, messages)


def _tokens_before(pieces: Sequence[str], char: int) -> int:
    return sum(start < char for start, _ in piece_spans(pieces))


def asked_spans(tokenizer: Any, prompt: str, question: str | None) -> list[Span]:
    """What of a prompt was asked: the question that is named, else the messages that stand in the
    frame of the tokenizer's template, else all of it but a mark that opens the thinking.

    Raises:
        ValueError: the question is not in the prompt.
    """
    if question is not None:
        return [find_question(prompt, question)]
    frame = ChatFrame.of(tokenizer)
    messages = frame.messages(prompt) if frame is not None else []
    are_said = any(prompt[start:stop].strip() for start, stop in messages)
    return messages if are_said else [whole_prompt(prompt)]


def cut_prompt(
    tokenizer: Any, pieces: Sequence[str], special: Sequence[bool], question: str | None
) -> list[PromptStep]:
    """Steps of a prompt whose tokens are given.

    Raises:
        ValueError: the question is not in the prompt.
    """
    if not pieces:
        return []
    text = "".join(pieces)
    spans = asked_spans(tokenizer, text, question)
    return steps_of_spans(text, piece_spans(pieces), special, spans)
