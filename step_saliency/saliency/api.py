"""Step-Saliency of a trace: objective -> token influence -> pooling -> `StepSaliency`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, Unpack, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.doctor import require_sound
from step_saliency.models.facts import backend_of, n_ctx, n_layers
from step_saliency.models.precision import check_gradients
from step_saliency.models.turns import turn
from step_saliency.models.undisturbed import undisturbed
from step_saliency.models.windows import windows
from step_saliency.options import (
    KEEPS,
    METHODS,
    POOLS,
    Keep,
    Method,
    ObjectiveName,
    Offload,
    Pool,
    Quantity,
    Rows,
    check_option,
    refuse,
)
from step_saliency.saliency import hooks
from step_saliency.saliency.estimate import Path, choose_path, say_slower
from step_saliency.saliency.given import layer_numbers, whole_numbers
from step_saliency.saliency.layerwise import mismatch
from step_saliency.saliency.objectives import (
    LogitDiff,
    NextToken,
    Objective,
    check_objective,
    resolve_objective,
)
from step_saliency.saliency.pooling import (
    StepLayout,
    normalise,
    step_layout,
    sum_tokens,
)
from step_saliency.saliency.result import StepSaliency
from step_saliency.saliency.streaming import streaming_maps
from step_saliency.trace import Region, Trace


class MapOptions(TypedDict, total=False):
    """Keyword arguments of `step_saliency`, by type."""

    objective: ObjectiveName | Objective | Callable[..., Tensor]
    method: Method
    pool: Pool
    rows: Rows
    per_head: bool
    layers: Sequence[int] | None
    answer: Sequence[int] | None
    answer_tokens: tuple[int, int] | None
    offload: Offload
    keep: Keep


@overload
def step_saliency(model: Any, trace: Trace, **options: Unpack[MapOptions]) -> StepSaliency: ...


@overload
def step_saliency(
    model: Any, trace: Sequence[Trace], **options: Unpack[MapOptions]
) -> list[StepSaliency]: ...


def step_saliency(
    model: Any,
    trace: Trace | Sequence[Trace],
    *,
    objective: ObjectiveName | Objective | Callable[..., Tensor] = "next_token",
    method: Method = "auto",
    pool: Pool = "mean",
    rows: Rows = "query",
    per_head: bool = False,
    layers: Sequence[int] | None = None,
    answer: Sequence[int] | None = None,
    answer_tokens: tuple[int, int] | None = None,
    offload: Offload = "auto",
    keep: Keep = "auto",
) -> StepSaliency | list[StepSaliency]:
    """Map how much the predictions of each step depend, through attention, on each earlier step.

    The influence of key position k on the prediction at query position t, in layer l, is
    I[t, k] = mean over heads of |A[h, t, k] * dL_t / dA[h, t, k]| ("Reasoning Fails Where Step Flow
    Breaks", ACL 2026), pooled over the positions of two steps. Keys outside the sliding window of a
    layer are no pairs of it.

    Args:
        model: HookedTransformer or TransformerBridge. It is left as it was; hooks that are on it,
            such as interventions, take part. Streaming lacks some of their points: with hooks at
            attention scores or patterns, inside a bridge's joint projections, at ``ln_final``,
            ``unembed`` or the model as a whole, hooks are the only path,
            in memory that grows with the square of the length. Threads that use one model take
            turns, and dropout and autocast are off meanwhile (a warning says so).
        trace: Tokens and steps; several traces are mapped as one padded batch where the streaming
            path is taken.
        objective: ``"next_token"`` (each position's own cross-entropy, exact), ``"log_odds"``,
            ``"sequence"``, ``"answer"``, ``"logit_diff"``, an `Objective`, or a function of
            (logits ``pos vocab``, tokens ``pos``) that returns a scalar.
        method: ``"hooks"`` caches patterns and their gradients (memory grows with the square of the
            length), ``"streaming"`` goes layer by layer in linear memory, ``"auto"`` chooses by
            length, free memory, and what the model and the hooks on it allow.
        pool: ``"mean"``, ``"mass"``, ``"block_mean"`` or ``"sum"``, see
            `step_saliency.saliency.pooling`.
        rows: ``"query"`` files row t under the step that position t is in, ``"target"`` under the
            step of the token that is predicted there.
        per_head: Keep heads apart.
        layers: Model layers to map, in the order of the maps; all by default. Negative ones count
            from the end.
        answer: Positions of the answer's tokens, for ``"answer"`` and ``"logit_diff"``, of a single
            trace; by default the tokens of the summary, of each trace.
        answer_tokens: (correct, wrong) token ids for ``"logit_diff"``, read where the first answer
            token is predicted; by default that token against the largest other logit.
        offload: Whether the streaming path keeps what it saves between layers in main memory
            instead of the GPU's; ``"auto"`` does where it fits in no other way. Makes no difference
            to the maps, nor on a CPU. Where ``method="auto"`` takes hooks there is nothing to
            offload and the option does nothing; with ``method="hooks"`` it is refused.
        keep: What the streaming path keeps of each block between its forward and backward pass:
            ``"activations"`` (fastest), ``"heads"`` or ``"inputs"`` (linear memory, blocks run
            twice), or ``"auto"``, the fastest that takes no more than a quarter of the free memory.
            Makes no difference to the maps. By hooks as of ``offload``.

    Returns:
        Maps, ``layer step step`` or ``layer head step step``, on the CPU; a list of them for
        several traces. The unit is that of the objective (nats, or logits).

    Raises:
        ValueError: an unknown option, a model in float16 or not in order (see
            `step_saliency.models.doctor`), a layer that it lacks, a trace longer
            than the context or with tokens outside the vocabulary, an objective without its
            answer, an answer of one trace for several, logits that are not finite, or a run that
            would not fit into memory (see `step_saliency.saliency.estimate`).
    """
    backend_of(model)
    check_option("method", method, METHODS)
    check_option("pool", pool, POOLS)
    _check_streamed(method, keep=keep, offload=offload)
    traces = _listed(trace)
    if answer is not None and len(traces) > 1:
        raise ValueError(
            f"answer={answer!r:.80} gives positions in one trace, and {len(traces)} traces were "
            "given; map them one at a time, or leave it out for the summary of each"
        )
    check_gradients(model)
    for one in traces:
        check_tokens(model, one.tokens)
    mapped = layer_numbers(layers, n_layers(model))
    given = _checked_answer(objective, answer, answer_tokens)
    jobs = [_job(one, _resolve(model, objective, one, *given), rows) for one in traces]
    with turn(model, alone="waits"), undisturbed(model):
        require_sound(model)
        choose = partial(
            choose_path,
            model,
            [len(one.tokens) for one in traces],
            objective=jobs[0].objective,
            layers=mapped,
        )
        path = choose(method=method, offload=offload, keep=keep)
        if method == "auto" and path.name == "streaming":
            reason = mismatch(model, traces[0].tokens)
            if reason is not None:
                say_slower(reason, stacklevel=3)
                path = choose(method="hooks")
        totals = _totals(model, jobs, path, layers=mapped, per_head=per_head)
    of_layers = windows(model)
    of_mapped = tuple(of_layers[layer] for layer in mapped)
    results = [
        StepSaliency(
            maps=normalise(total, job.layout, pool, windows=of_mapped),
            trace=job.trace,
            layers=mapped,
            n_layers=n_layers(model),
            objective=job.objective.name,
            method=path.name,
            pool=pool,
            rows=rows,
            last_row=job.objective.reads_last(len(job.trace)),
            windows=of_mapped,
        )
        for total, job in zip(totals, jobs, strict=True)
    ]
    return results[0] if isinstance(trace, Trace) else results


def token_map(
    model: Any,
    trace: Trace,
    *,
    layer: int,
    objective: ObjectiveName | Objective | Callable[..., Tensor] = "next_token",
    per_head: bool = False,
    quantity: Quantity = "saliency",
    answer: Sequence[int] | None = None,
    answer_tokens: tuple[int, int] | None = None,
) -> Float[Tensor, "*head query key"]:
    """Token influence of one layer, before any pooling.

    It is computed by hooks, in memory that grows with the square of the length and has to be free
    beforehand. Attention alone is read in a forward pass, without a gradient or this check.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: Tokens and steps.
        layer: Model layer; negative counts from the end.
        objective: As in `step_saliency`; for attention it is not evaluated.
        per_head: Keep heads apart instead of averaging over them.
        quantity: ``"saliency"`` |A * dA|, ``"attention"`` A, ``"gradient"`` |dA|, or
            ``"score_gradient"`` |dL/dscore|, the scores being what the softmax takes.
        answer: As in `step_saliency`.
        answer_tokens: As in `step_saliency`.

    Returns:
        ``query key``, or ``head query key`` with ``per_head``, on the CPU. Row t stands for the
        prediction of token t + 1; the last row of a local objective is empty.

    Raises:
        ValueError: as `step_saliency`.
    """
    backend_of(model)
    trace = _as_trace(trace)
    differentiates = quantity != "attention"
    if differentiates:
        check_gradients(model)
    check_tokens(model, trace.tokens)
    (mapped,) = layer_numbers([layer], n_layers(model))

    def keep(influence: Float[Tensor, "head query key"]) -> Float[Tensor, "*head query key"]:
        return (influence if per_head else influence.mean(0)).cpu()

    given = _checked_answer(objective, answer, answer_tokens)
    check_objective(objective)
    scalar = _resolve(model, objective, trace, *given) if differentiates else NextToken()
    with turn(model, alone="waits"), undisturbed(model):
        if differentiates:
            choose_path(model, len(trace.tokens), method="hooks", objective=scalar, layers=[mapped])
        maps = hooks.reduce_influence(
            model, trace.tokens, scalar, layers=[mapped], reduce=keep, quantity=quantity
        )
    return maps[mapped]


def _listed(given: Any) -> list[Trace]:
    """The traces that are to be mapped.

    Raises:
        ValueError: there are none, or something else is given.
    """
    is_many = isinstance(given, Iterable) and not isinstance(given, Trace | str | Mapping | Tensor)
    traces = [_as_trace(one) for one in given] if is_many else [_as_trace(given)]
    if not traces:
        raise ValueError("no trace was given")
    return traces


def _as_trace(given: object) -> Trace:
    """What is given, if it is a trace.

    Raises:
        ValueError: it is something else; with how to come by a trace.
    """
    if not isinstance(given, Trace):
        raise ValueError(
            f"a {type(given).__name__} is no Trace; after the model comes a trace, as "
            "Trace.from_text(model.tokenizer, question=..., response=...) or "
            "problem.trace(model.tokenizer) makes it"
        )
    return given


def _check_streamed(method: Method, *, keep: Keep, offload: Offload) -> None:
    """Raise ValueError for options of the streaming path where hooks are asked for."""
    check_option("keep", keep, KEEPS)
    given = {"keep": keep, "offload": offload}
    refuse(
        {
            f"{name}={value!r} is of the streaming path; with method='hooks' leave it out": (
                method == "hooks" and value != "auto"
            )
            for name, value in given.items()
        }
    )


def check_tokens(model: Any, tokens: Int[Tensor, "pos"]) -> None:
    """Raise ValueError for tokens that the model cannot read or that predict nothing."""
    if len(tokens) > n_ctx(model):
        raise ValueError(
            f"the trace has {len(tokens)} tokens and the model's context {n_ctx(model)}; shorten "
            "the trace or load the model with a longer context"
        )
    if len(tokens) < 2:
        raise ValueError("the trace has one token, which predicts nothing; at least two are needed")
    vocab = model.cfg.d_vocab
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocab:
        raise ValueError(
            f"token ids run from {int(tokens.min())} to {int(tokens.max())}, outside the model's "
            f"vocabulary of {vocab}; was the trace made with another tokenizer?"
        )


def answer_positions(trace: Trace) -> list[int]:
    """Positions of the summary's tokens, where the answer is given; empty without a summary.

    The first position of a trace is none of them: nothing predicts it.
    """
    return [
        position
        for step in trace.steps
        if step.region == Region.SUMMARY
        for position in range(max(1, step.start), step.stop)
    ]


def _resolve(
    model: Any,
    objective: ObjectiveName | Objective | Callable[..., Tensor],
    trace: Trace,
    answer: Sequence[int] | None,
    answer_tokens: tuple[int, int] | None,
) -> Objective:
    positions = answer_positions(trace) if answer is None else answer
    scalar = resolve_objective(
        objective, answer=positions, answer_tokens=answer_tokens, tokens=trace.tokens
    )
    scalar.queries(len(trace.tokens))  # raises where the trace lacks a position that is read
    _check_vocabulary(model, scalar)
    return scalar


def _checked_answer(
    objective: object, answer: Sequence[int] | None, answer_tokens: Sequence[int] | None
) -> tuple[list[int] | None, tuple[int, int] | None]:
    """Positions and token ids of an answer as plain numbers, where they are given.

    Raises:
        ValueError: the objective does not use them, or they are none.
    """
    positions = None if answer is None else whole_numbers(answer, least=1)
    ids = None if answer_tokens is None else whole_numbers(answer_tokens, least=0)
    are_two = ids is not None and len(ids) == len(set(ids)) == 2
    name = objective if isinstance(objective, str) else "a function or an Objective"
    refuse(
        {
            f"objective={name!r} uses no answer=; 'answer' and 'logit_diff' do": (
                answer is not None and objective not in ("answer", "logit_diff")
            ),
            f"objective={name!r} uses no answer_tokens=; 'logit_diff' does": (
                answer_tokens is not None and objective != "logit_diff"
            ),
            f"answer={answer!r} must be a sequence of positions from 1 on; nothing predicts the "
            "first token": answer is not None and positions is None,
            f"answer_tokens={answer_tokens!r} must be two different token ids, 0 or above": (
                answer_tokens is not None and not are_two
            ),
        }
    )
    return positions, (ids[0], ids[1]) if ids else None


def _check_vocabulary(model: Any, objective: Objective) -> None:
    """Raise ValueError for token ids that the model lacks."""
    ids = (objective.correct, objective.wrong) if isinstance(objective, LogitDiff) else ()
    beyond = [token for token in ids if token is not None and token >= model.cfg.d_vocab]
    if beyond:
        raise ValueError(
            f"token {beyond[0]} of {objective} is outside the model's vocabulary of "
            f"{model.cfg.d_vocab}"
        )


@dataclass(frozen=True)
class _Job:
    """One trace to be mapped."""

    trace: Trace
    objective: Objective
    layout: StepLayout


def _job(trace: Trace, objective: Objective, rows: Rows) -> _Job:
    layout = step_layout(trace.step_ids, rows=rows, last_row=objective.reads_last(len(trace)))
    return _Job(trace, objective, layout)


def _totals(
    model: Any, jobs: Sequence[_Job], path: Path, *, layers: Sequence[int], per_head: bool
) -> list[Float[Tensor, "layer *head _ _"]]:
    """Influence summed over each pair of steps of each trace."""
    if path.name == "hooks":
        return [_by_hooks(model, job, layers=layers, per_head=per_head) for job in jobs]
    return streaming_maps(
        model,
        [job.trace for job in jobs],
        [job.objective for job in jobs],
        layouts=[job.layout for job in jobs],
        layers=layers,
        per_head=per_head,
        offload=path.offload,
        keep=path.keep,
    )


def _by_hooks(
    model: Any, job: _Job, *, layers: Sequence[int], per_head: bool
) -> Float[Tensor, "layer *head step step"]:
    def pool(influence: Float[Tensor, "head query key"]) -> Float[Tensor, "*head step step"]:
        totals = sum_tokens(influence, job.layout)
        return (totals if per_head else totals.mean(0)).cpu()

    maps = hooks.reduce_influence(
        model, job.trace.tokens, job.objective, layers=layers, reduce=pool
    )
    return torch.stack([maps[layer] for layer in layers])
