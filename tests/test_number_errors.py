"""Where a wrong answer to a word problem states its first wrong number, by hand."""

import json
import string
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from edit_passes import load
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from analyses.head_steering.gradient import GradientSettings, run_unit, units
from analyses.head_steering.steering import errors_of
from analyses.instruments import margins
from analyses.instruments.number_errors import number_error, part_at_digits, written_like
from analyses.instruments.number_forks import Fork, TokenText
from analyses.material.problems import read_items
from analyses.material.worked import (
    first_wrong_of,
    off_number,
    ordered_values,
    stated_at,
    worked_values,
)
from step_saliency.trace import Trace
from training.tokenizer import build_tokenizer

QUESTION = "Ann has 12 apples and buys 30 more. She eats 8 a day for 4 days. How many are left?"
SOLUTION = (
    "She has 12+30=<<12+30=42>>42.\nShe eats 8*4=<<8*4=32>>32, so 42-32=<<42-32=10>>10 are left."
    "\nAgain: 12+30=<<12+30=42>>42.\n#### 10"
)


def digit_tokenizer() -> Any:
    """Each digit is a token, as of Qwen2.5 and SmolLM2."""
    return build_tokenizer()


def triple_tokenizer() -> Any:
    """Digits are tokens of up to three, from the left; everything else is a token a character."""
    others = [c for c in string.printable if c not in string.digits and c.isprintable()]
    marks = ["?", *("Ġ" if c == " " else c for c in others if c != "?"), "Ċ"]
    numbers = [f"{i:0{width}d}" for width in (1, 2, 3) for i in range(10**width)]
    vocab = {token: i for i, token in enumerate([*marks, *numbers])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    split = pre_tokenizers.Split(Regex(r"\d{1,3}|\D"), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def test_values_of_a_solution_in_their_order() -> None:
    assert ordered_values(SOLUTION) == (42, 32, 10)
    assert worked_values(SOLUTION) == {42, 32, 10}
    with pytest.raises(ValueError, match="no annotations"):
        ordered_values("It is 5.\n#### 5")


def test_numbers_are_stated_where_their_characters_are() -> None:
    text = "So 3 * 4 = $1,200.50 or 2 = -7 left."
    found = stated_at(text)
    assert [text[n.start : n.stop] for n in found] == ["1,200.50", "-7"]
    assert [n.value for n in found] == [Fraction("1200.5"), -7]
    plain = "He has 17 left, 2 of them red."
    assert [plain[n.start : n.stop] for n in stated_at(plain)] == ["17"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["12 + 30 = 43."], (0, 43, 42)),
        (["12 + 30 = 42.", "8 * 4 = 36."], (1, 36, 32)),
        (["12 + 30 = 42, so 42 - 8 = 34."], (0, 34, 32)),
        (["8 * 4 = 32.", "32 + 9 = 41."], (1, 41, 42)),
        (["12 + 30 = 42.", "8 * 4 = 32.", "42 - 32 = 10.", "10 + 9 = 19."], (3, 19, None)),
        (["12 + 30 = 42.", "So 42 are left."], None),
    ],
)
def test_the_first_number_that_is_off_and_what_was_due(
    steps: list[str], expected: tuple[int, int, int | None] | None
) -> None:
    off = off_number(QUESTION, SOLUTION, steps)
    found = None if off is None else (off.step, off.number.value, off.due)
    assert found == expected


@pytest.mark.parametrize(
    ("value", "number", "expected"),
    [
        ("1300", "1,200", "1,300"),
        ("1300", "1200", "1300"),
        ("2.5", "3.75", "2.5"),
        ("-4", "-7", "-4"),
        ("0.05", "0.1", "0.05"),
        ("1/3", "4", None),
    ],
)
def test_a_value_is_written_as_another_number(
    value: str, number: str, expected: str | None
) -> None:
    assert written_like(Fraction(value), number) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("43", "42", True),
        ("42", "42", False),
        ("4", "42", False),
        ("420", "42", False),
        ("42.5", "42", False),
        ("4.5", "42", False),
        ("-4", "42", False),
        ("1,200", "1300", False),
        ("1,200", "1,300", True),
        ("7.25", "7.5", True),
    ],
)
def test_numbers_part_at_digits_or_not_at_all(one: str, other: str, expected: bool) -> None:
    assert part_at_digits(one, other) is expected


@pytest.mark.parametrize(
    ("thinking", "before", "right", "written"),
    [
        ("She has 12 + 30 = 43 apples.", "12 + 30 = 4", "2", "3"),
        ("She has 12 + 30 = 42 apples. She eats 8 * 4 = $36.", "8 * 4 = $3", "2", "6"),
        ("She has 12 + 30 = 58.50 apples.", "12 + 30 = ", "4", "5"),
        ("She has 12 + 30 = 42, so 42 - 8 = 54 are left.", "42 - 8 = ", "3", "5"),
        ("She has 12 + 30 = 4.5 apples.", None, "", ""),
        ("She has 12 + 30 = 420 apples.", None, "", ""),
        ("She has 12 + 30 = 42 apples.", None, "", ""),
    ],
)
def test_digit_tokens_part_at_the_digit(
    thinking: str, before: str | None, right: str, written: str
) -> None:
    tokenizer = digit_tokenizer()
    response = f"{thinking}\n</think>\nIt is 99."
    trace = Trace.from_text(tokenizer, question=QUESTION, response=response)
    fork = number_error(tokenizer, trace, QUESTION, SOLUTION)
    if before is None:
        assert fork is None
        return
    assert fork is not None
    assert tokenizer.decode(trace.tokens[: fork.position + 1]).endswith(before)
    assert trace.tokens[fork.position + 1] == fork.written
    assert [tokenizer.decode([t]) for t in (fork.right, fork.written)] == [right, written]
    place = first_wrong_of(trace, QUESTION, SOLUTION, "first off")
    assert place is not None
    assert trace.step_ids[fork.position + 1] == trace.region_steps("thinking")[place]


