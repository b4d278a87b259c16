"""Problems of public benchmarks from local files in their public forms, and their graders."""

import base64
import importlib
import json
import pickle
import random
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from step_saliency.benchmark.suites.choice import LETTERS, OPTIONS, order_of
from step_saliency.benchmark.suites.files import read_records
from step_saliency.benchmark.suites.grading import grade_answer
from step_saliency.benchmark.suites.item import Item
from step_saliency.benchmark.suites.livecodebench.problems import release_files
from step_saliency.benchmark.suites.livecodebench.tests import (
    pickled_text,
    private_text,
)
from step_saliency.benchmark.suites.livecodebench.tests import (
    tests_of as read_tests,
)
from step_saliency.benchmark.suites.suites import SUITES, Selection, items_of, suite_of

FILES = {
    "aime24": ("aime24.jsonl", 30, 1.0),
    "amc23": ("amc23.jsonl", 40, 1.0),
    "math500": ("math500.jsonl", 500, 0.99),
    "gsm8k": ("gsm8k_test.jsonl", 1319, 1.0),
}


def answered(answer: str) -> str:
    return f"<think>Some steps.</think>\n\nSo the answer is $\\boxed{{{answer}}}$."


def of_file(folder: Path, suite: str) -> list[Item]:
    return items_of(suite, Selection(file=str(folder / FILES[suite][0])))


@pytest.mark.parametrize("suite", FILES)
def test_gold_answers_are_right(shared_data: Path, suite: str) -> None:
    items = of_file(shared_data, suite)
    _, size, least = FILES[suite]
    assert len(items) == size == SUITES[suite].size
    part = items if len(items) < 200 else items[:: len(items) // 100]
    right = [grade_answer(answered(item.target), item).is_correct is True for item in part]
    assert sum(right) >= least * len(part)


@pytest.mark.nightly
@pytest.mark.parametrize("suite", FILES)
def test_all_gold_answers_are_right(shared_data: Path, suite: str) -> None:
    items = of_file(shared_data, suite)
    right = [grade_answer(answered(item.target), item).is_correct is True for item in items]
    assert sum(right) >= FILES[suite][2] * len(items)


def perturbed(answer: str, draw: random.Random) -> str:
    """The answer with its last number changed, which makes it another value."""
    numbers = list(re.finditer(r"\d+", answer))
    last = numbers[-1]
    other = str(int(last[0]) + draw.choice([1, 2, 3, 7, 10]))
    return answer[: last.start()] + other + answer[last.end() :]


def test_two_hundred_perturbed_answers_are_wrong(shared_data: Path) -> None:
    draw = random.Random(0)
    items = [item for suite in FILES for item in of_file(shared_data, suite)]
    items = [item for item in items if re.search(r"\d", item.target)]
    chosen = draw.sample(items, 200)
    verdicts = [
        grade_answer(answered(perturbed(item.target, draw)), item).is_correct for item in chosen
    ]
    assert verdicts == [False] * 200


@pytest.mark.parametrize(
    "response",
    ["", "<think>It may be \\boxed{7}, or not", "<think>\\boxed{7}</think> I do not know."],
)
def test_no_answer_is_unknown(response: str) -> None:
    graded = grade_answer(response, Item("1", "q", "7"))
    assert (graded.is_correct, graded.answer) == (None, None)


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("First, 3 + 4 = 7. Now multiply by 2, so the total is 7 *", None),
        ("So x = 7 and then", None),
        ("<think>a</think>So x = 7 and then", None),
        ("It is \\boxed{7}. To check,", True),
        ("The answer is 7.\n\nTo check, 3 + 3 =", True),
        ("The answer is 8.\n\nTo check, 3 + 4 = 7", False),
    ],
)
def test_the_last_number_of_a_response_that_was_cut_is_no_answer(
    response: str, verdict: bool | None
) -> None:
    item = Item("1", "q", "7")
    assert grade_answer(response, item, is_cut=True).is_correct is verdict
    assert grade_answer("So x = 7", item).is_correct is True


