"""The passes that all probes share, each run when it is first asked for.

    observed    forward and backward: what attention does on two sequences, and its gradients
    local       forward and backward: one prediction, with keys and values detached
    effects     forward: copies of one sequence, each with one edit in one layer
    decoded     three forwards over a cache

With the pass that finds out which hooks fire, and that of the model as transformers has it, these
are ten passes over a few tokens.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.facts import n_layers
from step_saliency.models.hooking import firing_hooks
from step_saliency.models.interrupts import together
from step_saliency.models.probes.inner import AttentionCall, attention_calls
from step_saliency.models.probes.measure import probe_tokens, recorder, run
from step_saliency.models.probes.passes import (
    decode_with_cache,
    edit_effects,
    gradients_from_first_block,
    local_gradient,
    next_token_losses,
)
from step_saliency.models.queries import query_key_hooks, rotation_hooks
from step_saliency.models.turns import owned_hooks

SHOWN = (
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_v",
    "attn.hook_z",
    "hook_resid_post",
)
DIFFERENTIATED = ("attn.hook_pattern", "attn.hook_z")


@dataclass(frozen=True, eq=False)
class Observed:
    """What a forward and a backward pass showed.

    Attributes:
        logits: Those of the forward pass.
        activations: By full hook name, as far as hooks fire.
        gradients: Of the sum of all next-token losses, by full hook name, as far as they arrived.
        attention_calls: By layer, what the attention of a bridge was called with.
    """

    logits: Float[Tensor, "batch pos d_vocab"]
    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]
    attention_calls: dict[int, AttentionCall]


class Examination:
    """A model under examination.

    Args:
        model: HookedTransformer or TransformerBridge.
        n_tokens: Length of the two sequences of random tokens that it runs on.
    """

    def __init__(self, model: Any, n_tokens: int) -> None:
        self.model = model
        self.n_layers = n_layers(model)
        self.tokens: Int[Tensor, "2 pos"] = probe_tokens(model, n_tokens)

    def activations(self, hook: str) -> list[Tensor]:
        """What a hook showed in every layer.

        Raises:
            ValueError: it does not fire in all of them.
        """
        return self._by_layer(self.observed.activations, hook, "does not fire")

    def gradients(self, hook: str) -> list[Tensor]:
        """The gradient that arrived at a hook in every layer.

        Raises:
            ValueError: there is a layer in which none arrived.
        """
        return self._by_layer(self.observed.gradients, hook, "gets no gradient")

    def _by_layer(self, values: dict[str, Tensor], hook: str, lack: str) -> list[Tensor]:
        names = [f"blocks.{layer}.{hook}" for layer in range(self.n_layers)]
        silent = [name for name in names if name not in values]
        if silent:
            raise ValueError(f"{', '.join(silent[:3])} {lack}")
        return [values[name] for name in names]

    @cached_property
    def observed(self) -> Observed:
        """One forward and backward pass of both sequences."""
        activations: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}
        fires = firing_hooks(self.model)
        names = [f"blocks.{layer}.{hook}" for layer in range(self.n_layers) for hook in SHOWN]
        for layer in range(self.n_layers):
            names += [*query_key_hooks(self.model, layer), *rotation_hooks(self.model, layer)]
        live = [name for name in names if name in fires]
        forward = [(name, recorder(activations, name)) for name in live]
        backward = [
            (name, recorder(gradients, name)) for name in live if name.endswith(DIFFERENTIATED)
        ]
        hooks = self.model.hooks(fwd_hooks=owned_hooks(forward), bwd_hooks=owned_hooks(backward))
        calls: dict[int, AttentionCall] = {}
        with (
            gradients_from_first_block(self.model),
            together(hooks, attention_calls(self.model, calls)),
        ):
            logits = run(self.model, self.tokens)
            next_token_losses(logits, self.tokens).sum().backward()
        return Observed(logits.detach(), activations, gradients, calls)

    @cached_property
    def local(self) -> Float[Tensor, "pos"]:
        """Size of the last prediction's gradient at each position, keys and values detached."""
        return local_gradient(self.model, self.tokens[:1])

    @cached_property
    def effects(self) -> dict[str, Float[Tensor, "layer"]]:
        """Change of the last logits by an edit in each layer, by hook, as far as hooks fire."""
        return edit_effects(self.model, self.tokens[:1])

    @cached_property
    def decoded(self) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the first sequence, read in parts over a cache."""
        return decode_with_cache(self.model, self.tokens[:1])
