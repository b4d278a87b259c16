"""Pairs that compute a number, from plain text."""

import json
import re
from pathlib import Path

import pytest

from analyses.patching import PatchingSettings
from analyses.patching.expressions import expression_pair, expressions
from analyses.patching.pairs import premise_pair
from analyses.running.runner import main
from step_saliency.trace import Trace
from training.tokenizer import build_tokenizer

QUESTION = "Ann has 12 apples and buys 30 more. Then she eats 8 of them. How many are left?"
RESPONSE = (
    "Ann starts with 12 apples.\nShe then has 12 + 30 = 42 apples.\n"
    "She eats 8, so 42 - 8 = 34 are left.\n</think>\nThere are 34 apples left."
)


def a_trace(question: str = QUESTION, response: str = RESPONSE) -> Trace:
    return Trace.from_text(build_tokenizer(), question=question, response=response)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 + 30 = 42.", ["12+30=42"]),
        ("They cost $12 x 3 = $36.50 in all", ["12*3=36.50"]),
        ("\\(12 \\times 3 = 36\\) and 36 ÷ 3=12", ["12*3=36", "36/3=12"]),
        ("5 boxes * 4 pens = 20 pens, 1,200/4=300", ["5*4=20", "1,200/4=300"]),
        ("2 * 3 + 4 * 5 = 20", []),
        ("11 * 3 + 8 * 4 + 6 * 6 = 33 + 32 + 36", []),
        ("20% * 50 = 10, 3 + 4 = 12%", []),
        ("x = 3 * 4 = 12", ["3*4=12"]),
        ("\n- 3 * 4 = 12", ["3*4=12"]),
    ],
)
def test_expressions_of_two_operands(text: str, expected: list[str]) -> None:
    assert [f"{e.left}{e.op}{e.right}={e.result}" for e in expressions(text)] == expected


def test_what_an_expression_comes_to() -> None:
    right, wrong = expressions("1,200 / 4 = 300 and 7 / 2 = 3")
    assert right.is_right
    assert not wrong.is_right
    assert right.value("1,200", "1600") == 400
    assert next(expressions("6 * 6 = 36")).value("6", "7") == 49
    assert next(expressions("6 / 5 = 1")).value("5", "0") is None


def test_a_given_number_is_changed_and_what_follows_from_it_is_read() -> None:
    tokenizer, trace = build_tokenizer(), a_trace()
    seen = set()
    for seed in range(6):
        pair = expression_pair(tokenizer, trace, seed=seed)
        assert pair is not None
        clean, corrupted = (tokenizer.decode(t.tokens) for t in (pair.clean, pair.corrupted))
        assert clean.endswith("12 + 30 = ")
        other = re.search(r"(\d\d) \+ 30 = $", corrupted)
        assert other is not None
        assert corrupted == clean.replace("12", other[1]), "everywhere, and nothing else"
        result = str(int(other[1]) + 30)
        assert len(result) == 2
        assert tokenizer.decode([pair.correct]) == "4"
        assert tokenizer.decode([pair.wrong]) == result[0] != "4"
        assert pair.clean.regions[pair.source_step] == "question"
        assert pair.role(pair.read_step) == "read"
        assert pair.kind == "computed"
        seen.add(other[1])
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("question", "response"),
    [
        (QUESTION + " Bob has 42 and 34 pears.", RESPONSE),
        (QUESTION, "So 12 + 30 + 5 = 47 apples.\n</think>\n47."),
        (QUESTION, "So 2 + 3 = 5 apples.\n</think>\n5."),
        (QUESTION, "Nothing is computed here.\n</think>\nNo."),
    ],
    ids=["known result", "long", "not given", "no numbers"],
)
def test_there_is_no_pair(question: str, response: str) -> None:
    assert expression_pair(build_tokenizer(), a_trace(question, response), seed=0) is None


def test_of_a_number_that_is_given_twice_the_other_operand_is_changed() -> None:
    tokenizer = build_tokenizer()
    pair = expression_pair(tokenizer, a_trace(QUESTION.replace("8", "12")), seed=0)
    assert pair is not None
    corrupted = tokenizer.decode(pair.corrupted.tokens)
    assert re.search(r"12 \+ \d\d = $", corrupted)
    assert "30" not in corrupted


def test_wrong_results_and_numbers_that_were_computed_with_are_passed_over() -> None:
    tokenizer = build_tokenizer()
    wrong = a_trace(response=RESPONSE.replace("12 + 30 = 42", "12 + 30 = 43"))
    pair = expression_pair(tokenizer, wrong, seed=0)
    assert pair is not None
    assert tokenizer.decode(pair.clean.tokens).endswith("42 - 8 = ")
    corrupted = tokenizer.decode(pair.corrupted.tokens)
    eaten = re.search(r"she eats (\d) of them", corrupted)
    assert eaten is not None
    assert f"She eats {eaten[1]}, so 42 - {eaten[1]} = " in corrupted
    used = "Each 8 = 5 + 3. So 42 - 8 = 34 are left.\n</think>\n34."
    assert expression_pair(tokenizer, a_trace(response=used), seed=0) is None