AIME = [
    {"ID": "2024-I-4", "Problem": "What is 3 + 4?", "Solution": "It is 7.", "Answer": 7},
    {"ID": "2024-II-1", "Problem": "And $6\\cdot 7$, with {braces}?", "Answer": "042"},
]


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet"])
def test_every_form_of_file(tmp_path: Path, form: str) -> None:
    file = tmp_path / f"aime.{form}"
    rows = [{**row, "Answer": str(row["Answer"])} for row in AIME]
    if form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "json":
        file.write_text(json.dumps(rows))
    elif form == "csv":
        file.write_text(
            "ID,Problem,Answer\n2024-I-4,What is 3 + 4?,7\n"
            '2024-II-1,"And $6\\cdot 7$, with {braces}?",042\n'
        )
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    items = items_of("aime2024", Selection(file=str(file)))
    assert [item.id for item in items] == ["2024-I-4", "2024-II-1"]
    assert [item.question for item in items] == [row["Problem"] for row in AIME]
    assert grade_answer(answered("42"), items[1]).is_correct is True
    assert grade_answer(answered("43"), items[1]).is_correct is False


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.jsonl", '{"problem": "q"}\n', "no field answer"),
        ("a.jsonl", '{"problem": "q", "answer": 1}\nnonsense\n', "line 2 is no record"),
        ("a.jsonl", "", "has no record"),
        ("a.json", '{"problem": "q"}', "no list of records"),
        ("a.txt", "x", "ends in none"),
        ("a.parquet", "x", "cannot be read"),
        ("a.jsonl", '{"id": 1, "problem": "q", "answer": 1}\n' * 2, "stands there twice"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match):
        items_of("math500", Selection(file=str(tmp_path / name)))


def test_a_missing_file_and_bad_names() -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        read_records(Path("/nowhere/a.jsonl"))
    with pytest.raises(ValueError, match="suite='aime23' is unknown"):
        suite_of("aime23")
    with pytest.raises(ValueError, match="limit=0"):
        items_of("reasoner", Selection(limit=0))


def gpqa(n: int = 8) -> list[dict[str, str]]:
    return [
        {
            "Record ID": f"rec{i}",
            "Question": f"Which of these, {i}?",
            **{name: f"option {i}.{k}" for k, name in enumerate(OPTIONS)},
            "High-level domain": "Physics",
            "Subdomain": "Optics",
        }
        for i in range(n)
    ]


def test_gpqa_in_the_public_form(tmp_path: Path) -> None:
    file = tmp_path / "gpqa_diamond.csv"
    rows = gpqa()
    names = list(rows[0])
    lines = [",".join(f'"{row[name]}"' for name in names) for row in rows]
    file.write_text("\n".join([",".join(names), *lines]) + "\n")
    items = items_of("gpqa_diamond", Selection(file=str(file)))
    for i, item in enumerate(items):
        assert f"{item.target}) option {i}.0" in item.question
        assert all(f"option {i}.{k}" in item.question for k in range(4))
        for letter in LETTERS:
            is_right = letter == item.target
            for response in (f"So it is that.\n\nANSWER: {letter}", answered(letter)):
                assert grade_answer(response, item).is_correct is is_right
    assert len({item.target for item in items}) > 1


def test_the_order_of_options_depends_on_seed_and_record_alone() -> None:
    orders = {order_of(0, f"rec{i}")[0] for i in range(50)}
    assert orders == {0, 1, 2, 3}
    assert [order_of(1, f"rec{i}") for i in range(9)] != [order_of(0, f"rec{i}") for i in range(9)]
    assert order_of(0, "rec7") == order_of(0, "rec7")
    assert sorted(order_of(3, "x")) == [0, 1, 2, 3]


def test_gpqa_whose_right_option_is_also_wrong(tmp_path: Path) -> None:
    row = {**gpqa(1)[0], "Incorrect Answer 2": "option 0.0"}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match="among the wrong ones"):
        items_of("gpqa_diamond", Selection(file=str(tmp_path / "a.json")))


