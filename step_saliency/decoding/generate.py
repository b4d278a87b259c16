"""Decoding: questions in, traces out.

One loop over left-padded rows and a key-value cache, in which a row that ends makes room for the
next prompt (`step_saliency.decoding.refill`), and two ways to run the model; and an engine that has
its own:

    hooks   the TransformerLens object itself, so that every hook on it is in force
    fast    its reference model, several times faster; edits act inside that model's attention, see
            `step_saliency.intervene.fast`
    vllm    a loaded engine, see `step_saliency.decoding.engine`

What prompts begin with alike, as a system prompt with examples, is read once by the fast way, and
samples of a question read it once (`step_saliency.decoding.prompts`).

A response depends on its own seed alone: the random numbers of question i, sample s come from
(seed, i, s), whatever else is in the batch. So a row has the same text in any batch and by either
way (but the samples of an engine, which draws numbers of its own), as long as rounding (different
kernels add numbers in different orders) does not decide between two tokens.
"""

import os
import warnings
from collections.abc import Generator, Mapping, Sequence, Set
from contextlib import closing, nullcontext
from typing import Any, Unpack

from tqdm.auto import tqdm

from step_saliency.decoding.continuation import Continuation
from step_saliency.decoding.engine import decoder
from step_saliency.decoding.job import Intervention, Job
from step_saliency.decoding.log import answered, refuse_what_settings_lack, settings_of
from step_saliency.decoding.loops import choose_loop
from step_saliency.decoding.rows import Row, units
from step_saliency.decoding.slots import with_slots
from step_saliency.intervene.effects import Effects
from step_saliency.options import (
    DECODING_METHODS,
    Decoding,
    DecodingMethod,
    DecodingOptions,
    check_keywords,
    check_option,
    is_whole,
    refuse,
    shows_keywords,
    with_keywords,
)
from step_saliency.storage.lock import LogLock
from step_saliency.storage.trace_log import TraceLog
from step_saliency.trace import Trace


@shows_keywords(DecodingOptions, vars(Decoding()), documented_by=Decoding)
def generate(
    model: Any,
    questions: str | Sequence[Any],
    *,
    flow: Intervention | None = None,
    method: DecodingMethod = "auto",
    decoding: Decoding | None = None,
    question_numbers: Sequence[int] | None = None,
    samples: Sequence[int] | None = None,
    continued: Sequence[Continuation | None] | None = None,
    tokenizer: Any = None,
    save_to: str | os.PathLike[str] | None = None,
    effects: Effects | None = None,
    progress: bool = True,
    **options: Unpack[DecodingOptions],
) -> list[Trace]:
    """Let the model answer questions, step by step.

    How responses are decoded is said by keywords (``n=4, temperature=1.0``), by a `Decoding` that
    several calls share, or by both: keywords change the object.

    Args:
        model: HookedTransformer or TransformerBridge with a tokenizer; or, for the fast loop, a
            transformers model; or a loaded engine, ``vllm.LLM`` or its ``LLMEngine``.
        questions: Questions, or problems that have a ``question``; put through the chat template.
        flow: Intervention to decode with.
        method: ``"hooks"`` decodes by the model itself. ``"fast"`` decodes by its reference model,
            the transformers model that it was made from: read once more and kept as long as the
            model lives, or the one inside a bridge that `load_model` did not make. ``"auto"`` takes
            the fast loop if the model has no hooks, the flow is an `Edit` or an `EditGroup`, the
            reference model makes the same predictions, and it is there already or a thousand tokens
            may be drawn. ``"vllm"``, and ``"auto"`` for an engine, decodes by the engine: it takes
            `StepFlow`, bridge and momentum alone (see docs/howto/vllm.md), and has slots of its
            own in place of ``batch_size``.
        decoding: How responses are decoded; a `Decoding` of defaults if there is none.
        question_numbers: What stands for each question in the seeds, so that a part of a list can
            be answered as the whole would be; 0, 1, ... by default.
        samples: Which sample of its question the first response to each question is, so that
            samples that are asked for apart are those of one call with ``n``; 0 by default. A
            question may then stand there several times under one number.
        continued: What the responses to each question go on from, and a limit and a seed of their
            own, see `Continuation`; None where they begin.
        tokenizer: Tokenizer, for a transformers model; for an engine, one in place of its own.
        save_to: JSONL file to which each trace is written when it is done, with its settings
            beside it; not of a model with hooks or attached edits, which settings do not tell. A
            second call with the same settings goes on where the first was broken off
            and decodes what is left; its texts are those of an unbroken run, up to rounding. One
            call writes a file at a time. Its lines stand in the order in which responses ended;
            their ``meta`` says which question and sample each is of.
        effects: Counters of edits, to which those of this call are added: of all that it decodes,
            also of responses that are broken off. Those that ``save_to`` holds already are not
            decoded and add nothing, which a warning says.
        progress: Show a progress bar.
        options: Fields of `Decoding`, which change it.

    Returns:
        ``n`` traces per question, questions in order. ``meta`` holds question_index, sample, seed,
        temperature, response_tokens and finished (False where the response was cut); of a response
        that went on from words continued_tokens, which come before its response_tokens, and a
        max_new_tokens of its own.

    Raises:
        TypeError: an unknown keyword.
        ValueError: no question, one that leaves no room in the context, or an option out of range;
            a method that this model or flow cannot be decoded by; a file of other settings, or one
            that another call is writing.
    """
    check_keywords("generate", options, DecodingOptions)
    check_option("method", method, DECODING_METHODS)
    if not isinstance(decoding, Decoding | None):
        raise ValueError(f"decoding={decoding!r:.80} is no Decoding; make one, or use keywords")
    decoding = with_keywords(decoding or Decoding(), options)
    texts = _texts(questions)
    model, method = decoder(model, method)
    job = Job.of(model, decoding, flow=flow, tokenizer=tokenizer, effects=effects)
    numbers = _numbers(question_numbers, samples, len(texts), decoding.n)
    rows = job.rows(texts, *numbers, _starts(continued, len(texts)))
    job = with_slots(job, rows) if method != "vllm" else job
    with nullcontext() if save_to is None else LogLock(save_to):
        return _all_traces(job, method, rows, save_to, progress)


