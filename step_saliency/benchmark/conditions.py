"""Conditions: what is changed about the model or about what is asked.

    baseline                 nothing
    oeb, smi, stepflow       the flow acts while the model decodes
    longer                   the same with twice the length
    plan_and_solve           a plan is asked for first (Plan-and-Solve+)
    hint                     at the end of the thinking a hint stands in place of its end, once
    budget_forcing           there "Wait" stands, twice, and the thinking ends at its budget
    self_consistency_2/4/8   the answer that most of 2, 4 or 8 samples of the baseline give

The last need no run of their own: tables count them from the samples of the baseline. Words that
are forced on the model are one mechanism (`suites.solvers`); it needs the mark that ends the
thinking, which is ``</think>``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from step_saliency.options import check_option

PLAN = (
    "{question}\n\nLet's first understand the problem, extract relevant variables and their "
    "corresponding numerals, and make a complete plan. Then, let's carry out the plan, calculate "
    "intermediate variables (pay attention to correct numerical calculation and commonsense), "
    "solve the problem step by step, and show the answer."
)
HINT = "\nWait, maybe I should check the result by another way of solving this.\n"
END_OF_THINKING = "</think>"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is changed.

    Attributes:
        name: Its name.
        flow: Flow of the provider.
        length: The length of responses is multiplied by this.
        question: What stands in place of the question, with a place for it.
        forced: Text that takes the place of the end of the thinking.
        times: How often.
        budget: Share of the length after which the thinking is ended; None does not end it.
        votes: Samples that vote, where the condition is counted from those of the baseline.
        source: Where it is from.
    """

    name: str
    flow: str = "none"
    length: int = 1
    question: str = "{question}"
    forced: str | None = None
    times: int = 0
    budget: float | None = None
    votes: int | None = None
    source: str = ""

    @property
    def needs_a_run(self) -> bool:
        """Whether responses of its own are decoded."""
        return self.votes is None


PAPER = "arXiv 2604.06695"
CONDITIONS: Mapping[str, Condition] = {
    condition.name: condition
    for condition in (
        Condition(name="baseline"),
        Condition(name="oeb", flow="oeb", source=PAPER),
        Condition(name="smi", flow="smi", source=PAPER),
        Condition(name="stepflow", flow="stepflow", source=PAPER),
        Condition(name="longer", length=2),
        Condition(name="plan_and_solve", question=PLAN, source="arXiv 2305.04091"),
        Condition(name="hint", forced=HINT, times=1, source="after arXiv 2503.04625"),
        Condition(
            name="budget_forcing", forced="Wait", times=2, budget=0.8, source="arXiv 2501.19393"
        ),
        *(
            Condition(name=f"self_consistency_{votes}", votes=votes, source="arXiv 2203.11171")
            for votes in (2, 4, 8)
        ),
    )
}


def condition_of(name: str) -> Condition:
    """The condition of a name.

    Raises:
        ValueError: there is none.
    """
    check_option("condition", name, tuple(CONDITIONS))
    return CONDITIONS[name]
