"""Decode by a loaded vLLM engine, which has batches, slots and kernels of its own.

Responses end where they would end by the other loops: the engine is told the stop tokens and the
length, and texts that end a response are looked for in its tokens as they come. Greedy texts are
those of the other loops up to rounding. Samples are drawn by the engine's own random numbers, whose
seed comes from (seed, question, sample): in any batch the same text again, but another one than by
the other loops.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any
from uuid import uuid4

import numpy as np

from step_saliency.decoding.job import Job
from step_saliency.decoding.rows import Row, StopRules
from step_saliency.options import Decoding, DecodingMethod, refuse
from step_saliency.vllm.loaded import FETCHED_AFTER, LoadedEngine, prompt_of
from step_saliency.vllm.options import extra_args

Rows = Generator[Row, None, None]

COLDEST_IN_ENGINE = 0.01
"""Temperature below which vLLM takes this one instead."""


def decoder(model: Any, method: DecodingMethod) -> tuple[Any, DecodingMethod]:
    """What decodes, and how: engines by ``"vllm"``, and nothing else.

    Args:
        model: What was given.
        method: What was asked for.

    Raises:
        ValueError: an engine, and a method of models; or the other way round.
    """
    engine = LoadedEngine.of(model)
    if engine is None and method == "vllm":
        raise ValueError(
            "method='vllm' needs a loaded engine, a vllm.LLM or its LLMEngine, and the model is of "
            f"type {type(model).__name__}"
        )
    if engine is None:
        return model, method
    if method not in ("auto", "vllm"):
        raise ValueError(
            f"method={method!r} does not go with a vLLM engine; method='vllm' decodes by it"
        )
    return engine, "vllm"


def engine_loop(job: Job) -> Callable[[Sequence[Row]], Rows]:
    """Decode by a loaded engine; it takes all rows at once.

    Raises:
        ValueError: the flow, or an option, is none that the engine takes.
    """
    engine: LoadedEngine = job.model
    _check_options(job.decoding)
    _request_options(job, Row(0, 0, 0, "a question", [0], seed=0, limit=1))
    if job.flow is not None:
        engine.require_flows()

    def decode_rows(rows: Sequence[Row]) -> Rows:
        with engine.alone():
            yield from _decoded(job, engine, rows)

    return decode_rows


def _check_options(decoding: Decoding) -> None:
    refuse(
        {
            f"batch_size={decoding.batch_size}: an engine has slots of its own (max_num_seqs, set "
            "when it is loaded); leave batch_size out": decoding.batch_size
            != Decoding().batch_size,
            f"temperature={decoding.temperature}: a vLLM engine draws at {COLDEST_IN_ENGINE} or "
            "above; 0 decodes greedily": 0 < decoding.temperature < COLDEST_IN_ENGINE,
        }
    )


def _request_options(job: Job, row: Row) -> dict[str, Any]:
    """``extra_args`` of a row: its flow, and how its steps are read."""
    if job.flow is None:
        return extra_args(None)
    splitter = job.decoding.splitter
    if not isinstance(splitter, str):
        raise ValueError(
            f"splitter={splitter!r:.80} cannot be sent to an engine that decodes with a flow; name "
            "one, or use method='fast'"
        )
    return extra_args(
        job.flow,
        question=row.question,
        n_prompt=len(row.prompt),
        format=job.decoding.format,
        splitter=splitter,
    )


def _decoded(job: Job, engine: LoadedEngine, rows: Sequence[Row]) -> Rows:
    running: dict[str, Row] = {}
    ended: list[str] = []
    prefix, inner = uuid4().hex[:12], {}
    try:
        for row in rows:
            name = f"{prefix}-{row.index}"
            prompt, params = prompt_of(row.start), _sampling_params(job, row)
            inner[name] = engine.engine.add_request(name, prompt, params)
            running[name] = row
        while running:
            for output in engine.engine.step():
                if output.request_id not in running:
                    continue
                row = running[output.request_id]
                _grow(row, output, job.rules)
                if row.is_done:
                    del running[output.request_id]
                    if not output.finished:
                        engine.engine.abort_request([output.request_id])
                    ended.append(inner[output.request_id])
                    yield row
                    ended = _counted(job, engine, ended, at_least=FETCHED_AFTER)
    finally:
        engine.engine.abort_request(list(running))
        _counted(job, engine, [*ended, *(inner[name] for name in running)])


def _sampling_params(job: Job, row: Row) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    decoding = job.decoding
    room = job.rules.context - len(row.start)
    is_read = bool(job.rules.texts)
    return SamplingParams(
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k or 0,
        seed=_seed(row) if decoding.temperature > 0 else None,
        max_tokens=min(row.limit, room),
        stop_token_ids=sorted(job.rules.tokens),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if is_read else RequestOutputKind.FINAL_ONLY,
        extra_args=_request_options(job, row),
    )


def _seed(row: Row) -> int:
    """Where it goes on there are other numbers, since an engine cannot skip those before."""
    continued = [len(row.continued)] if row.continued else []
    seeds = np.random.SeedSequence((row.seed, row.number, row.sample, *continued))
    return int(seeds.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _grow(row: Row, output: Any, rules: StopRules) -> None:
    """Add tokens that came, up to the one that ends the response."""
    made = output.outputs[0]
    for token in made.token_ids:
        if not row.is_done:
            row.append(token, rules)
    if output.finished and not row.is_done:
        if made.finish_reason != "length":
            raise ValueError(
                f"the engine gave up the response to {row.question!r:.60} after "
                f"{len(row.response)} tokens: {made.finish_reason}"
            )
        row.cut = True


def _counted(
    job: Job, engine: LoadedEngine, requests: list[str], *, at_least: int = 1
) -> list[str]:
    """Take effects of requests out of the engine; those whose effects are still there."""
    if job.flow is None or len(requests) < at_least:
        return requests
    effects = engine.effects_of(requests)
    if job.effects is not None:
        job.effects.include(effects)
    return []
