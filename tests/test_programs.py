"""Programs of a model: problems that say what they ask, programs found in answers, a grader that
is right about them, and an analysis that finds planted effects and refuses to run without a box."""

import ast
import copy
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from program_references import MUTANTS, REFERENCES
from tiny import tiny_tokenizer

import analyses.programs as analysis
import step_saliency as ss
from analyses.material.conditions import conditions
from analyses.material.flows import reference_items
from analyses.material.problems import Item, read_items
from analyses.programs import ANALYSIS, ProgramsSettings, effects, graded_answers, summarise
from analyses.programs.asking import asked_of, with_rows
from analyses.programs.extraction import answered_part, program_in
from analyses.programs.grading import Graded, grade, grade_all, judged
from analyses.programs.kinds import KINDS
from analyses.programs.problems import ProgramProblem, ProgramTest, function_of, make_programs
from analyses.running.runner import main, run_analysis
from step_saliency.benchmark.sandbox import Bubblewrap, Outcome, SandboxError
from step_saliency.trace import Trace

NAMES = [kind.name for kind in KINDS]
SEEDS = range(3)
FAST: dict[str, Any] = {"n_resamples": 50, "n_permutations": 199}


@pytest.fixture(scope="module")
def box() -> Bubblewrap:
    try:
        return Bubblewrap.probe()
    except SandboxError as error:
        pytest.skip(f"no box to run programs in: {error}")


@pytest.fixture(scope="module")
def model() -> Any:
    return ss.load_model("reasoner")


@pytest.fixture(scope="module")
def by_kind() -> dict[str, list[ProgramProblem]]:
    problems: dict[str, list[ProgramProblem]] = {name: [] for name in NAMES}
    for seed in SEEDS:
        for problem in make_programs(6 * len(KINDS), seed):
            problems[problem.kind].append(problem)
    return problems


def passes(source: str, problem: ProgramProblem) -> bool:
    """Whether a program of ours passes the tests of a problem, without a box."""
    try:
        function = function_of(source, problem.function)
        return all(function(*copy.deepcopy(t.arguments)) == t.value for t in problem.tests)
    except Exception:
        return False


def test_a_seed_makes_the_same_problems_whatever_their_number() -> None:
    problems = make_programs(80, seed=3)
    assert make_programs(50, seed=3) == problems[:50]
    other = make_programs(80, seed=4)
    assert not {p.question for p in problems[:20]} & {p.question for p in other[:20]}
    assert len({p.id for p in problems + other}) == 160


def test_problems_are_balanced_over_kinds_and_differ() -> None:
    problems = make_programs(5 * len(KINDS), seed=0)
    assert len(KINDS) >= 25
    assert set(Counter(p.kind for p in problems).values()) == {5}
    assert len({p.question for p in problems}) == len(problems)
    assert len({(p.kind, *p.parameters.values()) for p in problems}) == len(problems)
    levels = Counter(p.level for p in problems)
    assert set(levels) == {"easy", "medium"}
    assert min(levels.values()) > len(problems) / 4
    first = {p.kind for p in make_programs(10, seed=0)}
    assert first != {p.kind for p in make_programs(10, seed=1)}


def test_levels_can_be_taken_alone() -> None:
    easy = make_programs(30, seed=0, levels=("easy",))
    assert {p.level for p in easy} == {"easy"}
    assert {p.kind for p in easy} == {kind.name for kind in KINDS if kind.level == "easy"}
    settings = with_rows(ProgramsSettings(n=3, levels=("easy",)))
    assert [item.question for item in read_items(settings)] == [p.question for p in easy[:3]]
    with pytest.raises(ValueError, match=r"levels=\(\)"):
        make_programs(3, levels=())


def test_more_problems_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="no more problems of kind"):
        make_programs(3000, seed=0)
    with pytest.raises(ValueError, match="n=-1"):
        make_programs(-1)


@pytest.mark.parametrize("kind", NAMES)
def test_a_second_solution_agrees(kind: str, by_kind: dict[str, list[ProgramProblem]]) -> None:
    for problem in by_kind[kind]:
        for test in problem.tests:
            value = REFERENCES[kind](problem.parameters, *copy.deepcopy(test.arguments))
            assert _spelled(value) == _spelled(test.value), (problem.question, test)


def _spelled(value: Any) -> str:
    """Tells True from 1, and a list from a tuple; the order of a dictionary does not matter."""
    return repr(dict(sorted(value.items())) if isinstance(value, dict) else value)


