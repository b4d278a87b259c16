"""What analyses are about: problems of the bundled task or rows of a file, and traces of them.

``--data task`` makes problems with a known step graph; ``--data FILE`` reads JSONL rows as
`step_saliency.runs.inputs` does (GSM8K, MATH-500, saved traces, responses of any model). Where a
row has no response, the model writes its own; where it has one, that is read.

``python -m analyses.material.problems --model reasoner --n 50 --out traces.jsonl`` writes the
traces that the other analyses would look at, one JSON object a line.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tqdm.auto import tqdm

import step_saliency as ss
from analyses.running.workers import Unit
from step_saliency.runs.inputs import Row, read_rows
from step_saliency.runs.map_file import trace_of_row
from step_saliency.tasks import Family, Level, Problem, make_problems
from step_saliency.tasks.answers import is_correct
from step_saliency.trace import Trace

TASK = "task"


@dataclass(frozen=True)
class Item:
    """One problem.

    Attributes:
        id: Name in tables.
        number: Its place, which seeds what the model draws for it.
        problem: A problem of the bundled task, or
        row: a row of a file.
    """

    id: str
    number: int
    problem: Problem | None = None
    row: Row | None = None

    @property
    def question(self) -> str:
        """Text of the question."""
        source: Any = self.problem or self.row
        return str(source.question)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that `read_items` and `item_traces` read."""
    parser.add_argument("--data", default=TASK, help="'task', or a JSONL file")
    parser.add_argument("--level", default="medium", choices=get_args(Level), help="of the task")
    parser.add_argument("--family", default="symbols", choices=get_args(Family), help="of the task")
    parser.add_argument(
        "--responses", default="own", choices=["own", "gold"], help="gold: solutions of the task"
    )
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--instruction", default="", help="line added to questions of a file")
    parser.add_argument("--format", default="auto", help="of responses to a file")
    parser.add_argument("--splitter", default="sentence", help="of responses to a file")


def read_items(options: Mapping[str, Any]) -> list[Item]:
    """The first ``n`` problems.

    Raises:
        ValueError: a file that cannot be read, or one of its rows.
    """
    if options["data"] == TASK:
        problems = make_problems(
            n=options["n"],
            level=options["level"],
            seed=options["seed"],
            family=options["family"],
        )
        return [Item(problem.id, i, problem=problem) for i, problem in enumerate(problems)]
    rows = read_rows(Path(options["data"]), limit=options["n"])
    for row in rows:
        if row.error:
            raise ValueError(f"{options['data']}: {row.error}")
    return [Item(row.id, i, row=row) for i, row in enumerate(rows)]


def check_task(options: Mapping[str, Any], what: str) -> None:
    """Raise ValueError for rows of a file, of which the right steps are not known.

    Args:
        options: ``data``.
        what: What needs the bundled task, for the message.
    """
    if options["data"] != TASK:
        raise ValueError(
            f"data={options['data']!r}: {what} need the right steps, which are known for the "
            f"bundled task alone (--data {TASK})"
        )


def item_units(options: Mapping[str, Any]) -> list[Unit]:
    """One unit a problem; the payload is its `Item`."""
    return [Unit(item.row.file_name if item.row else item.id, item) for item in read_items(options)]


def item_trace(model: Any, item: Item, options: Mapping[str, Any]) -> Trace:
    """Trace of a problem: its own response, the gold solution, or the one that the file has."""
    return item_traces(model, item, options, n=1)[0]


def item_traces(model: Any, item: Item, options: Mapping[str, Any], *, n: int) -> list[Trace]:
    """Responses to one problem, each with seeds of its own.

    Premises of the bundled task are steps of their own. ``meta`` has ``problem`` and, where a gold
    answer is known, ``is_correct``. Gold solutions and responses of a file come once.
    """
    if item.problem is not None and options["responses"] == "gold":
        return [_labelled(item, item.problem.trace(model.tokenizer, split_question=True))]
    cut: dict[str, Any] = {"format": options["format"], "splitter": options["splitter"]}
    if item.row is not None and item.row.kind != "problem":
        return [_labelled(item, trace_of_row(item.row, model.tokenizer, **cut))]
    question = item.question
    if item.row is not None and options["instruction"]:
        question = f"{question}\n{options['instruction']}"
    written = ss.generate(
        model,
        [question],
        n=n,
        temperature=options["temperature"],
        max_new_tokens=options["max_new_tokens"],
        seed=options["seed"],
        question_numbers=[item.number],
        progress=False,
        **cut,
    )
    if item.problem is not None:
        responses = [trace.response for trace in written]
        written = [item.problem.trace(model.tokenizer, r, split_question=True) for r in responses]
    return [_labelled(item, trace) for trace in written]


def _labelled(item: Item, trace: Trace) -> Trace:
    correct = trace.meta.get("is_correct")
    if item.problem is not None:
        correct = item.problem.grade(trace).is_correct
    elif item.row is not None and item.row.gold is not None and correct is None:
        correct = is_correct(trace.response, item.row.gold)
    return Trace(
        tokens=trace.tokens,
        steps=trace.steps,
        id=trace.id or item.id,
        question=trace.question or item.question,
        response=trace.response,
        meta={**trace.meta, "problem": item.id, "is_correct": correct},
    )


def main() -> None:
    """Write traces to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="reasoner")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    add_source_arguments(parser)
    options = vars(parser.parse_args())
    model = ss.load_model(options["model"])
    items = tqdm(read_items(options), unit="problem")
    ss.save_jsonl(options["out"], [item_trace(model, item, options) for item in items])


if __name__ == "__main__":
    main()
