"""One adapter into transformers' attention: a function of ours in place of any model's, and back.

transformers looks up a model's attention by name in a registry each time it is needed, and hands
it rotated queries, ungrouped keys, values, scale, window, cap and sinks. While `adapted_attention`
lasts, a model looks up a name of ours, and one function has the attention of all its layers;
nothing else of the model is touched. Inside a TransformerBridge the attention modules compute
scores themselves, for their hooks; here they hand over to the transformers attention that they
wrap, the bridge's own projections inside.

When it misleads: an architecture could compute more in its attention than it hands over. Who relies
on the adapter compares once with the model's own attention.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from step_saliency.models.interrupts import change
from step_saliency.models.turns import not_mine, owned

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]
"""Takes what transformers' attention functions take: (module, query, key, value, attention_mask,
\\*\\*options); returns head outputs, ``batch query head d_value``, and a pattern or None."""

UNMASKED, MASKED = "step_saliency", "step_saliency_masked"
"""Names in transformers' registry, of attention without and with the mask that SDPA gets."""


class NotAdaptableError(ValueError):
    """A model has its attention from elsewhere than transformers' registry."""


_current: ContextVar[AttentionFunction] = ContextVar("step_saliency_attention")


@change
def adapted_attention(
    model: PreTrainedModel,
    attention: AttentionFunction,
    *,
    masked: bool = False,
    bridge: Any = None,
) -> Iterator[None]:
    """Context in which one function is the attention of all layers of a model.

    Args:
        model: transformers model whose attention comes from the registry.
        attention: The function. Contexts may be nested; the innermost one holds.
        masked: Whether the function gets the mask that SDPA would get; otherwise transformers makes
            none, and the function hides later keys itself.
        bridge: The TransformerBridge that the model is inside of, if it is.

    Raises:
        NotAdaptableError: the model has its attention from elsewhere.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise _not_adaptable(model)
    name = MASKED if masked else UNMASKED
    AttentionInterface.register(name, _registered_attention)
    AttentionMaskInterface.register(name, _registered_mask if masked else _no_mask)
    with ExitStack() as stack:
        for block in () if bridge is None else bridge.blocks:
            own = bridged_attention(block)
            stack.enter_context(replaced_methods(own, {"forward": unbridged_forward(own)}))
        stack.enter_context(attending_by(model, name))
        stack.callback(_current.reset, _current.set(owned(attention)))
        yield


def _registered_attention(*args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    """What the registry holds: the function of the innermost context."""
    return _function()(*args, **options)


def _registered_mask(*args: Any, **options: Any) -> Tensor | None:
    _function()
    mask: Tensor | None = sdpa_mask(*args, **options)
    return mask


def _no_mask(*_args: Any, **_options: Any) -> None:
    _function()


def _function() -> AttentionFunction:
    attention = _current.get(None)
    if attention is None:
        raise not_mine("another")
    return attention


@change
def attending_by(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Have a model's layers look up their attention under another name for a while.

    Raises:
        NotAdaptableError: they still look it up under the old one.
    """
    layers = decoder_layers(model)
    with ExitStack() as stack:
        for part in _models_around(model, layers[0]):
            own = part.config._attn_implementation
            # the empty key is the part's own config; those of other modalities stay as they are
            stack.callback(part.set_attn_implementation, {"": own})
            part.set_attn_implementation({"": name})
        configs = [getattr(part, "config", None) for layer in layers for part in layer.modules()]
        names = {getattr(config, "_attn_implementation", name) for config in configs}
        if names != {name}:
            raise _not_adaptable(model)
        yield


def _models_around(model: PreTrainedModel, layer: nn.Module) -> list[PreTrainedModel]:
    """The transformers models that a layer is inside of, one for each of their configs."""
    models = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    around = [part for part in models if any(layer is other for other in part.modules())]
    return list({id(part.config): part for part in around}.values())


def _not_adaptable(model: PreTrainedModel) -> NotAdaptableError:
    return NotAdaptableError(
        f"{type(model).__name__} does not take its attention from transformers' registry; "
        "use method='hooks'"
    )


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
        raise ValueError(f"{type(block).__name__} has no attention of transformers inside")
    return attention


def unbridged_forward(attention: Any) -> Callable[..., Any]:
    """A bridge's attention computed by the transformers attention inside it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden_states = kwargs.pop("hidden_states") if "hidden_states" in kwargs else args[0]
        rest = args[1:] if args else ()
        output = attention.original_component(attention.hook_in(hidden_states), *rest, **kwargs)
        return attention.hook_out(output[0]), *output[1:]

    return forward


@change
def replaced_methods(module: nn.Module, methods: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Give one module other methods, for this thread, and afterwards those that it had."""
    own = {name: vars(module)[name] for name in methods if name in vars(module)}
    try:
        for name, method in methods.items():
            object.__setattr__(module, name, owned(method))
        yield
    finally:
        for name in methods:
            if name in own:
                object.__setattr__(module, name, own[name])
            else:
                vars(module).pop(name, None)