@pytest.mark.parametrize("kind", NAMES)
def test_wrong_programs_fail(kind: str, by_kind: dict[str, list[ProgramProblem]]) -> None:
    for problem in by_kind[kind]:
        assert passes(problem.solution, problem)
        for pair in MUTANTS[kind]:
            old, new = (part.format(**problem.parameters) for part in pair)
            assert old in problem.solution, old
            assert not passes(problem.solution.replace(old, new), problem), (old, problem.question)


@pytest.mark.parametrize("kind", NAMES)
def test_statements_name_all_that_was_drawn(
    kind: str, by_kind: dict[str, list[ProgramProblem]]
) -> None:
    for problem in by_kind[kind]:
        head, task, title, *examples = problem.question.split("\n")
        assert head == f"Write a Python function `{_signature(problem.solution)}`."
        assert all(str(value) in task for value in problem.parameters.values()), task
        assert len({json.dumps(test.arguments) for test in problem.tests}) >= 6
        assert (title, len(examples)) == ("Examples:", 2)
        function = function_of(problem.solution, problem.function)
        for example in examples:
            call, value = example.rsplit(" returns ", 1)
            arguments = ast.literal_eval(f"[{call[len(problem.function) + 1 : -1]}]")
            assert function(*arguments) == ast.literal_eval(value)


def _signature(solution: str) -> str:
    return solution.split("\n")[0].removeprefix("def ").removesuffix(":")


def test_problems_come_back_from_the_rows_of_a_file() -> None:
    settings = with_rows(ProgramsSettings(n=5, seed=2))
    items = read_items(settings)
    problems = make_programs(5, seed=2)
    assert [item.id for item in items] == [p.id for p in problems]
    for item, problem in zip(items, problems, strict=True):
        asked = asked_of(item)
        assert item.question == problem.question
        assert (asked.function, asked.kind, asked.level) == (
            problem.function,
            problem.kind,
            problem.level,
        )
        assert tuple(asked.tests) == problem.tests
    aside = reference_items(settings)
    assert len(aside) >= settings.n_matching
    assert not {item.question for item in aside} & {item.question for item in items}


DEF = "def f(x):\n    return x + 1"
FENCED = f"```python\n{DEF}\n```"
TRIED = "Try this.\n```python\ndef f(x):\n    return 0\n```"


@pytest.mark.parametrize(
    ("text", "program", "form"),
    [
        (FENCED, DEF, "fenced"),
        (f"Here it is:\n\n```\n{DEF}\n```\nIt adds one.", DEF, "fenced"),
        (f"```py\n{DEF}\n```", DEF, "fenced"),
        (f"~~~python\n{DEF}\n~~~", DEF, "fenced"),
        (
            f"1. So:\n\n   ```python\n   {DEF.replace(chr(10), chr(10) + '   ')}\n   ```",
            DEF,
            "fenced",
        ),
        # the last block that defines the function, whatever stands behind it
        (f"```python\ndef f(x):\n    return x\n```\nNo, better:\n{FENCED}", DEF, "fenced"),
        (f"{FENCED}\nUse it:\n```python\nprint(f(1))\n```\n```text\n2\n```", DEF, "fenced"),
        (f"{FENCED}\n```python\ndef other(x):\n    return f(x)\n```", DEF, "fenced"),
        # cut off in the block
        (f"Sum.\n```python\n{DEF}", DEF, "fenced"),
        # a block without the function is graded, and fails
        ("```python\nprint(2)\n```", "print(2)", "fenced"),
        # without a fence
        (DEF, DEF, "bare"),
        (f"The function adds one.\n\n{DEF}\n\nIt is quick.", DEF, "bare"),
        (f"import this way of thinking.\n{DEF}\nDone: f adds 1.", DEF, "bare"),
        (f"import math\n\n{DEF}\n", f"import math\n\n{DEF}", "bare"),
        ("Then\ndef f(x:\n    return", "def f(x:\n    return", "bare"),
        (f"The answer: ```python\n{DEF}\n```\nThat is all.", DEF, "bare"),
        # nothing
        ("The answer is f(x) = x + 1.", None, "none"),
        ("def other(x):\n    return x", None, "none"),
        ("```python\n```", None, "none"),
        ("", None, "none"),
    ],
)
def test_the_program_in_an_answer(text: str, program: str | None, form: str) -> None:
    found = program_in(text, "f")
    assert (found.program, found.form) == (program, form)


