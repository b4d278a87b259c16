"""What analyses are about: problems of the bundled task or rows of a file, and traces of them.

``--data task`` makes problems with a known step graph; ``--data FILE`` reads JSONL rows as
`step_saliency.runs.inputs` does (GSM8K, MATH-500, saved traces, responses of any model). Where a
row has no response, the model writes its own; where it has one, that is read.

``python -m analyses.material.problems --model reasoner --n 50 --out traces.jsonl`` writes the
traces that the other analyses would look at, one JSON object a line.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

import step_saliency as ss
from analyses.running.runner import LoadModel
from analyses.running.settings import ModelSettings, add_options, from_arguments, option
from analyses.running.workers import Unit, torch_threads
from step_saliency.runs.inputs import Row, read_input, trace_of_row
from step_saliency.runs.roles import parse_fields
from step_saliency.tasks import Family, Level, Problem, make_problems
from step_saliency.tasks.answers import is_correct
from step_saliency.tasks.verdicts import verdict
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


@dataclass(frozen=True, kw_only=True)
class SourceSettings(ModelSettings):
    """Of an analysis of problems or of traces: what `read_items` and `item_traces` read."""

    data: str = option(TASK, "'task', or a JSONL file")
    level: Level = option("medium", "of the task")
    family: Family = option("symbols", "of the task")
    responses: Literal["own", "gold"] = option("own", "gold: solutions of the task")
    temperature: float = 0.0
    max_new_tokens: int = 256
    instruction: str = option("", "line added to questions of a file")
    system: str = option("", "system prompt of each question", later=True)
    opening: str = option("", "what responses to a file begin with, as '<think>\\n'", later=True)
    format: str = option("auto", "of responses to a file")
    splitter: str = option("sentence", "of responses to a file")
    field: str = option("", "which field of a row holds what", metavar="ROLE=NAME,...", later=True)
    references: Literal["gold", "own"] = option(
        "gold",
        "texts that placebos are matched on and doses measured on: solutions, or the model's own",
        later=True,
    )
    n_matching: int = option(24, "texts that placebos are matched on", later=True)


def read_items(settings: SourceSettings) -> list[Item]:
    """The first ``n`` problems.

    Raises:
        ValueError: a file that cannot be read, or one of its rows.
    """
    if settings.data == TASK:
        problems = make_problems(
            n=settings.n, level=settings.level, seed=settings.seed, family=settings.family
        )
        return [Item(problem.id, i, problem=problem) for i, problem in enumerate(problems)]
    return file_items(settings.data, settings.n, field=settings.field)


def file_items(file: str, n: int | None = None, *, field: str = "") -> list[Item]:
    """The first ``n`` rows of a file, or all.

    Args:
        file: In any form that `step_saliency.runs.inputs` reads.
        n: Rows.
        field: Names of fields by role, as for ``step-saliency map --field``.

    Raises:
        ValueError: a file that cannot be read, or one of its rows.
    """
    rows = read_input(Path(file), limit=n, fields=parse_fields(field)).rows
    for row in rows:
        if row.error:
            raise ValueError(f"{file}: {row.error}")
    return [Item(row.id, i, row=row) for i, row in enumerate(rows)]


def check_task(settings: SourceSettings, what: str) -> None:
    """Raise ValueError for rows of a file, of which the right steps are not known.

    Args:
        settings: Of the run.
        what: What needs the bundled task, for the message.
    """
    if settings.data != TASK:
        raise ValueError(
            f"data={settings.data!r}: {what} need the right steps, which are known for the "
            f"bundled task alone (--data {TASK})"
        )


def item_units(settings: SourceSettings) -> list[Unit]:
    """One unit a problem; the payload is its `Item`."""
    items = read_items(settings)
    return [Unit(item.row.file_name if item.row else item.id, item) for item in items]


def item_trace(model: Any, item: Item, settings: SourceSettings) -> Trace:
    """Trace of a problem: its own response, the gold solution, or the one that the file has."""
    return item_traces(model, item, settings, n=1)[0]


def item_traces(model: Any, item: Item, settings: SourceSettings, *, n: int) -> list[Trace]:
    """Responses to one problem, each with seeds of its own.

    Premises of the bundled task are steps of their own. ``meta`` has ``problem`` and, where a gold
    answer is known, ``is_correct``. Gold solutions and responses of a file come once.
    """
    if item.problem is not None and settings.responses == "gold":
        return [_labelled(item, item.problem.trace(model.tokenizer, split_question=True))]
    cut: dict[str, Any] = {"format": settings.format, "splitter": settings.splitter}
    if item.row is not None and item.row.kind != "problem":
        return [_labelled(item, trace_of_row(item.row, model.tokenizer, **cut))]
    written = ss.generate(
        model,
        [asked(item, settings.instruction)],
        system=settings.system or None,
        tokenizer=opened(model.tokenizer, settings.opening),
        n=n,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
        question_numbers=[item.number],
        progress=False,
        **cut,
    )
    if item.problem is not None:
        responses = [trace.response for trace in written]
        written = [item.problem.trace(model.tokenizer, r, split_question=True) for r in responses]
    return [_labelled(item, trace) for trace in written]


def solution_traces(model: Any, items: Sequence[Item], settings: SourceSettings) -> list[Trace]:
    """Texts that edits are set up and measured on: gold solutions, or greedy answers of the model.

    Gold solutions of a file are in another form than what a model writes, without a mark between
    thinking and summary for instance; where edits read that form, its own answers are the choice.
    """
    if settings.references == "gold":
        return [gold_trace(model.tokenizer, item) for item in items]
    cut: dict[str, Any] = {"format": settings.format, "splitter": settings.splitter}
    written = ss.generate(
        model,
        [asked(item, settings.instruction) for item in items],
        system=settings.system or None,
        tokenizer=opened(model.tokenizer, settings.opening),
        temperature=0.0,
        max_new_tokens=settings.max_new_tokens,
        progress=False,
        **cut,
    )
    return [_labelled(item, trace) for item, trace in zip(items, written, strict=True)]


def asked(item: Item, instruction: str) -> str:
    """The question as the model gets it: rows of a file take an instruction."""
    return f"{item.question}\n{instruction}" if item.row and instruction else item.question


def opened(tokenizer: Any, opening: str) -> Any:
    """A tokenizer whose chat template begins the response, as that of R1 does with ``<think>``.

    Args:
        tokenizer: Of the model; it is left as it is.
        opening: Text after the template's own; with ``\\n`` for a new line. Empty: None, for the
            model's tokenizer.

    Raises:
        ValueError: a tokenizer without a chat template.
    """
    if not opening:
        return None
    if not isinstance(tokenizer.chat_template, str):
        raise ValueError(
            f"opening={opening!r}: the tokenizer has no one chat template to put it after; give it "
            "one, or leave the opening out"
        )
    text = opening.replace("\\n", "\n")
    other = copy.copy(tokenizer)
    other.chat_template = tokenizer.chat_template + (
        "{% if add_generation_prompt %}{{ " + json.dumps(text) + " }}{% endif %}"
    )
    return other


def is_right(item: Item, text: str) -> bool:
    """Whether a response ends in the answer of the task, or in a file's gold answer."""
    if item.problem is not None:
        return item.problem.grade(text).is_correct
    assert item.row is not None
    assert item.row.gold is not None
    return bool(is_correct(text, item.row.gold))


