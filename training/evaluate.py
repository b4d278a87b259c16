"""Measure a bundled model: ``python -m training.evaluate --model DIR --out DIR``.

Writes one row per response to ``responses.csv`` (greedy answers of every level and family, and
samples) and prints the figures that the model card states. For the reporter's card: ``--family
report --temperature 0.6 --sampled-levels easy medium hard --n-sampled 1000 --samples 1``.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from scipy.stats import binomtest
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from step_saliency.storage.tables import write_csv
from step_saliency.tasks import (
    SUMMARY_ERRORS,
    Difficulty,
    Family,
    Level,
    Problem,
    make_problems,
)
from step_saliency.tasks.graph import Split

EVALUATION_SEED = 1000
MAX_NEW_TOKENS = {"symbols": 400, "words": 400, "report": 500}


def respond(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 128,
    max_new_tokens: int = 400,
    progress: bool = True,
) -> list[str]:
    """One response to each prompt, in order, up to and without the end-of-text token.

    Args:
        model: transformers model.
        tokenizer: Its tokenizer, padding on the left.
        prompts: Texts that end where the response begins.
        temperature: 0 takes the most likely token.
        seed: Of the sampling; the global random state stays untouched.
        batch_size: Prompts of similar length that are decoded together.
        max_new_tokens: Where to cut a response that does not end.
        progress: Show a bar.
    """
    responses = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        for start in tqdm(range(0, len(order), batch_size), disable=not progress):
            rows = order[start : start + batch_size]
            batch = tokenizer(
                [prompts[i] for i in rows],
                padding=True,
                padding_side="left",
                return_tensors="pt",
                add_special_tokens=False,
                return_token_type_ids=False,
            ).to(model.device)
            generated = model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                **(sampling if temperature else {"do_sample": False}),
            )
            texts = tokenizer.batch_decode(
                generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
            )
            for i, text in zip(rows, texts, strict=True):
                responses[i] = text
    return responses


@torch.inference_mode()
def written_exactly(
    model: Any, tokenizer: Any, problems: Sequence[Problem], *, batch_size: int = 32
) -> list[bool]:
    """Whether each problem's greedy answer is its canonical solution, by one pass over that.

    It is where every token of the solution is the most likely one after those before it.
    """
    texts = [(p.prompt(tokenizer), p.solution + tokenizer.eos_token) for p in problems]
    encoded = [
        tokenizer([prompt, solution], add_special_tokens=False)["input_ids"]
        for prompt, solution in texts
    ]
    order = sorted(range(len(problems)), key=lambda i: sum(map(len, encoded[i])))
    exact = [False] * len(problems)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = [torch.tensor(encoded[i][0] + encoded[i][1]) for i in rows]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True).to(model.device)
        likely = model(input_ids=ids, use_cache=False).logits.argmax(-1).cpu()
        for row, i in enumerate(rows):
            first, stop = len(encoded[i][0]) - 1, len(tokens[row]) - 1
            exact[i] = bool((likely[row, first:stop] == tokens[row][first + 1 :]).all())
    return exact


def greedy_responses(
    model: Any, tokenizer: Any, problems: Sequence[Problem], **options: Any
) -> list[str]:
    """What `respond` gives at temperature 0, of which canonical solutions are not decoded."""
    exact = written_exactly(model, tokenizer, problems)
    prompts = [p.prompt(tokenizer) for p, known in zip(problems, exact, strict=True) if not known]
    decoded = iter(respond(model, tokenizer, prompts, **options))
    return [
        p.solution if known else next(decoded) for p, known in zip(problems, exact, strict=True)
    ]


def grade_all(
    problems: Sequence[Problem], responses: Sequence[str], tokenizer: Any
) -> Iterator[dict[str, Any]]:
    """Table rows of responses to problems; a problem may occur several times (samples)."""
    seen: dict[str, int] = {}
    for problem, response in zip(problems, responses, strict=True):
        grade = problem.grade(response)
        sample = seen[problem.id] = seen.get(problem.id, -1) + 1
        yield {
            "problem": problem.id,
            "family": problem.family,
            "sample": sample,
            "is_correct": grade.is_correct,
            "error_kind": grade.error_kind,
            "first_wrong_step": grade.first_wrong_step,
            "region": grade.region,
            "summary_error": grade.summary_error,
            "n_superfluous": len(grade.superfluous),
            "n_tokens": len(tokenizer(response, add_special_tokens=False)["input_ids"]),
            "response": response,
        }


def evaluate(
    model: Any,
    tokenizer: Any,
    *,
    level: Level | Difficulty,
    family: Family,
    n: int,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = EVALUATION_SEED,
    batch_size: int = 128,
    split: Split = "test",
) -> pd.DataFrame:
    """Responses to ``n`` fresh problems and their grades, one row a response."""
    problems = make_problems(n=n, level=level, seed=seed, family=family, split=split)
    repeated = [problem for problem in problems for _ in range(samples)]
    begin = time.monotonic()
    cut: dict[str, Any] = {"batch_size": batch_size, "max_new_tokens": MAX_NEW_TOKENS[family]}
    if temperature:
        prompts = [problem.prompt(tokenizer) for problem in repeated]
        cut |= {"temperature": temperature, "seed": seed}
        responses = respond(model, tokenizer, prompts, **cut)
    else:
        responses = greedy_responses(model, tokenizer, repeated, **cut)
    seconds = time.monotonic() - begin
    table = pd.DataFrame(grade_all(repeated, responses, tokenizer))
    name = level if isinstance(level, str) else "custom"
    table.insert(0, "level", name)
    table.insert(1, "temperature", temperature)
    table["seconds_of_all"] = seconds
    table["threads"] = torch.get_num_threads()
    return table


def accuracy_table(responses: pd.DataFrame) -> pd.DataFrame:
    """Greedy accuracy with a 95% Wilson interval, by level and family."""
    greedy = responses[responses.temperature == 0]
    rows = []
    for (level, family), group in greedy.groupby(["level", "family"]):
        n, k = len(group), int(group.is_correct.sum())
        lower, upper = binomtest(k, n).proportion_ci(method="wilson")
        row = {"level": level, "family": family, "estimate": k / n, "lower": lower, "upper": upper}
        rows.append(row | {"n": n, "tokens": group.n_tokens.mean()})
    return _by_level(pd.DataFrame(rows))


def error_table(responses: pd.DataFrame) -> pd.DataFrame:
    """Share of each kind among the wrong greedy answers, by level and family."""
    wrong = responses[(responses.temperature == 0) & ~responses.is_correct]
    shares = wrong.groupby(["level", "family"]).error_kind.value_counts(
        normalize=True, dropna=False
    )
    table = shares.unstack(fill_value=0).reset_index()
    table.insert(2, "errors", wrong.groupby(["level", "family"]).size().to_numpy())
    return _by_level(table)


def region_table(responses: pd.DataFrame) -> pd.DataFrame:
    """Of the wrong answers: how many are wrong first in the summary, and how, by temperature.

    ``recall`` and its like are shares of all wrong answers, ``thinking_recall`` the share that
    first recalls a wrong value while thinking.
    """
    rows = []
    wrong = responses[~responses.is_correct]
    for (level, temperature), group in wrong.groupby(["level", "temperature"]):
        row = {"level": level, "temperature": temperature, "wrong": len(group)}
        row["in_summary"] = float((group.region == "summary").mean())
        for kind in SUMMARY_ERRORS:
            row[kind] = float((group.summary_error == kind).mean())
        in_thinking = (group.region == "thinking") & (group.error_kind == "recall")
        rows.append(row | {"thinking_recall": float(in_thinking.mean())})
    return _by_level(pd.DataFrame(rows))


def temperature_table(responses: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with a 95% Wilson interval by level and temperature."""
    rows = []
    for (level, temperature), group in responses.groupby(["level", "temperature"]):
        n, k = len(group), int(group.is_correct.sum())
        lower, upper = binomtest(k, n).proportion_ci(method="wilson")
        row = {"level": level, "temperature": temperature, "estimate": k / n}
        row |= {"lower": lower, "upper": upper, "n": n}
        rows.append(row | {"tokens": group.n_tokens.mean()})
    return _by_level(pd.DataFrame(rows))