@pytest.mark.parametrize(
    ("response", "program"),
    [
        (
            f"<think>\n{TRIED}\n</think>\nOne more.\n{FENCED}",
            DEF,
        ),
        (f"<think>\nOne more.\n{FENCED}\n</think>\nAs above.", None),
        (f"<think>\nOne more.\n{FENCED}\nIs it so?", None),
        (f"Thought.\n</think>\nIt adds one.\n\n{FENCED}\n", DEF),
    ],
)
def test_thinking_is_no_answer(model: Any, response: str, program: str | None) -> None:
    trace = Trace.from_text(model.tokenizer, question="Write f.", response=response)
    assert program_in(answered_part(trace), "f").program == program


def test_without_marks_of_thinking_all_is_answer() -> None:
    response = f"It adds one.\n{FENCED}\nThe final answer is f."
    trace = Trace.from_text(tiny_tokenizer(), question="Write f.", response=response)
    assert program_in(answered_part(trace), "f").program == DEF


ADD = [ProgramTest([1, 2], 3), ProgramTest([0, 0], 0), ProgramTest([-1, 5], 4)]


@pytest.mark.parametrize(
    ("body", "graded"),
    [
        ("return a + b", Graded("right")),
        ("print('noise')\n    return float(a + b)", Graded("right")),
        ("return abs(a) + b", Graded("wrong", 2)),
        ("return str(a + b)", Graded("wrong", 0)),
        ("return None", Graded("wrong", 0)),
        ("return {a + b}", Graded("wrong", 0)),
        ("return [a + b] * 100_000", Graded("wrong", 0)),
        ("return 0 // (a + b)", Graded("wrong", 0)),
        ("return a + b if a > 0 else 0 // a + 1", Graded("error", 1, "ZeroDivisionError")),
        ("return f(a, b)", Graded("error", 0, "RecursionError")),
        ("raise SystemExit", Graded("error", 0, "SystemExit")),
        ("import os\n    os._exit(0)", Graded("error", 0, "Exit")),
        ("return a +", Graded("error", 0, "SyntaxError")),
        ("return input()", Graded("error", 0, "EOFError")),
    ],
)
def test_grades_of_programs(box: Bubblewrap, body: str, graded: Graded) -> None:
    assert grade(f"def f(a, b):\n    {body}", "f", ADD, box) == graded


def test_grades_of_other_texts(box: Bubblewrap) -> None:
    sources = [
        "def g(a, b):\n    return a + b",
        "f = lambda a, b: a + b",
        "def f(a, b):\n    return a + b\nif __name__ == '__main__':\n    print(input())",
        "def f(a, b):\n    return a + b\nprint(f(1, 2))\nassert f(1, 2) == 3, '\udc80'",
        None,
    ]
    grades = grade_all(sources, ["f"] * 5, [ADD] * 5, box)
    assert [one.result for one in grades] == ["error", "right", "right", "right", "no code"]
    assert grades[0].raised == "KeyError"


@pytest.mark.parametrize(
    ("body", "failed"),
    [("while True:\n        pass", 0), ("while a == 0:\n        pass\n    return a + b", 1)],
)
def test_a_program_that_loops_is_a_timeout(box: Bubblewrap, body: str, failed: int) -> None:
    assert grade(f"def f(a, b):\n    {body}", "f", ADD, box) == Graded("timeout", failed)


