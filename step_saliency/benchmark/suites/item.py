"""One problem of a suite."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Item:
    """A problem.

    Attributes:
        id: Its id in its suite.
        question: What is asked, without an instruction.
        target: The gold answer; empty where programs are tested.
        facts: Anything else that is kept in the log, in JSON types.
        hidden: What the grader needs and the log does not, such as tests.
    """

    id: str
    question: str
    target: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    hidden: Any = field(default=None, compare=False, repr=False)
