"""Matrices, intervals, and small formats that are parsed."""

import random
from typing import Any

from analyses.programs.kinds.draft import Draft, Kind, names

OUTER = ";|,/"
INNER = "=:~"


def _matrix(rng: random.Random, height: int, width: int) -> list[list[int]]:
    return [[rng.randint(-5, 9) for _ in range(width)] for _ in range(height)]


def transposed(rng: random.Random) -> Draft:
    factor, shift = rng.randint(2, 9), rng.randint(1, 9)
    return Draft(
        function="turn_matrix",
        arguments="matrix: list[list[int]]",
        returns="list[list[int]]",
        task=(
            "All rows of the matrix have the same length. Return the matrix with rows and columns "
            "exchanged, so that its first row is the first column of the given one, and so on, and "
            f"with each number multiplied by {factor} and then increased by {shift}. An empty list "
            "stays empty."
        ),
        body=(f"return [[n * {factor} + {shift} for n in column] for column in zip(*matrix)]"),
        typical=[[_matrix(rng, h, w)] for h, w in ((2, 3), (3, 2), (1, 4), (3, 3))],
        edges=[[[]], [[[0]]], [[[1], [2]]]],
        parameters={"factor": factor, "shift": shift},
    )


def diagonals(rng: random.Random) -> Draft:
    main, other = rng.sample(range(2, 10), 2)
    return Draft(
        function="diagonals",
        arguments="matrix: list[list[int]]",
        returns="int",
        task=(
            "The matrix has as many rows as columns. Let m be the sum of the numbers on the "
            "diagonal from the upper left to the lower right, and s that of the numbers on the "
            "diagonal from the upper right to the lower left; a number on both belongs to both "
            f"sums. Return {main} * m + {other} * s, which is 0 for an empty list."
        ),
        body=(
            "size = len(matrix)\n"
            "m = sum(matrix[i][i] for i in range(size))\n"
            "s = sum(matrix[i][size - 1 - i] for i in range(size))\n"
            f"return {main} * m + {other} * s"
        ),
        typical=[[_matrix(rng, size, size)] for size in (2, 3, 4, 5)],
        edges=[[[]], [[[7]]], [[[1, 2], [3, 5]]], [[[0, 0, 1], [0, 9, 0], [4, 0, 0]]]],
        parameters={"main": main, "other": other},
    )


def _intervals(rng: random.Random, count: int) -> list[list[int]]:
    starts = [rng.randint(0, 40) for _ in range(count)]
    return [[start, start + rng.randint(1, 9)] for start in starts]


def merged_intervals(rng: random.Random) -> Draft:
    gap, least = rng.randint(0, 5), rng.randint(2, 9)
    far, single = 40 + gap, [[0, least], [60, 59 + least]]
    return Draft(
        function="merge",
        arguments="intervals: list[list[int]]",
        returns="list[list[int]]",
        task=(
            "Each interval is a list of a start and an end, and no start is greater than its end. "
            "Go through the intervals in the order of their starts, and join an interval with the "
            "one that was formed before it if its start is at most the end of that one plus "
            f"{gap}; the joined interval goes to the larger of the two ends. Return the intervals "
            "that are left in the order of their starts, without those whose end minus start is "
            f"less than {least}."
        ),
        body=(
            "merged = []\n"
            "for start, end in sorted(intervals):\n"
            f"    if merged and start <= merged[-1][1] + {gap}:\n"
            "        merged[-1][1] = max(merged[-1][1], end)\n"
            "    else:\n"
            "        merged.append([start, end])\n"
            f"return [[start, end] for start, end in merged if end - start >= {least}]"
        ),
        typical=[[_intervals(rng, count)] for count in (3, 4, 5, 6)],
        edges=[
            [[]],
            [single],
            [[[far, far + 20], [10, 40]]],
            [[[10, 40], [far + 1, far + 20]]],
            [[[0, 30], [5, 9], [12, 20]]],
        ],
        parameters={"gap": gap, "least": least},
    )


def covered(rng: random.Random) -> Draft:
    low = rng.randint(-5, 10)
    high = low + rng.randint(12, 30)
    return Draft(
        function="count_covered",
        arguments="intervals: list[list[int]]",
        returns="int",
        task=(
            "Each interval is a list of a start and an end, no start is greater than its end, and "
            "an interval covers all whole numbers from its start to its end, both included. Return "
            f"how many of the whole numbers from {low} to {high}, both included, are covered by at "
            "least one interval."
        ),
        body=(
            f"numbers = range({low}, {high} + 1)\n"
            "return sum(1 for n in numbers if any(start <= n <= end for start, end in intervals))"
        ),
        typical=[[_intervals(rng, count)] for count in (2, 3, 4, 5)],
        edges=[
            [[]],
            [[[low - 5, low]]],
            [[[high, high + 9]]],
            [[[low + 1, low + 6], [low + 4, low + 8]]],
            [[[low - 9, high + 9]]],
        ],
        parameters={"low": low, "high": high},
    )