def packed(tests: list[dict[str, str]]) -> str:
    """Private tests as the public files hold them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


TESTS = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]


def code_record(**changes: Any) -> dict[str, Any]:
    return {
        "question_title": "Sum",
        "question_content": "Add two numbers.",
        "platform": "atcoder",
        "question_id": "abc1_a",
        "contest_id": "abc1",
        "contest_date": "2024-08-10T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(TESTS),
        "private_test_cases": packed([{**TESTS[0], "input": "4 5\n", "output": "9\n"}]),
        "metadata": "{}",
        **changes,
    }


@pytest.mark.parametrize("protocol", range(6))
def test_private_tests_of_every_protocol(protocol: int) -> None:
    text = json.dumps([{"input": "ä\n" * 300, "output": "", "testtype": "stdin"}])
    assert pickled_text(pickle.dumps(text, protocol=protocol)) == text


def test_tests_of_a_record() -> None:
    tests = read_tests(code_record())
    assert [(test.input, test.output) for test in tests.tests] == [
        ("1 2\n", "3\n"),
        ("4 5\n", "9\n"),
    ]
    plain = code_record(private_test_cases=json.dumps(TESTS))
    assert len(read_tests(plain).tests) == 2
    called = {"input": "[1]\n2", "output": "3", "testtype": "functional"}
    record = code_record(
        public_test_cases=json.dumps([called]),
        private_test_cases="[]",
        metadata=json.dumps({"func_name": "add"}),
    )
    assert read_tests(record).function == "add"
    with pytest.raises(ValueError, match="func_name"):
        read_tests({**record, "metadata": "{}"})


class Canary:
    """An object whose unpickling writes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    place = tmp_path / "canary"
    for value in (Canary(place), [Canary(place)], {"a": 1}, ["text"], 7, ("a", "b"), None):
        data = base64.b64encode(zlib.compress(pickle.dumps(value))).decode()
        with pytest.raises(ValueError, match="refused"):
            private_text(data)
    assert not place.exists()
    pickle.loads(pickle.dumps(Canary(place)))
    assert place.exists()  # the canary sings where it is unpickled


@pytest.mark.parametrize(
    ("field", "match"),
    [
        ("nonsense!", "neither JSON nor"),
        (base64.b64encode(b"nonsense").decode(), "neither JSON nor"),
        (base64.b64encode(zlib.compress(b"nonsense")).decode(), "pickle"),
        (base64.b64encode(zlib.compress(pickle.dumps("x"))[:-6]).decode(), "cut short"),
        (base64.b64encode(zlib.compress(pickle.dumps("a") + pickle.dumps("b"))).decode(), ""),
    ],
)
def test_private_tests_that_are_damaged(field: str, match: str) -> None:
    if match:
        with pytest.raises(ValueError, match=match):
            private_text(field)
    else:
        assert private_text(field) == "a"  # as unpickling reads no further than the first STOP


def test_a_pickle_of_many_parts_is_not_read_through() -> None:
    """Nothing but marks behind a text: a small field, and gigabytes once it is taken apart."""
    data = b"\x80\x04\x8c\x01a" + b"\x94" * 10_000 + b"."
    with pytest.raises(ValueError, match="more than 16 parts; refused"):
        pickled_text(data)


@pytest.mark.parametrize("name", ["input", "output"])
def test_tests_that_lack_a_part_are_refused(name: str) -> None:
    part = {key: value for key, value in TESTS[0].items() if key != name}
    with pytest.raises(ValueError, match=f"a test has no {name}"):
        read_tests(code_record(public_test_cases=json.dumps([part])))


def test_private_tests_may_be_a_list_as_public_ones_may() -> None:
    assert len(read_tests(code_record(private_test_cases=TESTS)).tests) == 2
    with pytest.raises(ValueError, match="no list of objects"):
        read_tests(code_record(private_test_cases=[1]))


