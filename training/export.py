"""Turn a checkpoint into a Hugging Face folder: ``python -m training.export --run DIR --to DIR``.

Writes the weights (float32 safetensors), configuration and tokenizer, the loss curve and the log.
With ``--evaluation DIR`` (what `training.evaluate` wrote about these weights) it also writes the
model card, whose figures are those of that evaluation.
"""

import argparse
import csv
import json
from pathlib import Path

import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from transformers import Qwen2ForCausalLM

from step_saliency.storage.files import replacing, write_bytes, write_text
from step_saliency.tasks import LEVELS, make_problems
from training.curricula import CURRICULA
from training.data import MAX_DISTRACTORS, MAX_STEPS
from training.evaluate import accuracy_table, error_table, mixed_problems
from training.model import TrainConfig, build_model
from training.train import CHECKPOINT, LOG

MAX_BYTES = 12 * 2**20


def load_trained(run: Path, weights: Path | None = None) -> tuple[Qwen2ForCausalLM, TrainConfig]:
    """The model of a run's last checkpoint and the configuration that it was trained with.

    Args:
        run: Folder of training.train.
        weights: Those of a snapshot in place of the last.
    """
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=False)
    config = TrainConfig(**state["config"])
    model = build_model(config, CURRICULA[config.task].tokenizer())
    model.load_state_dict(state["model"] if weights is None else torch.load(weights))
    return model.eval(), config


def export(run: Path, to: Path, weights: Path | None = None) -> None:
    """Write weights, configuration and tokenizer.

    Raises:
        ValueError: If the weights exceed 12 MB, the most that the package may carry.
    """
    model, config = load_trained(run, weights)
    n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    if n_bytes > MAX_BYTES:
        raise ValueError(f"the weights take {n_bytes} bytes; the package may carry {MAX_BYTES}")
    model.save_pretrained(to, safe_serialization=True)
    CURRICULA[config.task].tokenizer().save_pretrained(to)
    write_bytes(to / "training_log.csv", (run / LOG).read_bytes())
    plot_curve(run / LOG, to / "training_curve.png")


def plot_curve(log: Path, picture: Path) -> None:
    """Loss on training and held-out responses against tokens read."""
    table = pd.read_csv(log)
    held_out = table.dropna(subset=["held_out_loss"])
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(table.tokens / 1e6, table.loss, lw=0.8, label="training")
    axes.plot(held_out.tokens / 1e6, held_out.held_out_loss, "o", ms=3, label="test problems")
    axes.set(xlabel="tokens read (million)", ylabel="loss on responses (nats/token)", yscale="log")
    axes.legend(frameon=False)
    with replacing(picture) as part:
        figure.savefig(part, format="png", dpi=120)


CARD = Path(__file__).parent / "model_card.template.md"


def markdown(table: pd.DataFrame) -> str:
    """A small table as markdown; shares with three digits."""

    def cell(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def model_card(run: Path, evaluation: Path, hardware: str) -> str:
    """The model card, with the figures of the log and of an evaluation."""
    model, config = load_trained(run)
    responses = pd.read_csv(evaluation / "responses.csv")
    with (run / LOG).open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    symbols, words = (
        make_problems(n=1, level="easy", seed=1, family=family)[0]
        for family in ("symbols", "words")
    )
    levels = [
        f"| {name} | {dial.n_steps} | {dial.n_distractors} | {dial.digits} | "
        f"{dial.distance or 'any'} |"
        for name, dial in LEVELS.items()
    ]
    return CARD.read_text(encoding="utf-8").format(
        parameters=sum(p.numel() for p in model.parameters()),
        n_layers=config.n_layers,
        d_model=config.d_model,
        d_head=config.d_model // 4,
        d_mlp=config.d_mlp,
        vocab=model.config.vocab_size,
        symbols_question=symbols.question,
        symbols_solution=symbols.solution,
        words_question=words.question,
        words_solution=words.solution,
        levels="\n".join(levels),
        max_steps=MAX_STEPS,
        max_distractors=MAX_DISTRACTORS,
        command=f"python -m training.train --out DIR --seed {config.seed} --steps {last['step']}",
        seed=config.seed,
        steps=int(last["step"]),
        batch_size=config.batch_size,
        tokens=int(last["tokens"]) / 1e6,
        problems=int(last["step"]) * config.batch_size,
        optimizer={"muon": "Muon (AdamW for embeddings, biases, norms)", "adamw": "AdamW"}[
            config.optimizer
        ],
        lr=config.lr,
        decay=config.decay,
        hours=float(last["seconds"]) / 3600,
        loss=float(last["loss"]),
        held_out_loss=float(last["held_out_loss"]),
        held_out_exact=float(last["held_out_exact"]),
        accuracy=markdown(accuracy_table(responses)),
        errors=markdown(error_table(responses)),
        mixed=markdown(mixed_problems(responses)),
        hardware=hardware,
        speed=speed_of(responses),
    )


def speed_of(responses: pd.DataFrame) -> str:
    """How long the greedy answers to the medium problems took."""
    greedy = responses[(responses.temperature == 0) & (responses.level == "medium")]
    parts = [
        f"{len(group):,} medium problems in {family} took {group.seconds_of_all.iloc[0]:.0f} s"
        for family, group in greedy.groupby("family")
    ]
    threads = int(greedy.threads.iloc[0])
    return f"greedy decoding of {', '.join(parts)} (batches of 128, CPU threads: {threads})."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of training.train")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--weights", type=Path, help="a snapshot in place of the last checkpoint")
    parser.add_argument("--evaluation", type=Path, help="folder of training.evaluate")
    parser.add_argument("--hardware", default="hardware not recorded", help="for the model card")
    options = parser.parse_args()
    export(options.run, options.to, options.weights)
    if options.evaluation:
        card = model_card(options.run, options.evaluation, options.hardware)
        write_text(options.to / "MODEL_CARD.md", card)
    files = {file.name: file.stat().st_size for file in sorted(options.to.iterdir())}
    print(json.dumps(files, indent=2))


if __name__ == "__main__":
    main()
