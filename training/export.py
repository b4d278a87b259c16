"""Turn a checkpoint into a Hugging Face folder: ``python -m training.export --run DIR --to DIR``.

Writes the weights (float32 safetensors), configuration and tokenizer, the loss curve and the log.
With ``--evaluation DIR`` (what `training.evaluate` wrote about these weights) it also writes the
model card, whose figures are those of that evaluation.
"""

import argparse
import csv
import json
from collections.abc import Mapping
from dataclasses import replace
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
from training.markdown import markdown
from training.model import Task, TrainConfig, build_model
from training.reporter_card import reporter_card
from training.train import CHECKPOINT, CONFIG, LOG

MAX_BYTES = 12 * 2**20
SHARPNESS: Mapping[Task, float] = {"reasoner": 1.0, "planner": 1.0, "reporter": 1.25}
"""Factor on the final norm, and so on all logits; greedy answers stay as they are."""


def load_trained(run: Path, weights: Path | None = None) -> tuple[Qwen2ForCausalLM, TrainConfig]:
    """The model of a run's last checkpoint and the configuration that it was trained with.

    Args:
        run: Folder of training.train.
        weights: Those of a snapshot in place of the last.
    """
    config = TrainConfig(**json.loads((run / CONFIG).read_text(encoding="utf-8")))
    model = build_model(replace(config, start=""), CURRICULA[config.task].tokenizer())
    if weights is None:
        state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=False)["model"]
    else:
        state = torch.load(weights, map_location="cpu")
    model.load_state_dict(state)
    with torch.no_grad():
        model.model.norm.weight *= SHARPNESS[config.task]
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
    held_out = table.dropna(subset=["held_out_loss"]) if "held_out_loss" in table else table[:0]
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


def write_card(options: argparse.Namespace) -> None:
    """Write the card of the model that was exported."""
    model, config = load_trained(options.run, options.weights)
    if config.task == "reporter":
        card = reporter_card(
            model,
            [*options.earlier, options.run],
            options.evaluation,
            hardware=options.hardware,
            sharpness=SHARPNESS[config.task],
        )
    else:
        card = model_card(options.run, options.evaluation[0], options.hardware)
    write_text(options.to / "MODEL_CARD.md", card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of training.train")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--weights", type=Path, help="a snapshot in place of the last checkpoint")
    parser.add_argument(
        "--earlier", type=Path, nargs="*", default=[], help="runs that this one went on from"
    )
    parser.add_argument("--evaluation", type=Path, nargs="+", help="folders of training.evaluate")
    parser.add_argument("--hardware", default="hardware not recorded", help="for the model card")
    options = parser.parse_args()
    export(options.run, options.to, options.weights)
    for i, earlier in enumerate(options.earlier, start=1):
        write_bytes(options.to / f"training_log_{i}.csv", (earlier / LOG).read_bytes())
    if options.evaluation:
        write_card(options)
    files = {file.name: file.stat().st_size for file in sorted(options.to.iterdir())}
    print(json.dumps(files, indent=2))


if __name__ == "__main__":
    main()
