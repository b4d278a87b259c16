r"""Answers that look alike and are not, and answers that look different and are the same.

A table of what a comparison by value gets wrong (math-verify's known false positives among them):
gold answer, answer, verdict. None is "cannot be said".
"""

import re

import pytest

from step_saliency.tasks.answers import is_correct
from step_saliency.tasks.comparison import same

FALSE_POSITIVES = [
    # bases
    ("1203_5", "1203_4", False),
    ("1203_5", "1203_{5}", True),
    ("1203_5", "1203", None),
    ("178", "1203_5", None),
    ("110_2", "110_{\\text{two}}", True),
    ("110_2", "110 (base 2)", True),
    ("1203_5+1", "1203_4+1", None),
    # numbers too small to be told apart by 15 decimals
    ("1/2^{77}", "1/2^{76}", False),
    ("2^{-77}", "\\frac{1}{2^{77}}", True),
    ("10^{-18}", "10^{-19}", False),
    ("0.0000003", "0.0000004", False),
    ("0", "10^{-9}", False),
    ("\\pi\\cdot 10^{-20}", "\\pi\\cdot 10^{-21}", False),
    ("x/2^{90}", "x/2^{91}", False),
    # mixed numbers
    ("3", "3 1/4", False),
    ("13/4", "3 1/4", True),
    ("3\\frac{1}{4}", "\\frac{13}{4}", True),
    ("3\\frac{1}{4}", "\\frac{3}{4}", False),
    ("3 1/4", "31/4", False),
    ("3¼", "3.25", True),
    # scientific notation
    ("2.5", "2.5e2", False),
    ("250", "2.5e2", True),
    ("250", "2.5 \\times 10^{2}", True),
    ("250", "2.5 × 10²", True),
    ("2.5e2", "2.5e-2", False),
    ("6.02e23", "6.02e22", False),
    # units
    ("7 cm", "7 m", False),
    ("7\\text{ cm}", "7", True),
    ("700 cm", "7 m", True),
    ("12\\mbox{ cm}^2", "12 cm", False),
    ("12\\mbox{ cm}^2", "12 square centimeters", True),
    ("7 kg", "7 cm", False),
    ("3 hours", "180 minutes", True),
    ("7 pears", "7 plums", None),
    ("7 pears", "6 plums", False),
    ("45^\\circ", "45 degrees", True),
    ("36", "36°", True),  # the question says that degrees are asked for
    ("36", "37°", False),
    ("36°", "36 cm", False),
    ("2\\sqrt3 cm", "2\\sqrt{3} m", False),
    ("100\\pi cm", "\\pi m", True),
    ("$12", "12 dollars", True),
    # percent
    ("25\\%", "0.25", True),
    ("25\\%", "25", True),
    ("0.05", "5\\%", True),
    ("5\\%", "0.5", False),
    ("0.4\\%", "0.4", None),
    # decimal commas
    ("3.5", "3,5", True),
    ("7/2", "3,5", True),
    ("3.5", "3,6", False),
    ("35", "3,5", False),
    ("5", "3,5", False),
    ("0.125", "0,125", True),
    ("1234", "1,234", True),
    ("1.234", "1,234", False),
    ("1234.5", "1.234,5", True),
    ("-2.25", "-2,25", True),
    ("3.5 kg", "3,5 kg", True),
    ("3, 5", "3,5", True),
    # digits that the base lacks
    ("204_5", "205_5", False),
    ("210_5", "205_5", False),
    # order and brackets
    ("(4,9)", "(9,4)", False),
    ("4,9", "9,4", True),
    ("4, 9", "4 and 9", True),
    ("4, 9", "4", False),
    ("\\{4,9,1\\}", "\\{1,4,9\\}", True),
    ("\\{4,9,1\\}", "\\{4,9\\}", False),
    ("\\{4,9\\}", "(4,9)", False),
    ("[4,9)", "(4,9]", False),
    ("[4,9)", "[4, 9]", False),
    ("(-\\infty, 4)", "(-∞, 4)", True),
    ("(0,4) \\cup (4,9)", "(4,9) \\cup (0,4)", True),
    ("(0,4) \\cup (4,9)", "(0,4) \\cup [4,9)", False),
    ("k=4, 5, 6", "k=3, 4, 5", False),
    ("x=1, y=2", "x=2, y=1", False),
    ("x=1, y=2", "y=2, x=1", True),
    ("x=4", "y=4", False),
    ("x=4", "4", True),
    ("2 \\pm \\sqrt{7}", "2+\\sqrt{7}, 2-\\sqrt{7}", True),
    ("2 \\pm \\sqrt{7}", "2+\\sqrt{7}", False),
    # signs inside braces
    ("2 - \\frac{1}{\\mathrm{e}}", "2 + \\frac{1}{\\mathrm{e}}", False),
    ("2 - \\frac{1}{\\mathrm{e}}", "2 - e^{-1}", True),
    # rounding
    ("1/3", "0.333333", True),
    ("1/3", "0.33", False),
    ("1000000", "1000001", False),
    ("\\sqrt{3}", "1.7320508", True),
    ("\\sqrt{3}", "1.73", False),
    # expressions
    ("x^2+4x+4", "(x+2)^2", True),
    ("x^2+4x+4", "(x+2)^3", False),
    ("p - q", "q - p", False),
    ("y = 3x - 1", "y = -1 + 3x", True),
    ("y = 3x - 1", "y = 3x + 1", False),
    ("x>4", "x \\ge 4", False),
    ("\\begin{pmatrix}4\\\\9\\end{pmatrix}", "\\begin{pmatrix} 9 \\\\ 4 \\end{pmatrix}", False),
    (
        "\\begin{pmatrix}4\\\\1/2\\end{pmatrix}",
        "\\begin{pmatrix}4\\\\ \\frac12\\end{pmatrix}",
        True,
    ),
    ("5!", "120", True),
    (".125", "\\frac18", True),
    ("12,\\!500", "12500", True),
    ("12,500", "12,501", False),
    # products without a sign
    ("6", "2(3)", True),
    ("5", "2(3)", False),
    ("28", "(7)(4)", True),
    ("11", "(7)(4)", False),
    ("28", "(7)4", True),
    ("11", "(7)4", False),
    ("7/3", "7\\left(\\frac{1}{3}\\right)", True),
    ("22/3", "7\\left(\\frac{1}{3}\\right)", False),
    ("35", "\\frac{1}{2}(7)(10)", True),
    ("17.5", "\\frac{1}{2}(7)(10)", False),
    ("14", "2(3) + 8", True),
    ("13", "2(3) + 8", False),
    ("-6", "-(2)(3)", True),
    ("40", "2^{3}(5)", True),
    ("13", "2^{3}(5)", False),
    ("12", "2[6]", True),
    ("8", "2[6]", False),
    ("9\\pi", "\\pi(3)^2", True),
    ("3\\pi", "\\pi(3)^2", False),
    ("2x+2", "2(x+1)", True),
    ("2x+1", "2(x+1)", False),
    ("f(3)", "f(3)", True),
    ("f(3)", "f(4)", False),
    ("f^{-1}(3)", "f^{-1}(4)", False),
    ("\\sin(3)", "\\sin 3", True),
    ("\\sin(3)", "3", False),
    ("3", "\\log_2(8)", True),
    ("16", "\\log_2(8)", False),
    ("(2,3)", "(2)(3)", False),
    ("11/2", "5\\frac{1}{2}", True),
    ("5/2", "5\\frac{1}{2}", False),
    # times and ratios
    ("3:2", "6:4", True),
    ("3:2", "2:3", False),
    ("3/2", "3:2", True),
    ("3:45", "3:15", False),
    ("1:15", "3:45", None),
    ("3:45 AM", "3:45 PM", None),
    # several choices
    ("A", "A, B, C, D", False),
    ("A", "A and B", False),
    ("A", "A) and C)", False),
    ("A", "(A), (C)", False),
    ("(A), (C)", "A, C", True),
    ("A", "A or B, I cannot say", None),
    ("A", "A, the first", True),
    ("B", "B) 12", True),
    ("AC", "A, C", True),
    ("AC", "C and A", True),
    ("A, C", "AC", True),
    ("AC", "A, D", False),
    ("AC", "A, B, C", False),
    ("AC", "A", False),
    ("CAB", "A, B, C", None),
    ("B, D", "B and D", True),
    ("B, D", "B and C", False),
    ("B, D", "(B), (D)", True),
    ("blue, red", "\\text{red, blue}", True),
    ("blue, red", "\\text{red and blue}", True),
    ("blue, red", "\\text{red, green}", False),
    ("blue, red", "\\text{red, blue, green}", False),
    ("yes, no", "no, yes", False),
    # letters and words
    ("B", "E", False),
    ("E", "\\text{E}", True),
    ("\\text{(D)}", "D", True),
    ("D", "(d)", True),
    ("D", "D: the fourth", True),
    ("D", "12", None),
    ("yes", "Yes, it does", True),
    ("no", "Yes", False),
    ("no", "hard to say", None),
    ("Friday", "friday.", True),
    ("Friday", "Monday", False),
    ("\\text{Nadia}", "Nadia", True),
    ("7", "seven", True),
    ("7", "\\text{no solution}", False),
    ("Twelve", "12", True),
    ("twenty-five", "25", True),
    ("25", "thirty-five", False),
    ("It is 12", "12", None),
    # words of size
    ("3000000", "3\\text{ million}", True),
    ("1500000", "1.5 million dollars", True),
    ("60", "5 dozen", True),
    ("3", "3 million", None),
    ("2", "3 million", False),
    # units of two parts
    ("5 m/s", "18 km/h", True),
    ("5 m/s", "19 km/h", False),
    ("60 mph", "60 miles per hour", True),
    ("5280 feet", "1 mile", True),
    ("74 inches", "6 ft 2 in", True),
    ("74 inches", "6 ft 3 in", False),
    ("150 minutes", "2 hours and 30 minutes", True),
    ("150", "2 hours and 30 minutes", True),
    ("2.5", "2 hours and 30 minutes", True),
    ("30", "2 hours and 30 minutes", False),
    ("\\$0.05", "5\\text{ cents}", True),
    ("0.50", "50¢", True),
    ("6", "5 cents", False),
    # decimals without end
    ("1/6", "0.1\\overline{6}", True),
    ("37/30", "1.2\\overline{3}", True),
    ("-1/3", "-0.\\dot3", True),
    ("0.3", "0.\\overline{3}", False),
    ("1/3", "0.333…", None),
    ("1/3", "0.333\\ldots", None),
    # brackets around thousands
    ("1234", "(1,234)", None),
    ("(1,234)", "1234", None),
    ("(1,2)", "3", False),
    # equations and relations
    ("3*4 = 12", "12", True),
    ("3*4 = 12", "13", False),
    ("x + y = 12", "12", False),
    ("y = 2x + 1", "2x - y + 1 = 0", None),
    ("(3, \\infty)", "x > 3", None),
    ("(3, \\infty)", "(4, \\infty)", False),
    ("\\mathbb{R}", "(-\\infty, \\infty)", None),
    ("\\emptyset", "\\varnothing", True),
    # a choice with its value
    ("\\textbf{(D)}\\ 24", "D", True),
    ("\\textbf{(D)}\\ 24", "24", True),
    ("\\textbf{(D)}\\ 24", "C", False),
    ("\\textbf{(D)}\\ 24", "25", False),
    ("24", "\\textbf{(D)}\\ 24", True),
    ("D", "\\textbf{(D)}24", True),
    # complex numbers
    ("\\frac{1}{1+i}", "\\frac{1-i}{2}", True),
    ("e^{i\\pi/3}", "\\frac12+\\frac{\\sqrt3}{2}i", True),
    ("1+i", "1-i", False),
    ("2i", "2k", False),
    # numbers and sets in words
    ("2/3", "two thirds", True),
    ("3/4", "three-quarters", True),
    ("109", "one hundred and nine", True),
    ("2013", "two thousand thirteen", True),
    ("20/5", "twenty-fifth", False),
    ("3", "one two", False),
    ("\\mathbb{R}", "\\text{all real numbers}", True),
    ("\\emptyset", "\\text{no solutions}", True),
    ("\\text{DNE}", "\\text{does not exist}", True),
    ("0", "\\emptyset", False),
    # a value and its rounding
    ("\\frac{5}{6}", "5/6 \\approx 0.833", True),
    ("0.833", "5/6 \\approx 0.833", True),
    ("0.84", "5/6 \\approx 0.833", False),
    ("5", "x \\approx 5", True),
    # a point and a column
    ("(1,2)", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", None),
    ("€5", "5", True),
    # too deep to be read
    ("2", "(" * 1500 + "1" + ")" * 1500, None),
]


@pytest.mark.parametrize(("gold", "given", "verdict"), FALSE_POSITIVES)
def test_answers_that_look_alike(gold: str, given: str, verdict: bool | None) -> None:
    assert same(gold, given, explicit=True) is verdict


def test_a_comma_is_decimal_only_where_one_number_is_expected() -> None:
    assert same("3.5", "3,5", explicit=True) is True
    assert same("3,5", "3.5", explicit=True) is False
    assert is_correct("Thus it is 3,5 in all.", "3.5") is True
    assert is_correct("Thus it is 3,5 in all.", "5") is False


def test_equality_goes_both_ways() -> None:
    """Where a verdict is clear, it does not depend on which of the two is the gold answer."""
    commas = {"3,5", "0,125", "1.234,5", "-2,25", "3,5 kg"}
    rows = [row for row in FALSE_POSITIVES if not commas & set(row[:2])]
    numbers = [row for row in rows if re.search(r"\d.*\n.*\d", "\n".join(row[:2]))]
    assert len(numbers) > 60
    for gold, given, verdict in numbers:
        back = same(given, gold, explicit=True)
        assert back is verdict or None in (back, verdict), (gold, given, back)
