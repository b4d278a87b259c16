"""Where an answer leaves a worked solution, by hand."""

from fractions import Fraction

import pytest

from analyses.material.worked import (
    agreement,
    first_wrong_step,
    question_values,
    stated,
    worked_values,
)

QUESTION = (
    "A farm has 16 hens. Three are sold, and a dozen eggs cost $2.50. 20% of 1,200 eggs break."
)
SOLUTION = (
    "There are 16-3=<<16-3=13>>13 hens.\nOf the eggs 1200*.2=<<1200*.2=240>>240 break.\n"
    "So 1200-240=<<1200-240=960>>960 are left, 960/12=<<960/12=80>>80 dozens.\n"
    "They cost 80*2.5=$<<80*2.5=200>>200.\n#### 200"
)
RIGHT = [
    "There are 16 - 3 = 13 hens.",
    "20% of 1,200 is 1,200 * 0.2 = 240.",
    "So 1,200 - 240 = 960 eggs are left.",
    "That is \\( 960 \\div 12 = 80 \\) dozens.",
    "They cost 80 * 2.50 = $200.00.",
]


def numbers(*values: float | str) -> set[Fraction]:
    return {Fraction(str(value)) for value in values}


def test_values() -> None:
    assert worked_values(SOLUTION) == numbers(13, 240, 960, 80, 200)
    assert question_values(QUESTION) == numbers(16, 3, 12, "2.5", 20, "0.2", 1200)
    with pytest.raises(ValueError, match="no annotations"):
        worked_values("It is 5.\n#### 5")


def test_values_that_a_solution_does_not_annotate() -> None:
    """Equations count as annotations do, and so does the final answer."""
    solution = "He sold 4*5=20.\nThen 20 - 8 = <<20-8=12>>12 were left, a dozen.\n#### 1"
    assert worked_values(solution) == numbers(20, 12, 1)
    assert question_values("Forty-two boys, thirty girls, 3/4 of them") >= numbers(42, 30, 0.75)
    assert first_wrong_step("Forty boys", solution, ["There are 40 boys."], "first off") is None


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("3 * 4 = 12", (12,)),
        ("3 * 4 = 2 * 6 = 12 eggs", (12,)),
        ("x = 5 + 8 = $1,300.50.", ("1300.5",)),
        ("so y = -4", (-4,)),
        ("5 - 9 = 40% of them", (40,)),
        ("\\[ 2 \\times 7 = \\text{14} \\]", (14,)),
        ("He has 17 left, 2 of them red.", (17,)),
        ("In 7 days", ()),
        ("No number at all", ()),
        ("Room B12 and 3rd", ()),
        ("It is = 0.75 * 100 = 75", (75,)),
        ("It is = $1,200 / 4 = $300", (300,)),
        ("It is = 100,000 * 2 = 200,000", (200000,)),
    ],
)
def test_what_a_step_states(step: str, expected: tuple[float | str, ...]) -> None:
    assert stated(step) == tuple(Fraction(str(value)) for value in expected)


def test_a_whole_solution_has_no_wrong_step() -> None:
    assert first_wrong_step(QUESTION, SOLUTION, RIGHT, "first off") is None
    assert first_wrong_step(QUESTION, SOLUTION, RIGHT, "last on") is None


@pytest.mark.parametrize("place", range(5))
def test_both_rules_find_a_step_from_which_all_is_wrong(place: int) -> None:
    wrong = [f"That makes {i} + 1000 = {1011 + i}." for i in range(5 - place)]
    for rule in ("first off", "last on"):
        assert first_wrong_step(QUESTION, SOLUTION, RIGHT[:place] + wrong, rule) == place


def test_they_err_to_opposite_sides() -> None:
    detour = [RIGHT[0], "Of them 100 * 9 = 900 would do.", *RIGHT[1:4], "80 + 80 = 161"]
    assert first_wrong_step(QUESTION, SOLUTION, detour, "first off") == 1
    assert first_wrong_step(QUESTION, SOLUTION, detour, "last on") == 5
    by_chance = [RIGHT[0], "13 * 9 = 117", "117 + 83 = 200", "200 / 3 = 66.7"]
    assert first_wrong_step(QUESTION, SOLUTION, by_chance, "first off") == 1
    assert first_wrong_step(QUESTION, SOLUTION, by_chance, "last on") == 3


def test_amounts_rounded_to_cents_are_the_same() -> None:
    solution = "10/3=<<10/3=3.3333>>3.3333\n#### 3.33"
    assert first_wrong_step("10 by 3", solution, ["10 / 3 = 3.33"], "first off") is None
    assert first_wrong_step("10 by 3", solution, ["10 / 3 = 3.4"], "first off") == 0


def test_agreement() -> None:
    pairs = [(1, 1), (1, 2), (None, None), (None, 1), (3, 0)]
    assert agreement(pairs) == {"same": 0.4, "within_one": 0.6}
    with pytest.raises(ValueError, match="no answers"):
        agreement([])