def each_response(
    model: Any, questions: Sequence[Any], decoding: Decoding, *, question_numbers: Sequence[int]
) -> Generator[tuple[int, Trace], None, None]:
    """The traces that `generate` returns, as they are done, with the place of each.

    Args:
        model: As of `generate`.
        questions: As of `generate`.
        decoding: How responses are decoded.
        question_numbers: As of `generate`.

    Raises:
        ValueError: as of `generate`.
    """
    texts = _texts(questions)
    job = Job.of(model, decoding)
    numbers = _numbers(question_numbers, None, len(texts), decoding.n)
    rows = job.rows(texts, *numbers)
    yield from _new_traces(with_slots(job, rows), "auto", rows, frozenset(), progress=False)


def _all_traces(
    job: Job,
    method: DecodingMethod,
    rows: Sequence[Row],
    save_to: str | os.PathLike[str] | None,
    progress: bool,
) -> list[Trace]:
    """Traces of all rows, those that the log holds among them; new ones are written to it."""
    if save_to is not None:
        refuse_what_settings_lack(job.model)
    log = None if save_to is None else TraceLog(save_to, settings_of(job, method))
    traces = {} if log is None else answered(log, rows, job.decoding)
    if traces and job.effects is not None:
        warnings.warn(
            f"{len(traces)} of {len(rows)} responses are taken from {save_to} as they are, and add "
            "nothing to effects=",
            stacklevel=3,
        )
    with closing(_new_traces(job, method, rows, frozenset(traces), progress)) as new:
        for index, trace in new:
            traces[index] = trace
            if log is not None:
                log.append(trace)
    return [traces[row.index] for row in rows]


def _new_traces(
    job: Job, method: DecodingMethod, rows: Sequence[Row], known: Set[int], progress: bool
) -> Generator[tuple[int, Trace], None, None]:
    """Index and trace of each row that is not known."""
    unknown = [row for row in rows if row.index not in known]
    if not unknown:
        return
    loop = choose_loop(job, method, rows)
    with tqdm(total=len(rows), initial=len(known), unit="response", disable=not progress) as bar:
        n_slots = len(unknown) if method == "vllm" else job.n_slots
        for unit in units(unknown, n_slots):
            with closing(loop(unit)) as decoded:
                for row in decoded:
                    bar.update()
                    yield row.index, job.trace(row)


def _texts(questions: str | Sequence[Any]) -> list[str]:
    asked = [questions] if isinstance(questions, str) else questions
    is_table = hasattr(asked, "columns")  # whose items are the names of its columns
    if isinstance(asked, Mapping | Set) or not hasattr(asked, "__len__") or is_table:
        raise ValueError(
            f"questions={questions!r:.80} is no list; give texts or problems in their order"
        )
    texts = [_text(question) for question in asked]
    if not texts:
        raise ValueError("questions=[] is empty")
    return texts


def _text(question: Any) -> str:
    text = question if isinstance(question, str) else getattr(question, "question", None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{question!r:.80} is no question; a text or a problem is needed")
    return text


def _numbers(
    numbers: Sequence[int] | None, samples: Sequence[int] | None, n_questions: int, n: int
) -> tuple[list[int], list[int]]:
    """What stands for each question in the seeds, and the number of its first sample."""
    numbers = list(range(n_questions) if numbers is None else numbers)
    samples = list([0] * n_questions if samples is None else samples)
    for name, values in {"question_numbers": numbers, "samples": samples}.items():
        if not all(is_whole(value, least=0) for value in values):
            raise ValueError(f"{name}={values!r:.80} must be whole numbers, 0 or above")
    responses = {
        (number, first + sample)
        for number, first in zip(numbers, samples, strict=False)
        for sample in range(n)
    }
    refuse(
        {
            f"{len(numbers)} question_numbers for {n_questions} questions; each needs one of its "
            "own": len(numbers) != n_questions,
            f"{len(samples)} samples for {n_questions} questions; give one each": len(samples)
            != n_questions,
        }
    )
    if len(responses) < n_questions * n:
        raise ValueError(
            f"{len(set(numbers))} question_numbers for {n_questions} questions; each needs one of "
            "its own, or a sample of its own under a shared one"
        )
    return [int(number) for number in numbers], [int(sample) for sample in samples]


def _starts(
    continued: Sequence[Continuation | None] | None, n_questions: int
) -> list[Continuation] | None:
    """What the responses to each question go on from."""
    if continued is None:
        return None
    listed = list(continued)
    refuse(
        {
            f"{len(listed)} continued for {n_questions} questions; give one each, None where a "
            "response begins": len(listed) != n_questions,
            f"continued={listed!r:.80} must be Continuations or None": not all(
                isinstance(start, Continuation | None) for start in listed
            ),
        }
    )
    return [start or Continuation() for start in listed]
