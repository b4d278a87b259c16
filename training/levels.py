"""Which dials make the reporter's levels: ``python -m training.levels --model DIR``.

Tries a ladder of difficulties on development problems, which are neither trained nor tested on, and
prints for each the accuracy (greedy, and sampled at temperature 0.6), the share of wrong greedy
answers that are wrong first in the summary, and tokens; and last, the dials that `choose` takes.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from step_saliency.tasks import Level, ReportDifficulty, make_problems
from training.evaluate import MAX_NEW_TOKENS, grade_all, respond

DEVELOPMENT_SEED = 500
TEMPERATURE = 0.6
AIMS: Mapping[Level, float] = {"easy": 0.97, "medium": 0.85, "hard": 0.72}
"""Greedy accuracy that each level should be nearest to."""
LADDER = [
    ReportDifficulty(n_steps=steps, n_values=values, distance=distance, n_distractors=distractors)
    for steps, values, distance, distractors in (
        (4, 2, 0, 2),
        (8, 3, 1, 3),
        (12, 5, 2, 4),
        (16, 6, 3, 6),
        (20, 8, 4, 8),
        (24, 9, 4, 8),
        (28, 10, 6, 10),
        (32, 12, 8, 10),
        (36, 12, 10, 12),
    )
]
LADDER += [replace(dials, digits=3) for dials in LADDER[2:7]]


def measure(model: Any, tokenizer: Any, *, n: int, temperature: float) -> pd.DataFrame:
    """One row a response to ``n`` development problems of every difficulty on the ladder."""
    rungs = [
        make_problems(n=n, level=dials, seed=DEVELOPMENT_SEED, family="report", split="dev")
        for dials in LADDER
    ]
    problems = [problem for rung in rungs for problem in rung]
    responses = respond(
        model,
        tokenizer,
        [problem.prompt(tokenizer) for problem in problems],
        temperature=temperature,
        batch_size=len(problems),
        max_new_tokens=MAX_NEW_TOKENS["report"],
        progress=False,
    )
    rows = []
    for rung, dials in enumerate(LADDER):
        chunk = slice(rung * n, (rung + 1) * n)
        table = pd.DataFrame(grade_all(rungs[rung], responses[chunk], tokenizer))
        rows.append(table.assign(rung=rung, dials=str(dials)))
    return pd.concat(rows, ignore_index=True)


def ladder_table(greedy: pd.DataFrame, sampled: pd.DataFrame | None) -> pd.DataFrame:
    """Accuracy, what sampling loses, and where wrong answers first go wrong, by difficulty."""
    rows = []
    for rung, group in greedy.groupby("rung"):
        wrong = group[~group.is_correct]
        row = {"rung": rung, "dials": group.dials.iloc[0], "greedy": group.is_correct.mean()}
        if sampled is not None:
            row["sampled"] = sampled[sampled.rung == rung].is_correct.mean()
        row |= {"in_summary": (wrong.region == "summary").mean(), "n": len(group)}
        row["recall"] = ((wrong.summary_error == "recall") | (wrong.error_kind == "recall")).mean()
        rows.append(row | {"tokens": group.n_tokens.mean()})
    return pd.DataFrame(rows)


def choose(table: pd.DataFrame) -> dict[Level, ReportDifficulty]:
    """For each level the difficulty of two digits whose accuracy is nearest to the level's aim."""
    rungs = [i for i, rung in enumerate(table.rung) if LADDER[rung].digits == 2]
    greedy = table.greedy.to_numpy()
    return {
        level: LADDER[int(table.rung.iloc[min(rungs, key=lambda i: abs(greedy[i] - aim))])]
        for level, aim in AIMS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--n", type=int, default=96, help="problems per difficulty")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sampled", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    model.eval().to(options.device)
    greedy = measure(model, tokenizer, n=options.n, temperature=0.0)
    sampled = None
    if options.sampled:
        sampled = measure(model, tokenizer, n=options.n, temperature=TEMPERATURE)
    table = ladder_table(greedy, sampled)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    for level, dials in choose(table).items():
        print(level, dials)
    kinds = ["rung", "region", "error_kind", "summary_error"]
    print(greedy[~greedy.is_correct][kinds].value_counts(dropna=False, sort=False).to_string())


if __name__ == "__main__":
    main()