def test_a_program_that_sleeps_is_a_timeout(
    box: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyses.programs.grading.CLOCK", 4)
    assert grade("import time\ntime.sleep(99)", "f", ADD, box) == Graded("timeout", 0)


def test_values_are_told_apart_as_python_does(box: Bubblewrap) -> None:
    tests = [ProgramTest([], {"a": [1, 2]})]
    values = {"{'a': (1, 2)}": "right", "{'a': [2, 1]}": "wrong", "{1: [1, 2]}": "wrong"}
    for value, result in values.items():
        assert grade(f"def f():\n    return {value}", "f", tests, box).result == result


def test_solutions_are_right_in_the_box_and_mutants_are_not(box: Bubblewrap) -> None:
    problems = make_programs(len(KINDS), seed=5)[::6]
    for problem in problems:
        assert grade(problem.solution, problem.function, problem.tests, box).result == "right"
        old, new = (part.format(**problem.parameters) for part in MUTANTS[problem.kind][0])
        wrong = problem.solution.replace(old, new)
        assert grade(wrong, problem.function, problem.tests, box).result in ("wrong", "error")


@pytest.mark.parametrize(
    ("outcome", "graded"),
    [
        (Outcome("finished", '{"value": 3}\n{"value": 0}\n{"value": 4}\n', status=0), "right"),
        (Outcome("failed", '{"value": 3}\n{"value": 0}\n', status=139), "error"),
        (Outcome("failed", '{"value": 3}\n', status=152), "timeout"),
        (Outcome("time", "", status=-9), "timeout"),
        (Outcome("time", '{"value": 4}\n', status=-9), "wrong"),
        (Outcome("finished", "3\n0\n4\n", status=0), "error"),
        (Outcome("finished", "[" * 100_000 + "\n", status=0), "error"),
    ],
)
def test_reports_of_a_box(outcome: Outcome, graded: str) -> None:
    assert judged(outcome, ADD).result == graded


def item(row: dict[str, Any], folder: Path) -> Item:
    file = folder / "rows.jsonl"
    file.write_text(json.dumps({"question": "Add.", "answer": "-", **row}) + "\n")
    return read_items(ProgramsSettings(n=1, data=str(file)))[0]


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"function": "f"},
        {"function": "f", "tests": []},
        {"function": "f", "tests": [{"arguments": 3, "value": 1}]},
        {"function": "f()", "tests": [{"arguments": [3], "value": 1}]},
    ],
)
def test_rows_that_cannot_be_graded_are_refused(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a row needs the name of a function and tests"):
        asked_of(item(row, tmp_path))


def test_rows_of_ones_own(box: Bubblewrap, model: Any, tmp_path: Path) -> None:
    tests = [{"arguments": [1], "value": 2}]
    row = item({"function": "f", "tests": tests}, tmp_path)
    traces = [
        Trace.from_text(model.tokenizer, question="Add.", response=text)
        for text in (f"<think>\nHm.\n</think>\nSo.\n{FENCED}", "<think>\nHm.\n</think>\nSo.")
    ]
    table = graded_answers([row, row], traces, box)
    assert table["result"].tolist() == ["right", "no code"]
    assert table["form"].tolist() == ["fenced", "none"]
    assert table["program"].isna().tolist() == [False, True]
    assert table["has_summary"].all()


def planted() -> pd.DataFrame:
    """20 problems: both corrects 9 and breaks 1, its placebo corrects 2, the rest is as before."""
    base = np.array([0] * 10 + [1] * 10)
    rows = {"baseline": base, "both": base.copy(), "both-layers-kl": base.copy()}
    rows["both"][:9], rows["both"][10] = 1, 0
    rows["both-layers-kl"][:2] = 1
    tables = []
    for condition in conditions(8, "both,both-layers-kl"):
        right = rows[condition.name].astype(bool)
        table = pd.DataFrame({"problem": [f"p{i}" for i in range(20)], "is_correct": right})
        levels = ["easy", "medium"] * 10
        results = np.where(right, "right", np.where(np.arange(20) % 2, "wrong", "no code"))
        about = condition.columns()
        tables.append(table.assign(sample=0, level=levels, kind="k", result=results, **about))
    return pd.concat(tables, ignore_index=True)


def test_planted_effects_are_found_and_counted() -> None:
    table = effects(planted(), **FAST).set_index(["question", "condition"])
    assert set(table.index) == {
        ("edit", "both"),
        ("placebo", "both-layers-kl"),
        ("against placebo", "both"),
    }
    edit = table.loc[("edit", "both")]
    assert (edit["corrected"], edit["broken"], edit["reference"]) == (9, 1, "baseline")
    assert edit["estimate"] == pytest.approx(8 / 20)
    assert edit["p_mcnemar"] == pytest.approx(2 * (1 + 10) / 2**10)
    control = table.loc[("against placebo", "both")]
    assert (control["corrected"], control["broken"]) == (7, 1)
    assert control["reference"] == "both-layers-kl"
    assert (table["p_holm"] == table["p"]).all()  # one test in each family


def test_tables_by_hand() -> None:
    written = planted().assign(
        measured="answers", finished=True, has_summary=True, form="fenced", n_tokens=9
    )
    tables = summarise(written, ProgramsSettings(n=20))
    accuracy = tables["accuracy"].set_index(["condition", "level"])["estimate"]
    assert accuracy["baseline", "all"] == 0.5
    assert accuracy["both", "easy"] == pytest.approx(0.9)
    results = tables["outcomes"].set_index(["condition", "level", "result"])["estimate"]
    assert results["both", "all", "right"] == 0.9
    assert results["baseline", "easy", "no code"] == 0.5
    assert results["baseline", "easy", "wrong"] == 0
    sums = tables["outcomes"].groupby(["condition", "level"])["estimate"].sum()
    assert sums.tolist() == pytest.approx([1.0] * len(sums))
    assert set(tables["levels"]["level"]) == {"easy", "medium"}
    forms = tables["forms"].set_index(["condition", "outcome"])["estimate"]
    assert forms["both", "n_tokens"] == 9
    assert forms["both", "is_fenced"] == 1
    alone = written[written["condition"] == "baseline"]
    assert not {"summary", "levels"} & set(summarise(alone, ProgramsSettings(n=20)))


def test_a_model_that_writes_no_programs(box: Bubblewrap, model: Any, tmp_path: Path) -> None:
    settings = ProgramsSettings(
        n=3, conditions="both", max_new_tokens=12, references="gold", n_doses=2, chunk=2
    )
    results = run_analysis(ANALYSIS, settings, out=tmp_path, model=model, progress=False)
    assert results.values is not None
    written = results.values[results.values["measured"] == "answers"]
    assert len(written) == 6
    assert set(written["result"]) == {"no code"}
    assert results.tables["accuracy"]["estimate"].eq(0).all()
    shares = results.tables["outcomes"].set_index(["condition", "level", "result"])["estimate"]
    assert shares["both", "all", "no code"] == 1
    assert results.tables["summary"]["estimate"].tolist() == [0.0]
    assert results.tables["doses"]["half"].nunique() == 2
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["cost"]["tokens"] > 0
    assert manifest["settings"]["data"] == "programs"


def test_answers_that_an_edit_mends(
    box: Bubblewrap, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose answers are the solutions under an edit, and return nothing without one."""
    solutions = {p.question: p.solution for p in make_programs(4, seed=0)}

    def stub(model: Any, items: Any, flow: Any, settings: Any) -> tuple[list[Trace], pd.DataFrame]:
        texts = [solutions[one.question] for one in items]
        if flow is None:
            texts = [text.split("\n")[0] + "\n    return None" for text in texts]
        responses = [f"<think>\nHm.\n</think>\nSo.\n```python\n{text}\n```" for text in texts]
        traces = [
            Trace.from_text(model.tokenizer, question=one.question, response=response)
            for one, response in zip(items, responses, strict=True)
        ]
        facts = [{"problem": one.id, "sample": 0, "n_tokens": 9, "finished": True} for one in items]
        return traces, pd.DataFrame(facts)

    monkeypatch.setattr(analysis, "answers", stub)
    settings = ProgramsSettings(n=4, conditions="both")
    results = run_analysis(ANALYSIS, settings, out=tmp_path, model=model, progress=False)
    (row,) = results.tables["summary"].to_dict("records")
    assert (row["corrected"], row["broken"], row["estimate"]) == (4, 0, 1.0)
    shares = results.tables["outcomes"].set_index(["condition", "level", "result"])["estimate"]
    assert shares["baseline", "all", "wrong"] == 1
    assert shares["both", "all", "right"] == 1


@pytest.mark.nightly
def test_a_placebo_is_matched_on_other_problems(
    box: Bubblewrap, model: Any, tmp_path: Path
) -> None:
    settings = ProgramsSettings(
        n=2,
        conditions="smi,smi-direction-kl",
        max_new_tokens=8,
        n_matching=1,
        n_doses=1,
        references="gold",
    )
    results = run_analysis(ANALYSIS, settings, out=tmp_path, model=model, progress=False)
    questions = results.tables["summary"]["question"].tolist()
    assert questions == ["edit", "placebo", "against placebo"]
    assert results.tables["doses"]["dose_ratio"].dropna().between(0.5, 2).tolist() == [True]


def test_without_a_box_nothing_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> Bubblewrap:
        raise SandboxError("bubblewrap (bwrap) is not installed, or this is not Linux")

    def answers(*_: Any) -> Any:
        raise AssertionError("answers were written")

    monkeypatch.setattr(Bubblewrap, "probe", fails)
    monkeypatch.setattr(analysis, "answers", answers)
    command = ["--n", "2", "--conditions", "oeb", "--no-progress", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main("analyses.programs", command)
    assert ended.value.code == 2
    message = capsys.readouterr().err.strip().split("\n")[-1]
    expected = "programs that a model wrote are run in a bubblewrap box only, and none works here"
    assert message.startswith(f"python -m analyses.programs: {expected} (bubblewrap (bwrap) is not")


def test_seeds_and_sets_aside_are_part_of_the_settings() -> None:
    settings = ProgramsSettings(n=3, seed=1)
    assert with_rows(settings).data == with_rows(replace(settings, samples=2)).data
    assert with_rows(settings).data != with_rows(replace(settings, seed=2)).data
    assert with_rows(settings).data != with_rows(replace(settings, levels=("easy",))).data
    own = replace(settings, data="rows.jsonl")
    assert with_rows(own) is own
