"""Words that are forced on the model where it would end its thinking: "Wait", or a hint.

    thinking ... </think> answer    as the model wrote it
    thinking ... TEXT ...           TEXT stands in place of the mark, and the model goes on, until
                                    it would end again (TEXT again) or has written ``extra`` tokens
    ... </think> answer             then its thinking is ended, at the end of a line or sentence,
                                    and it writes its answer

Where answers have no mark, their end stands for it, and the last part is left out. Budget forcing
(Muennighoff et al., "s1: Simple test-time scaling", 2025) has "Wait" as its text; a hint is the
same with a sentence, once. All parts are greedy and without an intervention: what was written so
far is prompt to the next part, and an edit that reads steps would take none of it for thinking.

When it misleads: a text that a model has never read is no word to it. The bundled models spell
"Wait" in letters, and go on from it as from any name.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import step_saliency as ss
from analyses.material.answers import AnswerSettings
from step_saliency.benchmark.conditions import END_OF_THINKING
from step_saliency.benchmark.conditions import HINT as OF_BENCHMARK
from step_saliency.trace import Trace

END = END_OF_THINKING
CLOSED = f"\n{END}\n\n"
WAIT = "Wait"
HINT = OF_BENCHMARK.lstrip("\n")
ROUNDS = 16
"""Ends of the thinking that are replaced at most."""


@dataclass
class _Part:
    """An answer in the making: what was written, and tokens of thinking that are left to it."""

    prompt: str
    written: str
    left: int
    has_mark: bool


def forced_responses(
    model: Any,
    written: Sequence[Trace],
    settings: AnswerSettings,
    *,
    text: str = WAIT,
    extra: Sequence[int],
    rounds: int = ROUNDS,
) -> list[str]:
    """Greedy answers whose thinking is made longer.

    Args:
        model: The model.
        written: Its greedy answers, from `ss.generate`; those that were cut stay as they are.
        settings: How answers are written: length of the last part, and slots.
        text: What stands in place of the end.
        extra: Tokens of thinking to be added to each answer.
        rounds: Ends that are replaced at most.

    Returns:
        The whole response of each.
    """
    raw = copy.copy(model.tokenizer)
    raw.chat_template = "{{ messages[-1]['content'] }}"
    parts = [
        _part(model.tokenizer, trace, more) for trace, more in zip(written, extra, strict=True)
    ]
    for _ in range(rounds):
        going = [part for part in parts if part.left > 0]
        for part in going:
            joint = "" if part.written.endswith("\n") else "\n"
            part.written += joint + text
        _go_on(model, raw, going, settings, max_new=[part.left for part in going], stops=(END,))
    marked = [part for part in parts if part.has_mark]
    for part in marked:
        part.written = part.written.rstrip() + CLOSED
    ends = [settings.max_new_tokens] * len(marked)
    _go_on(model, raw, marked, settings, max_new=ends, stops=())
    return [part.written for part in parts]


def token_counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text."""
    return [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def _part(tokenizer: Any, trace: Trace, extra: int) -> _Part:
    start = len(trace) - int(trace.meta["response_tokens"])
    prompt, response = tokenizer.decode(trace.tokens[:start]), _text(tokenizer, trace)
    if not trace.meta["finished"]:
        return _Part(prompt, response, 0, has_mark=False)
    thinking, mark, _ = response.partition(END)
    return _Part(prompt, thinking, extra, has_mark=bool(mark))


def _text(tokenizer: Any, trace: Trace, most: int | None = None) -> str:
    """What was generated, without the token that ended it."""
    tokens = trace.tokens[len(trace) - int(trace.meta["response_tokens"]) :][:most].tolist()
    ended = bool(tokens) and tokens[-1] in tokenizer.all_special_ids
    if ended and tokenizer.decode(tokens[-1:]) != END:
        tokens = tokens[:-1]
    return str(tokenizer.decode(tokens))


def _whole_lines(text: str) -> str:
    """Up to the last line or sentence that is finished; all of it where none is."""
    ends = [text.rfind(mark) + len(mark) for mark in ("\n", ". ") if mark in text]
    return text[: max(ends)] if ends else text


def _go_on(
    model: Any,
    tokenizer: Any,
    parts: Sequence[_Part],
    settings: AnswerSettings,
    *,
    max_new: Sequence[int],
    stops: Sequence[str],
) -> None:
    """Let the model go on from what was written, each part for so many tokens."""
    if not parts:
        return
    traces = ss.generate(
        model,
        [part.prompt + part.written for part in parts],
        tokenizer=tokenizer,
        temperature=0.0,
        max_new_tokens=max(max_new),
        batch_size=settings.batch_size,
        stop_texts=stops,
        progress=False,
    )
    for part, trace, most in zip(parts, traces, max_new, strict=True):
        text = _text(tokenizer, trace, most)
        outgrown = bool(stops) and int(trace.meta["response_tokens"]) >= most and END not in text
        text = _whole_lines(text) if outgrown else text
        part.written += text.partition(END)[0] if stops else text
        part.left = max(0, part.left - int(trace.meta["response_tokens"])) if stops else 0