def parsed_pairs(rng: random.Random) -> Draft:
    outer, inner, default = rng.choice(OUTER), rng.choice(INNER), rng.randint(0, 9)
    keys = names(rng, 4)

    def text() -> str:
        entries = [f"{key}{inner}{rng.randint(-9, 40)}" for key in rng.sample(keys, 3)]
        return outer.join([*entries[:2], entries[2].partition(inner)[0]])

    return Draft(
        function="parse",
        arguments="text: str",
        returns="dict[str, int]",
        task=(
            f"The text is a list of entries that are separated by '{outer}'. An entry is a name, "
            f"then '{inner}' and a whole number, or a name alone, which stands for the number "
            f"{default}. Return a dictionary from names to numbers; if a name comes more than "
            "once, its last number counts. An empty text has no entries."
        ),
        body=(
            "values = {}\n"
            f"for entry in text.split('{outer}') if text else []:\n"
            f"    name, mark, number = entry.partition('{inner}')\n"
            f"    values[name] = int(number) if mark else {default}\n"
            "return values"
        ),
        typical=[[text()] for _ in range(4)],
        edges=[
            [""],
            [keys[0]],
            [f"{keys[0]}{inner}-7"],
            [f"{keys[0]}{inner}3{outer}{keys[1]}{outer}{keys[0]}{inner}12"],
        ],
        parameters={"outer": outer, "inner": inner, "default": default},
    )


def total_units(rng: random.Random) -> Draft:
    size, mark = rng.randint(12, 60), rng.choice(INNER)

    def entries() -> list[Any]:
        return [f"{rng.randint(0, 9)}{mark}{rng.randint(0, size - 1)}" for _ in range(3)]

    return Draft(
        function="total_units",
        arguments="entries: list[str]",
        returns="int",
        task=(
            f"Each entry is a text of two whole numbers with '{mark}' between them: first boxes, "
            f"then single pieces. A box has {size} pieces. Return the number of pieces of all "
            "entries together."
        ),
        body=(
            "total = 0\n"
            "for entry in entries:\n"
            f"    boxes, pieces = entry.split('{mark}')\n"
            f"    total += int(boxes) * {size} + int(pieces)\n"
            "return total"
        ),
        typical=[[entries()] for _ in range(4)],
        edges=[[[]], [[f"0{mark}0"]], [[f"1{mark}0"]], [[f"12{mark}{size}", f"0{mark}1"]]],
        parameters={"size": size, "mark": mark},
    )


def passing_names(rng: random.Random) -> Draft:
    limit, mark = rng.randint(40, 80), rng.choice(INNER)
    people = sorted(names(rng, 4))

    def text() -> str:
        order = rng.sample(people, 4)
        return "\n".join(f"{name}{mark}{limit + rng.randint(-3, 6)}" for name in order)

    return Draft(
        function="passing_names",
        arguments="text: str",
        returns="list[str]",
        task=(
            f"Each line of the text is a name, then '{mark}' and a whole number of points. No name "
            f"comes twice. Return the names with at least {limit} points in alphabetical order. An "
            "empty text has no lines."
        ),
        body=(
            "rows = [line.split('MARK') for line in text.split('\\n') if line]\n"
            f"return sorted(name for name, points in rows if int(points) >= {limit})"
        ).replace("MARK", mark),
        typical=[[text()] for _ in range(4)],
        edges=[
            [""],
            [f"{people[0]}{mark}{limit}"],
            [f"{people[0]}{mark}{limit - 1}"],
            [f"{people[1]}{mark}{limit + 1}\n{people[0]}{mark}100"],
        ],
        parameters={"limit": limit, "mark": mark},
    )


def moves(rng: random.Random) -> Draft:
    x, y = rng.randint(-9, 9), rng.randint(-9, 9)

    def text() -> str:
        return " ".join(f"{rng.choice('UDLR')}{rng.randint(1, 12)}" for _ in range(4))

    return Draft(
        function="final_position",
        arguments="text: str",
        returns="list[int]",
        task=(
            f"A point starts at x = {x}, y = {y}. The text is a list of moves that are separated "
            "by single spaces, each a letter and a whole number of units: U increases y, D "
            "decreases y, R increases x, L decreases x. Return the list [x, y] after all moves. An "
            "empty text has no moves."
        ),
        body=(
            f"x, y = {x}, {y}\n"
            "for move in text.split():\n"
            "    units = int(move[1:])\n"
            "    x += {'R': units, 'L': -units}.get(move[0], 0)\n"
            "    y += {'U': units, 'D': -units}.get(move[0], 0)\n"
            "return [x, y]"
        ),
        typical=[[text()] for _ in range(4)],
        edges=[[""], ["U15"], ["L1 L10"], ["R2 D3 L2 U3"]],
        parameters={"x": x, "y": y},
    )


STRUCTURES = (
    Kind("medium", transposed),
    Kind("medium", diagonals),
    Kind("medium", merged_intervals),
    Kind("medium", covered),
    Kind("medium", parsed_pairs),
    Kind("easy", total_units),
    Kind("medium", passing_names),
    Kind("medium", moves),
)
