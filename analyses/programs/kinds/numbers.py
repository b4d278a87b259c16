"""Whole numbers: digits, divisors, primes, sequences."""

import random
from math import gcd

from analyses.programs.kinds.draft import Draft, Kind, number_lists


def digit_sum(rng: random.Random) -> Draft:
    least, factor = rng.randint(1, 8), rng.randint(2, 9)
    return Draft(
        function="digit_sum",
        arguments="number: int",
        returns="int",
        task=(
            "The number is 0 or more. Return the sum of those of its decimal digits that are at "
            f"least {least}, multiplied by {factor}."
        ),
        body=(
            "digits = [int(digit) for digit in str(number)]\n"
            f"return sum(digit for digit in digits if digit >= {least}) * {factor}"
        ),
        typical=[[rng.randint(100, 99_999)] for _ in range(4)],
        edges=[[0], [least], [least - 1], [int(f"{least}{least - 1}9{least}")]],
        parameters={"least": least, "factor": factor},
    )


def divisors(rng: random.Random) -> Draft:
    low, parity = rng.randint(1, 24), rng.choice(("even", "odd"))
    return Draft(
        function="count_divisors",
        arguments="number: int",
        returns="int",
        task=(
            "The number is 1 or more; its divisors are the whole numbers from 1 to the number "
            f"itself that divide it without remainder. Return how many {parity} divisors greater "
            f"than {low} it has."
        ),
        body=(
            "found = [d for d in range(1, number + 1) if number % d == 0]\n"
            f"return sum(1 for d in found if d > {low} and d % 2 == {int(parity == 'odd')})"
        ),
        typical=[[rng.randint(1, 8) * rng.choice((12, 30, 36, 45))] for _ in range(4)],
        edges=[[1], [2 * low + 1], [2 * low + 2], [6 * low]],
        parameters={"low": low, "parity": parity},
    )


def primes_sum(rng: random.Random) -> Draft:
    modulus = rng.randint(3, 12)
    rest = rng.choice([r for r in range(1, modulus) if gcd(r, modulus) == 1])
    primes = [p for p in range(2, 100) if all(p % d for d in range(2, p)) and p % modulus == rest]
    return Draft(
        function="sum_of_primes",
        arguments="limit: int",
        returns="int",
        task=(
            f"Return the sum of all prime numbers up to the limit (the limit included) that leave "
            f"remainder {rest} when they are divided by {modulus}. If there are none, return 0."
        ),
        body=(
            "total = 0\n"
            "for number in range(2, limit + 1):\n"
            "    is_prime = all(number % divisor for divisor in range(2, number))\n"
            f"    if is_prime and number % {modulus} == {rest}:\n"
            "        total += number\n"
            "return total"
        ),
        typical=[[rng.randint(20, 40)], [rng.randint(50, 70)], [rng.randint(40, 99)], [120]],
        edges=[[1], [primes[0]], [primes[0] - 1], [primes[1]]],
        parameters={"modulus": modulus, "rest": rest},
    )


def steps_down(rng: random.Random) -> Draft:
    divisor, stop = rng.randint(2, 9), rng.randint(0, 6)
    return Draft(
        function="count_steps",
        arguments="number: int",
        returns="int",
        task=(
            f"As long as the number is greater than {stop}, take a step: if the number is "
            f"divisible by {divisor}, divide it by {divisor}, otherwise subtract 1 from it. Return "
            "how many steps are taken."
        ),
        body=(
            "steps = 0\n"
            f"while number > {stop}:\n"
            f"    number = number // {divisor} if number % {divisor} == 0 else number - 1\n"
            "    steps += 1\n"
            "return steps"
        ),
        typical=[[rng.randint(15, 60)], [rng.randint(60, 200)], [rng.randint(200, 900)], [999]],
        edges=[[stop], [stop + 1], [divisor * (stop + 1)], [0]],
        parameters={"divisor": divisor, "stop": stop},
    )


def in_base(rng: random.Random) -> Draft:
    base, width = rng.randint(2, 9), rng.randint(2, 8)
    return Draft(
        function="in_base",
        arguments="number: int",
        returns="str",
        task=(
            f"The number is 0 or more. Return how it is written in base {base}, as a text; if "
            f"that has fewer than {width} digits, put zeros in front until it has {width}."
        ),
        body=(
            "digits = ''\n"
            "while number > 0:\n"
            f"    digits = str(number % {base}) + digits\n"
            f"    number //= {base}\n"
            f"return '0' * ({width} - len(digits)) + digits"
        ),
        typical=[[rng.randint(5, 40)], [rng.randint(40, 200)], [rng.randint(200, 5000)], [12345]],
        edges=[[0], [base], [base**width - 1], [base**width]],
        parameters={"base": base, "width": width},
    )


def pair_count(rng: random.Random) -> Draft:
    modulus = rng.randint(3, 10)
    rest = rng.randint(0, modulus - 1)
    return Draft(
        function="count_pairs",
        arguments="numbers: list[int]",
        returns="int",
        task=(
            "All numbers are 0 or more. Return how many pairs of two different positions of the "
            f"list there are whose numbers add up to a sum that leaves remainder {rest} when it is "
            f"divided by {modulus}. The order of the two positions does not matter: each pair "
            "counts once."
        ),
        body=(
            "count = 0\n"
            "for first in range(len(numbers)):\n"
            "    for second in range(first + 1, len(numbers)):\n"
            f"        if (numbers[first] + numbers[second]) % {modulus} == {rest}:\n"
            "            count += 1\n"
            "return count"
        ),
        typical=number_lists(rng, 0, 20),
        edges=[[[]], [[rest]], [[rest, modulus]], [[rest, 0, 0, rest]]],
        parameters={"modulus": modulus, "rest": rest},
    )


def sequence(rng: random.Random) -> Draft:
    first, second, more = rng.randint(0, 5), rng.randint(1, 6), rng.randint(1, 5)
    return Draft(
        function="first_terms",
        arguments="count: int",
        returns="list[int]",
        task=(
            f"A sequence begins with {first} and {second}; each further term is the sum of the two "
            f"terms before it, plus {more}. Return the list of the first count terms, which is "
            "empty if count is 0."
        ),
        body=(
            f"terms = [{first}, {second}]\n"
            "while len(terms) < count:\n"
            f"    terms.append(terms[-1] + terms[-2] + {more})\n"
            "return terms[:count]"
        ),
        typical=[[5], [4], [rng.randint(6, 9)], [12]],
        edges=[[0], [1], [2], [3]],
        parameters={"first": first, "second": second, "more": more},
    )


NUMBERS = (
    Kind("easy", digit_sum),
    Kind("easy", divisors),
    Kind("medium", primes_sum),
    Kind("medium", steps_down),
    Kind("medium", in_base),
    Kind("medium", pair_count),
    Kind("easy", sequence),
)
