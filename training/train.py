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
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from step_saliency.storage.files import replacing, write_text
from training.curricula import CURRICULA
from training.data import Batch, batches_from
from training.losses import held_out, held_out_batches, response_loss
from training.model import TrainConfig, build_model
from training.optimizers import Optimizers, learning_rate

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.json"
LOG = "log.csv"
FIELDS = ("step", "tokens", "seconds", "lr", "loss", "held_out_loss", "held_out_exact")


class Run:
    """State of a training run: model, optimizers, counters; saved and loaded as one file."""

    def __init__(self, config: TrainConfig, out: Path, device: str) -> None:
        self.config, self.out = config, out
        self.curriculum = CURRICULA[config.task]
        self.tokenizer = self.curriculum.tokenizer()
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
        with replacing(self.out / CHECKPOINT) as part:
            torch.save(state, part)

    def plan_end(self) -> None:
        """With a time limit: fix the number of steps once only the decay's share of it is left."""
        hours, decay = self.config.hours, self.config.decay
        if self.total_steps is not None or hours is None:
            return
        if self.seconds >= (1 - decay) * hours * 3600:
            self.total_steps = round(self.step / (1 - decay))

    def save_weights(self) -> None:
        """Keep the weights of this step."""
        with replacing(self.out / f"weights-{self.step}.pt") as part:
            torch.save(self.model.state_dict(), part)

    def update(self, batch: Batch) -> tuple[float, Tensor]:
        """One update; returns the rate it used and the loss before it."""
        self.model.train()
        loss = response_loss(self.model, batch, bfloat16=self.config.bfloat16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        lr = learning_rate(self.step, self.config, self.total_steps)
        self.optimizers.step(lr)
        self.step += 1
        self.tokens += batch.n_tokens
        return lr, loss.detach()


def keep_rows(path: Path, last_step: int) -> None:
    """Drop log rows after ``last_step``: what a killed run did after its last checkpoint."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) <= last_step]
    with replacing(path) as part, part.open("w", newline="") as file:
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


def log_row(
    run: Run, lr: float, losses: Sequence[Tensor], tests: Sequence[Batch]
) -> dict[str, int | str]:
    """A row of the log.

    Args:
        run: The run as it stands.
        lr: Rate of the last update.
        losses: Losses since the last row.
        tests: Held-out problems to measure on, if any.
    """
    row: dict[str, int | str] = {"step": run.step, "tokens": run.tokens, "lr": f"{lr:.3g}"}
    row |= {"seconds": round(run.seconds), "loss": f"{sum(map(float, losses)) / len(losses):.4f}"}
    if tests:
        run.model.eval()
        loss, exact = held_out(run.model, tests, bfloat16=run.config.bfloat16)
        row |= {"held_out_loss": f"{loss:.4f}", "held_out_exact": f"{exact:.3f}"}
    return row


def train(
    config: TrainConfig,
    out: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
    stop_at: int | None = None,
) -> Run:
    """Train, or go on training, in folder ``out``.

    Args:
        config: What to train; ``steps`` or ``hours`` must be given.
        out: Folder of checkpoint, log and configuration.
        device: ``cpu`` or ``cuda``.
        workers: Processes that make the data ahead.
        stop_at: Leave off after this many steps as if killed (nothing is saved at that point).

    Returns:
        The run in its last state.
    """
    if config.steps is None and config.hours is None:
        raise ValueError("steps=None and hours=None: give one, or the run has no end")
    run = Run(config, out, device)
    write_text(out / CONFIG, json.dumps(asdict(config), indent=2))
    draw = run.curriculum.draw
    stream = batches_from(
        run.tokenizer,
        seed=config.seed,
        batch_size=config.batch_size,
        start=run.step,
        draw=draw,
        workers=workers,
    )
    tests = held_out_batches(run.tokenizer, draw=draw) if config.held_out_every else []
    recent: list[Tensor] = []
    while run.total_steps is None or run.step < run.total_steps:
        begin = time.monotonic()
        lr, loss = run.update(next(stream))
        run.seconds += time.monotonic() - begin
        recent.append(loss)
        run.plan_end()
        if stop_at is not None and run.step >= stop_at:
            return run
        is_last = run.step == run.total_steps
        if run.step % config.log_every == 0 or is_last:
            measured = tests if is_last or (tests and run.step % config.held_out_every == 0) else []
            row = log_row(run, lr, recent, measured)
            append_row(out / LOG, row)
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            recent.clear()
        if run.step % config.checkpoint_every == 0 or is_last:
            run.save()
        if config.snapshot_every and run.step % config.snapshot_every == 0:
            run.save_weights()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--workers", type=int, default=0, help="processes that make the data")
    for name, default in asdict(TrainConfig()).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            kind = {"steps": int, "hours": float}.get(name, type(default))
            parser.add_argument(flag, type=kind, default=default)
    options = vars(parser.parse_args())
    out, device, workers = (options.pop(name) for name in ("out", "device", "workers"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if options["steps"] is None and options["hours"] is None:
        options["hours"] = 1.75
    train(TrainConfig(**options), out, device=device, workers=workers)


if __name__ == "__main__":
    main()
