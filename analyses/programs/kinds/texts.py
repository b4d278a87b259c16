"""Texts: letters, words, runs."""

import random
import string

from analyses.programs.kinds.draft import Arguments, Draft, Kind, word, words

MARKS = "-_+/|~"
IGNORED = " .,-_!?:;"


def _sentences(rng: random.Random, count: int = 4) -> list[Arguments]:
    return [[" ".join(words(rng, rng.randint(3, 6)))] for _ in range(count)]


def count_letters(rng: random.Random) -> Draft:
    letters = "".join(sorted(rng.sample("aeioubdklmnrst", 3)))
    return Draft(
        function="count_letters",
        arguments="text: str",
        returns="int",
        task=(
            f"Return how many characters of the text are one of the letters of '{letters}', where "
            "upper and lower case count as the same letter."
        ),
        body=f"return sum(1 for letter in text.lower() if letter in '{letters}')",
        typical=[[text.title()] for (text,) in _sentences(rng)],
        edges=[[""], [letters.upper()], [letters * 2], ["xyz !"]],
        parameters={"letters": letters},
    )


def long_words(rng: random.Random) -> Draft:
    least, mark = rng.randint(2, 8), rng.choice(MARKS)
    return Draft(
        function="long_words",
        arguments="text: str",
        returns="str",
        task=(
            "The words of the text are separated by single spaces. Return those words that have at "
            f"least {least} letters, in the same order, joined by '{mark}'. If there are none, "
            "return an empty text."
        ),
        body=f"return '{mark}'.join(word for word in text.split() if len(word) >= {least})",
        typical=_sentences(rng),
        edges=[
            [""],
            [word(rng, least)],
            [word(rng, least - 1)],
            [" ".join(word(rng, least + i) for i in (1, -1, 0))],
        ],
        parameters={"least": least, "mark": mark},
    )


def replaced_reversed(rng: random.Random) -> Draft:
    old, new = rng.sample("aeioubdklmnrst", 2)
    return Draft(
        function="change_text",
        arguments="text: str",
        returns="str",
        task=(
            f"Replace every letter '{old}' of the text by '{new}', and return the result read "
            "backwards, from its last character to its first."
        ),
        body=f"return text.replace('{old}', '{new}')[::-1]",
        typical=[[word(rng, 4) + old + word(rng, 3)] for _ in range(4)],
        edges=[[""], [old], [f"{old}{new}x"], [f"x{old}{old}z"]],
        parameters={"old": old, "new": new},
    )


def shifted_letters(rng: random.Random) -> Draft:
    places, rest = rng.randint(1, 25), rng.choice(("stays as it is", "is left out"))
    kept = "letter" if rest == "stays as it is" else "''"
    return Draft(
        function="shift_letters",
        arguments="text: str",
        returns="str",
        task=(
            f"Replace each lower-case letter from a to z by the letter {places} places later in "
            "the alphabet, where 'a' follows after 'z'. Every other character (capitals, digits, "
            f"spaces, marks) {rest}. Return the resulting text."
        ),
        body=(
            "result = ''\n"
            "for letter in text:\n"
            "    if 'a' <= letter <= 'z':\n"
            f"        result += chr((ord(letter) - ord('a') + {places}) % 26 + ord('a'))\n"
            "    else:\n"
            f"        result += {kept}\n"
            "return result"
        ),
        typical=[[f"{text[:12].strip()}{rng.choice('!?7K')}"] for (text,) in _sentences(rng)],
        edges=[[""], ["az"], ["Zz 9"], [string.ascii_lowercase]],
        parameters={"places": places, "rest": rest},
    )


def run_lengths(rng: random.Random) -> Draft:
    least, mark = rng.randint(1, 7), rng.choice(MARKS)
    runs = [[rng.choice("abc") * rng.randint(1, least + 2) for _ in range(5)] for _ in range(4)]
    return Draft(
        function="describe_runs",
        arguments="text: str",
        returns="str",
        task=(
            "A run is a stretch of equal characters that is as long as possible. Write each run as "
            "its character followed by its length, in the order of the text, and return these "
            f"joined by '{mark}'. Runs of fewer than {least} characters are left out."
        ),
        body=(
            "runs = []\n"
            "for letter in text:\n"
            "    if runs and runs[-1][0] == letter:\n"
            "        runs[-1][1] += 1\n"
            "    else:\n"
            "        runs.append([letter, 1])\n"
            f"return '{mark}'.join(f'{{letter}}{{n}}' for letter, n in runs if n >= {least})"
        ),
        typical=[["".join(some)] for some in runs],
        edges=[[""], ["x" * least], ["xy" + "z" * (least + 1)], ["a" * 12 + "b" + "a" * least]],
        parameters={"least": least, "mark": mark},
    )


def mirrored(rng: random.Random) -> Draft:
    first, second = rng.sample(IGNORED, 2)
    half = word(rng, 4)
    return Draft(
        function="is_mirrored",
        arguments="text: str",
        returns="bool",
        task=(
            f"Leave out every '{first}' and every '{second}' of the text. Return True if the rest "
            "reads the same from the front and from the back, where upper and lower case count as "
            "the same letter, and False if it does not. A text of which nothing is left reads the "
            "same."
        ),
        body=(
            f"rest = [c for c in text.lower() if c not in ('{first}', '{second}')]\n"
            "return rest == rest[::-1]"
        ),
        typical=[
            [f"{half}{first}{half[::-1]}"],
            [f"{half}{first}{half}"],
            [f"{half.title()}{second}{second}{half[::-1]}"],
            [f"{half}{half[0]}{second}"],
        ],
        edges=[[""], [first + second], ["Aa"], [f"a*b{first}a"], [f"ab{second}"]],
        parameters={"first": first, "second": second},
    )


TEXTS = (
    Kind("easy", count_letters),
    Kind("easy", long_words),
    Kind("easy", replaced_reversed),
    Kind("medium", shifted_letters),
    Kind("medium", run_lengths),
    Kind("medium", mirrored),
)
