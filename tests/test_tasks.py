"""Problems, gold graphs and the error labeller of the bundled task."""

import random
import re

import pytest
import torch
from hypothesis import given as given_text
from hypothesis import settings
from hypothesis import strategies as st

from step_saliency import Region, Trace
from step_saliency.tasks import (
    ERROR_KINDS,
    LEVELS,
    Difficulty,
    ErrorKind,
    Graph,
    Premise,
    Problem,
    make_problems,
)
from step_saliency.tasks.notation import PERSON, Family, read_summary
from training.tokenizer import build_tokenizer

FAMILIES: list[Family] = ["symbols", "words"]
LONG = Difficulty(n_steps=10, n_distractors=6, digits=3)
ONE_STEP = Graph((Premise("q", 1),), "q")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def solved_by_substitution(question: str) -> int:
    """Independent solver: Python evaluates the assignments of a `symbols` question."""
    *premises, query = question.split("; ")
    pending = dict(premise.split("=") for premise in premises)
    known: dict[str, int] = {}
    while query[1:] not in known:
        for name, expression in pending.items():
            names = re.findall("[a-z]", expression)
            if name not in known and all(other in known for other in names):
                known[name] = eval(expression, {"__builtins__": {}}, known)
    return known[query[1:]]


@pytest.mark.parametrize("level", [*LEVELS, LONG])
def test_answers_are_what_the_assignments_evaluate_to(level):
    for problem in make_problems(n=60, level=level, seed=3):
        assert problem.answer == str(solved_by_substitution(problem.question))
        assert read_summary(problem.solution.split("</think>")[1]) == int(problem.answer)


def test_words_and_symbols_say_the_same():
    for symbols, words in zip(
        make_problems(n=50, seed=1), make_problems(n=50, seed=1, family="words"), strict=True
    ):
        assert symbols.graph == words.graph
        assert symbols.answer == words.answer
        for premise, (start, stop) in zip(
            words.graph.premises, words.gold_graph.premise_spans, strict=True
        ):
            sentence = words.question[start:stop]
            assert sentence.startswith(PERSON[premise.name] + " has ")
            for name in premise.variables:
                assert PERSON[name] in sentence


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", [*LEVELS, LONG])
def test_the_canonical_solution_is_right_and_minimal(family, level):
    for problem in make_problems(n=30, level=level, seed=5, family=family):
        grade = problem.grade(problem.solution)
        assert grade.is_correct
        assert grade.error_kind is None
        assert grade.first_wrong_step is None
        assert grade.superfluous == ()
        assert len(problem.gold_graph.steps) == problem.difficulty.n_steps


@pytest.fixture(scope="module")
def many_problems() -> list[Problem]:
    dials = [Difficulty(3, 1, 1), Difficulty(5, 2, 2), Difficulty(8, 4, 3), Difficulty(12, 0, 2)]
    return [
        problem
        for dial in dials
        for family in FAMILIES
        for problem in make_problems(n=32, level=dial, seed=8, family=family)
    ]


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_labeller_finds_step_and_kind_of_a_thousand_corruptions(kind, many_problems):
    graded = 0
    for problem in many_problems:
        for seed in range(4):
            corruption = problem.corrupt(kind, seed=seed)
            grade = problem.grade(corruption.response)
            found = (grade.error_kind, grade.first_wrong_step)
            assert found == (kind, corruption.first_wrong_step), corruption.response
            graded += 1
    assert graded >= 1000


def test_hand_written_errors():
    problem = given("p=q+q; q=i-70; i=35; z=12; ?p")
    right = ["Given: i=35.", "Then q=i-70=35-70=-35.", "Then p=q+q=-35+-35=-70."]
    assert problem.solution.split("\n</think>")[0].split("\n") == right

    def kind(lines: list[str], answer: int) -> tuple[ErrorKind | None, int | None, bool]:
        grade = problem.grade("\n".join(lines) + f"\n</think>\n\nThe answer is {answer}.")
        return grade.error_kind, grade.first_wrong_step, grade.is_correct

    assert kind(right, -70) == (None, None, True)
    assert kind(["Given: z=12.", *right], -70) == (None, None, True)
    miscopied = ["Given: i=36.", "Then q=i-70=36-70=-34.", "Then p=q+q=-34+-34=-68."]
    assert kind(miscopied, -68) == ("premise", 0, False)
    assert kind(["Given: w=1.", *right], -70) == ("premise", 0, True)
    misremembered = [right[0], "Then q=i-70=53-70=-17.", "Then p=q+q=-17+-17=-34."]
    assert kind(misremembered, -34) == ("recall", 1, False)
    assert kind([*right[:2], "Then p=q+q=-35+-35=-60."], -60) == ("arithmetic", 2, False)
    assert kind(right[1:], -70) == ("premise", 0, True)
    assert kind([right[1], right[0], right[2]], -70) == ("order", 0, True)
    assert kind([right[0], right[2]], -70) == ("order", 1, True)
    assert kind(right[:2], -70) == ("order", 2, True)
    assert kind(right, 70) == ("summary", 3, False)
    assert kind([right[0], "Then q==", right[2]], -70) == ("format", 1, True)
    assert kind(["Then i=35.", *right[1:]], -70) == (None, None, True)
    unclosed = problem.grade("\n".join(right))
    assert (unclosed.error_kind, unclosed.first_wrong_step) == ("format", 3)
    assert problem.grade("").error_kind == "format"


