"""Times, lengths and weights in one unit or several: the same quantity is the same answer, another
one is none, wherever it stands."""

import pytest

from step_saliency.tasks.answers import final_answer, is_correct, same_answer
from step_saliency.tasks.units import in_one_unit, quantities

PLACES = (
    r"\boxed{%s}",
    "The answer is %s.",
    "<answer>%s</answer>",
    "So it takes %s.",
    "So it takes %s in all.",
    "The total is %s for all of them.",
)
SAME: list[tuple[str, list[str], list[str]]] = [
    # gold answer, the same, others
    (
        "3 hours and 20 minutes",
        ["200 minutes", "3 h 20 min", "3h20m", "3 hrs 20 mins", "3 hours, 20 minutes",
         "3 hr. 20 min.", "12,000 seconds", "$3$ hours and $20$ minutes",
         r"$3\text{ hours } 20\text{ minutes}$", "**3** hours and **20** minutes"],
        ["3 h 21 min", "3 h 20 s", "2 h 20 min", "3 hours", "20 minutes", "20", "3", "200 seconds",
         "200 hours", "320 minutes", "3.2 hours", "**3** hours and **21** minutes"],
    ),
    ("200 minutes", ["3 hours and 20 minutes", "3h20m"], ["20 minutes", "3 h", "2 h 20 min"]),
    (
        "5 feet 3 inches",
        ["63 inches", "5 ft 3 in", "5 ft. 3 in.", "5'3\"", "5\N{PRIME}3\N{DOUBLE PRIME}",
         "5.25 feet"],
        ["62 inches", "63 feet", "5 feet", "3 inches", "5'4\"", "5", "3", "5.3 feet"],
    ),
    ("63 inches", ["5 feet 3 inches", "5'3\""], ["3 inches", "5 ft 2 in", "63 feet", "63 cm"]),
    ("2 lb 3 oz", ["35 oz", "35 ounces", "2 pounds and 3 ounces"], ["34 oz", "2 lb", "35 lb"]),
    ("2 kg 300 g", ["2.3 kg", "2300 g", "2,300 grams"], ["2.03 kg", "300 g", "2 kg"]),
    ("1 year and 6 months", ["18 months", "1.5 years"], ["16 months", "18 years", "6 months"]),
    ("3 hours", ["180 minutes"], ["180 seconds", "3 minutes", "3 days"]),
    ("180", ["180 minutes"], ["18 minutes"]),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("gold", "same", "others"), SAME)
def test_the_same_quantity_in_other_units(
    gold: str, same: list[str], others: list[str], place: str
) -> None:
    assert [text for text in (gold, *same) if is_correct(place % text, gold) is not True] == []
    assert [text for text in others if is_correct(place % text, gold) is not False] == []


def test_votes_for_one_quantity_are_one() -> None:
    assert same_answer("3h20m", "200 minutes")
    assert not same_answer("3h20m", "320 minutes")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("So it takes 3 h 20 min.", "3 h 20 min"),
        ("He is 6 ft 2 in tall.", "6 ft 2 in"),
        ("There are 5 in the box.", "5"),
        ("It takes 64 minutes for 16 glasses.", "16"),
        ("The area is 35 cm^2.", "35 cm^2"),
        ("It goes 60 miles an hour.", "60"),
        ("It goes 60 miles per hour.", "60"),
        ("She reads 5 pages in 2 1/2 hours.", "2 1/2"),
        ("He has 2 hours and 30 apples.", "30"),
        ("They took 3 hours, 4 hours and 5 hours.", "5 hours"),
    ],
)
def test_what_belongs_to_the_last_number_of_a_line(line: str, answer: str) -> None:
    assert final_answer(line) == answer


@pytest.mark.parametrize(
    "text", ["20 minutes and 3 hours", "3 hours and 20 feet", "5 miles 3 miles", "3 and 20 minutes"]
)
def test_what_makes_no_sum(text: str) -> None:
    assert in_one_unit(text) == []
    assert not any(quantity.is_sum for quantity in quantities(text))