def test_copied_numbers_of_such_a_text() -> None:
    tokenizer, trace = build_tokenizer(), a_trace()
    copied = set()
    for seed in range(12):
        pair = premise_pair(tokenizer, trace, seed=seed)
        assert pair is not None
        differ = (pair.clean.tokens != pair.corrupted.tokens).nonzero().squeeze(-1)
        number = tokenizer.decode(pair.clean.tokens[differ])
        after = tokenizer.decode(trace.tokens[pair.position + 1 :])
        assert after.startswith(number)
        assert number in QUESTION
        copied.add(number)
    assert copied == {"12", "30", "8"}


@pytest.mark.parametrize(
    "number", ["2.5", "0.25", "1,234", "1,234.5", "3/4", "2 1/2", "10/3", "37", "5", "50"]
)
@pytest.mark.parametrize("behind", [".", ",", "%", " pens", "km", "-day rest"])
def test_a_copied_number_is_changed_as_a_whole(number: str, behind: str) -> None:
    tokenizer = build_tokenizer()
    trace = a_trace(f"Ann walks {number}{behind} Why?", f"Ann walks {number}{behind} So what.")
    pairs = [premise_pair(tokenizer, trace, seed=seed) for seed in range(3)]
    for pair in pairs:
        assert pair is not None
        clean, corrupted = (tokenizer.decode(t.tokens) for t in (pair.clean, pair.corrupted))
        assert clean.endswith("\nAnn walks "), "read at the number's first token"
        form = re.sub(r"\d", "[0-9]", re.escape(number))
        (other,) = re.findall(rf"walks ({form}){re.escape(behind)} Why", corrupted)
        assert tokenizer.decode([pair.correct]) == number[0]
        assert tokenizer.decode([pair.wrong]) == other[0] != number[0]
        assert corrupted == clean.replace(number, other)


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("Ann walks 2.5 miles.", "She has 2 legs and 5 toes."),
        ("Ann has 2 legs and 5 toes.", "She walks 2.5 miles."),
        ("Ann has 1,234 pens.", "Of 1 pen and 234 pens."),
        ("Ann has 34 pens.", "She has 1,234 pens, or 34,567."),
        ("Ann eats 3/4 of it.", "3 of 4 parts."),
        ("Ann eats 2 1/2 of 4.", "2 and 1/2."),
        ("Ann eats \\frac{3}{4} of it.", "3 of 4 parts."),
        ("Ann comes at 3:30.", "At 3:30 she comes, so 3 and 30."),
        ("Ann was born on 4/12/2001.", "On 4/12/2001, so 4 and 12."),
        ("Ann has x2 and 1.5e3 pens.", "2 and 1 and 5 and 3."),
        ("Ann has 2.5 and again 2.5 pens.", "2.5 pens."),
    ],
)
def test_parts_of_numbers_are_no_numbers(asked: str, written: str) -> None:
    trace = a_trace(asked, f"{written}\n</think>\nDone.")
    assert premise_pair(build_tokenizer(), trace, seed=0) is None


def test_layers_sites_and_directions_of_a_run() -> None:
    settings = PatchingSettings(layers=(5, 1, 3), layer_stride=2)
    assert list(settings.layers_of(6)) == [1, 5]
    assert list(PatchingSettings(layer_stride=4).layers_of(10)) == [0, 4, 8]
    assert list(PatchingSettings().layers_of(3)) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"layers=\[5\] are not among the model's, 0 to 4"):
        settings.layers_of(5)
    with pytest.raises(ValueError, match="layer_stride=0"):
        PatchingSettings(layer_stride=0)


def test_a_run_on_responses_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"question": QUESTION, "answer": "34", "response": f"<think>\n{RESPONSE}"}
    file.write_text(json.dumps(row) + "\n")
    options = "--n 1 --kinds computed premise --sites resid_post --directions denoising --no-heads"
    results = main(
        "analyses.patching",
        [
            *options.split(),
            *f"--layer-stride 3 --min-gap -100 --no-progress --data {file}".split(),
            *f"--out {tmp_path / 'out'}".split(),
        ],
    )
    table = results.tables["summary"]
    assert set(results.tables["pairs"]["kind"]) == {"computed", "premise"}
    assert set(table["site"]) == {"resid_post", "edge"}
    patched = table[table["site"] == "resid_post"]
    assert set(patched["layer"]) == {0, 3, 6}
    assert set(patched["direction"]) == {"denoising"}
    whole = patched[patched["role"] == "all"]["estimate"].to_numpy()
    assert whole == pytest.approx(1.0, abs=1e-3)
    single = table[table["role"] == "direct up to"]["layer"]
    assert set(single) == {0, 3, 6}
