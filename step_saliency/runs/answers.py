"""The model's own answers to rows that hold only a question: a batch at a time, saved at once."""

from collections.abc import Callable, Sequence
from typing import Any

from tqdm.auto import tqdm

from step_saliency.decoding.generate import generate
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
    size = max(1, settings.batch_size // settings.n)
    with tqdm(total=len(open_rows), unit="question", desc="answers", disable=not progress) as bar:
        for start in range(0, len(open_rows), size):
            batch = open_rows[start : start + size]
            responses = _generate(batch, model(), settings, report)
            for (_, row), traces in zip(batch, responses, strict=True):
                for sample, trace in enumerate(traces):
                    name = sample_name(row, sample)
                    if name not in answers:
                        answers[name] = trace
                        folder.append_generated(name, row.digest, trace)
            bar.update(len(batch))
    return answers


def sample_name(row: Row, sample: int) -> str:
    """Name of one answer to a row."""
    return f"{row.id}#{sample}"


def _generate(
    batch: Sequence[tuple[int, Row]], model: Any, settings: MapSettings, report: RunReport
) -> list[list[Trace]]:
    """Responses to each row of a batch; a row that cannot be answered fails alone."""
    try:
        traces = generate(
            model,
            [_question(row, settings) for _, row in batch],
            decoding=settings,
            question_numbers=[number for number, _ in batch],
            progress=False,
        )
    except OSError:
        raise
    except Exception as error:  # whatever a template or a tokenizer raises is a fault of that row
        if len(batch) > 1:
            return [_generate([single], model, settings, report)[0] for single in batch]
        report.add_failure(batch[0][1], "generate", error)
        return [[]]
    return [traces[i * settings.n : (i + 1) * settings.n] for i in range(len(batch))]


def _question(row: Row, settings: MapSettings) -> str:
    return f"{row.question}\n{settings.instruction}" if settings.instruction else row.question
