"""Step-Saliency of long traces: exact, in memory linear in the length, for about one backward pass.

Question: as in `hooks`, how much does the prediction made at position t depend, through attention,
on position k, summed into pairs of steps? With g_t = dL/dz_t the gradient at the head output,

    dL/dA[t, k] = g_t . v_k,        I[t, k] = | A[t, k] * (g_t . v_k) |,

so that A and its gradient are the two tiles that a backward pass through attention forms anyway.
Here they are summed into steps while they exist (`kernels.step_attention`), layer by layer:

    1. forward through the blocks, keeping something of each
    2. logits and objective in chunks of positions, which leaves the gradient at the last block's
       output
    3. blocks from last to first: differentiated and forgotten

What is kept of a block is its graph (``keep="activations"``, as in any backward pass), or its input
(``"inputs"``), from which it is run again with a graph, or input and head outputs (``"heads"``), so
that its attention is not computed again.

Nothing of size pos x pos or pos x vocabulary is ever held. Local objectives let keys and values
pass gradient from their own position alone, for the reason given in `hooks`; everything else is
position-local already, experts and their routing included. Assumes that attention is the only way
between positions.

When it misleads: as `hooks`; and an intervention hooked to this model that carries one position
into another by itself is differentiated like a part of that position.

Source: "Reasoning Fails Where Step Flow Breaks" (ACL 2026), Step-Saliency; the tiling is that of
flash attention (Dao et al., 2022).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from step_saliency.models.hooking import frozen_parameters, hooked_points, module_hook
from step_saliency.models.interrupts import together
from step_saliency.models.turns import owned, skipped_by_others, turn
from step_saliency.models.undisturbed import undisturbed
from step_saliency.options import Keep
from step_saliency.saliency.kernels.step_attention import KernelName
from step_saliency.saliency.kernels.step_attention.types import StepIndex
from step_saliency.saliency.layerwise import (
    AttentionRun,
    LayerwiseModel,
    check_layerwise,
    layerwise_model,
)
from step_saliency.saliency.layerwise.base import first_tensor
from step_saliency.saliency.layerwise.run import HeadOutputs
from step_saliency.saliency.objectives import Custom, Objective
from step_saliency.saliency.padding import PaddedBatch, pad_traces, padded_groups
from step_saliency.saliency.pooling import StepLayout
from step_saliency.trace import Trace

LOGIT_BYTES = {"cpu": 24 * 2**20, "cuda": 256 * 2**20}
"""Size of a chunk of logits in float32, which sets how many positions are unembedded at a time.
From 32 MiB on, the C library would give memory back to the system after each chunk."""
HIDDEN = "hidden_states"
"""Name under which blocks of transformers take the residual."""


def streaming_maps(
    model: nn.Module,
    traces: Sequence[Trace],
    objectives: Sequence[Objective],
    *,
    layouts: Sequence[StepLayout],
    layers: Sequence[int],
    per_head: bool = False,
    offload: bool = False,
    keep: Keep = "inputs",
    kernel: KernelName = "auto",
    padding_side: Literal["left", "right"] = "right",
    progress: bool = False,
) -> list[Float[Tensor, "layer step step"] | Float[Tensor, "layer head step step"]]:
    """Total influence in each pair of steps, of one or several traces in one batch.

    Args:
        model: HookedTransformer, TransformerBridge or a causal transformers model. It is left as
            it was.
        traces: Traces; shorter ones are padded.
        objectives: What is differentiated, for each trace; all local or none.
        layouts: Where rows and columns belong, for each trace.
        layers: Model layers, in the order of the maps. Blocks below the lowest are not
            differentiated.
        per_head: Keep heads apart instead of averaging over them.
        offload: Keep the blocks' inputs in main memory instead of the device's.
        keep: What is kept of each block until it is differentiated (module docstring); changes
            memory and speed. With ``offload`` it is the inputs.
        kernel: Implementation of attention; see `kernels.step_attention.load_kernel`.
        padding_side: Side of the padding; makes no difference to the maps.
        progress: Show a progress bar.

    Returns:
        For each trace ``layer step step``, or ``layer head step step``, in float32 or better, on
        the CPU: sums over pairs of positions, before `pooling.normalise`.

    Raises:
        ValueError: a model, option or hook that this path cannot honour, or logits or an objective
            that are not finite.
    """
    _check_jobs(traces, objectives, layouts)
    layerwise = layerwise_model(model)
    maps: list[Tensor] = []
    with (
        turn(model, alone="waits"),
        undisturbed(model),
        together(torch.inference_mode(False), frozen_parameters(model)),
    ):
        check_layerwise(layerwise, traces[0].tokens)
        for group in padded_groups([len(trace.tokens) for trace in traces]):
            batch = pad_traces(traces[group], layouts[group], padding_side)
            run = AttentionRun(
                kernel=kernel,
                spans=None if batch.unpadded else batch.spans,
                local=objectives[0].local,
                per_head=per_head,
                copies=bool(hooked_points(model)),
            )
            with together(layerwise.step_attention(run)):
                calls, resid = record_blocks(
                    layerwise,
                    batch,
                    run,
                    lowest=min(layers),
                    offload=offload,
                    keep="inputs" if offload else keep,
                )
                gradient = loss_gradient(layerwise, resid, batch, objectives[group])
                del resid
                totals = differentiate_blocks(
                    calls, gradient, run, batch.steps, layers, progress=progress
                )
            for row, layout in enumerate(layouts[group]):
                cropped = [_crop(totals[layer][row], layout.n_steps, per_head) for layer in layers]
                maps.append(torch.stack(cropped))
    return maps


@dataclass(eq=False)
class BlockCall:
    """One block, what it was called with, and what is kept of the call.

    Attributes:
        copies: Whether the block is handed a copy of the residual, which hooks may change in place.
        output: What it returned, with its graph; None if it has to run again.
        heads: Head outputs for that, if they are kept.
    """

    block: nn.Module
    resid: Float[Tensor, "batch pos d_model"]
    device: torch.device
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    copies: bool = False
    output: Float[Tensor, "batch pos d_model"] | None = None
    heads: HeadOutputs = field(default_factory=HeadOutputs)

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        return first_tensor(self.block(self.handed(resid), *self.args, **self.kwargs))

    def handed(
        self, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the block is called with in place of the residual."""
        return resid.clone() if self.copies else resid


