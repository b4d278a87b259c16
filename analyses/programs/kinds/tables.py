"""Dictionaries and counts."""

import random

from analyses.programs.kinds.draft import Draft, Kind, names, word


def tally(rng: random.Random) -> Draft:
    times, letters = rng.randint(2, 5), rng.randint(2, 9)
    few = [word(rng, letters + i) for i in (0, 0, 1, -1)]
    return Draft(
        function="frequent_words",
        arguments="words: list[str]",
        returns="dict[str, int]",
        task=(
            f"Return a dictionary from each word that has at least {letters} letters and occurs "
            f"at least {times} times in the list to the number of times that it occurs."
        ),
        body=(
            "counts = {}\n"
            "for word in words:\n"
            "    counts[word] = counts.get(word, 0) + 1\n"
            "return {\n"
            "    word: count\n"
            "    for word, count in counts.items()\n"
            f"    if count >= {times} and len(word) >= {letters}\n"
            "}"
        ),
        typical=[[rng.choices(few, k=3 * times)] for _ in range(4)],
        edges=[
            [[]],
            [["m" * letters] * times],
            [["m" * letters] * (times - 1)],
            [["m" * (letters - 1)] * times + ["n"]],
        ],
        parameters={"times": times, "letters": letters},
    )


def totals_by_name(rng: random.Random) -> Draft:
    least, first = rng.randint(2, 20), rng.randint(1, 6)
    people = names(rng, 3)
    one, other = people[:2]
    return Draft(
        function="totals_by_name",
        arguments="payments: list[list]",
        returns="dict[str, int]",
        task=(
            "Each payment is a list of a name and an amount. Return a dictionary from names to "
            f"totals. Amounts less than {least} are left out, and a name with no other amounts is "
            f"not in the dictionary. A total is {first} plus all amounts of the name that are not "
            "left out."
        ),
        body=(
            "totals = {}\n"
            "for name, amount in payments:\n"
            f"    if amount >= {least}:\n"
            f"        totals[name] = totals.get(name, {first}) + amount\n"
            "return totals"
        ),
        typical=[
            [[[rng.choice(people), rng.randint(least - 3, least + 9)] for _ in range(5)]]
            for _ in range(4)
        ],
        edges=[
            [[]],
            [[[one, least]]],
            [[[one, least - 1]]],
            [[[one, least + 1], [other, least - 1], [one, least]]],
        ],
        parameters={"least": least, "first": first},
    )


def basket_price(rng: random.Random) -> Draft:
    default, limit, off = rng.randint(1, 9), rng.randint(20, 40), rng.randint(2, 9)
    goods = names(rng, 4)
    prices = [{name: rng.randint(2, 15) for name in goods[:3]} for _ in range(4)]
    return Draft(
        function="basket_price",
        arguments="prices: dict[str, int], items: list[str]",
        returns="int",
        task=(
            "The dictionary has the price of each item; an item that is not in it costs "
            f"{default}. Return the sum of the prices of all items in the list. If this sum is "
            f"{limit} or more, it is reduced by {off}."
        ),
        body=(
            f"total = sum(prices.get(item, {default}) for item in items)\n"
            f"return total - {off} if total >= {limit} else total"
        ),
        typical=[[table, rng.choices(goods, k=rng.randint(2, 6))] for table in prices],
        edges=[
            [{}, []],
            [{goods[0]: limit}, [goods[0]]],
            [{goods[0]: limit - 1}, [goods[0]]],
            [{goods[0]: 1}, [goods[1], goods[1]]],
        ],
        parameters={"default": default, "limit": limit, "off": off},
    )


def most_common_letter(rng: random.Random) -> Draft:
    ignored = "".join(sorted(rng.sample("aeioubdklmnrst", 2)))
    kept = [letter for letter in "aeioubdklmnrst" if letter not in ignored]
    late, early = sorted(rng.sample(kept, 2), reverse=True)
    letters = [*ignored, early, late, late, *rng.sample(kept, 3)]
    return Draft(
        function="most_common_letter",
        arguments="text: str",
        returns="str",
        task=(
            "The text consists of lower-case letters and spaces. Return the letter that occurs "
            f"most often in it, where spaces and the letters of '{ignored}' are not counted. Of "
            "several letters that occur equally often, return the one that comes first in the "
            "alphabet. If no letter is counted, return an empty text."
        ),
        body=(
            f"letters = [letter for letter in text if letter not in ' {ignored}']\n"
            "return min(set(letters), key=lambda x: (-letters.count(x), x), default='')"
        ),
        typical=[["".join(rng.choices([*letters, " "], k=12)).strip()] for _ in range(4)],
        edges=[
            [""],
            [ignored * 2],
            [f"{late}{early}{late}{early}"],
            [ignored[0] * 4 + late],
            [f"{late}   {late} {early}"],
        ],
        parameters={"ignored": ignored},
    )


TABLES = (
    Kind("easy", tally),
    Kind("easy", totals_by_name),
    Kind("medium", basket_price),
    Kind("medium", most_common_letter),
)
