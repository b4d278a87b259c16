"""Train the bundled reasoner from a seed: ``python -m training.train --out DIR``.

Next-token loss on thinking and summary; Muon for the weight matrices of the layers, AdamW for
embeddings, biases and norms. The schedule is warm-up, constant, then linear decay to zero over the
last ``decay`` share of the steps. Because the rate is constant up to there, the length of a run can
still be changed while it lasts: ``--hours`` starts the decay when its share of the time is left,
and a resumed run takes new values of ``--steps`` or ``--hours``. The last row of the log tells how
many steps came of it, and ``--steps`` with that number repeats the run.

Killed at any time, the same command goes on from the last checkpoint; on a CPU with the same number
of threads and ``--steps``, with the same weights as an uninterrupted run.
"""

import argparse
import csv
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from training.data import IGNORED, Batch, batches_from, collate, draw_conversations, encode
from training.tokenizer import build_tokenizer

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
FIELDS = ("step", "tokens", "seconds", "lr", "loss", "held_out_loss", "held_out_exact")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that the weights depend on, and how often to save and to log."""

    seed: int = 0
    steps: int | None = None
    hours: float | None = None
    batch_size: int = 24
    lr: float = 3e-3
    outer_lr: float = 3e-3
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 0.02
    grad_clip: float = 1.0
    optimizer: str = "muon"
    bfloat16: bool = True
    n_layers: int = 8
    d_model: int = 128
    d_mlp: int = 352
    checkpoint_every: int = 200
    log_every: int = 25
    held_out_every: int = 200


def build_model(config: TrainConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A freshly initialised Qwen2 with 4 query heads that share 2 key-value heads."""
    architecture = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.02,
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = Qwen2ForCausalLM(architecture)
    model.generation_config.do_sample = False
    return model


class Optimizers:
    """Muon for the matrices inside the layers, AdamW for everything else (or AdamW for all)."""

    def __init__(self, model: Qwen2ForCausalLM, config: TrainConfig) -> None:
        inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
        ids = {id(p) for p in inner}
        outer = [p for p in model.parameters() if id(p) not in ids]
        decay = config.weight_decay
        self.config = config
        self.members: list[torch.optim.Optimizer]
        if config.optimizer == "muon":
            muon = torch.optim.Muon(
                inner, lr=config.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            )
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


def response_loss(model: Qwen2ForCausalLM, batch: Batch, *, bfloat16: bool) -> Float[Tensor, ""]:
    """Mean cross-entropy over the tokens of the responses."""
    device = next(model.parameters()).device
    ids, labels = batch.ids.to(device), batch.labels.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        learnt = labels[:, 1:] != IGNORED
        logits = model.lm_head(hidden[:, :-1][learnt])
    return F.cross_entropy(logits.float(), labels[:, 1:][learnt])


@torch.no_grad()
def held_out(
    model: Qwen2ForCausalLM, batches: Sequence[Batch], *, bfloat16: bool
) -> tuple[float, float]:
    """Loss on test problems, and the share of them whose every response token is the most likely.

    The share is what greedy decoding would write out exactly as the canonical solution.
    """
    loss, exact, n = 0.0, 0, 0
    device = next(model.parameters()).device
    for batch in batches:
        ids, labels = batch.ids.to(device), batch.labels.to(device)[:, 1:]
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        row_loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        right = (logits.argmax(-1) == labels) | (labels == IGNORED)
        loss += row_loss.item() * len(ids)
        exact += int(right.all(-1).sum())
        n += len(ids)
    return loss / n, exact / n


def held_out_batches(tokenizer: PreTrainedTokenizerFast, n: int = 128) -> list[Batch]:
    conversations = draw_conversations(random.Random("held-out"), n, pool=10**6, split="test")
    examples = sorted(encode(tokenizer, conversations), key=lambda example: len(example.ids))
    return [collate(examples[i : i + 32], tokenizer.pad_token_id) for i in range(0, n, 32)]


