"""How weights are updated: Muon inside the layers, AdamW elsewhere, and the rate of each step."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Qwen2ForCausalLM

from training.model import TrainConfig
from training.stacked_muon import StackedMuon


class Optimizers:
    """Muon for the matrices inside the layers, AdamW for everything else (or AdamW for all)."""

    def __init__(self, model: Qwen2ForCausalLM, config: TrainConfig) -> None:
        inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
        ids = {id(p) for p in inner}
        outer = [p for p in model.parameters() if id(p) not in ids]
        decay = config.weight_decay
        self.config = config
        self.members: list[torch.optim.Optimizer]
        if config.optimizer != "adamw":
            kind = {"muon": torch.optim.Muon, "stacked-muon": StackedMuon}[config.optimizer]
            muon = kind(inner, lr=config.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self.members = [
                muon,
                torch.optim.AdamW(outer, lr=config.outer_lr, betas=(0.9, 0.98), weight_decay=0.0),
            ]
            self.peaks = [config.lr, config.outer_lr]
        else:
            groups = [
                {"params": inner, "weight_decay": decay},
                {"params": outer, "weight_decay": 0.0},
            ]
            self.members = [torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))]
            self.peaks = [config.lr]

    def step(self, lr: float) -> None:
        for member, peak in zip(self.members, self.peaks, strict=True):
            for group in member.param_groups:
                group["lr"] = peak * lr / self.config.lr
            member.step()
            member.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [member.state_dict() for member in self.members]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        for member, state in zip(self.members, states, strict=True):
            member.load_state_dict(state)


def learning_rate(step: int, config: TrainConfig, total_steps: int | None) -> float:
    """Rate of update number ``step`` (0 first); constant while the end of the run is not known."""
    rate = config.lr * min(1.0, (step + 1) / config.warmup)
    if total_steps is None:
        return rate
    left = (total_steps - step) / max(1.0, config.decay * total_steps)
    return rate * max(0.0, min(1.0, left))