def given(question: str) -> Problem:
    """The problem with this `symbols` question."""
    *premises, query = question.split("; ")
    parsed = []
    for premise in premises:
        name, left, op, right = re.fullmatch(r"([a-z])=(\w+)(?:([+-])(\w+))?", premise).groups()
        operands = [int(x) if x and x.isdigit() else x for x in (left, right)]
        parsed.append(Premise(name, operands[0], op, operands[1]))
    graph = Graph(tuple(parsed), query[1:])
    return Problem(graph, "symbols", "given", Difficulty(len(graph.order), 0))


def test_gold_graph_of_a_small_problem_by_hand():
    gold = given("p=q+q; q=i-70; i=35; z=12; ?p").gold_graph
    assert [(s.name, s.premise, s.needs) for s in gold.steps] == [
        ("i", 2, ()),
        ("q", 1, (0,)),
        ("p", 0, (1,)),
    ]
    assert gold.summary == (2,)
    assert gold.premise_spans == ((0, 5), (7, 13), (15, 19), (21, 25))


def test_gold_graph_follows_what_a_response_wrote():
    problem = given("p=q+r; q=5; r=6; ?p")
    lines = ["Given: r=6.", "Given: q=5.", "Given: q=5.", "Then p=q+r=5+6=11."]
    gold = problem.graph_of("\n".join(lines) + "\n</think>\n\nThe answer is 11.")
    assert gold.steps[3].needs == (0, 2)
    assert gold.summary == (3,)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("splitter", ["sentence", "line"])
def test_text_cut_by_the_general_splitters_gives_the_same_steps(family, splitter, tokenizer):
    for level in (Difficulty(4, 2, 1), "hard"):
        for problem in make_problems(n=15, level=level, family=family):
            cut = Trace.from_text(
                tokenizer,
                question=problem.question,
                response=problem.solution,
                format="think",
                splitter=splitter,
            )
            own = problem.trace(tokenizer)
            assert torch.equal(cut.tokens, own.tokens)
            assert [(s.start, s.stop, s.region) for s in cut.steps] == [
                (s.start, s.stop, s.region) for s in own.steps
            ]


def test_a_response_may_be_given_as_the_trace_of_it(tokenizer):
    (problem,) = make_problems(n=1)
    text = problem.trace(tokenizer, "Given: a=3.\n</think>\n\nThe answer is 3.")
    again = problem.trace(tokenizer, text)
    assert torch.equal(again.tokens, text.tokens)
    assert again.steps == text.steps


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split_question", [False, True])
def test_traces_cut_one_step_per_line_and_premise(family, split_question, tokenizer):
    for problem in make_problems(n=20, level=LONG, family=family):
        trace = problem.trace(tokenizer, split_question=split_question)
        assert tokenizer.decode(trace.tokens) == "".join(step.text for step in trace.steps)
        assert trace.steps[0].start == 0
        assert trace.steps[-1].stop == len(trace.tokens)
        for before, after in zip(trace.steps, trace.steps[1:], strict=False):
            assert before.stop == after.start
        for step in trace.steps:
            assert tokenizer.decode(trace.tokens[step.start : step.stop]) == step.text
        texts = {r: [s.text for s in trace.steps if s.region == r] for r in Region}
        assert [t.strip() for t in texts[Region.THINKING]] == [
            step.text for step in problem.gold_graph.steps
        ]
        assert texts[Region.SUMMARY] == [f"The answer is {problem.answer}."]
        n_premises = len(problem.graph.premises)
        assert len(texts[Region.QUESTION]) == (n_premises + 1 if split_question else 1)


