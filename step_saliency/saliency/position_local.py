"""One backward pass in place of one for every position, exactly.

Question: with L_t the loss of the prediction at position t, what is dL_t/dA[t, k] for all t at
once? One backward pass of sum_t L_t gives it if keys and values pass gradient on the diagonal only:

    k -> k.detach(),    scores[t, t] += dscore/d(q.k) * q_t . (k_t - k_t.detach())
    v -> v.detach(),    z[t]         += A[t, t] * (v_t - v_t.detach())

Both additions are zero in value. A residual at position t then reaches no loss but L_t, which is
what one backward pass per position would see. Assumes that attention is the only way between
positions. What hooks of others make of keys and values, f(k) in place of k, is differentiated too:
they are handed a copy without history, and the gradient at f(k_t) goes back through f alone, which
has to take each position by itself. Passes that go on from a cache have the queries of the last
positions alone; the diagonal is theirs.
"""

from collections.abc import Iterator
from typing import Any

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from step_saliency.models.facts import attention_scale, n_layers, score_softcap
from step_saliency.models.hooking import NamedHook, live_names, prepended_hooks
from step_saliency.models.interrupts import change, together
from step_saliency.models.queries import query_key_hooks, rotation_hooks, stretched
from step_saliency.models.turns import owned_hooks


@change
def position_local(model: Any, first_layer: int = 0) -> Iterator[None]:
    """Let one backward pass differentiate every position's loss for that position alone.

    Changes no activation, only what gradient passes (module docstring). Of the hooks of others,
    those at scores, pattern and z may do anything; those at keys and values change each position by
    itself.

    Args:
        model: HookedTransformer or TransformerBridge.
        first_layer: Layers below it are left alone.

    Raises:
        ValueError: the model lacks one of the hook points.
    """
    first: list[NamedHook] = []
    last: list[NamedHook] = []
    for layer in range(first_layer, n_layers(model)):
        before, after = _local_layer_hooks(model, layer)
        first += before
        last += after
    with together(
        prepended_hooks(model, owned_hooks(first)), model.hooks(fwd_hooks=owned_hooks(last))
    ):
        yield


def _local_layer_hooks(model: Any, layer: int) -> tuple[list[NamedHook], list[NamedHook]]:
    """Hooks that must run before those of others at the same point, and those that must after."""
    prefix = f"blocks.{layer}.attn."
    query_name, key_name = query_key_hooks(model, layer)
    names = ["hook_v", "hook_z", "hook_attn_scores", "hook_pattern"]
    live_names(model, [query_name, key_name, *(prefix + name for name in names)])
    scale, softcap = attention_scale(model, layer), score_softcap(model)
    seen: dict[str, Tensor] = {}
    keys, values = Through(), Through()

    def keep_query(q: Float[Tensor, "batch query head d_head"], hook: Any) -> None:
        seen["q"] = q.detach()

    def hand_out_keys(
        k: Float[Tensor, "batch key kv_head d_head"], hook: Any
    ) -> Float[Tensor, "batch key kv_head d_head"]:
        return keys.hand_out(k)

    def take_keys(
        k: Float[Tensor, "batch key kv_head d_head"], hook: Any
    ) -> Float[Tensor, "batch key kv_head d_head"]:
        seen["dk"] = keys.take_back(k)
        return k.detach()

    def keep_rotation(turn: Float[Tensor, "batch pos rotary"], hook: Any) -> None:
        seen["length"] = seen.get("length", 0.0) + turn.detach() ** 2

    def hand_out_values(
        v: Float[Tensor, "batch key kv_head d_head"], hook: Any
    ) -> Float[Tensor, "batch key kv_head d_head"]:
        return values.hand_out(v)

    def take_values(
        v: Float[Tensor, "batch key kv_head d_head"], hook: Any
    ) -> Float[Tensor, "batch key kv_head d_head"]:
        seen["dv"] = values.take_back(v)
        return v.detach()

    def pass_scores(
        scores: Float[Tensor, "batch head query key"], hook: Any
    ) -> Float[Tensor, "batch head query key"]:
        dk = stretched(seen.pop("dk"), seen.pop("length", None))
        return pass_key_diagonal(scores, seen.pop("q"), dk, scale, softcap)

    def keep_diagonal(pattern: Float[Tensor, "batch head query key"], hook: Any) -> None:
        seen["diagonal"] = _own(pattern.detach())

    def pass_values(
        z: Float[Tensor, "batch query head d_head"], hook: Any
    ) -> Float[Tensor, "batch query head d_head"]:
        return pass_value_diagonal(z, seen.pop("diagonal"), seen.pop("dv"))

    before: list[NamedHook] = [
        (key_name, hand_out_keys),
        (prefix + "hook_v", hand_out_values),
        (prefix + "hook_attn_scores", pass_scores),
        (prefix + "hook_z", pass_values),
    ]
    before += [(name, keep_rotation) for name in rotation_hooks(model, layer)]
    after: list[NamedHook] = [
        (query_name, keep_query),
        (key_name, take_keys),
        (prefix + "hook_v", take_values),
        (prefix + "hook_pattern", keep_diagonal),
    ]
    return before, after