@pytest.mark.parametrize(
    ("number", "other", "expected"),
    [
        ("435", "425", ("= ", "425", "435")),
        ("12345", "12367", ("= 123", "67", "45")),
        ("13", "1250", ("= ", "125", "13")),
        ("1234", "123", None),
        ("43", "43", None),
        ("12", "125", None),
    ],
)
def test_tokens_of_several_digits_part_at_a_token(
    number: str, other: str, expected: tuple[str, str, str] | None
) -> None:
    tokenizer = triple_tokenizer()
    text = f"Ann has = {number} apples."
    whole = TokenText(tokenizer, tokenizer(text)["input_ids"])
    assert whole.text == text
    start = text.index(number)
    fork = whole.fork(start, start + len(number), other)
    if expected is None:
        assert fork is None
        return
    assert fork is not None
    before, right, written = expected
    assert tokenizer.decode(whole.tokens[: fork.position + 1]).endswith(before)
    assert [tokenizer.decode([t]) for t in (fork.right, fork.written)] == [right, written]


def test_tokens_that_the_tokenizer_would_not_write_so_part_nowhere() -> None:
    tokenizer = triple_tokenizer()
    ids = [i for text in ("=", "4", "3") for i in tokenizer(text)["input_ids"]]
    assert TokenText(tokenizer, ids).fork(1, 3, "42") is None, "43 is one token"
    merged = TokenText(tokenizer, tokenizer("=435")["input_ids"])
    assert merged.fork(1, 3, "42") is None, "43 ends within a token"
    assert merged.fork(1, 4, "425") == Fork(0, *tokenizer("425435")["input_ids"])


ROWS = [
    {"question": QUESTION, "answer": SOLUTION},
    {"question": QUESTION.replace("Ann", "Bob"), "answer": SOLUTION},
    {"question": QUESTION.replace("Ann", "Cem"), "answer": SOLUTION},
    {"question": QUESTION.replace("Ann", "Dan"), "answer": SOLUTION},
    {"question": QUESTION.replace("Ann", "Eva"), "answer": SOLUTION},
]
WRITTEN = (
    "12 + 30 = 53. So 53 are left.",
    "12 + 30 = 42. 8 * 4 = 62. So 17 are left.",
    "12 + 30 = 42. 8 * 4 = 32. So 42 - 32 = 10.",
    "12 + 30 = 420. So 11 are left.",
)


def file_settings(tmp_path: Path, rows: list[dict[str, str]]) -> GradientSettings:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return GradientSettings(
        data=str(file), n=4, top=(1,), draws=2, tau_max=0.9, tolerance=0.05, max_new_tokens=12
    )


def answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy answers are those above."""

    def written(model: Any, items: Any, settings: Any) -> list[Trace]:
        return [
            Trace.from_text(model.tokenizer, question=item.question, response=WRITTEN[item.number])
            for item in items
        ]

    monkeypatch.setattr(margins, "greedy_answers", written)


def test_errors_of_a_file_have_margins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch)
    model, settings = load("qwen2"), file_settings(tmp_path, ROWS)
    errors = errors_of(model, read_items(settings), settings)
    assert [item.number for item, _ in errors] == [0, 1], "right ones, and beginnings, have none"
    texts = [[model.tokenizer.decode([t]) for t in (at.right, at.written)] for _, at in errors]
    assert [[t.strip()[0] for t in pair] for pair in texts] == [["4", "5"], ["3", "6"]]
    values = run_unit(model, units(settings)[0], settings)
    assert set(values["condition"]) == {"baseline", "top-1", "random-1-0", "random-1-1"}
    assert set(values["problem"]) == {errors[0][0].id}
    assert values["value"].notna().all()
    doses = values.dropna(subset=["kl"]).set_index("condition")["kl"]
    assert doses.to_numpy() == pytest.approx(doses["top-1"], rel=0.05)
    moved = values.set_index("condition")["value"]
    assert moved["top-1"] != pytest.approx(moved["baseline"], abs=1e-6)


def test_files_without_worked_solutions_are_refused(tmp_path: Path) -> None:
    settings = file_settings(tmp_path, [{"question": "Why?", "answer": "10"}] * 4)
    with pytest.raises(ValueError, match="no row has a worked solution"):
        units(settings)


def test_rows_whose_solution_computes_nothing_have_no_margin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(monkeypatch)
    untold = {"question": ROWS[0]["question"], "answer": "A third of 33 of them.\n#### 11"}
    settings = file_settings(tmp_path, [untold, *ROWS[1:]])
    assert len(units(settings)) == 2
    errors = errors_of(load("qwen2"), read_items(settings), settings)
    assert [item.number for item, _ in errors] == [1]
