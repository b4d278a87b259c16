"""Second solutions of every kind of program, each by another way than the first; and wrong ones.

``REFERENCES`` take the drawn parameters and the arguments of a call. ``MUTANTS`` are replacements
in the reference solution that make it wrong as people (and models) get it wrong.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

Reference = Callable[..., Any]


def count_compared(p: Any, numbers: list[int]) -> int:
    wanted = {
        "greater than": {1},
        "less than": {-1},
        "at least": {0, 1},
        "at most": {0, -1},
    }[p["words"]]
    return sum(int(np.sign(n - p["limit"])) in wanted for n in numbers)


def sum_multiples(p: Any, numbers: list[int]) -> int:
    total = 0
    for n in numbers:
        if Fraction(n, p["divisor"]).denominator == 1 and not n < p["least"]:
            total += n
    return total


def scaled(p: Any, numbers: list[int]) -> list[int]:
    return (np.array(numbers, int) * p["factor"] + p["shift"]).tolist()


def every_kth(p: Any, numbers: list[int]) -> list[int]:
    return numbers[p["start"] :: p["step"]]


def rotated(p: Any, numbers: list[int]) -> list[int]:
    rest = list(numbers)
    for _ in range(p["places"]):
        if rest and p["side"] == "left":
            rest.append(rest.pop(0))
        elif rest:
            rest.insert(0, rest.pop())
    return rest


def kth_largest(p: Any, numbers: list[int]) -> int:
    rest = set(numbers)
    for _ in range(p["place"] - 1):
        rest -= {max(rest)} if rest else set()
    return max(rest) if rest else p["default"]


def running_maximum(p: Any, numbers: list[int]) -> list[int]:
    return [max([p["floor"], *numbers[: i + 1]]) + p["shift"] for i in range(len(numbers))]


def running_total(p: Any, numbers: list[int]) -> list[int]:
    def add(total: int, number: int) -> int:
        return 0 if total + number > p["limit"] else total + number

    return list(itertools.accumulate(numbers, add, initial=p["start"]))[1:]


def count_letters(p: Any, text: str) -> int:
    return len(re.findall(f"[{p['letters']}]", text, re.IGNORECASE))


def long_words(p: Any, text: str) -> str:
    return p["mark"].join(re.findall(rf"\b\w{{{p['least']},}}\b", text))


def replaced_reversed(p: Any, text: str) -> str:
    return "".join(p["new"] if letter == p["old"] else letter for letter in reversed(text))


def shifted_letters(p: Any, text: str) -> str:
    alphabet = "abcdefghijklmnopqrstuvwxyz" * 2
    moved = {letter: alphabet[i + p["places"]] for i, letter in enumerate(alphabet[:26])}
    keeps = p["rest"] == "stays as it is"
    return "".join(moved.get(letter, letter if keeps else "") for letter in text)


def run_lengths(p: Any, text: str) -> str:
    runs = [(letter, len(list(run))) for letter, run in itertools.groupby(text)]
    return p["mark"].join(letter + str(n) for letter, n in runs if not n < p["least"])


def mirrored(p: Any, text: str) -> bool:
    rest = text.replace(p["first"], "").replace(p["second"], "").upper()
    return all(rest[i] == rest[-1 - i] for i in range(len(rest) // 2))


def tally(p: Any, words: list[str]) -> dict[str, int]:
    counts = Counter(word for word in words if len(word) > p["letters"] - 1)
    return {word: n for word, n in counts.most_common() if n > p["times"] - 1}


def totals_by_name(p: Any, payments: list[Any]) -> dict[str, int]:
    amounts = defaultdict(list)
    for name, amount in payments:
        if not amount < p["least"]:
            amounts[name].append(amount)
    return {name: p["first"] + sum(some) for name, some in amounts.items()}


def basket_price(p: Any, prices: dict[str, int], items: list[str]) -> int:
    total = 0
    for item in items:
        total += prices[item] if item in prices else p["default"]
    return total - p["off"] * (not total < p["limit"])


def most_common_letter(p: Any, text: str) -> str:
    counts = Counter(re.sub(f"[ {p['ignored']}]", "", text))
    best = [letter for letter, n in counts.items() if n == max(counts.values())]
    return sorted(best)[0] if best else ""


def digit_sum(p: Any, number: int) -> int:
    total = 0
    while number:
        number, digit = divmod(number, 10)
        total += 0 if digit < p["least"] else digit
    return total * p["factor"]


def divisors(p: Any, number: int) -> int:
    pairs = [(d, number // d) for d in range(1, int(number**0.5) + 1) if number % d == 0]
    every = {d for pair in pairs for d in pair}
    return len([d for d in every if d > p["low"] and (d % 2 == 1) == (p["parity"] == "odd")])


def primes_sum(p: Any, limit: int) -> int:
    is_prime = [False, False, *[True] * max(limit - 1, 0)]
    for number in range(2, limit + 1):
        for multiple in range(2 * number, limit + 1, number):
            is_prime[multiple] = False
    return sum(n for n in range(limit + 1) if is_prime[n] and n % p["modulus"] == p["rest"])


def steps_down(p: Any, number: int) -> int:
    if number <= p["stop"]:
        return 0
    quotient, rest = divmod(number, p["divisor"])
    return 1 + steps_down(p, number - 1 if rest else quotient)


def in_base(p: Any, number: int) -> str:
    return np.base_repr(number, p["base"]).rjust(p["width"], "0")


def pair_count(p: Any, numbers: list[int]) -> int:
    pairs = itertools.combinations(numbers, 2)
    return len([1 for one, other in pairs if (one + other - p["rest"]) % p["modulus"] == 0])


def sequence(p: Any, count: int) -> list[int]:
    terms, one, other = [], p["first"], p["second"]
    for _ in range(count):
        terms.append(one)
        one, other = other, one + other + p["more"]
    return terms


def transposed(p: Any, matrix: list[list[int]]) -> list[list[int]]:
    width = len(matrix[0]) if matrix else 0
    return [[row[i] * p["factor"] + p["shift"] for row in matrix] for i in range(width)]


def diagonals(p: Any, matrix: list[list[int]]) -> int:
    if not matrix:
        return 0
    whole = np.array(matrix)
    return int(p["main"] * np.trace(whole) + p["other"] * np.trace(whole[:, ::-1]))


def merged_intervals(p: Any, intervals: list[list[int]]) -> list[list[int]]:
    """Pairs that touch are joined until none are left."""
    rest = [list(interval) for interval in intervals]
    while True:
        near = [
            (a, b)
            for a, b in itertools.combinations(rest, 2)
            if max(a[0], b[0]) <= min(a[1], b[1]) + p["gap"]
        ]
        if not near:
            return sorted(i for i in rest if not i[1] - i[0] < p["least"])
        a, b = near[0]
        rest.remove(a)
        rest.remove(b)
        rest.append([min(a[0], b[0]), max(a[1], b[1])])


def covered(p: Any, intervals: list[list[int]]) -> int:
    every = {n for start, end in intervals for n in range(start, end + 1)}
    return len(every & set(range(p["low"], p["high"] + 1)))


def parsed_pairs(p: Any, text: str) -> dict[str, int]:
    outer, inner = re.escape(p["outer"]), re.escape(p["inner"])
    entries = re.findall(rf"([a-z]+)(?:{inner}(-?\d+))?(?:{outer}|$)", text)
    return {name: int(number) if number else p["default"] for name, number in entries}


def total_units(p: Any, entries: list[str]) -> int:
    numbers = [int(n) for n in re.findall(r"\d+", " ".join(entries))]
    return p["size"] * sum(numbers[::2]) + sum(numbers[1::2])


def passing_names(p: Any, text: str) -> list[str]:
    points = dict(re.findall(rf"([a-z]+){re.escape(p['mark'])}(-?\d+)", text))
    return [name for name in sorted(points) if not int(points[name]) < p["limit"]]


def moves(p: Any, text: str) -> list[int]:
    units = {letter: sum(map(int, re.findall(rf"{letter}(\d+)", text))) for letter in "UDLR"}
    return [p["x"] + units["R"] - units["L"], p["y"] + units["U"] - units["D"]]


def sorted_take(p: Any, numbers: list[int]) -> int:
    rest = [n for n in numbers if n % p["divisor"]]
    total = 0
    for _ in range(min(p["count"], len(rest))):
        total += rest.pop(rest.index(max(rest)))
    return total


def best_window(p: Any, numbers: list[int]) -> int:
    if len(numbers) < p["size"]:
        return p["default"]
    sums = [0, *itertools.accumulate(numbers)]
    return max(b - a for a, b in zip(sums, sums[p["size"] :], strict=False))


def longest_steady(p: Any, numbers: list[int]) -> int:
    """The longest of all stretches, each looked at as a whole."""
    best = 0
    for start, stop in itertools.combinations(range(len(numbers) + 1), 2):
        steps = np.abs(np.diff(numbers[start:stop]))
        if (steps <= p["most"]).all():
            best = max(best, stop - start)
    return 0 if best < p["least"] else best


REFERENCES: dict[str, Reference] = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__
}

MUTANTS: dict[str, list[tuple[str, str]]] = {
    "count_compared": [("sum(1 for number in numbers if", "sum(number for number in numbers if")],
    "sum_multiples": [(" and n >= {least}", ""), ("n % {divisor} == 0 and ", "")],
    "scaled": [("number * {factor} + {shift}", "(number + {shift}) * {factor}")],
    "every_kth": [("(i - {start}) % {step}", "i % {step} * 0"), ("i >= {start}", "i > {start}")],
    "rotated": [("numbers[cut:] + numbers[:cut]", "numbers[-cut:] + numbers[:-cut]")],
    "kth_largest": [("sorted(set(numbers)", "sorted(list(numbers)"), (">= {place}", "> {place}")],
    "running_maximum": [
        ("highest, result = {floor}", "highest, result = -1000"),
        (" + {shift}", ""),
    ],
    "running_total": [("> {limit}", ">= {limit}"), ("total = 0", "total = {start}")],
    "count_letters": [("text.lower()", "text")],
    "long_words": [(">= {least}", "> {least}"), ("len(word) >= {least}", "True")],
    "replaced_reversed": [("[::-1]", ""), ("text.replace('{old}', '{new}')", "text")],
    "shifted_letters": [(" % 26", ""), ("+ {places}", "- {places} - 1")],
    "run_lengths": [(">= {least}", "> {least}"), ("'{mark}'.join", "''.join")],
    "mirrored": [("text.lower()", "text"), ("rest == rest[::-1]", "text == text[::-1]")],
    "tally": [("count >= {times}", "count > {times}"), (" and len(word) >= {letters}", "")],
    "totals_by_name": [(">= {least}", "> {least}"), ("name, {first})", "name, 0)")],
    "basket_price": [(">= {limit}", "> {limit}"), ("item, {default}", "item, 0")],
    "most_common_letter": [("(-letters.count(x), x)", "(-letters.count(x), -ord(x))")],
    "digit_sum": [(">= {least}", "> {least}"), (" * {factor}", "")],
    "divisors": [("number + 1", "number"), ("found if", "[1, *found] if not")],
    "primes_sum": [("limit + 1", "limit"), ("is_prime and ", "")],
    "steps_down": [("number - 1", "number - 2"), ("steps = 0", "steps = 1")],
    "in_base": [("str(number % {base}) + digits", "digits + str(number % {base})")],
    "pair_count": [("range(first + 1, len(numbers))", "range(len(numbers))")],
    "sequence": [("[:count]", ""), (" + {more}", "")],
    "transposed": [("zip(*matrix)", "matrix"), (" + {shift}", "")],
    "diagonals": [("size - 1 - i", "i"), ("size - 1 - i", "- i")],
    "merged_intervals": [
        ("max(merged[-1][1], end)", "end"),
        ("sorted(intervals)", "intervals"),
        (" + {gap}:", " + {gap} + 1:"),
    ],
    "covered": [("{high} + 1", "{high}"), ("start <= n <= end", "start <= n < end")],
    "parsed_pairs": [(" if text else []", ""), ("else {default}", "else None")],
    "total_units": [("+ int(pieces)", ""), ("total += ", "total = ")],
    "passing_names": [(">= {limit}", "> {limit}"), ("sorted(name for", "list(name for")],
    "moves": [("'U': units, 'D': -units", "'U': -units, 'D': units"), ("move[1:]", "move[1]")],
    "sorted_take": [(", reverse=True", ""), ("[:{count}]", "")],
    "best_window": [("- {size} + 1", "- {size}"), ("max(sums", "max([0, *sums]")],
    "longest_steady": [
        ("<= {most}", "< {most}"),
        ("longest if longest >= {least} else 0", "longest"),
    ],
}
