"""Installing hooks: which points are live, and hooks that run before all others.

Both model classes install hooks by ``model.hooks``; this module adds what that leaves out.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from step_saliency.models.facts import ATTENTION_HOOKS, RESIDUAL_HOOKS, device_of
from step_saliency.models.interrupts import change, together

NamedHook = tuple[str, Callable[..., Any]]

ROTATION_HOOKS = ("attn.hook_cos", "attn.hook_sin")
OUTPUT_HOOKS = ("hook_attn_out", "hook_mlp_out")

_FIRING: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()
_RETURNS: WeakKeyDictionary[Any, tuple[type | None, int]] = WeakKeyDictionary()


def firing_hooks(model: Any) -> frozenset[str]:
    """Attention and residual hook points that a forward pass reaches.

    A hook point can exist and never fire: some bridges declare rotary hooks that their attention
    does not pass through.
    """
    return frozenset(firing_order(model))


def firing_order(model: Any) -> tuple[str, ...]:
    """The same in the order of the pass, found by running one token, once per model."""
    if model not in _FIRING:
        fired: list[str] = []
        kinds = (*ATTENTION_HOOKS, *RESIDUAL_HOOKS, *ROTATION_HOOKS, *OUTPUT_HOOKS)
        names = [name for name in model.hook_dict if name.split(".", 2)[-1] in kinds]
        hooks = [(name, lambda _, hook, name=name: fired.append(name)) for name in names]
        token = torch.zeros(1, 1, dtype=torch.long, device=device_of(model))
        added, noted = model.hooks(fwd_hooks=hooks), _noted_kind(model)
        without_graph = (torch.inference_mode(False), torch.no_grad())
        with together(*without_graph, silenced_hooks(model), added, noted):
            model(token, attention_mask=torch.ones_like(token))
        _FIRING[model] = tuple(dict.fromkeys(fired))
    return _FIRING[model]


def block_output(bridge: Any) -> Callable[[torch.Tensor], Any]:
    """What makes of a residual what the blocks of a bridge return.

    That is the residual alone, or the first of a tuple or list; whatever else is in there (a
    pattern, keys that were selected) becomes None.
    """
    if bridge not in _RETURNS:
        # the model inside, since the bridge keeps what it derives of a pass
        token = torch.zeros(1, 1, dtype=torch.long, device=device_of(bridge))
        with torch.no_grad(), together(silenced_hooks(bridge), _noted_kind(bridge)):
            bridge.original_model(token)
    kind, length = _RETURNS[bridge]
    return lambda resid: resid if kind is None else kind([resid, *[None] * (length - 1)])


def _noted_kind(bridge: Any) -> AbstractContextManager[Any]:
    """Context in which a pass says what the blocks return."""

    def note(_block: Any, _args: Any, output: Any) -> None:
        kind = next((kind for kind in (tuple, list) if isinstance(output, kind)), None)
        _RETURNS[bridge] = kind, 1 if kind is None else len(output)

    return module_hook(bridge.blocks[0].register_forward_hook, note)


def live_names(model: Any, names: Sequence[str]) -> Sequence[str]:
    """The names, if a forward pass of the model reaches all of them.

    Raises:
        ValueError: a name that is no hook point of this model (TransformerBridge skips such names
            in silence) or that never fires.
    """
    firing = firing_hooks(model)
    dead = [name for name in names if name not in firing]
    if dead:
        raise ValueError(
            f"hook points {', '.join(dead[:3])} do not fire on this {type(model).__name__}; "
            "step-saliency needs scores, pattern, queries, keys, values and z of every block "
            "(see ss.doctor)"
        )
    return names


@change
def prepended_hooks(model: Any, fwd_hooks: Sequence[NamedHook]) -> Iterator[None]:
    """Forward hooks that run before those already there, which ``model.hooks`` cannot do.

    Raises:
        ValueError: a hook name that the model lacks or never reaches.
    """
    with added_hooks(model, fwd_hooks, prepend=True):
        yield


@change
def added_hooks(
    model: Any, fwd_hooks: Sequence[NamedHook], *, prepend: bool = False, permanent: bool = False
) -> Iterator[None]:
    """Forward hooks that are removed one by one, so that those of others stay.

    Args:
        model: HookedTransformer or TransformerBridge.
        fwd_hooks: Names and functions, at one hook point in the order in which they are to run.
        prepend: Run before the hooks that are there already, the last one of a point first.
        permanent: Stay in force when someone calls ``model.reset_hooks()`` meanwhile.

    Raises:
        ValueError: a hook name that the model lacks or never reaches.
    """
    live_names(model, [name for name, _ in fwd_hooks])
    points = model.hook_dict
    added = []
    try:
        for name, function in fwd_hooks:
            point = points[name]
            point.add_hook(function, prepend=prepend, is_permanent=permanent)
            added.append((point, point.fwd_hooks[0 if prepend else -1]))
        yield
    finally:
        for point, handle in added:
            handle.hook.remove()
            point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]


@change
def module_hook(
    register: Callable[..., Any], function: Callable[..., Any], **options: Any
) -> Iterator[None]:
    """A hook of torch's on a module.

    Args:
        register: The module's method that adds it, such as ``block.register_forward_hook``.
        function: The hook.
        options: Of the method.
    """
    handle = register(function, **options)
    try:
        yield
    finally:
        handle.remove()


OWN_HOOKS = ("transformer_lens.", "step_saliency.", "transformers.", "accelerate.")
"""Modules whose torch hooks are part of how models run, no wish of the user's."""
BUILT_BY = "transformer_lens.model_bridge.component_setup"
"""Module whose hooks at hook points are part of how bridges run."""


