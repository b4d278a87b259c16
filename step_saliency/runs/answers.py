"""The model's own answers to rows that hold only a question, each saved when it is done."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

from tqdm.auto import tqdm

from step_saliency.decoding.generate import each_response
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.inputs import Row
from step_saliency.runs.run_report import RunReport
from step_saliency.runs.settings import MapSettings
from step_saliency.trace import Trace


def answer_rows(
    folder: RunFolder,
    rows: Sequence[Row],
    model: Callable[[], Any],
    settings: MapSettings,
    report: RunReport,
    *,
    progress: bool,
) -> dict[str, Trace]:
    """Answers to the rows that hold only a question, those of an earlier run included.

    Args:
        folder: Where they are kept.
        rows: Rows of any kind; their numbers seed the samples.
        model: Loads the model; called if something is left to answer.
        settings: How to decode.
        report: Takes the rows that could not be answered.
        progress: Show a bar.

    Returns:
        Traces by `sample_name`.
    """
    asked = [(number, row) for number, row in enumerate(rows) if row.kind == "problem"]
    answers = folder.read_generated({row.id: row.digest for _, row in asked})
    open_rows = [
        (number, row)
        for number, row in asked
        if any(sample_name(row, sample) not in answers for sample in range(settings.n))
    ]
    if not open_rows:
        return answers
    n_answers = len(open_rows) * settings.n
    with (
        tqdm(total=n_answers, unit="answer", desc="answers", disable=not progress) as bar,
        closing(_generated(open_rows, model(), settings, report)) as generated,
    ):
        for row, sample, trace in generated:
            name = sample_name(row, sample)
            if name not in answers:
                answers[name] = trace
                folder.append_generated(name, row.digest, trace)
            bar.update()
    return answers


def sample_name(row: Row, sample: int) -> str:
    """Name of one answer to a row."""
    return f"{row.id}#{sample}"


def _generated(
    rows: Sequence[tuple[int, Row]], model: Any, settings: MapSettings, report: RunReport
) -> Generator[tuple[Row, int, Trace], None, None]:
    """Row, sample and trace of each answer; a row that cannot be answered fails alone."""
    missing = [settings.n] * len(rows)
    try:
        responses = each_response(
            model,
            [_question(row, settings) for _, row in rows],
            settings,
            question_numbers=[number for number, _ in rows],
        )
        with closing(responses):
            for place, trace in responses:
                index, sample = divmod(place, settings.n)
                missing[index] -= 1
                yield rows[index][1], sample, trace
    except OSError:
        raise
    except Exception as error:  # whatever a template or a tokenizer raises is a fault of that row
        if len(rows) == 1:
            report.add_failure(rows[0][1], "generate", error)
            return
        left = [row for row, n in zip(rows, missing, strict=True) if n]
        if not left:
            raise
        middle = (len(left) + 1) // 2
        for half in filter(None, (left[:middle], left[middle:])):
            yield from _generated(half, model, settings, report)


def _question(row: Row, settings: MapSettings) -> str:
    return f"{row.question}\n{settings.instruction}" if settings.instruction else row.question
