"""Lists of whole numbers: filters, sums, positions, running values."""

import random

from analyses.programs.kinds.draft import Draft, Kind, number_lists, numbers

COMPARISONS = {"greater than": ">", "less than": "<", "at least": ">=", "at most": "<="}


def count_compared(rng: random.Random) -> Draft:
    words, limit = rng.choice(sorted(COMPARISONS)), rng.randint(-5, 15)
    return Draft(
        function="count_numbers",
        arguments="numbers: list[int]",
        returns="int",
        task=f"Return how many of the numbers are {words} {limit}.",
        body=f"return sum(1 for number in numbers if number {COMPARISONS[words]} {limit})",
        typical=number_lists(rng, limit - 4, limit + 4),
        edges=[[[]], [[limit]], [[limit - 1, limit, limit, limit + 1]]],
        parameters={"words": words, "limit": limit},
    )


def sum_multiples(rng: random.Random) -> Draft:
    divisor, least = rng.randint(2, 9), rng.randint(3, 20)
    multiple = -(-least // divisor) * divisor
    return Draft(
        function="sum_multiples",
        arguments="numbers: list[int]",
        returns="int",
        task=(
            f"Return the sum of those numbers that are divisible by {divisor} and not less than "
            f"{least}. If there are none, return 0."
        ),
        body=f"return sum(n for n in numbers if n % {divisor} == 0 and n >= {least})",
        typical=[
            [[divisor * n + rng.choice((0, 0, 1)) for n in numbers(rng, 0, 9)]] for _ in range(4)
        ],
        edges=[
            [[]],
            [[divisor * least, divisor * least + 1]],
            [[multiple, multiple - divisor, -divisor]],
            [[least, least - 1]],
        ],
        parameters={"divisor": divisor, "least": least},
    )


def scaled(rng: random.Random) -> Draft:
    factor, shift = rng.randint(2, 9), rng.randint(1, 9)
    return Draft(
        function="change_numbers",
        arguments="numbers: list[int]",
        returns="list[int]",
        task=(
            f"Return a new list in which each number is multiplied by {factor} and then increased "
            f"by {shift}, in the same order."
        ),
        body=f"return [number * {factor} + {shift} for number in numbers]",
        typical=number_lists(rng, -9, 12),
        edges=[[[]], [[0]], [[-shift, 1]]],
        parameters={"factor": factor, "shift": shift},
    )


def every_kth(rng: random.Random) -> Draft:
    step, start = rng.randint(2, 8), rng.randint(0, 6)
    longest = list(range(10, 10 + start + 2 * step + 1))
    return Draft(
        function="pick_numbers",
        arguments="numbers: list[int]",
        returns="list[int]",
        task=(
            f"Positions are counted from 0. Return the number at position {start} and then every "
            f"number that stands {step} positions after the last one taken, in the same order. If "
            f"the list has no position {start}, return an empty list."
        ),
        body=(
            "places = range(len(numbers))\n"
            f"return [numbers[i] for i in places if i >= {start} and (i - {start}) % {step} == 0]"
        ),
        typical=number_lists(rng, 0, 99, least=start + step + 1, most=start + step + 6),
        edges=[[[]], [longest[:start]], [longest[: start + 1]], [longest]],
        parameters={"step": step, "start": start},
    )


def rotated(rng: random.Random) -> Draft:
    places, side = rng.randint(2, 25), rng.choice(("left", "right"))
    sign = "" if side == "left" else "-"
    task = {
        "left": "moving it to the left by one place means that the first number goes to the end",
        "right": "moving it to the right by one place means that the last number goes to the front",
    }
    return Draft(
        function="rotate",
        arguments="numbers: list[int]",
        returns="list[int]",
        task=(
            f"Return the list after moving it to the {side} by one place {places} times, where "
            f"{task[side]}. An empty list stays empty."
        ),
        body=(
            "if not numbers:\n"
            "    return []\n"
            f"cut = {sign}{places} % len(numbers)\n"
            "return numbers[cut:] + numbers[:cut]"
        ),
        typical=number_lists(rng, 0, 99, least=5, most=8),
        edges=[[[]], [[7]], [[1, 2]], [list(range(places + 1))], [[4, 5, 6]]],
        parameters={"places": places, "side": side},
    )


def kth_largest(rng: random.Random) -> Draft:
    place, default = rng.randint(2, 6), rng.randint(-12, -1)
    ranks = list(range(10, 10 + place))
    return Draft(
        function="large_number",
        arguments="numbers: list[int]",
        returns="int",
        task=(
            "Leave out repeated numbers, so that each value counts once, and sort what is left "
            f"from largest to smallest. Return number {place} of this order (number 1 is the "
            f"largest). If there are fewer than {place} different values, return {default}."
        ),
        body=(
            "different = sorted(set(numbers), reverse=True)\n"
            f"return different[{place} - 1] if len(different) >= {place} else {default}"
        ),
        typical=number_lists(rng, 0, 12, least=6, most=10),
        edges=[[[]], [ranks], [ranks[1:]], [[*ranks, ranks[-1]]], [[3] * (place + 1)]],
        parameters={"place": place, "default": default},
    )


def running_maximum(rng: random.Random) -> Draft:
    floor, shift = rng.randint(-5, 9), rng.randint(1, 6)
    return Draft(
        function="highest_so_far",
        arguments="numbers: list[int]",
        returns="list[int]",
        task=(
            "Return a list of the same length. Its entry at a position is the largest of all "
            f"numbers from the first one to the one at this position, but at least {floor}; then "
            f"{shift} is added to it."
        ),
        body=(
            f"highest, result = {floor}, []\n"
            "for number in numbers:\n"
            "    highest = max(highest, number)\n"
            f"    result.append(highest + {shift})\n"
            "return result"
        ),
        typical=number_lists(rng, floor - 4, floor + 12),
        edges=[[[]], [[floor - 3, floor - 1]], [[floor + 5, floor + 1, floor + 9, floor]]],
        parameters={"floor": floor, "shift": shift},
    )


def running_total(rng: random.Random) -> Draft:
    start, limit = rng.randint(1, 5), rng.randint(12, 30)
    return Draft(
        function="totals",
        arguments="numbers: list[int]",
        returns="list[int]",
        task=(
            f"A total begins at {start}. Go through the numbers in order and add each to the "
            f"total; if the total is then greater than {limit}, set it to 0. Return the list of "
            "the totals after each number."
        ),
        body=(
            f"total, result = {start}, []\n"
            "for number in numbers:\n"
            "    total += number\n"
            f"    if total > {limit}:\n"
            "        total = 0\n"
            "    result.append(total)\n"
            "return result"
        ),
        typical=number_lists(rng, 1, 12, least=5, most=8),
        edges=[[[]], [[limit - start, 1, 2]], [[limit - start + 1, 3]], [[limit, limit, 1]]],
        parameters={"start": start, "limit": limit},
    )


LISTS = (
    Kind("easy", count_compared),
    Kind("easy", sum_multiples),
    Kind("easy", scaled),
    Kind("easy", every_kth),
    Kind("medium", rotated),
    Kind("medium", kth_largest),
    Kind("medium", running_maximum),
    Kind("medium", running_total),
)
