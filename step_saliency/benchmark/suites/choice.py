"""GPQA: four options, in an order that depends on a seed and the record alone.

The public file lists the right option first. The order is drawn from a hash of seed and record, so
all conditions, samples and machines see the same one, and a record keeps its order when others are
left out.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from step_saliency.benchmark.suites.files import field_of
from step_saliency.benchmark.suites.item import Item

INSTRUCTION = (
    "Answer the following multiple choice question. The last line of your response should be of "
    "the following format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of ABCD. Think "
    "step by step before answering.\n\n{question}"
)
"""As simple-evals asks, from which the published numbers of GPQA come."""
LETTERS = "ABCD"
OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def items(records: Sequence[Mapping[str, Any]], *, seed: int = 0) -> list[Item]:
    """Problems of records.

    Args:
        records: Records of the public file.
        seed: Of the order of options.

    Raises:
        ValueError: a record without question, options or id; two options that are alike.
    """
    return [_item(number, record, seed) for number, record in enumerate(records)]


def _item(number: int, record: Mapping[str, Any], seed: int) -> Item:
    place = f"record {number + 1}"
    id = str(field_of(record, ("Record ID", "id"), place))  # noqa: A001
    texts = [str(field_of(record, (name,), place)).strip() for name in OPTIONS]
    if texts[0] in texts[1:]:
        raise ValueError(f"{place} ({id}) has its right option among the wrong ones")
    order = order_of(seed, id)
    question = str(field_of(record, ("Question",), place)).strip()
    lines = [f"{letter}) {texts[option]}" for letter, option in zip(LETTERS, order, strict=True)]
    return Item(
        id=id,
        question=question + "\n\n" + "\n".join(lines),
        target=LETTERS[order.index(0)],
        facts={
            name: record[name]
            for name in ("High-level domain", "Subdomain")
            if record.get(name) is not None
        },
    )


def order_of(seed: int, id: str) -> list[int]:  # noqa: A002
    """Which option stands at each letter; 0 is the right one."""
    digest = hashlib.sha256(f"{seed}\0{id}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big")).sample(range(len(LETTERS)), len(LETTERS))
