r"""What stands around the last message of the user, so that questions alone tell prompts apart.

    prompt = prefix + question + suffix

Prefix and suffix are what the tokenizer's chat template writes around a stand-in for the last
message of the user: system prompt, earlier turns, role marks and what the model answers after.
`ss.generate` asks with a tokenizer whose template is just these two texts, so that conversations of
any kind whose frames are equal are decoded together.

A last message of the assistant is text that the model goes on from (`to_go_on_from`). It belongs to
the response and stands in no frame, so that responses that go on from different words are decoded
together too.
"""

import copy
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STAND_IN = "QZX{last}XZQ"
_ASKS_FOR_TODAY = re.compile(r"""strftime_now\(\s*['"]([^'"]+)['"]\s*\)""")


@dataclass(frozen=True)
class Frame:
    """Texts before and after a question.

    Attributes:
        prefix: Before it.
        suffix: After it.
    """

    prefix: str
    suffix: str

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        messages: Sequence[Mapping[str, str]],
        *,
        template_options: Mapping[str, Any] | None = None,
        date: str | None = None,
    ) -> tuple["Frame", str]:
        """Frame and question of a conversation.

        Args:
            tokenizer: Tokenizer with a chat template, or without one: then a conversation is one
                message, and a line break follows it.
            messages: Role and content of each; the last is the user's.
            template_options: Variables of the chat template, such as ``reasoning_effort``.
            date: Day that the template is told is today, ``YYYY-MM-DD``; the real one by default.

        Raises:
            ValueError: the last message is not the user's, or the template does not write it as it
                is.
        """
        turns = [dict(message) for message in messages]
        if not turns or turns[-1]["role"] != "user":
            raise ValueError(
                "the last message, or the last before words to go on from, has to be the user's"
            )
        question = turns[-1]["content"]
        if not getattr(tokenizer, "chat_template", None):
            return cls._plain(turns), question
        told = tokenizer if date is None else _told_the_day(tokenizer, date)
        prefix, question, suffix = _around(told, turns, question, dict(template_options or {}))
        return cls(prefix, suffix), question

    @classmethod
    def _plain(cls, turns: Sequence[Mapping[str, str]]) -> "Frame":
        if len(turns) > 1:
            raise ValueError(
                "the tokenizer has no chat template, so that a conversation can have no more than "
                f"one message; this one has {len(turns)}"
            )
        return cls("", "\n")

    def tokenizer(self, tokenizer: Any) -> Any:
        """A copy of a tokenizer whose chat template writes this frame around the last message."""
        framed = copy.copy(tokenizer)
        framed.chat_template = (
            f"{{{{ {_literal(self.prefix)} }}}}"
            "{{ messages[-1]['content'] }}"
            f"{{{{ {_literal(self.suffix)} }}}}"
        )
        return framed


def to_go_on_from(
    messages: Sequence[Mapping[str, str]],
) -> tuple[list[Mapping[str, str]], str]:
    """A conversation up to the user's last message, and what the assistant has begun to answer.

    Args:
        messages: Role and content of each.
    """
    if messages and messages[-1]["role"] == "assistant":
        return list(messages[:-1]), messages[-1]["content"]
    return list(messages), ""


def _told_the_day(tokenizer: Any, date: str) -> Any:
    """A copy of a tokenizer whose chat template takes this day for today.

    Transformers hands functions to templates as text; so the template defines its own.
    """
    day = dt.date.fromisoformat(date)
    forms = dict.fromkeys(_ASKS_FOR_TODAY.findall(tokenizer.chat_template))
    days = {_literal(form): _literal(day.strftime(form)) for form in forms}
    cases = "".join(
        f"{{%- if form == {form} -%}}{{{{ {text} }}}}{{%- endif -%}}" for form, text in days.items()
    )
    told = copy.copy(tokenizer)
    told.chat_template = (
        f"{{%- macro strftime_now(form) -%}}{cases}{{%- endmacro -%}}{tokenizer.chat_template}"
    )
    return told


def _around(
    tokenizer: Any, turns: list[dict[str, str]], question: str, options: Mapping[str, Any]
) -> tuple[str, str, str]:
    """What the template writes before the last message, that message, and what after it."""
    frame = _render(tokenizer, [*turns[:-1], {**turns[-1], "content": _STAND_IN}], options)
    prefix, stand_in, suffix = frame.rpartition(_STAND_IN)
    text = _render(tokenizer, turns, options)
    for variant in (question, question.strip()):
        if stand_in and text == prefix + variant + suffix:
            return prefix, variant, suffix
    raise ValueError(
        f"the chat template does not write the last message as it is: {question[:60]!r}"
    )


def _render(tokenizer: Any, turns: Sequence[dict[str, str]], options: Mapping[str, Any]) -> str:
    return str(
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **options)
    )


def _literal(text: str) -> str:
    """A text as a literal of Jinja, which reads escapes as Python does."""
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'
