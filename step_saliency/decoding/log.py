"""A log of generations as `generate` keeps it: its settings, and the rows that it answers."""

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from step_saliency.decoding.job import Job
from step_saliency.decoding.rows import Row
from step_saliency.intervene.session import is_attached_to
from step_saliency.models.facts import backend_of
from step_saliency.models.hooking import hooked_points
from step_saliency.models.identity import all_weights_digest, origin_of, weights_digest
from step_saliency.options import Decoding, DecodingMethod
from step_saliency.storage.described import described
from step_saliency.storage.trace_log import TraceLog
from step_saliency.trace import Trace
from step_saliency.vllm.loaded import LoadedEngine


def settings_of(job: Job, method: DecodingMethod) -> dict[str, Any]:
    """What the texts depend on, in JSON types: a file format, compared when a log is taken up."""
    engine = isinstance(job.model, LoadedEngine)
    return {
        "model": _model_settings(job.model),
        **({} if engine else {"all_weights": all_weights_digest(job.model)}),
        "flow": described(job.flow),
        "method": method,
        **described(job.sampler),
        "max_new_tokens": job.decoding.max_new_tokens,
        "seed": job.decoding.seed,
        "system": job.decoding.system,
        "format": job.decoding.format,
        "splitter": described(job.decoding.splitter),
        "stop_tokens": sorted(job.rules.tokens),
        "stop_texts": list(job.rules.texts),
    }


def refuse_what_settings_lack(model: Any) -> None:
    """Refuse a model under hooks or edits, of which a log would know nothing.

    Raises:
        ValueError: there are some.
    """
    if isinstance(model, LoadedEngine):
        return
    if is_attached_to(model):
        raise ValueError(
            "save_to= keeps answers by the settings of the call, which know nothing of edits that "
            "are attached already; give them as flow="
        )
    hooked = hooked_points(model)
    if hooked:
        raise ValueError(
            "save_to= keeps answers by the settings of the call, which know nothing of hooks at "
            f"{', '.join(hooked[:3])}; give edits as flow=, or leave save_to= out"
        )


def _model_settings(model: Any) -> dict[str, Any]:
    if isinstance(model, LoadedEngine):
        return model.facts
    is_plain = isinstance(model, PreTrainedModel)
    return {
        "class": "transformers" if is_plain else backend_of(model),
        "origin": None if is_plain else described(origin_of(model)),
        "weights": weights_digest(model),
        "dtype": str(next(model.parameters()).dtype),
    }


def answered(log: TraceLog, rows: Iterable[Row], decoding: Decoding) -> dict[int, Trace]:
    """Traces of these rows that the log holds, by index of the row.

    Args:
        log: The log.
        rows: The rows.
        decoding: How they are decoded.

    Raises:
        ValueError: it holds an answer to another question of the same number, or one that followed
            another prompt or was begun otherwise.
    """
    by_name = {(row.number, row.sample): row for row in rows}
    traces: dict[int, Trace] = {}
    for trace in log:
        row = by_name.get((trace.meta.get("question_index", -1), trace.meta.get("sample", -1)))
        if row is None:
            continue
        if trace.question != row.question:
            raise ValueError(
                f"{log.path} holds an answer to {trace.question[:60]!r}, but question {row.number} "
                f"is {row.question[:60]!r} now; choose another file"
            )
        if not _follows_prompt(trace, row):
            raise ValueError(
                f"{log.path} holds a response to question {row.number} that followed another "
                "prompt, as of another chat template or system prompt; choose another file"
            )
        if not _begins_as(trace, row, decoding):
            raise ValueError(
                f"{log.path} holds a response to question {row.number} that went on from other "
                "words, or under another seed or limit; choose another file"
            )
        traces[row.index] = trace
    return traces


def _begun(trace: Trace) -> tuple[int, int]:
    """Where the prompt of a trace ends, and where what was decoded begins."""
    stop = len(trace) - int(trace.meta.get("response_tokens", 0))
    return stop - int(trace.meta.get("continued_tokens", 0)), stop


def _follows_prompt(trace: Trace, row: Row) -> bool:
    """Whether a trace has this prompt; one that does not say how long its own was may have it."""
    known = "response_tokens" in trace.meta
    return not known or trace.tokens[: _begun(trace)[0]].tolist() == row.prompt


def _begins_as(trace: Trace, row: Row, decoding: Decoding) -> bool:
    """Whether a trace was begun with these words, and under this seed and limit."""
    start, stop = _begun(trace)
    return (
        trace.meta.get("seed", row.seed) == row.seed
        and trace.meta.get("max_new_tokens", decoding.max_new_tokens) == row.limit
        and trace.tokens[start:stop].tolist() == row.continued
    )