def mixed_problems(responses: pd.DataFrame) -> pd.DataFrame:
    """Problems with both a right and a wrong sampled answer, by level and family."""
    sampled = responses[responses.temperature > 0]
    rows = []
    for (level, family, temperature), group in sampled.groupby(["level", "family", "temperature"]):
        right = group.groupby("problem").is_correct.agg(["any", "all", "size"])
        row = {"level": level, "family": family, "temperature": temperature}
        row |= {"samples": int(right["size"].max()), "n": len(right)}
        rows.append(row | {"both": int((right["any"] & ~right["all"]).sum())})
    return pd.DataFrame(rows)


def _by_level(table: pd.DataFrame) -> pd.DataFrame:
    rank = {level: i for i, level in enumerate(get_args(Level))}
    order = table.level.map(rank).sort_values(kind="stable").index
    return table.loc[order].reset_index(drop=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=1000, help="greedy problems per level and family")
    parser.add_argument("--level", nargs="+", default=get_args(Level), choices=get_args(Level))
    parser.add_argument("--n-sampled", type=int, default=400, help="sampled problems per family")
    parser.add_argument("--samples", type=int, default=8, help="samples per sampled problem")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the samples")
    parser.add_argument("--sampled-levels", nargs="*", default=["medium"], choices=get_args(Level))
    parser.add_argument(
        "--family", nargs="+", default=["symbols", "words"], choices=get_args(Family)
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    model.to(options.device)
    tables = []
    for family in options.family:
        for level in options.level:
            settings: dict[str, Any] = {"level": level, "family": family}
            settings["batch_size"] = options.batch_size
            greedy = evaluate(model, tokenizer, n=options.n, **settings)
            print(f"{level} {family}: {greedy.seconds_of_all[0]:.0f} s for {options.n} problems")
            tables.append(greedy)
            if level in options.sampled_levels and options.n_sampled:
                settings |= {"samples": options.samples, "temperature": options.temperature}
                tables.append(evaluate(model, tokenizer, n=options.n_sampled, **settings))
    responses = pd.concat(tables, ignore_index=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(options.out / "responses.csv", responses, float_format=None)
    tables = [accuracy_table(responses), error_table(responses), mixed_problems(responses)]
    if "report" in options.family:
        reports = responses[responses.family == "report"]
        tables += [temperature_table(reports), region_table(reports)]
    for table in tables:
        print(table.to_string(index=False, float_format="{:.3f}".format), end="\n\n")


if __name__ == "__main__":
    main()
