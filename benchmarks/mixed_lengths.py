"""How fast are many responses of mixed length decoded, where rows that end make room for the next?

Question: tokens a second over a few hundred responses, by

    static       ``generate`` of transformers, batch by batch as the questions come: each batch
                 waits for its longest row
    sorted       the same with the longest prompts first, so that batches are of like length where
                 prompts tell how long responses are
    compaction   `ss.generate` called batch by batch as the questions come: rows that end leave,
                 none comes in their place
    refill       `ss.generate` once: rows that end make room for the next prompt
    refill+flow  the same with StepFlow
    hooked       ``generate`` of the HookedTransformer, batch by batch as the questions come
    hooks        `ss.generate(method="hooks")`, which runs the same HookedTransformer
    hooks+flow   the same with StepFlow

All decode the same questions greedily, with as many rows at a time, until the model ends a response
or its length does. Those without StepFlow must write the same tokens, all but a few responses in
which rounding decides; the table says how many are equal.

How much refilling can save by itself is a matter of the lengths: a batch reads its rows as often as
its longest asks for. The table says how many times as many rows the static batches read as there
are tokens; where slots are never free it is one.

Lengths are the model's own: the bundled reasoner's on its problems of all levels, and those of
SmolLM2 on questions of GSM8K (a JSONL file with a field ``question``), cut at 512 tokens.

Time: processor seconds of one thread (so that other work on the machine counts little), in rounds;
each round runs every way once, in an order that turns. Reported are medians, and medians of the
ratios within a round. Writes ``<out>/<model>-mixed-lengths.md`` and ``.csv``.

    python benchmarks/mixed_lengths.py
    python benchmarks/mixed_lengths.py --model smollm2-135m-instruct --questions gsm8k_test.jsonl

When it misleads: one thread is not two; the smaller the model, the more the operations that a token
costs whatever the batch.
"""

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig

import step_saliency as ss
from step_saliency.decoding.rows import left_padded
from step_saliency.intervene.effects import Effects
from step_saliency.models.facts import backend_of
from step_saliency.models.reference import reference_model
from step_saliency.segment.build import prompt_tokens
from step_saliency.storage.files import replacing, write_text

ROOT = Path(__file__).parents[1]
Tokens = list[list[int]]
Batches = list[list[int]]
COMPARED = {
    "compaction": ("static",),
    "refill": ("static", "sorted", "compaction"),
    "refill+flow": ("refill",),
    "hooks": ("hooked",),
    "hooks+flow": ("hooks",),
}


@dataclass(frozen=True)
class Row:
    """One way to decode, beside another."""

    way: str
    seconds: float
    tokens: int
    tokens_per_second: float
    equal: str
    beside: str
    faster: float
    faster_lowest: float
    faster_highest: float
    rounds: int