@torch.enable_grad()
def record_blocks(
    layerwise: LayerwiseModel,
    batch: PaddedBatch,
    run: AttentionRun,
    *,
    lowest: int = 0,
    offload: bool = False,
    keep: Keep = "inputs",
) -> tuple[list[BlockCall], Float[Tensor, "batch pos d_model"]]:
    """Run the blocks, keeping something of each.

    Args:
        layerwise: The model.
        batch: Tokens.
        run: Options of step attention.
        lowest: Lowest layer that is mapped; of blocks below it, no more than the input is kept.
        offload: Whether that is kept in main memory.
        keep: What is kept.

    Returns:
        The calls of all blocks, and what the last returned.
    """
    calls: list[BlockCall] = []
    last: list[Tensor] = []

    def before(
        block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call = _block_call(block, args, kwargs, copies=run.copies)
        resid, is_mapped = call.resid, len(calls) >= lowest
        run.is_watched = is_mapped and keep == "activations"
        resid.requires_grad_(run.is_watched)
        run.record = call.heads if is_mapped and keep == "heads" else None
        calls.append(call)
        if offload:
            call.resid = resid.to("cpu")
        resid = call.handed(resid)
        return ((resid, *args[1:]), kwargs) if args else (args, {**kwargs, HIDDEN: resid})

    def after(_block: nn.Module, _args: Any, out: Any) -> None:
        resid = first_tensor(out)
        calls[-1].output = resid if run.is_watched and resid.requires_grad else None
        last[:] = [resid.detach()]

    with together(
        *(
            # before hooks of the user's, which act on what is kept when the block runs again
            module_hook(
                block.register_forward_pre_hook,
                skipped_by_others(before),
                with_kwargs=True,
                prepend=True,
            )
            for block in layerwise.blocks
        ),
        *(module_hook(block.register_forward_hook, owned(after)) for block in layerwise.blocks),
    ):
        positions = None if batch.positions is None else batch.positions.to(layerwise.device)
        layerwise.run_blocks(batch.tokens.to(layerwise.device), positions)
    run.record = None
    return calls, last[0]


def _block_call(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, copies: bool
) -> BlockCall:
    """A call whose residual has no history."""
    rest = {name: value for name, value in kwargs.items() if args or name != HIDDEN}
    resid = args[0] if args else kwargs[HIDDEN]
    return BlockCall(block, resid.detach(), resid.device, args[1:], rest, copies)


def loss_gradient(
    layerwise: LayerwiseModel,
    resid: Float[Tensor, "batch pos d_model"],
    batch: PaddedBatch,
    objectives: Sequence[Objective],
) -> Float[Tensor, "batch pos d_model"]:
    """Gradient of the objectives at the last block's output, from a few positions' logits at a
    time.

    Raises:
        ValueError: logits that are read, an objective or its gradient are not finite.
    """
    gradient = torch.zeros_like(resid)
    for sequence, objective in enumerate(objectives):
        start, stop = batch.spans[sequence]
        tokens = batch.tokens[sequence, start:stop].to(resid.device)
        for queries in _query_chunks(layerwise, objective, len(tokens)):
            queries = queries.to(resid.device)
            part = _chunk_gradient(
                layerwise, resid[sequence, start + queries], tokens, queries, objective
            )
            gradient[sequence, start + queries] = part
    return gradient


@torch.enable_grad()
def _chunk_gradient(
    layerwise: LayerwiseModel,
    resid: Float[Tensor, "query d_model"],
    tokens: Int[Tensor, "pos"],
    queries: Int[Tensor, "query"],
    objective: Objective,
) -> Float[Tensor, "query d_model"]:
    resid = resid.detach().requires_grad_()
    logits = layerwise.logits(resid)
    # the smallest and the largest, since a mask of all logits would take as much memory again
    if not all(limit.isfinite() for limit in logits.detach().aminmax()):
        raise ValueError(
            f"the model's logits are not finite between positions {int(queries.min())} and "
            f"{int(queries.max())}; no gradient can be taken"
        )
    tokens, queries = tokens.to(logits.device), queries.to(logits.device)
    if isinstance(objective, Custom):
        loss = objective.total(logits, tokens)
        (gradient,) = torch.autograd.grad(loss, resid)
    else:
        loss, at_logits = objective.gradient(logits, tokens, queries)
        (gradient,) = torch.autograd.grad(logits, resid, at_logits)
    if not (loss.isfinite() and gradient.isfinite().all()):
        raise ValueError(
            f"objective {objective.name} or its gradient is not finite between positions "
            f"{int(queries.min())} and {int(queries.max())}"
        )
    return gradient


def _query_chunks(
    layerwise: LayerwiseModel, objective: Objective, n_tokens: int
) -> Iterator[Int[Tensor, "query"]]:
    queries = objective.queries(n_tokens)
    if isinstance(objective, Custom):
        yield queries
        return
    chunk_bytes = LOGIT_BYTES.get(layerwise.device.type, LOGIT_BYTES["cuda"])
    yield from queries.split(max(1, chunk_bytes // (4 * layerwise.vocab)))


def differentiate_blocks(
    calls: list[BlockCall],
    gradient: Float[Tensor, "batch pos d_model"],
    run: AttentionRun,
    steps: StepIndex,
    layers: Sequence[int],
    *,
    progress: bool = False,
) -> dict[int, Float[Tensor, "batch heads_out step step"]]:
    """Differentiate blocks from last to first, run again if need be; consumes `calls`.

    Args:
        calls: What `record_blocks` kept.
        gradient: Gradient at the last block's output.
        run: Options of step attention.
        steps: Steps of rows and columns.
        layers: Layers to be mapped.
        progress: Show a progress bar.

    Returns:
        Totals by layer, averaged over heads unless ``run.per_head``.
    """
    totals: dict[int, Tensor] = {}
    run.is_watched = True
    upper = range(min(layers), len(calls))
    for layer in tqdm(reversed(upper), total=len(upper), desc="layers", disable=not progress):
        run.steps, run.totals = (steps if layer in layers else None), None
        gradient = _differentiate(calls.pop(), gradient, run)
        if layer in layers:
            totals[layer] = _no_totals(steps, run) if run.totals is None else run.totals
    return totals


def _no_totals(steps: StepIndex, run: AttentionRun) -> Float[Tensor, "batch heads_out step step"]:
    """Of a layer whose attention nothing depends on, as where a hook cuts it off."""
    heads_out = run.n_heads if run.per_head else 1
    return torch.zeros(len(steps.row_steps), heads_out, steps.n_steps, steps.n_steps)


@torch.enable_grad()
def _differentiate(
    call: BlockCall, gradient: Float[Tensor, "batch pos d_model"], run: AttentionRun
) -> Float[Tensor, "batch pos d_model"]:
    resid, output = call.resid, call.output
    if output is None:
        resid = resid.to(call.device).detach().requires_grad_()
        call.resid, run.replay = resid, call.heads
        output = call(resid)
    call.output = None
    if not output.requires_grad:
        return torch.zeros_like(resid)
    before, _ = torch.autograd.grad(
        output, (resid, run.anchor), gradient.to(output), allow_unused=True
    )
    return torch.zeros_like(resid) if before is None else before


def _check_jobs(
    traces: Sequence[Trace], objectives: Sequence[Objective], layouts: Sequence[StepLayout]
) -> None:
    if not traces or not len(traces) == len(objectives) == len(layouts):
        raise ValueError(
            f"{len(traces)} traces, {len(objectives)} objectives and {len(layouts)} layouts; one "
            "of each is needed for every trace"
        )
    if len({objective.local for objective in objectives}) > 1:
        raise ValueError("objectives must be local all or none; map the traces in two runs")
    for trace, layout in zip(traces, layouts, strict=True):
        if len(trace.tokens) != len(layout.key_steps):
            raise ValueError(
                f"a layout of {len(layout.key_steps)} positions for a trace of {len(trace.tokens)}"
            )


def _crop(
    totals: Float[Tensor, "heads_out padded padded"], n_steps: int, per_head: bool
) -> Float[Tensor, "*head step step"]:
    totals = totals[:, :n_steps, :n_steps].cpu()
    return totals if per_head else totals[0]
