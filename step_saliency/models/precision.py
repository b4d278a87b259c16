"""Half precision: weights cast to it, and a pass in float32 without a second copy of them.

Every operation takes its half-precision tensors widened to float32, and makes float32 where half
precision is asked for; a weight is widened for as long as the operation that reads it. Two models
that compute the same function differ by rounding of float32 alone, so that a changed weight shows
however coarse the model's own type is.

Tables of rotary embeddings are part of the function: a HookedTransformer holds them in the model's
type and transformers rounds them to it at each pass, so `rounded_rotations` rounds them here too.

When it misleads: kernels that do not go through torch's operators see no wide numbers, and may
refuse them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from step_saliency.models.interrupts import change

HALF = (torch.bfloat16, torch.float16)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Turn a model's weights into a type, in place; into half precision, its parameters alone.

    Frequencies of rotary embeddings are buffers that stay in float32: rounded to bfloat16 they are
    0.4% off, which turns queries and keys by a radian at some thousand tokens.
    """
    if dtype not in HALF:
        model.to(dtype)
        return
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


class Widened(TorchFunctionMode):
    """Within it, torch computes in float32 what would be in bfloat16 or float16.

    For passes that are `interrupts.uninterrupted`: in each call torch takes a mode off and puts it
    back, and an interrupt in between lets it come back when it should be gone.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch with wide arguments."""
        wide = {name: _widen(value) for name, value in (kwargs or {}).items()}
        return function(*_widen(args), **wide)


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALF else value
    if isinstance(value, torch.dtype):
        return torch.float32 if value in HALF else value
    if type(value) in (tuple, list):
        return type(value)(_widen(part) for part in value)
    return value


def check_gradients(model: nn.Module) -> None:
    """Refuse a model in which gradients of sure predictions vanish, or that can have none.

    Raises:
        ValueError: the model is in float16, whose smallest number is 6e-8, or has weights that were
            made under ``torch.inference_mode``.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            "the model's weights were made under torch.inference_mode, where nothing can be "
            "differentiated; load the model outside of it (maps themselves may be made inside)"
        )
    if next(model.parameters()).dtype == torch.float16:
        raise ValueError(
            "the model is in float16, where gradients of sure predictions round to 0 and rows of "
            "the map with them; load it with dtype='bfloat16', or 'float32'"
        )


@change
def rounded_rotations(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let the rotary modules of a transformers model return what they do in a type, if widened."""

    def round_tables(_module: nn.Module, _args: Any, tables: Any) -> Any:
        if isinstance(tables, Tensor):
            return None  # complex numbers (DeepSeek V2), which transformers leaves in float32
        with torch._C.DisableTorchFunction():
            return tuple(table.to(dtype).to(table.dtype) for table in tables)

    with ExitStack() as stack:
        for module in model.modules():
            if type(module).__name__.endswith("RotaryEmbedding"):
                stack.callback(module.register_forward_hook(round_tables).remove)
        yield
