"""Which dials make the reporter's levels: ``python -m training.levels --model DIR``.

Tries a ladder of difficulties on development problems, which are neither trained nor tested on. Of
each it prints the share of problems whose canonical solution is the greedy answer, exactly; with
``--decode`` also the accuracy of greedy answers and of samples at temperature 0.6, and the share of
wrong greedy answers that are wrong first in the summary. The levels were chosen from it by hand.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from step_saliency.tasks import ReportDifficulty, make_problems
from training.evaluate import evaluate, written_exactly

DEVELOPMENT_SEED = 500
TEMPERATURE = 0.6
LADDER = [
    ReportDifficulty(
        n_steps=steps, n_values=values, n_terms=terms, distance=gap, n_distractors=distractors
    )
    for steps, values, terms, gap, distractors in (
        (4, 2, 3, 0, 1),
        (6, 3, 5, 1, 2),
        (8, 4, 6, 1, 3),
        (8, 4, 7, 2, 2),
        (10, 5, 8, 2, 2),
        (10, 4, 6, 2, 1),
        (12, 5, 7, 3, 2),
    )
]


def exact_share(model: Any, tokenizer: Any, dials: ReportDifficulty, n: int) -> float:
    """Share of development problems whose greedy answer is the canonical solution."""
    problems = make_problems(n, dials, DEVELOPMENT_SEED, family="report", split="dev")
    return sum(written_exactly(model, tokenizer, problems)) / n


def decoded(model: Any, tokenizer: Any, dials: ReportDifficulty, n: int) -> dict[str, float]:
    """Accuracy of greedy and sampled answers, and where wrong greedy ones first go wrong."""
    greedy, sampled = (
        evaluate(
            model,
            tokenizer,
            level=dials,
            family="report",
            n=n,
            temperature=temperature,
            seed=DEVELOPMENT_SEED + 1,
            split="dev",
        )
        for temperature in (0.0, TEMPERATURE)
    )
    wrong = greedy[~greedy.is_correct]
    return {
        "greedy": greedy.is_correct.mean(),
        "sampled": sampled.is_correct.mean(),
        "in_summary": (wrong.region == "summary").mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--n", type=int, default=64, help="problems per difficulty")
    parser.add_argument("--decode", action="store_true", help="write answers too")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    rows = []
    for dials in LADDER:
        row = {"dials": str(dials), "exact": exact_share(model, tokenizer, dials, options.n)}
        rows.append(row | (decoded(model, tokenizer, dials, options.n) if options.decode else {}))
        print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)


if __name__ == "__main__":
    main()