class Ways:
    """The ways to decode, each a function of no arguments that returns the responses."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.model = ss.load_model(args.model)
        self.tokenizer = self.model.tokenizer
        self.reference = reference_model(self.model)
        self.questions = questions(args)
        self.n_slots, self.n_tokens = args.slots, args.tokens
        self.flow = ss.StepFlow.for_model(self.model)
        self.effects = Effects()
        self.stops = sorted(self._stops())
        prompts = [prompt_tokens(self.tokenizer, question) for question in self.questions]
        self.prompts = prompts
        self.batches = in_batches(range(len(prompts)), self.n_slots)
        self.sorted_batches = in_batches(longest_first(prompts), self.n_slots)

    def _stops(self) -> set[int]:
        declared = self.reference.generation_config.eos_token_id
        stops = declared if isinstance(declared, list) else [declared]
        return {int(stop) for stop in [*stops, self.tokenizer.eos_token_id] if stop is not None}

    def all(self, names: Sequence[str] | None) -> dict[str, Callable[[], Tokens]]:
        ways: dict[str, Callable[[], Tokens]] = {
            "static": lambda: self.batch_by_batch(self._by_transformers),
            "sorted": lambda: self.batch_by_batch(self._by_transformers, self.sorted_batches),
            "compaction": lambda: self.batch_by_batch(self._by_call),
            "refill": lambda: self.ours("fast", None),
            "refill+flow": lambda: self.ours("fast", self.flow),
            "hooks": lambda: self.ours("hooks", None),
            "hooks+flow": lambda: self.ours("hooks", self.flow),
        }
        if backend_of(self.model) == "hooked":
            ways["hooked"] = lambda: self.batch_by_batch(self._by_hooked)
        return {name: ways[name] for name in ways if names is None or name in names}

    def batch_by_batch(
        self, decode: Callable[[list[int]], Tokens], batches: Batches | None = None
    ) -> Tokens:
        """Responses to all questions, in the order of the questions."""
        responses: dict[int, list[int]] = {}
        for batch in self.batches if batches is None else batches:
            responses |= dict(zip(batch, decode(batch), strict=True))
        return [responses[i] for i in range(len(self.questions))]

    def _padded(self, batch: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return left_padded([self.prompts[i] for i in batch], torch.device("cpu"))

    def _cut(self, written: torch.Tensor) -> list[int]:
        """A row up to its first stop token."""
        tokens: list[int] = written.tolist()
        ends = [i for i, token in enumerate(tokens) if token in self.stops]
        return tokens[: ends[0] + 1] if ends else tokens

    def _by_transformers(self, batch: list[int]) -> Tokens:
        tokens, mask = self._padded(batch)
        config = GenerationConfig(
            max_new_tokens=self.n_tokens,
            do_sample=False,
            eos_token_id=self.stops,
            pad_token_id=self.stops[0],
        )
        own, self.reference.generation_config = self.reference.generation_config, config
        written = self.reference.generate(tokens, attention_mask=mask, generation_config=config)
        self.reference.generation_config = own
        return [self._cut(row) for row in written[:, tokens.shape[1] :]]

    def _by_hooked(self, batch: list[int]) -> Tokens:
        padding = self.tokenizer.pad_token_id
        tokens, mask = self._padded(batch)
        side, self.tokenizer.padding_side = self.tokenizer.padding_side, "left"
        written = self.model.generate(
            tokens.masked_fill(mask == 0, self.stops[0] if padding is None else padding),
            max_new_tokens=self.n_tokens,
            eos_token_id=self.stops,
            do_sample=False,
            prepend_bos=False,
            padding_side="left",
            return_type="tokens",
            verbose=False,
        )
        self.tokenizer.padding_side = side
        return [self._cut(row) for row in written[:, tokens.shape[1] :]]

    def _by_call(self, batch: list[int]) -> Tokens:
        return self.ours("fast", None, [self.questions[i] for i in batch])

    def ours(self, method: Any, flow: Any, asked: Sequence[str] | None = None) -> Tokens:
        traces = ss.generate(
            self.model,
            self.questions if asked is None else asked,
            flow=flow,
            method=method,
            temperature=0,
            max_new_tokens=self.n_tokens,
            stop_tokens=self.stops,
            batch_size=self.n_slots,
            effects=self.effects,
            progress=False,
        )
        return [trace.tokens[-trace.meta["response_tokens"] :].tolist() for trace in traces]


def in_batches(order: Sequence[int], size: int) -> Batches:
    """Some at a time, in their order."""
    return [list(order[i : i + size]) for i in range(0, len(order), size)]


def longest_first(texts: Tokens) -> list[int]:
    """Indices by falling length."""
    return sorted(range(len(texts)), key=lambda i: -len(texts[i]))


def rows_per_token(written: Tokens, batches: Batches) -> float:
    """How often batches read a row for each token, where each waits for its longest."""
    read = sum(len(batch) * max(len(written[i]) for i in batch) for batch in batches)
    return read / sum(map(len, written))


def questions(args: argparse.Namespace) -> list[str]:
    """Questions from a file, or the reasoner's problems of all levels in turn."""
    if args.questions is not None:
        lines = args.questions.read_text().splitlines()[: args.count]
        return [json.loads(line)["question"] for line in lines]
    levels: tuple[Literal["easy", "medium", "hard"], ...] = ("easy", "medium", "hard")
    size = -(-args.count // len(levels))
    by_level = [ss.tasks.make_problems(n=size, level=level, seed=0) for level in levels]
    turns = [problem.question for group in zip(*by_level, strict=True) for problem in group]
    return turns[: args.count]


def measure(
    ways: dict[str, Callable[[], Tokens]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Tokens]]:
    """Processor seconds of each way in each round, and what it wrote."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, Tokens] = {}
    for number in range(rounds):
        names = list(ways)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.process_time()
            texts[name] = ways[name]()
            seconds[name].append(time.process_time() - start)
            n_tokens = sum(map(len, texts[name]))
            print(
                f"round {number}: {name} {seconds[name][-1]:.2f} s, {n_tokens} tokens, "
                f"{n_tokens / seconds[name][-1]:.1f} a second",
                flush=True,
            )
    return seconds, texts


def table(seconds: dict[str, list[float]], texts: dict[str, Tokens]) -> list[Row]:
    """Medians, and ratios of tokens a second within rounds."""
    truth = texts.get("refill")
    rows = []
    for way, times in seconds.items():
        n_tokens = sum(map(len, texts[way]))
        equal = "-"
        if truth is not None and not way.endswith("+flow"):
            n_equal = sum(a == b for a, b in zip(texts[way], truth, strict=True))
            equal = f"{n_equal} of {len(truth)}"
        for beside in [other for other in COMPARED.get(way, ()) if other in seconds] or ["-"]:
            others = seconds.get(beside, times)
            scale = n_tokens / sum(map(len, texts.get(beside, texts[way])))
            faster = [scale * b / a for a, b in zip(times, others, strict=True)]
            median = statistics.median(times)
            rows.append(
                Row(
                    way=way,
                    seconds=median,
                    tokens=n_tokens,
                    tokens_per_second=n_tokens / median,
                    equal=equal,
                    beside=beside,
                    faster=statistics.median(faster),
                    faster_lowest=min(faster),
                    faster_highest=max(faster),
                    rounds=len(times),
                )
            )
    return rows


def write(
    rows: Sequence[Row], texts: dict[str, Tokens], ways: Ways, args: argparse.Namespace
) -> None:
    """The table as CSV and for people."""
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"{args.model.removesuffix('-instruct')}-mixed-lengths"
    with replacing(stem.with_suffix(".csv")) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    written = texts.get("refill", next(iter(texts.values())))
    lengths = sorted(map(len, written))
    static, like = (rows_per_token(written, b) for b in (ways.batches, ways.sorted_batches))
    lines = [
        f"# Responses of mixed length, {args.model}",
        "",
        f"{len(lengths)} responses of {lengths[0]} to {lengths[-1]} tokens (median "
        f"{lengths[len(lengths) // 2]}), {args.slots} at a time, greedy, float32; processor "
        "seconds of one thread. Faster: tokens a second over those of the way beside it in the "
        "same round, median [smallest, largest]. Equal: responses that are those of `refill`, "
        "token for token.",
        "",
        f"Static batches of these responses read {static:.2f} rows for each token as the questions "
        f"come, {like:.2f} with the longest prompts first: what refilled slots can save by "
        "themselves.",
        "",
        "| way | seconds | tokens / s | equal | beside | faster | rounds |",
        "|---|---:|---:|---|---|---:|---:|",
    ]
    for row in rows:
        faster = f"{row.faster:.2f} [{row.faster_lowest:.2f}, {row.faster_highest:.2f}]"
        speed = f"{row.seconds:.1f} | {row.tokens_per_second:.0f}"
        shown = "-" if row.beside == "-" else faster
        lines.append(
            f"| {row.way} | {speed} | {row.equal} | {row.beside} | {shown} | {row.rounds} |"
        )
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="reasoner")
    parser.add_argument("--questions", type=Path, help="JSONL file with a field 'question'")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512, help="where responses are cut")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", help="some of the ways; all by default")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    ways = Ways(args)
    seconds, texts = measure(ways.all(args.ways), args.rounds)
    write(table(seconds, texts), texts, ways, args)


if __name__ == "__main__":
    main()