def _labelled(item: Item, trace: Trace) -> Trace:
    """The trace under its problem; a judgement that came with it counts before ours."""
    correct = verdict(trace.meta.get("is_correct"))
    if item.problem is not None:
        correct = item.problem.grade(trace).is_correct
    elif item.row is not None and correct is None:
        row = item.row
        correct = row.stated_correct if row.kind != "problem" else None
        if correct is None and row.gold is not None:
            correct = is_correct(trace, row.gold)
    return replace(
        trace,
        id=trace.id or item.id,
        question=trace.question or item.question,
        meta={**trace.meta, "problem": item.id, "is_correct": correct},
    )


def gold_trace(tokenizer: Any, item: Item) -> Trace:
    """The gold solution of a problem.

    Raises:
        ValueError: a row of a file that has none.
    """
    if item.problem is not None:
        return item.problem.trace(tokenizer)
    if item.row is None or item.row.gold is None:
        raise ValueError(f"{item.id} has no gold answer to take the loss of")
    return Trace.from_text(tokenizer, question=item.question, response=item.row.gold, id=item.id)


def main() -> None:
    """Write traces to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, SourceSettings)
    parser.add_argument("--out", type=Path, required=True)
    parsed = parser.parse_args()
    settings = from_arguments(SourceSettings, parsed)
    with torch_threads(settings.threads):
        model = LoadModel()(settings)
        items = tqdm(read_items(settings), unit="problem")
        ss.save_jsonl(parsed.out, [item_trace(model, item, settings) for item in items])


if __name__ == "__main__":
    main()
