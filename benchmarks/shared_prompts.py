"""What does reading the beginning of prompts once save, where all have the same system prompt?

Question: seconds and tokens read until all responses are there, over questions that are asked with
worked examples in the system prompt, by

    whole        `ss.generate` with every prompt read whole
    shared       `ss.generate`: equal prompts are one row, their common beginning is read once
    prefix       transformers' own way: keys and values of the system prompt are read once, copied
                 for each static batch (``batch_repeat_interleave``), and ``generate`` goes on

each with some samples of every question (at temperature 1; ``prefix`` greedily, with as many
tokens). Time: processor seconds of one thread, in rounds that run every way once in turn; medians,
and medians of the ratios within a round. Writes ``<out>/<model>-shared-prompts.md``.

    python benchmarks/shared_prompts.py --model smollm2-135m-instruct
    python benchmarks/shared_prompts.py --backend bridge

When it misleads: what is saved is a matter of how long prompts are beside responses; the table says
how long these are.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import DynamicCache

import step_saliency as ss
from step_saliency.decoding.prompts import common_beginning
from step_saliency.decoding.readers import TransformersReader
from step_saliency.decoding.rows import left_padded
from step_saliency.models.reference import reference_model
from step_saliency.segment.build import prompt_tokens
from step_saliency.storage.files import write_text

ROOT = Path(__file__).parents[1]
EXAMPLE = (
    "Example: a shop sells pens at 3 dollars and books at 5 dollars. Ana buys {a} pens and {b} "
    "books. The pens are {a} * 3 = {c} dollars. The books are {b} * 5 = {d} dollars. In total Ana "
    "pays {c} + {d} = {e} dollars. The answer is {e}.\n"
)


def system_prompt(n_examples: int) -> str:
    """Worked examples."""
    values = [(i + 2, 2 * i + 1) for i in range(n_examples)]
    return "".join(EXAMPLE.format(a=a, b=b, c=3 * a, d=5 * b, e=3 * a + 5 * b) for a, b in values)


class Ways:
    """The ways to decode, each a function that returns the number of tokens written."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.model = ss.load_model(args.model, backend=args.backend)
        self.reference = reference_model(self.model)
        self.system = system_prompt(args.examples)
        self.questions = [
            f"Ben has {i % 80 + 10} apples and buys {2 * i % 80 + 12} more. He eats {i % 3 + 1}. "
            "How many are left?"
            for i in range(args.count)
        ]
        self.prompts = [
            tuple(prompt_tokens(self.model.tokenizer, text, system=self.system))
            for text in self.questions
        ]
        self.n_read = 0

    def all(self, samples: int) -> dict[str, Callable[[], int]]:
        return {
            "whole": lambda: self.whole(samples),
            "shared": lambda: self.ours(samples),
            "prefix": lambda: self.by_transformers(samples),
        }

    def whole(self, samples: int) -> int:
        with mock.patch.object(TransformersReader, "_shares_prompts", False):
            return self.ours(samples)

    def ours(self, samples: int) -> int:
        read = TransformersReader._pass
        self.n_read = 0

        def counted(reader: Any, tokens: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
            self.n_read += tokens.numel() if tokens.shape[1] > 1 else 0
            return read(reader, tokens, *args, **options)

        with mock.patch.object(TransformersReader, "_pass", counted):
            traces = ss.generate(
                self.model,
                self.questions,
                n=samples,
                system=self.system,
                method="fast",
                temperature=1.0,
                max_new_tokens=self.args.tokens,
                stop_tokens=[],
                batch_size=self.args.slots,
                progress=False,
            )
        return sum(trace.meta["response_tokens"] for trace in traces)

    @torch.no_grad()
    def by_transformers(self, samples: int) -> int:
        n_shared = common_beginning([prompt[:-1] for prompt in self.prompts])
        beginning = DynamicCache(config=self.reference.config)
        start = torch.tensor([self.prompts[0][:n_shared]])
        self.reference(start, past_key_values=beginning, use_cache=True)
        self.n_read = n_shared
        rows = [prompt for prompt in self.prompts for _ in range(samples)]
        written = 0
        for first in range(0, len(rows), self.args.slots):
            batch = rows[first : first + self.args.slots]
            rest, _ = left_padded([row[n_shared:] for row in batch], torch.device("cpu"))
            if len({len(row) for row in batch}) > 1:
                raise ValueError("transformers goes on from a cache with rows of one length only")
            cache = copy.deepcopy(beginning)
            cache.batch_repeat_interleave(len(batch))
            tokens = torch.cat([start.expand(len(batch), -1), rest], -1)
            self.n_read += rest.numel()
            made = self.reference.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                past_key_values=cache,
                max_new_tokens=self.args.tokens,
                min_new_tokens=self.args.tokens,
                do_sample=False,
                pad_token_id=0,
            )
            written += made[:, tokens.shape[1] :].numel()
        return written


def measure(ways: Ways, samples: int, rounds: int) -> list[str]:
    """Rows of the table."""
    seconds: dict[str, list[float]] = {}
    facts: dict[str, tuple[int, int]] = {}
    names = ways.all(samples)
    for number in range(rounds):
        turn = number % len(names)
        order = [*names][turn:] + [*names][:turn]
        for name in order:
            start = time.process_time()
            written = names[name]()
            seconds.setdefault(name, []).append(time.process_time() - start)
            facts[name] = written, ways.n_read
            print(f"{samples} samples, round {number}: {name} {seconds[name][-1]:.2f} s")
    lines = []
    for name in names:
        ratios = [b / a for a, b in zip(seconds["shared"], seconds[name], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        written, read = facts[name]
        median = statistics.median(seconds[name])
        lines.append(f"| {samples} | {name} | {median:.1f} | {written} | {read} | {ratio} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="reasoner")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--examples", type=int, default=5)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = Ways(args)
    rows = [line for n in args.samples for line in measure(ways, n, args.rounds)]
    name = f"{args.model.removesuffix('-instruct')}-shared-prompts"
    lines = [
        f"# Prompts that begin alike, {args.model}",
        "",
        f"{args.count} questions, prompts of {min(map(len, ways.prompts))} to "
        f"{max(map(len, ways.prompts))} tokens, {args.tokens} new tokens each, {args.slots} at a "
        "time, float32; processor seconds of one thread, medians. Over `shared`: within the same "
        "round, median [smallest, largest].",
        "",
        "| samples | way | seconds | tokens written | tokens of prompts read | over `shared` |",
        "|---:|---|---:|---:|---:|---:|",
        *rows,
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / f"{name}.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