class Through:
    """Keys or values of one layer on their way through the hooks of others."""

    def hand_out(self, given: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """A copy without history, for others to read and change, in place too."""
        self.given, self.leaf = given, given.detach().requires_grad_()
        self.copy = self.leaf.clone()
        self.version = self.copy._version
        return self.copy

    def take_back(self, made: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Zeros whose gradient is that of what was made of the copy, taken as one of the given."""
        given, leaf = self.given, self.leaf
        is_unchanged = made is self.copy and made._version == self.version
        del self.given, self.leaf, self.copy
        if is_unchanged:
            return given - given.detach()
        zeros: Tensor = _Remade.apply(given, (leaf, made))
        return zeros


class _Remade(torch.autograd.Function):
    """Zeros in the place of what a function made of a leaf, and its gradient for another tensor."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, remade: tuple[Tensor, Tensor]) -> Tensor:  # noqa: ARG004
        ctx.remade = remade
        return torch.zeros_like(remade[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        leaf, made = ctx.remade
        if not made.requires_grad:
            return None, None
        (gradient,) = torch.autograd.grad(
            made, leaf, grads[0], retain_graph=True, allow_unused=True
        )
        return gradient, None


def _own(rows: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query"]:
    """The entry of each query's own position: queries are those of the last keys."""
    return rows.diagonal(offset=rows.shape[-1] - rows.shape[-2], dim1=-2, dim2=-1)


def pass_key_diagonal(
    scores: Float[Tensor, "batch head query key"],
    q: Float[Tensor, "batch query head d_head"],
    dk: Float[Tensor, "batch key kv_head d_head"],
    scale: float,
    softcap: float | None,
) -> Float[Tensor, "batch head query key"]:
    """Add q . dk, zero in value, to the diagonal of the scores.

    Args:
        scores: Attention scores before the softmax; queries are those of the last keys.
        q: Queries as they entered the scores.
        dk: k - k.detach() of the keys as they entered the scores, not yet repeated for groups.
        scale: Factor between q . k and the score.
        softcap: c of score = c * tanh(scale * q . k / c), if the model caps its scores.
    """
    diagonal = einsum(
        q,
        _ungroup(dk[:, -q.shape[1] :], q.shape[2]),
        "batch pos head d_head, batch pos head d_head -> batch head pos",
    )
    slope = scale * torch.ones_like(diagonal)
    if softcap is not None:
        slope = slope * (1 - (_own(scores.detach()) / softcap) ** 2)
    added = torch.diag_embed((slope * diagonal).to(scores.dtype))
    earlier = scores.shape[-1] - scores.shape[-2]
    return scores + (torch.nn.functional.pad(added, (earlier, 0)) if earlier else added)


def pass_value_diagonal(
    z: Float[Tensor, "batch pos head d_head"],
    diagonal: Float[Tensor, "batch head pos"],
    dv: Float[Tensor, "batch pos kv_head d_head"],
) -> Float[Tensor, "batch pos head d_head"]:
    """Add A[t, t] * dv, zero in value, to the head outputs.

    Args:
        z: Head outputs before the output projection.
        diagonal: A[t, t].
        dv: v - v.detach(), not yet repeated for groups.
    """
    weights = rearrange(diagonal, "batch head pos -> batch pos head 1")
    return z + (weights * _ungroup(dv, z.shape[2])).to(z.dtype)


def _ungroup(
    x: Float[Tensor, "batch pos kv_head d_head"], n_heads: int
) -> Float[Tensor, "batch pos head d_head"]:
    group = n_heads // x.shape[2]
    return repeat(x, "batch pos kv_head d_head -> batch pos (kv_head group) d_head", group=group)
