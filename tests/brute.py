"""Token influence the slow way: one backward pass per position."""

from typing import Any

import torch

from step_saliency.saliency.objectives import Objective


def one_backward_per_token(model: Any, tokens: torch.Tensor, objective: Objective) -> torch.Tensor:
    """|A * dL_t/dA| with plain backward hooks of TransformerLens, ``layer head query key``."""
    n_layers = model.cfg.n_layers
    rows = []
    for query in range(len(tokens) - 1):
        patterns: dict[int, torch.Tensor] = {}
        gradients: dict[int, torch.Tensor] = {}
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(n_layers)]

        def keep(pattern: torch.Tensor, hook: Any, store: dict = patterns) -> None:
            store[hook.layer()] = pattern.detach().clone()

        def keep_gradient(gradient: torch.Tensor, hook: Any, store: dict = gradients) -> None:
            store[hook.layer()] = gradient.detach().clone()

        with model.hooks(
            fwd_hooks=[(name, keep) for name in names],
            bwd_hooks=[(name, keep_gradient) for name in names],
        ):
            logits = model(tokens.unsqueeze(0), return_type="logits")[0]
            at_query = torch.tensor([query])
            objective.position_losses(logits[at_query], tokens, at_query).sum().backward()
        model.zero_grad()
        rows.append(
            torch.stack([(patterns[i] * gradients[i]).abs()[0, :, query] for i in range(n_layers)])
        )
    rows.append(torch.zeros_like(rows[0]))
    return torch.stack(rows, dim=2)


def with_transformers(model: Any, tokens: torch.Tensor, objective: Objective) -> torch.Tensor:
    """The same with transformers alone: gradients at the attention weights that it returns."""
    output = model(tokens.unsqueeze(0), output_attentions=True)
    weights = output.attentions
    logits = output.logits[0]
    rows = []
    for query in range(len(tokens) - 1):
        at_query = torch.tensor([query])
        loss = objective.position_losses(logits[at_query], tokens, at_query).sum()
        gradients = torch.autograd.grad(loss, weights, retain_graph=True)
        pairs = zip(weights, gradients, strict=True)
        rows.append(torch.stack([(a * g).abs()[0, :, query] for a, g in pairs]).detach())
    rows.append(torch.zeros_like(rows[0]))
    return torch.stack(rows, dim=2)
