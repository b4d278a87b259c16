"""Attaching a fast session to a transformers model, and taking it off again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from step_saliency.intervene.context import AnyEdit
from step_saliency.intervene.fast.layer import FastLayer
from step_saliency.intervene.fast.session import FastSession
from step_saliency.models.adapter import adapted_attention, decoder_layers
from step_saliency.models.hooking import module_hook
from step_saliency.models.interrupts import one_change
from step_saliency.models.turns import owned, turn
from step_saliency.models.undisturbed import undisturbed


@one_change
def fast_session(
    exits: ExitStack,
    model: PreTrainedModel,
    edits: Sequence[AnyEdit],
    tokenizer: Any,
    *,
    bridge: Any = None,
) -> FastSession:
    """Context in which a transformers model runs with edits.

    Args:
        exits: What takes them off again; callers leave it out.
        model: transformers model whose attention comes from the registry.
        edits: The edits; there may be none, and the model runs with SDPA where it can.
        tokenizer: Its tokenizer, by which steps are found.
        bridge: The TransformerBridge that the model is inside of, if it is.

    Raises:
        ValueError: the model has its attention from elsewhere, or lacks layers or heads.
    """
    session = FastSession(model, edits, tokenizer)
    owner = model if bridge is None else bridge
    exits.enter_context(turn(owner, alone="refuses"))
    exits.enter_context(undisturbed(owner))
    exits.enter_context(adapted_attention(model, session.attention, masked=True, bridge=bridge))
    blocks = decoder_layers(model) if bridge is None else bridge.blocks
    for hook in _resid_hooks(session, blocks):
        exits.enter_context(hook)
    return session


def _resid_hooks(
    session: FastSession, blocks: Iterable[nn.Module]
) -> Iterator[AbstractContextManager[None]]:
    """What the session does before and after blocks, each as a context."""
    for layer, block in zip(session.layers, blocks, strict=True):
        if layer.needs_resid_pre:
            before = block.register_forward_pre_hook
            yield module_hook(before, owned(_input_hook(session, layer)), with_kwargs=True)
        if layer.on_resid:
            yield module_hook(block.register_forward_hook, owned(_resid_hook(session, layer)))


def _input_hook(session: FastSession, layer: FastLayer) -> Callable[..., None]:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
        session.see_input(layer, args[0] if args else kwargs["hidden_states"])

    return hook


def _resid_hook(session: FastSession, layer: FastLayer) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        is_tuple = isinstance(output, tuple)
        edited = session.edit_resid(layer, output[0] if is_tuple else output)
        return (edited, *output[1:]) if is_tuple else edited

    return hook
