"""One attention function in place of the attention of any transformers model, and back again.

transformers looks up a model's attention by name in a registry each time it is needed; a model that
is told another name for a while runs a function of ours, and nothing else of it is touched. Inside
a TransformerBridge the attention modules compute scores themselves, for their hooks; here they hand
over to the transformers attention that they wrap, the bridge's own projections inside.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def decoder_layers(model: PreTrainedModel) -> Sequence[nn.Module]:
    """The transformer layers of a transformers model, in order.

    Raises:
        ValueError: no list of modules has that length.
    """
    n_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return list(module)
    raise ValueError(f"{type(model).__name__} has no list of its {n_layers} layers")


def bridged_attention(block: Any) -> Any:
    """The attention module of one block of a TransformerBridge.

    Raises:
        ValueError: the block has none that wraps an attention of transformers.
    """
    attention = getattr(block, "attn", None)
    if attention is None or getattr(attention, "original_component", None) is None:
        raise ValueError(f"{type(block).__name__} has no attention with a known seam")
    return attention


def unbridged_forward(attention: Any) -> Callable[..., Any]:
    """A bridge's attention computed by the transformers attention inside it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden_states = kwargs.pop("hidden_states") if "hidden_states" in kwargs else args[0]
        rest = args[1:] if args else ()
        output = attention.original_component(attention.hook_in(hidden_states), *rest, **kwargs)
        return attention.hook_out(output[0]), *output[1:]

    return forward


@contextmanager
def replaced_methods(module: nn.Module, methods: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Give one module other methods, and afterwards those that it had."""
    own = {name: vars(module)[name] for name in methods if name in vars(module)}
    try:
        for name, method in methods.items():
            object.__setattr__(module, name, method)
        yield
    finally:
        for name in methods:
            if name in own:
                object.__setattr__(module, name, own[name])
            else:
                vars(module).pop(name, None)


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Have every part of a model look up its attention under another name for a while."""
    owned: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    configs = {
        id(config): config for config in owned if hasattr(config, "_attn_implementation_internal")
    }
    before = {key: config._attn_implementation_internal for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation_internal = name
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
