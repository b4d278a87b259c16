r"""Problems whose answer is an expression: AIME, AMC, MATH-500, GSM8K.

Field names are those of the public files, in any case. Gold answers stay as they are written, but a
whole number that a file holds as a float (27.0 in AMC23) is written as one, and of a worked
solution it is what follows ``####``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from step_saliency.benchmark.suites.files import field_of
from step_saliency.benchmark.suites.item import Item
from step_saliency.tasks.answers import gold_answer

INSTRUCTION = (
    "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
)
"""As the model card of DeepSeek-R1-Distill-Qwen asks for mathematics."""
QUESTIONS = ("problem", "question")
ANSWERS = ("answer", "gold_answer")
IDS = ("id", "unique_id", "problem_id", "question_id")
KEPT = ("subject", "level", "url")


def items(records: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Problems of records.

    Raises:
        ValueError: a record without question or answer.
    """
    return [_item(number, record) for number, record in enumerate(records)]


def _item(number: int, record: Mapping[str, Any]) -> Item:
    place = f"record {number + 1}"
    return Item(
        id=_id(number, record),
        question=str(field_of(record, QUESTIONS, place)).strip(),
        target=_answer(field_of(record, ANSWERS, place)),
        facts={name: record[name] for name in KEPT if record.get(name) is not None},
    )


def _id(number: int, record: Mapping[str, Any]) -> str:
    try:
        return str(field_of(record, IDS, ""))
    except ValueError:
        return str(number)


def _answer(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return gold_answer(str(value))
