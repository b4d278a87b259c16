"""Where a hook acts otherwise under step attention than in the model's own pass.

A bridge's attention computes scores itself, and with joint projections also queries, keys, values
and head outputs; under step attention the transformers attention inside of it does. Two passes of
a token or two say which modules are called otherwise: not at all, more often, or with other axes.

When it misleads: a module that is called alike, but on other numbers of the same shape.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from step_saliency.models.hooking import module_hook, module_names, without_hooks
from step_saliency.models.identity import model_state
from step_saliency.models.interrupts import change, together
from step_saliency.models.turns import inner_model, owned
from step_saliency.models.undisturbed import undisturbed

FLAGS = ("use_attn_in", "use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")
"""Entries of a config that open more hook points."""

Calls = dict[nn.Module, list[torch.Size | None]]

_unlike: "WeakKeyDictionary[nn.Module, tuple[Any, frozenset[str]]]" = WeakKeyDictionary()


def unlike_names(
    bridge: Any, run: Callable[[], None], stepped: Callable[[], AbstractContextManager[Any]]
) -> frozenset[str]:
    """Names of modules in the blocks that step attention calls otherwise; once for each state.

    Args:
        bridge: TransformerBridge.
        run: Runs its blocks on a few tokens.
        stepped: Context in which its attention is step attention.

    Returns:
        Each module under all of its names, of hook points also those of ``hook_dict``.
    """
    state = (model_state(bridge), *(getattr(bridge.cfg, flag, None) for flag in FLAGS))
    if bridge not in _unlike or _unlike[bridge][0] != state:
        own = _calls(bridge, run)
        with together(stepped()):
            ours = _calls(bridge, run)
        unlike = {module for module in {*own, *ours} if own.get(module) != ours.get(module)}
        named = [
            *module_names(inner_model(bridge), bridge).items(),
            *((p, n) for n, p in bridge.hook_dict.items()),
        ]
        _unlike[bridge] = state, frozenset(name for module, name in named if module in unlike)
    return _unlike[bridge][1]


def _calls(bridge: Any, run: Callable[[], None]) -> Calls:
    """Shapes of what every module in the blocks returned, in one pass."""
    calls: Calls = {}
    without_graph = (torch.inference_mode(False), torch.no_grad())
    as_it_is = (undisturbed(bridge, warn=False), without_hooks(bridge))
    with together(*without_graph, *as_it_is, _noted(bridge, calls)):
        run()
    return calls


@change
def _noted(bridge: Any, calls: Calls) -> Iterator[None]:
    def note(module: nn.Module, _args: Any, output: Any) -> None:
        shape = output.shape if isinstance(output, Tensor) else None
        calls.setdefault(module, []).append(shape)

    noting = owned(note)
    points = bridge.hook_dict.items()
    parts = {*bridge.blocks.modules(), *(p for name, p in points if name.startswith("blocks."))}
    with together(*(module_hook(part.register_forward_hook, noting) for part in parts)):
        yield
