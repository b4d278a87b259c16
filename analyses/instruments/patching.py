"""Activations of one run put into another, as hooks: row b of a batch runs with its own patch.

    activation[b, positions of patch b] = source[positions of patch b]

for one site and layer; the other positions, layers and rows stay as they are. What is patched comes
from `record`, a run of a sequence of the same length.

When it misleads: the patched run is in a state that neither sequence leads to. Content may have
moved on to later positions, so that patching it where it was first does little in upper layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analyses.instruments.knockout import logits_at
from step_saliency.models.hooking import NamedHook, live_names

Site = Literal["resid_post", "attn_out", "mlp_out", "z"]
Role = Literal["source", "read", "between_question", "between_thinking", "before", "all"]
HOOKS: Mapping[Site, str] = {
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
}


@dataclass(frozen=True)
class Patch:
    """One activation that is replaced.

    Attributes:
        site: Which.
        layer: Where.
        positions: At which positions.
        role: What they are.
        step: Step that they are, if they are one.
        head: One head (of ``z``), or all.
    """

    site: Site
    layer: int
    positions: tuple[int, ...]
    role: Role
    step: int | None = None
    head: int | None = None


def replace_rows(
    activation: Float[Tensor, "batch pos *rest"],
    source: Float[Tensor, "1 pos *rest"],
    chosen: Bool[Tensor, "batch pos *#rest"],
) -> Float[Tensor, "batch pos *rest"]:
    """The activation with the chosen entries of the source."""
    return torch.where(chosen, source, activation)


def patch_hooks(
    patches: Sequence[Patch], sources: Mapping[str, Tensor], n_tokens: int
) -> list[NamedHook]:
    """Hooks under which row b of a batch runs with ``patches[b]``.

    A pass over the last positions alone (see `analyses.instruments.knockout.Prefix`) is patched
    there.
    """
    rows_of: dict[str, list[int]] = {}
    for row, patch in enumerate(patches):
        rows_of.setdefault(hook_name(patch.site, patch.layer), []).append(row)
    return [
        (name, _patch_hook([patches[i] for i in rows], rows, sources[name], len(patches), n_tokens))
        for name, rows in rows_of.items()
    ]


def hook_name(site: Site, layer: int) -> str:
    return f"blocks.{layer}.{HOOKS[site]}"


def _patch_hook(
    patches: Sequence[Patch],
    rows: Sequence[int],
    source: Float[Tensor, "1 pos *rest"],
    n_rows: int,
    n_tokens: int,
) -> Callable[..., Tensor]:
    heads = source.shape[2] if patches[0].site == "z" else 1
    places = torch.zeros(n_rows, n_tokens, heads, dtype=torch.bool)
    for row, patch in zip(rows, patches, strict=True):
        head = slice(None) if patch.head is None else slice(patch.head, patch.head + 1)
        places[row, list(patch.positions), head] = True
    mask = (places.unsqueeze(-1) if source.ndim == 4 else places).to(source.device)

    def put_in(activation: Float[Tensor, "batch pos *rest"], hook: Any) -> Tensor:
        last = slice(-activation.shape[1], None)
        return replace_rows(activation, source[:, last], mask[:, last])

    return put_in


@torch.no_grad()
def record(model: Any, tokens: Int[Tensor, "pos"], names: Sequence[str]) -> dict[str, Tensor]:
    """Activations of one sequence at some hook points.

    Raises:
        ValueError: a hook point that the model lacks or never reaches.
    """
    activations: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def look(activation: Tensor, hook: Any) -> None:
            activations[name] = activation.detach().clone()

        return look

    hooks = [(name, keep(name)) for name in live_names(model, names)]
    logits_at(model, tokens[None], [len(tokens) - 1], hooks)
    return activations
