"""Reports: problems whose summary puts the answer together, their gold graphs and their grader."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from analyses.instruments.margins import corrected
from step_saliency import Region, Trace
from step_saliency.tasks import (
    ERROR_KINDS,
    REPORT_LEVELS,
    Difficulty,
    Premise,
    ReportDifficulty,
    ReportGraph,
    ReportProblem,
    make_problems,
)
from step_saliency.tasks.report import Term
from step_saliency.tasks.report.graph import TOTAL
from training.curricula import report_tokenizer

LONG = ReportDifficulty(n_steps=30, n_distractors=12, digits=3, distance=7, n_values=11)
GATHERED = ReportDifficulty(n_steps=14, n_distractors=5, distance=3, n_values=5, gathered=True)
UNPLANNED = ReportDifficulty(n_steps=14, n_distractors=5, n_values=5, n_terms=9, planned=False)
SHORT = ReportDifficulty(n_steps=1, n_distractors=0, n_values=1)
LEVELS = [*REPORT_LEVELS, LONG, SHORT, GATHERED, UNPLANNED]
BY_HAND = ReportProblem(
    graph=ReportGraph(
        premises=(
            Premise("Val's nuts", "Ned's figs", "+", 12),
            Premise("Ned's figs", 35),
            Premise("Ned's nuts", 9),
            Premise("Val's figs", "Val's nuts", "-", "Ned's figs"),
        ),
        target=TOTAL,
        found=("Val's nuts", "Ned's figs", "Val's figs"),
        terms=(Term("+", "Ned's figs"), Term("-", "Val's nuts")),
    ),
    family="report",
    id="by hand",
    difficulty=ReportDifficulty(n_steps=3, n_distractors=1, distance=1, n_values=2),
)
THINKING = """Ned's figs are 35.
Val's nuts are Ned's figs + 12 = 35 + 12 = 47.
Val's figs are Val's nuts - Ned's figs = 47 - 35 = 12.
</think>

