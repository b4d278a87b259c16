"""What a CUDA graph does, on the CPU: operations are captured, and done again in their places.

As on a card, what is captured knows neither Python nor new tensors, and numbers that Python asks
for cannot be had meanwhile.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ASKS = ("_local_scalar_dense", "nonzero", "equal.default")
"""Operations that Python waits for."""


class _Log(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(
        self, operation: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(name in str(operation) for name in ASKS):
            raise RuntimeError("operation not permitted when stream is capturing")
        result = operation(*args, **(kwargs or {}))
        self.done.append((operation, args, kwargs or {}, result))
        return result


class ReplayedPiece:
    """A piece of a pass on the CPU.

    Attributes:
        replays: How often pieces were replayed, all together.
    """

    replays = 0

    def __init__(self) -> None:
        self._log = _Log()

    def begin(self) -> None:
        self._log.__enter__()

    def end(self) -> None:
        self._log.__exit__(None, None, None)

    def replay(self) -> None:
        ReplayedPiece.replays += 1
        for operation, args, kwargs, result in self._log.done:
            again = operation(*args, **kwargs)
            for place, value in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                    place.data.copy_(value)  # unseen by autograd, as on a card