class Run:
    """State of a training run: model, optimizers, counters; saved and loaded as one file."""

    def __init__(self, config: TrainConfig, out: Path, device: str) -> None:
        self.config, self.out = config, out
        self.tokenizer = build_tokenizer()
        self.model = build_model(config, self.tokenizer).to(device)
        self.optimizers = Optimizers(self.model, config)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.total_steps = config.steps
        out.mkdir(parents=True, exist_ok=True)
        if (out / CHECKPOINT).exists():
            self.load()

    def load(self) -> None:
        state = torch.load(self.out / CHECKPOINT, map_location="cpu", weights_only=False)
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.step, self.tokens = state["step"], state["tokens"]
        self.seconds = state["seconds"]
        if self.config.steps is None and self.config.hours == state["config"]["hours"]:
            self.total_steps = state["total_steps"]
        keep_rows(self.out / LOG, self.step)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "total_steps": self.total_steps,
            "config": asdict(self.config),
        }
        partial = self.out / (CHECKPOINT + ".partial")
        torch.save(state, partial)
        partial.replace(self.out / CHECKPOINT)

    def plan_end(self) -> None:
        """With a time limit: fix the number of steps once only the decay's share of it is left."""
        hours, decay = self.config.hours, self.config.decay
        if self.total_steps is not None or hours is None:
            return
        if self.seconds >= (1 - decay) * hours * 3600:
            self.total_steps = round(self.step / (1 - decay))

    def update(self, batch: Batch) -> tuple[float, float]:
        """One update; returns the rate it used and the loss before it."""
        begin = time.monotonic()
        self.model.train()
        loss = response_loss(self.model, batch, bfloat16=self.config.bfloat16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        lr = learning_rate(self.step, self.config, self.total_steps)
        self.optimizers.step(lr)
        self.step += 1
        self.tokens += batch.n_tokens
        value = loss.item()
        self.seconds += time.monotonic() - begin
        return lr, value


def keep_rows(path: Path, last_step: int) -> None:
    """Drop log rows after ``last_step``: what a killed run did after its last checkpoint."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) <= last_step]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def append_row(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def train(
    config: TrainConfig, out: Path, *, device: str = "cpu", stop_at: int | None = None
) -> Run:
    """Train, or go on training, in folder ``out``.

    Args:
        config: What to train; ``steps`` or ``hours`` must be given.
        out: Folder of checkpoint, log and configuration.
        device: ``cpu`` or ``cuda``.
        stop_at: Leave off after this many steps as if killed (nothing is saved at that point).

    Returns:
        The run in its last state.
    """
    if config.steps is None and config.hours is None:
        raise ValueError("steps=None and hours=None: give one, or the run has no end")
    run = Run(config, out, device)
    (out / "config.json").write_text(json.dumps(asdict(config), indent=2))
    stream = batches_from(
        run.tokenizer, seed=config.seed, batch_size=config.batch_size, start=run.step
    )
    tests = held_out_batches(run.tokenizer) if config.held_out_every else []
    recent: list[float] = []
    while run.total_steps is None or run.step < run.total_steps:
        lr, loss = run.update(next(stream))
        recent.append(loss)
        run.plan_end()
        if stop_at is not None and run.step >= stop_at:
            return run
        done = run.step == run.total_steps
        if run.step % config.log_every == 0 or done:
            row: dict[str, Any] = {"step": run.step, "tokens": run.tokens, "lr": f"{lr:.3g}"}
            row |= {"seconds": round(run.seconds), "loss": f"{sum(recent) / len(recent):.4f}"}
            if tests and (run.step % config.held_out_every == 0 or done):
                run.model.eval()
                test_loss, exact = held_out(run.model, tests, bfloat16=config.bfloat16)
                row |= {"held_out_loss": f"{test_loss:.4f}", "held_out_exact": f"{exact:.3f}"}
            append_row(out / LOG, row)
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            recent.clear()
        if run.step % config.checkpoint_every == 0 or done:
            run.save()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    for name, default in asdict(TrainConfig()).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            kind = {"steps": int, "hours": float}.get(name, type(default))
            parser.add_argument(flag, type=kind, default=default)
    options = vars(parser.parse_args())
    out, device = options.pop("out"), options.pop("device")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if options["steps"] is None and options["hours"] is None:
        options["hours"] = 1.75
    train(TrainConfig(**options), out, device=device)


if __name__ == "__main__":
    main()
