"""The reporter's model card, with the figures of its two runs and of an evaluation."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from transformers import Qwen2ForCausalLM

from step_saliency.tasks import REPORT_LEVELS, make_problems
from training.evaluate import error_table, region_table, temperature_table
from training.levels import TEMPERATURE
from training.markdown import markdown
from training.model import TrainConfig
from training.reports import PLANNED, UNPLANNED
from training.train import CONFIG, LOG

CARD = Path(__file__).parent / "reporter_card.template.md"
NOT_SAID = ("hours", "checkpoint_every", "log_every", "held_out_every", "snapshot_every", "start")


def command(config: TrainConfig, steps: int, start: str) -> str:
    """The command that repeats a run: whatever is not as by default."""
    plain = asdict(TrainConfig())
    said = {name: value for name, value in asdict(config).items() if value != plain[name]}
    said = {name: value for name, value in said.items() if name not in NOT_SAID}
    said |= {"steps": steps} | ({"start": start} if config.start else {})
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in said.items())
    return f"python -m training.train --out DIR {flags} --workers 14 --device cuda"


def part(run: Path, start: str) -> str:
    """One part of the training: its command, its size and its last losses."""
    config = TrainConfig(**json.loads((run / CONFIG).read_text(encoding="utf-8")))
    with (run / LOG).open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    steps = int(last["step"])
    return (
        f"`{command(config, steps, start)}`\n\n"
        f"Seed {config.seed}, {steps:,} steps of {config.batch_size} problems, "
        f"{int(last['tokens']) / 1e6:.1f} million tokens, peak rate {config.lr:g}, warm-up of "
        f"{config.warmup} steps, linear decay over the last {config.decay:.0%}; "
        f"{int(last['seconds'])} seconds. Last loss on training batches {float(last['loss']):.4f}."
    )


def levels() -> str:
    """Rows of the table of dials."""
    return "\n".join(
        f"| {name} | {dials.n_steps} | {dials.n_distractors} | {dials.n_values} | "
        f"{dials.n_values + dials.n_repeats} | {dials.gap} |"
        for name, dials in REPORT_LEVELS.items()
    )


def reporter_card(
    model: Qwen2ForCausalLM,
    runs: Sequence[Path],
    evaluations: Sequence[Path],
    *,
    hardware: str,
    sharpness: float,
) -> str:
    """The card.

    Args:
        model: The exported model.
        runs: Folders of the two parts of the training, in order.
        evaluations: Folders that `training.evaluate` wrote.
        hardware: What it was trained on.
        sharpness: Factor on the final norm.
    """
    responses = pd.concat(
        [pd.read_csv(folder / "responses.csv") for folder in evaluations], ignore_index=True
    )
    example = make_problems(n=1, level="easy", seed=1, family="report")[0]
    size = model.config
    parameters = sum(p.numel() for p in model.parameters())
    return CARD.read_text(encoding="utf-8").format(
        parameters=parameters,
        megabytes=4 * parameters / 1e6,
        n_layers=size.num_hidden_layers,
        d_model=size.hidden_size,
        d_head=size.hidden_size // size.num_attention_heads,
        d_mlp=size.intermediate_size,
        vocab=size.vocab_size,
        question=example.question,
        solution=example.solution,
        levels=levels(),
        parts="\n\n".join(part(run, "DIR1/model.safetensors") for run in runs),
        gathered=PLANNED.gathered,
        max_values=max(PLANNED.values, UNPLANNED.values),
        hardware=hardware,
        sharpness=sharpness,
        cooler=TEMPERATURE / sharpness,
        accuracy=markdown(temperature_table(responses)),
        regions=markdown(region_table(responses)),
        errors=markdown(error_table(responses)),
    )
