"""Parameters of models that accelerate spreads: between passes some lie elsewhere.

What does not fit the devices stands in main memory or in files, and its place in the module is
taken by a tensor without numbers (device ``meta``) until the module is called.
"""

from typing import Any

from torch import Tensor, nn


def numbers_of(module: nn.Module, name: str) -> Tensor:
    """A parameter of a module itself, wherever its numbers are.

    Args:
        module: The module.
        name: Name of the parameter in it, without those of modules.

    Raises:
        ValueError: it has no numbers anywhere.
    """
    parameter: Tensor = getattr(module, name)
    if not parameter.is_meta:
        return parameter
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", [hook]):
        if getattr(one, "weights_map", None) is not None:
            return one.weights_map[name]
    raise ValueError(f"parameter {name} of {type(module).__name__} has no numbers (device meta)")