def hooked_modules(*models: nn.Module) -> list[str]:
    """Names of the modules that have torch hooks of the user's.

    Args:
        models: Models; a module that several of them hold has its name in the last one.
    """
    return [name for module, name in module_names(*models).items() if has_torch_hooks(module)]


def module_names(*models: nn.Module) -> dict[nn.Module, str]:
    """Names of modules, that of a model itself being its class; see `hooked_modules`."""
    names = {module: name for model in models for name, module in model.named_modules()}
    return {module: name or type(module).__name__ for module, name in names.items()}


def has_hooks(model: Any) -> bool:
    """Whether there are hooks at hook points of a model, if it has such."""
    return any(map(has_point_hooks, getattr(model, "hook_dict", {}).values()))


def has_point_hooks(point: Any) -> bool:
    """Whether there are hooks at a hook point, but for those that a bridge is built with (OPT)."""
    handles = [*point.fwd_hooks, *point.bwd_hooks]
    return point.has_hooks() and not all(map(_is_of_bridge, handles))


def _is_of_bridge(handle: Any) -> bool:
    return getattr(getattr(handle, "user_hook", None), "__module__", None) == BUILT_BY


def has_torch_hooks(module: nn.Module) -> bool:
    """Whether a module itself has torch hooks of the user's."""
    return any(map(_is_of_users, _torch_hooks(module)))


def hooked_points(model: Any) -> list[str]:
    """Names of the hook points and modules of a model that have hooks of the user's."""
    points = {} if isinstance(model, PreTrainedModel) else model.hook_dict
    hooked = [name for name, point in points.items() if has_point_hooks(point)]
    inner = getattr(model, "original_model", model)  # not all of it is a bridge's too
    return hooked + hooked_modules(inner, model)


def _torch_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def _is_of_users(hook: Callable[..., Any]) -> bool:
    return not str(getattr(hook, "__module__", "")).startswith(OWN_HOOKS)


@change
def without_torch_hooks(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run modules without torch hooks of the user's on them, and leave these in place."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    held = [(module, kind, getattr(module, kind)) for module in modules for kind in kinds]
    try:
        for module, kind, hooks in held:
            others = {key: hook for key, hook in hooks.items() if not _is_of_users(hook)}
            setattr(module, kind, OrderedDict(others))
        yield
    finally:
        for module, kind, hooks in held:
            setattr(module, kind, hooks)


SILENCED = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


@change
def silenced_hooks(model: Any) -> Iterator[None]:
    """Run the model without the hooks that are on its hook points, and leave them in place."""
    points = list({id(point): point for point in model.hook_dict.values()}.values())
    held = [(point, kind, getattr(point, kind)) for point in points for kind in SILENCED]
    try:
        for point, kind, _ in held:
            setattr(point, kind, OrderedDict())
        yield
    finally:
        for point, kind, hooks in held:
            setattr(point, kind, hooks)


def without_hooks(model: nn.Module) -> AbstractContextManager[Any]:
    """Run a model without any hooks of the user's, and leave them in place."""
    points = silenced_hooks(model) if hasattr(model, "hook_dict") else nullcontext()
    return together(points, without_torch_hooks(parts_of(model)))


@change
def frozen_parameters(model: torch.nn.Module) -> Iterator[None]:
    """Take no gradients with respect to weights; afterwards every flag is as it was."""
    thawed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in thawed:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)


def parts_of(model: Any) -> list[torch.nn.Module]:
    """All modules of a model, each once.

    Not all modules of the model inside a TransformerBridge are the bridge's too: GPT-2's dropout
    after the embedding is none of its components.
    """
    inner = getattr(model, "original_model", model)
    parts = {id(part): part for one in (model, inner) for part in one.modules()}
    return list(parts.values())


@change
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Dropout and gradient checkpointing off; afterwards every module's flag is as it was."""
    training = [module for module in parts_of(model) if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