"""


@pytest.fixture(scope="module")
def tokenizer():
    return report_tokenizer()


def solved_by_substitution(question: str) -> int:
    """Independent solver: Python evaluates the sentences of a question."""
    sentences = re.sub(r"(\w+)'s (\w+)", r"\1_\2", question).split(". ")
    pending = dict(sentence.split(" are ") for sentence in sentences[:-2])
    asked = sentences[-1].removeprefix("What are ").removesuffix("?")
    if asked.startswith("everyone_"):
        things = [name for name in pending if name.endswith(asked.removeprefix("everyone"))]
        asked = " + ".join(things)
    known: dict[str, int] = {}
    while not all(name in known for name in re.findall("[A-Za-z_]+", asked)):
        for name, expression in pending.items():
            if name not in known and all(n in known for n in re.findall("[A-Za-z_]+", expression)):
                known[name] = eval(expression, {"__builtins__": {}}, known)
    return eval(asked, {"__builtins__": {}}, known)


def test_what_is_written_by_hand():
    assert BY_HAND.question == (
        "Val's nuts are Ned's figs + 12. Ned's figs are 35. Ned's nuts are 9. "
        "Val's figs are Val's nuts - Ned's figs. "
        "Find Ned's figs, Val's nuts, Val's figs. What are Ned's figs - Val's nuts?"
    )
    assert BY_HAND.solution == THINKING + (
        "Ned's figs are 35.\nVal's nuts are 47: 35 - 47 = -12.\nThe answer is -12."
    )
    assert BY_HAND.answer == "-12"
    assert BY_HAND.graph.distance == 1


def test_the_gold_graph_by_hand(tokenizer):
    gold = BY_HAND.gold_graph
    assert [step.premise for step in gold.steps] == [1, 0, 3]
    assert [step.needs for step in gold.steps] == [(), (0,), (0, 1)]
    assert [(s.name, s.thinking, s.summary) for s in gold.sentences] == [
        ("Ned's figs", (0,), ()),
        ("Val's nuts", (1,), (0,)),
        (None, (), (1,)),
    ]
    assert gold.summary == (0, 1)
    trace = BY_HAND.trace(tokenizer, split_question=True)
    edges = BY_HAND.edges(trace)
    thinking, summary = (trace.region_steps(r) for r in (Region.THINKING, Region.SUMMARY))
    needed = {
        (thinking[1], thinking[0]),
        (thinking[2], thinking[0]),
        (thinking[2], thinking[1]),
        (summary[0], thinking[0]),
        (summary[1], thinking[1]),
        (summary[1], summary[0]),
        (summary[2], summary[1]),
    }
    assert {tuple(pair) for pair in edges.step.nonzero().tolist()} == needed
    candidates = [int(edges.candidate[row].sum()) for row in summary]
    assert candidates == [3, 4, 5]
    assert not (edges.step & ~edges.candidate).any()


@pytest.mark.parametrize("level", LEVELS)
def test_answers_are_what_the_sentences_evaluate_to(level):
    for problem in make_problems(n=40, level=level, seed=3, family="report"):
        assert problem.answer == str(solved_by_substitution(problem.question))


@pytest.mark.parametrize("level", LEVELS)
def test_the_dials_are_kept(level):
    for problem in make_problems(n=40, level=level, seed=4, family="report"):
        dials = problem.difficulty
        assert len(problem.graph.order) == dials.n_steps
        assert len(problem.graph.premises) == dials.n_steps + dials.n_distractors
        terms = [term.name for term in problem.graph.terms]
        assert len(set(terms)) == dials.n_values
        assert len(terms) == (dials.n_terms or dials.n_values)
        assert all(name != following for name, following in pairwise(terms))
        assert problem.graph.distance == dials.gap
        text = problem.question + problem.solution
        if dials.gathered:
            text = text.split("</think>")[0]
        assert max(abs(int(n)) for n in re.findall(r"-?\d+", text)) < 10**dials.digits


def test_what_the_question_says_of_the_way():
    (planned,) = make_problems(n=1, level="hard", family="report")
    listed = re.search(r"Find (.*?)\. What", planned.question)[1].split(", ")
    assert tuple(listed) == planned.graph.order
    (unplanned,) = make_problems(n=1, level=UNPLANNED, family="report")
    listed = re.search(r"Find (.*?)\. What", unplanned.question)[1].split(", ")
    assert tuple(listed) == unplanned.graph.found
    assert len(listed) < len(unplanned.graph.order)


@pytest.mark.parametrize("level", LEVELS)
def test_the_canonical_solution_is_right_and_minimal(level):
    for problem in make_problems(n=30, level=level, seed=5, family="report"):
        grade = problem.grade(problem.solution)
        assert grade.is_correct
        assert (grade.first_wrong_step, grade.error_kind, grade.region) == (None, None, None)
        assert grade.superfluous == ()


def test_names_share_persons_and_things():
    for problem in make_problems(n=30, level="hard", family="report"):
        names = [premise.name.split("'s ") for premise in problem.graph.premises]
        for part in zip(*names, strict=True):
            assert max(map(part.count, part)) >= 3


@pytest.mark.parametrize("kind", ERROR_KINDS)
@pytest.mark.parametrize("level", ["easy", "hard"])
def test_planted_errors_are_found_where_they_are(kind, level):
    for problem in make_problems(n=40, level=level, seed=6, family="report"):
        broken = problem.corrupt(kind, seed=1)
        grade = problem.grade(broken.response)
        assert (grade.first_wrong_step, grade.error_kind) == (broken.first_wrong_step, kind)
        if kind == "summary":
            assert (grade.region, grade.summary_error) == (Region.SUMMARY, "recall")
            assert not grade.is_correct


@pytest.mark.parametrize(
    ("summary", "place", "error"),
    [
        ("Val's nuts are 47.\nNed's figs are 35: 47 - 35 = 12.\nThe answer is 12.", 3, "reading"),
        ("Ned's figs are 53.\nVal's nuts are 47: 53 - 47 = 6.\nThe answer is 6.", 3, "recall"),
        ("Ned's figs are 35.\nVal's nuts are 47: 53 - 47 = 6.\nThe answer is 6.", 4, "recall"),
        ("Ned's figs are 35.\nVal's nuts are 47: 35 - 74 = -39.\nThe answer is -39.", 4, "recall"),
        ("Ned's figs are 35.\nVal's nuts are 47: 35 + 47 = 82.\nThe answer is 82.", 4, "reading"),
        (
            "Ned's figs are 35.\nVal's nuts are 47: 35 - 47 = -2.\nThe answer is -2.",
            4,
            "arithmetic",
        ),
        ("Ned's figs are 35.\nThe answer is 35.", 4, "reading"),
        ("Ned's figs are 35.\nVal's nuts are 47: 35 - 47 = -12.\nThe answer is 12.", 5, "answer"),
    ],
)
def test_what_is_wrong_with_a_summary(summary, place, error):
    grade = BY_HAND.grade(THINKING + summary)
    assert not grade.is_correct
    assert (grade.error_kind, grade.region) == ("summary", Region.SUMMARY)
    assert (grade.first_wrong_step, grade.summary_error) == (place, error)


@pytest.mark.parametrize(
    ("response", "place", "kind", "region"),
    [
        (THINKING + "Ned's figs are 35.\nSo much for that.\nThe answer is -12.", 4, "format", 1),
        (THINKING + "Ned's figs are 35.\nVal's nuts are 47: 35 - 47 = -12.", 5, "format", 1),
        (THINKING, 3, "format", 1),
        (THINKING.removesuffix("</think>\n\n"), 3, "format", 0),
        (THINKING.replace("12.\n</think>", "13.\n</think>") + "The answer is -12.", 2, None, 0),
        ("Ned's figs are 35.\n</think>\n\nNed's figs are 35.\nThe answer is -12.", 1, "order", 0),
    ],
)
def test_where_a_response_is_wrong_first(response, place, kind, region):
    grade = BY_HAND.grade(response)
    assert grade.first_wrong_step == place
    assert grade.error_kind == (kind or "arithmetic")
    assert grade.region == (Region.SUMMARY if region else Region.THINKING)


def test_a_wrong_value_that_the_thinking_wrote_is_recalled_rightly():
    wrong = THINKING.replace("35 + 12 = 47", "35 + 12 = 48").replace("47 - 35 = 12", "48 - 35 = 13")
    text = wrong + "Ned's figs are 35.\nVal's nuts are 48: 35 - 48 = -13.\nThe answer is -13."
    grade = BY_HAND.grade(text)
    assert (grade.first_wrong_step, grade.error_kind) == (1, "arithmetic")
    assert grade.summary_error is None


@pytest.mark.parametrize("splitter", ["sentence", "line"])
def test_every_way_of_cutting_cuts_alike(splitter, tokenizer):
    for problem in make_problems(n=5, level="hard", family="report"):
        by_task = problem.trace(tokenizer)
        by_text = Trace.from_text(
            tokenizer, question=problem.question, response=problem.solution, splitter=splitter
        )
        assert [(s.start, s.stop, s.region) for s in by_text.steps] == [
            (s.start, s.stop, s.region) for s in by_task.steps
        ]
        n_sentences = len(by_task.region_steps(Region.SUMMARY))
        assert n_sentences == len(problem.graph.terms) + 1


def test_edges_of_a_wrong_answer(tokenizer):
    for problem in make_problems(n=20, level="medium", family="report"):
        response = problem.corrupt("summary").response
        edges = problem.edges(problem.trace(tokenizer, response, split_question=True))
        assert torch.equal(edges.step, problem.edges(gold_trace(problem, tokenizer)).step)


def gold_trace(problem, tokenizer):
    return problem.trace(tokenizer, split_question=True)


def canonical(graph: ReportGraph) -> tuple:
    """The needed computation without names, distractors or order of the question."""
    rank = {name: i for i, name in enumerate(graph.order)}
    lines = [(graph[n].left, graph[n].op, graph[n].right) for n in graph.order]
    return (
        tuple(tuple(rank.get(part, part) for part in line) for line in lines),
        tuple(rank[name] for name in graph.found),
        tuple((term.op, rank[term.name]) for term in graph.terms),
    )


def test_splits_share_no_computation():
    dials = ReportDifficulty(n_steps=3, n_distractors=0, digits=1, n_values=1)
    seen = {
        split: {
            canonical(problem.graph)
            for problem in make_problems(n=300, level=dials, family="report", split=split)
        }
        for split in ("train", "dev", "test")
    }
    assert all(len(found) > 20 for found in seen.values())
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["dev"]
    assert not seen["dev"] & seen["test"]


def test_the_split_does_not_see_names_or_distractors():
    graph = make_problems(n=1, level="easy", family="report")[0].graph
    other = {name: f"Zoe's {i}" for i, name in enumerate(graph.index)}
    renamed = ReportGraph(
        tuple(
            Premise(other[p.name], other.get(p.left, p.left), p.op, other.get(p.right, p.right))
            for p in reversed(graph.premises)
            if p.name in graph.order
        ),
        TOTAL,
        tuple(other[name] for name in graph.found),
        tuple(replace(term, name=other[term.name]) for term in graph.terms),
    )
    assert canonical(renamed) == canonical(graph)
    assert renamed.split == graph.split == "test"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_values": 0}, "n_values=0"),
        ({"n_steps": 3, "n_values": 4}, "distance=None: must be 0 to n_steps - n_values = -1"),
        ({"n_steps": 5, "n_values": 3, "distance": 3}, "distance=3: must be 0 to .* = 2"),
        ({"n_distractors": -1}, "n_distractors=-1"),
        ({"n_steps": 40, "n_distractors": 9}, "exceed 48"),
        ({"digits": 5}, "digits=5"),
        ({"n_values": 3, "n_terms": 2}, "n_terms=2: must be n_values = 3, or more"),
        ({"n_values": 1, "n_terms": 2}, "n_terms=2"),
        ({"n_values": 3, "n_terms": 4, "gathered": True}, "n_terms=4"),
    ],
)
def test_impossible_dials(options, message):
    with pytest.raises(ValueError, match=message):
        ReportDifficulty(**{"n_steps": 6, "n_distractors": 1, **options})


def test_dials_of_another_family():
    with pytest.raises(ValueError, match="takes a ReportDifficulty"):
        make_problems(n=1, level=Difficulty(3, 1), family="report")
    with pytest.raises(ValueError, match="takes a plain Difficulty"):
        make_problems(n=1, level=SHORT)
    with pytest.raises(ValueError, match="split='dev'"):
        make_problems(n=1, split="dev")


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_a_wrong_response_is_put_right_from_where_it_is_wrong(kind):
    for problem in make_problems(n=20, level="medium", seed=2, family="report"):
        broken = problem.corrupt(kind, seed=2)
        better = corrected(problem, broken.response)
        assert better is not None
        grade = problem.grade(better)
        assert (grade.is_correct, grade.error_kind) == (True, None)
        kept = broken.response.split("\n")[: min(broken.first_wrong_step, len(problem.graph.order))]
        assert better.split("\n")[: len(kept)] == kept
    assert corrected(problem, problem.solution) is None
