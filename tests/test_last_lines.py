"""Answers in a last line without a mark or an announcement: terms as a whole, not their digits."""

import time

import pytest

from step_saliency.tasks.announced import read_answers
from step_saliency.tasks.answers import final_answer, is_correct
from step_saliency.tasks.terms import terms


def graded(line: str, gold: str) -> bool | None:
    return is_correct(f"<think>\nw\n</think>\n\n{line}", gold)


LINES = [
    # line, gold answers that it gives, others that it does not
    # lines that are a formula
    ("5y - 4", ["5y-4", "-4+5y"], ["4", "-4", "5y+4"]),
    ("\\frac{3}{7}", ["3/7"], ["7", "3", "37"]),
    ("(52 - 17) + 6", ["41"], ["6", "52"]),
    ("(5, 8)", ["(5,8)"], ["8", "(8,5)"]),
    ("29 + 2 = 31", ["31"], ["2", "29"]),
    ("6 * 7 = 42", ["42"], ["7"]),
    ("$6 + $7 = $13", ["13"], ["7", "6"]),
    ("- 29", ["29"], ["-30"]),
    ("3. 29", ["29"], ["3"]),
    ("=> 29", ["29"], ["28"]),
    ("-> 29", ["29"], ["-29"]),
    ("2 hours -> 120 minutes", ["120"], ["2", "-120"]),
    ("29 + 2 = 31 ✓", ["31"], ["29"]),
    ("5:4", ["5:4", "10:8"], ["4", "5", "4:5"]),
    ("\\begin{pmatrix}4\\\\9\\end{pmatrix}", ["\\begin{pmatrix}4\\\\9\\end{pmatrix}"], ["9"]),
    # terms in prose
    ("So the derivative is 5y.", ["5y"], ["5", "6y"]),
    ("So the derivative is 5y + 4.", ["5y+4"], ["5", "4", "5y+3"]),
    ("Its area is 36π in all.", ["36\\pi"], ["36", "35\\pi"]),
    ("Its length is 5√2.", ["5\\sqrt2"], ["5", "2", "5\\sqrt3"]),
    ("So it is 5 \\sqrt{2}.", ["5\\sqrt2"], ["5", "2", "\\sqrt2"]),
    ("So it is 36 \\pi.", ["36\\pi"], ["36", "\\pi"]),
    ("So it is \\frac 37.", ["3/7"], ["37", "7"]),
    (
        "So it is \\begin{pmatrix} 4 \\\\ 9 \\end{pmatrix}.",
        ["\\begin{pmatrix}4\\\\9\\end{pmatrix}"],
        ["9", "\\begin{pmatrix}9\\\\4\\end{pmatrix}"],
    ),
    ("There are 12,\\!500 of them.", ["12500"], ["500", "12"]),
    ("It equals √2.", ["\\sqrt2"], ["2"]),
    ("The result is \\frac{3}{7}.", ["3/7"], ["7", "3"]),
    ("It is y^4 + 1.", ["y^4+1"], ["1", "4"]),
    ("So n = 2^10.", ["1024"], ["10", "2"]),
    ("So f(3) = 5.", ["5"], ["3"]),
    ("The odds are 5:4.", ["5:4"], ["5", "4", "4:5"]),
    ("The odds are 5 : 4.", ["5:4"], ["5", "4"]),
    ("They meet at 4:35 PM.", ["4:35", "4:35 PM"], ["35", "4", "4:53", "4:35 AM"]),
    ("Light goes 3 × 10⁸ m/s.", ["300000000"], ["8", "10", "3", "30000000"]),
    ("The chance is 5/6 ≈ 0.8333.", ["5/6"], ["1/6", "5", "6"]),
    ("The sum is 1/2 + 1/3 = 5/6.", ["5/6"], ["1/3", "1/2"]),
    ("The point is (5, 8).", ["(5,8)"], ["8", "5", "(8,5)"]),
    ("So x ≥ 5.", ["x \\ge 5"], ["5", "x \\le 5"]),
    ("So Ada has -7 points.", ["-7"], ["7"]),
    ("That is 2 1/2 cups.", ["2.5"], ["1/2", "2"]),
    ("There are 5 left!", ["5"], ["120"]),
    ("In all 5!", ["5"], ["120", "4"]),
    # numbers of units and words are none of their own
    ("The area is 35 cm^2.", ["35", "35 cm^2"], ["2", "35 cm^3"]),
    ("The area is 35 \\mbox{ cm}^2.", ["35", "35 cm^2"], ["2", "35 cm^3"]),
    ("It falls with 9.8 m/s^2.", ["9.8"], ["2"]),
    ("It needs 4 moles of H2O.", ["4"], ["2"]),
    ("It is 5cm long.", ["5", "5 cm"], ["6"]),
    ("It costs a 5% fee.", ["5%"], ["6"]),
    ("**Total for 5 days:** 35", ["35"], ["5"]),
    # formulas in a row
    ("The solutions are $x=4$ and $x=-9$.", ["4,-9", "-9,4"], ["-9", "4", "4,9"]),
    ("The roots are $4$, $5$ and $9$.", ["4,5,9"], ["9", "4,5"]),
    ("So x = 4 or x = -9.", ["4,-9"], ["-9", "4", "4,9"]),
    # without spaces
    ("因此，找零为8元。", ["8"], ["7"]),
    ("所以一共找零18元。", ["18"], ["8"]),
    ("因此，总共有15个苹果，小明吃了4个，还剩11个。", ["11"], ["4", "15"]),
    ("よって、合計は8個です。", ["8"], ["7"]),
    ("따라서 남은 사과는 9개입니다.", ["9"], ["8"]),
    ("所以答案不是8。", [], ["8"]),
    # ranges, lists that are none
    ("It takes 3-4 days.", [], ["4", "3"]),
    ("If $x=4$ then we find $y=9$.", ["9"], ["4"]),
]


