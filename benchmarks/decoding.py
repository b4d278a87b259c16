"""What does decoding with StepFlow cost?

Question: how much longer does a batch of responses take with interventions than without, and than
by transformers' own ``generate``? Ways to decode:

    plain        ``generate`` of transformers, SDPA, greedy
    fast         `ss.generate(method="fast")` on the same model
    fast+flow    the same with StepFlow
    hooks        `ss.generate(method="hooks")` on a TransformerLens model
    hooks+flow   the same with StepFlow

All decode the same prompts greedily for the same number of tokens, whatever they write; those of
this toolkit also cut their responses into traces, which is part of their time. The prompts ask for
worked solutions, and every token after them is thinking or summary, so that the bridge acts on
every token from the first on (the counters are printed, and the benchmark fails where they are
zero).

Time: rounds in one process, after one that does not count; each round runs every way once, in an
order that turns from round to round. Reported are medians of seconds and of the ratios within a
round, with the smallest and largest. Writes ``<out>/<model>-decoding.csv`` and ``.md``.

    python benchmarks/decoding.py                     # SmolLM2-135M, batch 8, on this machine
    python benchmarks/decoding.py --without-hooks     # the fast ways alone, in a third of the time

When it misleads: ratios hold for this size of model and batch; the smaller the model, the more the
few operations that are added to a token count. The machine must have nothing else to do.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

import step_saliency as ss
from step_saliency.decoding.rows import left_padded
from step_saliency.intervene.effects import Effects
from step_saliency.models.reference import load_reference
from step_saliency.segment.build import prompt_tokens
from step_saliency.storage.files import replacing, write_text

ROOT = Path(__file__).parents[1]
QUESTIONS = (
    "A train travels 60 miles in 1.5 hours. How far does it travel in 4 hours? Show your steps.",
    "Tom has 3 boxes with 12 pencils each. He gives away 7 pencils. How many are left?",
    "What is the sum of the first 20 odd numbers? Explain step by step.",
    "A shirt costs 25 dollars and is sold at a discount of 20 percent. What is the price now?",
    "Anna is twice as old as Ben. In 5 years they are 40 together. How old is Ben?",
    "If 5 machines make 5 parts in 5 minutes, how long do 100 machines need for 100 parts?",
    "A rectangle has a perimeter of 36 and is twice as long as wide. What is its area?",
    "How many prime numbers are there between 10 and 50? List them first.",
)
COMPARED = {
    "fast": ("plain",),
    "fast+flow": ("fast", "plain"),
    "hooks": ("plain",),
    "hooks+flow": ("hooks", "plain"),
}


@dataclass(frozen=True)
class Row:
    """One way to decode, beside another."""

    way: str
    beside: str
    seconds: float
    tokens_per_second: float
    ratio: float
    ratio_lowest: float
    ratio_highest: float
    rounds: int


class Ways:
    """The ways to decode, each a function of no arguments."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.model = ss.load_model(args.model)
        self.tokenizer = self.model.tokenizer
        reference, why = load_reference(self.model)
        if reference is None:
            raise SystemExit(f"{args.model} cannot be read as a transformers model: {why}")
        reference.set_attn_implementation("sdpa")
        # nothing ends a response early, and nothing but the model chooses its tokens
        reference.generation_config = GenerationConfig()
        self.reference: PreTrainedModel = reference
        self.n_tokens = args.tokens
        self.questions = [QUESTIONS[i % len(QUESTIONS)] for i in range(args.batch)]
        self.flow = ss.StepFlow.for_model(self.model)
        self.effects = Effects()

    def all(self, *, with_hooks: bool) -> dict[str, Callable[[], Any]]:
        ways: dict[str, Callable[[], Any]] = {
            "plain": self.plain,
            "fast": lambda: self.ours(self.reference, "fast", None),
            "fast+flow": lambda: self.ours(self.reference, "fast", self.flow),
        }
        if with_hooks:
            ways["hooks"] = lambda: self.ours(self.model, "hooks", None)
            ways["hooks+flow"] = lambda: self.ours(self.model, "hooks", self.flow)
        return ways

    def plain(self) -> None:
        prompts = [prompt_tokens(self.tokenizer, question) for question in self.questions]
        tokens, mask = left_padded(prompts, self.reference.device)
        written = self.reference.generate(
            tokens,
            attention_mask=mask,
            generation_config=GenerationConfig(max_new_tokens=self.n_tokens, do_sample=False),
        )
        assert written.shape[1] == tokens.shape[1] + self.n_tokens

    def ours(self, model: Any, method: Any, flow: Any) -> None:
        traces = ss.generate(
            model,
            self.questions,
            flow=flow,
            method=method,
            tokenizer=self.tokenizer,
            temperature=0,
            max_new_tokens=self.n_tokens,
            stop_tokens=[],
            batch_size=len(self.questions),
            effects=self.effects,
            progress=False,
        )
        assert all(trace.meta["response_tokens"] == self.n_tokens for trace in traces)


def measure(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        names = list(ways)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            ways[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
                print(f"round {number}: {name} {seconds[name][-1]:.2f} s", flush=True)
    return seconds


def table(seconds: dict[str, list[float]], n_tokens: int) -> list[Row]:
    """Medians, and ratios within rounds."""
    rows = []
    pairs = [("plain", "plain")] + [
        (way, beside) for way, others in COMPARED.items() for beside in others if way in seconds
    ]
    for way, beside in pairs:
        ratios = [a / b for a, b in zip(seconds[way], seconds[beside], strict=True)]
        median = statistics.median(seconds[way])
        rows.append(
            Row(
                way=way,
                beside=beside,
                seconds=median,
                tokens_per_second=n_tokens / median,
                ratio=statistics.median(ratios),
                ratio_lowest=min(ratios),
                ratio_highest=max(ratios),
                rounds=len(ratios),
            )
        )
    return rows


def write(rows: Sequence[Row], args: argparse.Namespace, acted: str) -> None:
    """The table as CSV and for people."""
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"{args.model.removesuffix('-instruct')}-decoding"
    with replacing(stem.with_suffix(".csv")) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    lines = [
        f"# Decoding with {args.model}",
        "",
        f"Batch {args.batch}, {args.tokens} tokens each, greedy, float32, "
        f"{torch.get_num_threads()} threads. Ratio: time over that of the way beside it in the "
        "same round, median [smallest, largest].",
        "",
        "| way | seconds | tokens / s | beside | ratio | rounds |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        ratio = f"{row.ratio:.3f} [{row.ratio_lowest:.3f}, {row.ratio_highest:.3f}]"
        cells = [
            row.way,
            f"{row.seconds:.2f}",
            f"{row.tokens_per_second:.1f}",
            row.beside,
            ratio,
            str(row.rounds),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join([*lines, "", acted])
    write_text(stem.with_suffix(".md"), text + "\n")
    print(text)


def acted(effects: Effects) -> str:
    """What the counters say; an error if nothing happened."""
    frame = effects.to_frame()
    seen, shifted = int(frame["rows_seen"].sum()), int(frame["rows_shifted"].sum())
    injections = int(frame["injections"].sum())
    if not shifted or not injections:
        raise SystemExit(f"StepFlow did nothing: {shifted} rows shifted, {injections} injections")
    return (
        f"StepFlow shifted {shifted:,} of {seen:,} attention rows that it saw, and added "
        f"{injections:,} vectors."
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each response")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-hooks", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    ways = Ways(args)
    seconds = measure(ways.all(with_hooks=not args.without_hooks), args.rounds)
    write(table(seconds, args.batch * args.tokens), args, acted(ways.effects))


if __name__ == "__main__":
    main()