def test_a_bomb_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("step_saliency.benchmark.suites.livecodebench.tests.LARGEST", 10_000)
    bomb = base64.b64encode(zlib.compress(pickle.dumps("0" * 10_000_000))).decode()
    with pytest.raises(ValueError, match="larger than"):
        private_text(bomb)


def test_releases_and_windows(tmp_path: Path) -> None:
    for number, name in enumerate(release_files("v3")):
        record = code_record(
            question_id=f"q{number}", contest_date=f"2024-0{number + 7}-01T00:00:00"
        )
        (tmp_path / name).write_text(json.dumps(record) + "\n")
    select = {"file": str(tmp_path)}
    ids = [item.id for item in items_of("livecodebench", Selection(**select, release="v3"))]
    assert ids == ["q0", "q1", "q2"]
    assert len(items_of("livecodebench", Selection(**select, release="v1"))) == 1
    window = Selection(**select, release="v3", start="2024-08-01", end="2024-09-01")
    assert [item.id for item in items_of("livecodebench", window)] == ["q1", "q2"]
    for bad, match in (
        ({"release": "v7"}, "release='v7'"),
        ({"start": "August", "release": "v3"}, "no date"),
        ({"start": "2025-01-01", "release": "v3"}, "no problem of 3"),
    ):
        with pytest.raises(ValueError, match=match):
            items_of("livecodebench", Selection(**select, **bad))
    with pytest.raises(FileNotFoundError, match="test4"):
        items_of("livecodebench", Selection(**select, release="v6"))


def test_prompts_of_code(tmp_path: Path) -> None:
    records = [
        code_record(),
        code_record(question_id="b", starter_code="class Solution:\n    pass\n"),
    ]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    plain, starter = items_of("livecodebench", Selection(file=str(file)))
    assert "stdin" in plain.question
    assert "# YOUR CODE HERE" in plain.question
    assert "class Solution:" in starter.question
    assert "stdin" not in starter.question
    assert plain.facts["difficulty"] == "easy"
    assert "private_test_cases" not in plain.facts


@pytest.mark.parametrize(
    ("suite", "module", "record"),
    [
        ("aime24", "aime2024.aime2024", {"ID": "a", "Problem": "q?", "Answer": 7, "Solution": "s"}),
        ("aime25", "aime2025.aime2025", {"id": "a", "problem": "q?", "answer": "7"}),
        ("gsm8k", "gsm8k.gsm8k", {"question": "q?", "answer": "so\n#### 7"}),
        ("gpqa_diamond", "gpqa.gpqa", {**gpqa(1)[0], "Record ID": "a", "Question": "q?"}),
    ],
)
def test_suites_of_inspect_evals(
    monkeypatch: pytest.MonkeyPatch, suite: str, module: str, record: dict[str, Any]
) -> None:
    """What its own readers make of a record of the hub; the download is taken out."""
    pytest.importorskip("inspect_evals", reason="inspect-evals is not installed")
    from inspect_ai.dataset import MemoryDataset

    importlib.import_module(f"inspect_evals.{module}")
    reader = sys.modules[f"inspect_evals.{module}"]
    name = "load_csv_dataset" if suite == "gpqa_diamond" else "hf_dataset"
    monkeypatch.setattr(reader, "download", lambda *_: None, raising=False)
    monkeypatch.setattr(
        reader, name, lambda *_, sample_fields, **__: MemoryDataset([sample_fields(record)])
    )
    (item,) = items_of(suite)
    assert item.question.startswith("q?")
    right = item.target if suite == "gpqa_diamond" else "7"
    assert grade_answer(answered(right), item).is_correct is True
    if suite == "gpqa_diamond":
        assert f"{item.target}) option 0.0" in item.question


@pytest.mark.parametrize("error", [ImportError("no"), ConnectionError("no hub")])
def test_without_a_hub_a_file_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(name: str) -> Any:
        raise error

    monkeypatch.setattr("step_saliency.benchmark.suites.suites.import_module", broken)
    with pytest.raises(ValueError, match="give a local file"):
        items_of("aime24")