@pytest.mark.parametrize(("line", "right", "wrong"), LINES)
def test_a_last_line(line: str, right: list[str], wrong: list[str]) -> None:
    assert {gold: graded(line, gold) for gold in right} == dict.fromkeys(right, True)
    assert True not in {graded(line, gold) for gold in wrong}


@pytest.mark.parametrize(
    ("line", "gold", "expected"),
    [
        ("Quin pays $48 for 12 cups.", "48", None),
        ("Quin pays $48 for 12 cups.", "47", False),
        ("The rest is 4 (mod 9).", "4", None),
        ("The rest is 4 (mod 9).", "5", False),
        ("The chance is 1/6, or about 17%.", "1/6", None),
        ("Here $a = 4$ and $b = 9$.", "9", None),
        ("Here $a = 4$ and $b = 9$.", "5", False),
        ("If $x=4$ then we find $y=9$.", "4,9", None),
        ("So there are 4 apples, and 9 pears.", "4,9", None),
        ("Thus 4 and 9 make 13.", "4", False),
        ("In all 6 * 7 = 42 for both.", "7", False),
    ],
)
def test_what_may_describe_the_answer_is_unknown(
    line: str, gold: str, expected: bool | None
) -> None:
    assert graded(line, gold) is expected


@pytest.mark.parametrize(
    ("sentence", "right", "wrong"),
    [
        ("The answer is 4 for n = 9.", "4", "9"),
        ("The answer is 4 when x = 9.", "4", "9"),
        ("The answer is clearly 5y + 4.", "5y+4", "4"),
        ("The answer is clearly 36π.", "36\\pi", "36"),
        ("Answer: A, C", "AC", "A"),
    ],
)
def test_announced(sentence: str, right: str, wrong: str) -> None:
    assert is_correct(sentence, right) is True
    assert is_correct(sentence, wrong) is False


def test_the_answer_as_written() -> None:
    assert final_answer("So the derivative is 5y + 4.") == "5y + 4"
    assert final_answer("So Ada has 31 stamps left.") == "31"
    assert final_answer("因此，找零为8元。") == "8"


@pytest.mark.parametrize(
    "text",
    ["(\\a", "(a ", "1 + ", " - ", "$x$, ", "1:", "2 for x = ", "A, ", "\\frac", "(1,", "8元"],
)
def test_repeated_terms_take_no_time(text: str) -> None:
    start = time.monotonic()
    list(terms(text * 1000))
    read_answers(text * 20_000 + "7 of.")
    is_correct(f"\\boxed{{{text * 500}}}", "A")
    assert time.monotonic() - start < 10