def defined_name(text: str) -> str:
    """``q`` of ``q=i-70`` and of ``Then q=i-70=...``; ``Quin`` of ``Quin has ...``."""
    return re.match(r"(?:Given: |Then )?(\w+)(?:=| has)", text)[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_edges_point_at_the_text_that_a_step_repeats(family, tokenizer):
    for problem in make_problems(n=20, level="hard", family=family):
        trace = problem.trace(tokenizer, split_question=True)
        edges = problem.edges(trace)
        assert not (edges.premise & ~edges.candidate).any()
        assert not (edges.step & ~edges.candidate).any()
        assert not edges.candidate.triu().any()
        texts = [step.text for step in trace.steps]
        for row, column in edges.premise.nonzero().tolist():
            assert defined_name(texts[row]) == defined_name(texts[column])
        for row, column in edges.step.nonzero().tolist():
            value = re.findall(r"-?\d+", texts[column])[-1]
            assert value in texts[row]
        n_steps = problem.difficulty.n_steps
        assert edges.premise.sum() == n_steps
        n_uses = sum(len(step.needs) for step in problem.gold_graph.steps)
        assert edges.step.sum() == n_uses + 1


@settings(deadline=None, max_examples=50)
@given_text(text=st.text(alphabet="\n qp=+1.<think/>\x0b\u2028"))
def test_any_response_can_be_cut_graded_and_graphed(text, tokenizer):
    problem = Problem(ONE_STEP, "symbols", "one", Difficulty(1, 0))
    trace = problem.trace(tokenizer, text, split_question=True)
    assert "".join(step.text for step in trace.steps) == problem.prompt(tokenizer) + text
    edges = problem.edges(trace)
    assert edges.candidate.shape == (len(trace.steps), len(trace.steps))
    assert problem.grade(trace).error_kind is not None


@pytest.mark.parametrize("family", ["symbols", "words", "report"])
def test_a_number_without_end_is_no_step(family):
    """Python refuses to read more than 4,300 digits, which a model may well write."""
    problem = make_problems(n=1, family=family)[0]
    lines = problem.solution.split("\n")
    for place in (0, 2, -1):
        long = [*lines]
        long[place] = re.sub(r"\d+(?=\D*$)", "7" * 5000, lines[place])
        assert long != lines
        text = "\n".join(long)
        assert problem.grade(text).error_kind == "format"
        assert len(problem.graph_of(text).steps) == len(problem.gold_graph.steps)


def test_edges_refuse_an_unsplit_question(tokenizer):
    problem = make_problems(n=1)[0]
    with pytest.raises(ValueError, match="split_question=True"):
        problem.edges(problem.trace(tokenizer))


def test_problems_are_reproducible_and_independent_of_n():
    assert make_problems(n=5, seed=2) == make_problems(n=9, seed=2)[:5]
    assert make_problems(n=5, seed=2) != make_problems(n=5, seed=3)
    random.seed(0)
    first = make_problems(n=5, seed=2)
    random.seed(1)
    assert make_problems(n=5, seed=2) == first


@pytest.mark.parametrize(
    "dials", [Difficulty(7, 4, 2, distance=d) for d in (1, 3, 6)] + [Difficulty(4, 0, 1, 2)]
)
def test_dials_do_what_they_say(dials):
    for problem in make_problems(n=15, level=dials):
        steps = problem.gold_graph.steps
        assert len(steps) == dials.n_steps
        assert len(problem.graph.premises) == dials.n_steps + dials.n_distractors
        gaps = [i - j for i, step in enumerate(steps) for j in step.needs]
        assert max(gaps) == dials.distance
        numbers = re.findall(r"\d+", problem.question + problem.solution)
        assert max(map(len, numbers)) <= dials.digits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "impossible"}, "level='impossible'"),
        ({"split": "dev"}, "split='dev'"),
        ({"family": "latin"}, "family='latin'"),
        ({"n": -1}, "n=-1"),
        ({"n": 1.5}, "n=1.5"),
        ({"n": "2"}, "n='2'"),
        ({"n": True}, "n=True"),
        ({"seed": None}, "seed=None"),
    ],
)
def test_bad_options_are_named(options, message):
    from step_saliency.tasks.making import make_problems as plain

    with pytest.raises(ValueError, match=message):
        getattr(plain, "__wrapped__", plain)(**options)


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ((0, 0), "n_steps=0"),
        ((20, 10), "exceed the 26 names"),
        ((3, -1), "n_distractors=-1"),
        ((3, 0, 7), "digits=7"),
        ((3, 0, 2, 3), "distance=3"),
    ],
)
def test_bad_dials_are_named(dials, message):
    with pytest.raises(ValueError, match=message):
        Difficulty(*dials)
