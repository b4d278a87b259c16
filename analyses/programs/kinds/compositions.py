"""Two steps, one after the other."""

import random

from analyses.programs.kinds.draft import Draft, Kind, number_lists, numbers


def sorted_take(rng: random.Random) -> Draft:
    divisor, count = rng.randint(2, 9), rng.randint(1, 6)
    rising = [divisor * i + 1 for i in range(count + 2)]
    return Draft(
        function="sum_of_largest",
        arguments="numbers: list[int]",
        returns="int",
        task=(
            f"Leave out all numbers that are divisible by {divisor}. Return the sum of the "
            f"{count} largest of the numbers that are left, where equal numbers count each, or of "
            "all that are left if they are fewer."
        ),
        body=(
            f"rest = [number for number in numbers if number % {divisor} != 0]\n"
            f"return sum(sorted(rest, reverse=True)[:{count}])"
        ),
        typical=number_lists(rng, 1, 40, least=count + 3, most=count + 6),
        edges=[[[]], [rising], [rising[:1]], [[divisor, 2 * divisor]], [[1] * (count + 1)]],
        parameters={"divisor": divisor, "count": count},
    )


def best_window(rng: random.Random) -> Draft:
    size, default = rng.randint(2, 6), rng.randint(-19, -10)
    rising = list(range(1, size + 3))
    return Draft(
        function="best_stretch",
        arguments="numbers: list[int]",
        returns="int",
        task=(
            f"Return the largest sum of {size} numbers that stand next to one another in the "
            f"list. If the list has fewer than {size} numbers, return {default}."
        ),
        body=(
            f"sums = [sum(numbers[i : i + {size}]) for i in range(len(numbers) - {size} + 1)]\n"
            f"return max(sums, default={default})"
        ),
        typical=number_lists(rng, -5, 12, least=size + 2, most=size + 5),
        edges=[[[]], [rising[:size]], [rising[: size - 1]], [rising], [[-30] * size]],
        parameters={"size": size, "default": default},
    )


def longest_steady(rng: random.Random) -> Draft:
    most, least = rng.randint(1, 8), rng.randint(2, 6)
    rising = [most * i for i in range(least)]
    return Draft(
        function="longest_stretch",
        arguments="numbers: list[int]",
        returns="int",
        task=(
            "A stretch of numbers that stand next to one another is steady if each of them but "
            f"the first differs from the one before it by at most {most}; a single number is "
            "steady too. Return how many numbers the longest steady stretch has, or 0 if it has "
            f"fewer than {least} or the list is empty."
        ),
        body=(
            "longest = length = 0\n"
            "for i, number in enumerate(numbers):\n"
            f"    is_steady = i > 0 and abs(number - numbers[i - 1]) <= {most}\n"
            "    length = length + 1 if is_steady else 1\n"
            "    longest = max(longest, length)\n"
            f"return longest if longest >= {least} else 0"
        ),
        typical=[[_walk(rng, most)] for _ in range(4)],
        edges=[[[]], [rising], [rising[1:]], [[*rising, 99, *rising[::-1]]], [[5]]],
        parameters={"most": most, "least": least},
    )


def _walk(rng: random.Random, most: int) -> list[int]:
    """Numbers that mostly go on in small steps."""
    values = numbers(rng, 0, 9, least=1, most=1)
    for _ in range(9):
        step = rng.randint(0, most) if rng.random() < 0.75 else most + rng.randint(1, 9)
        values.append(values[-1] + rng.choice((-1, 1)) * step)
    return values


COMPOSITIONS = (
    Kind("medium", sorted_take),
    Kind("medium", best_window),
    Kind("medium", longest_steady),
)
