"""Problems of the bundled task, which the bundled reasoner was trained for."""

from typing import Literal

from step_saliency.benchmark.suites.item import Item
from step_saliency.tasks import make_problems

INSTRUCTION = "{question}"
LEVEL: Literal["medium"] = "medium"
N = 40


def items(*, n: int = N, seed: int = 0) -> list[Item]:
    """Problems made on the spot; the same for the same seed."""
    problems = make_problems(n=n, level=LEVEL, seed=seed)
    return [
        Item(id=f"{LEVEL}-{seed}-{number}", question=problem.question, target=str(problem.answer))
        for number, problem in enumerate(problems)
    ]
