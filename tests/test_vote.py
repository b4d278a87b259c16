"""Self-consistency: the counts by hand."""

from types import SimpleNamespace
from typing import Any

import pytest

import step_saliency as ss


def trace(response: str, *, question: int = 0, **meta: object) -> ss.Trace:
    return ss.Trace.from_tokens(
        [1, 2],
        starts=[0],
        regions=["summary"],
        question=f"question {question}",
        response=response,
        meta={"question_index": question, **meta},
    )


def test_the_most_frequent_answer_wins_however_it_is_written() -> None:
    answers = ["\\boxed{3}", "\\boxed{1/2}", "\\boxed{0.5}", "\\boxed{\\frac{1}{2}}", "no idea"]
    (row,) = ss.vote([trace(text) for text in answers], gold=["0.50"]).to_dict("records")
    assert (row["votes"], row["n"], row["n_answered"]) == (3, 5, 4)
    assert row["answer"] == "\\frac{1}{2}"
    assert row["is_correct"] is True


def test_of_equals_the_first_wins() -> None:
    for order in (["7", "8", "8", "7"], ["8", "7", "7", "8"]):
        frame = ss.vote([trace(f"The answer is \\boxed{{{answer}}}.") for answer in order])
        assert frame["answer"].tolist() == [order[0]]
        assert frame["is_correct"].isna().all()


def test_votes_do_not_hang_on_the_order() -> None:
    for order in (["B", "B: Paris"], ["B: Paris", "B"]):
        (row,) = ss.vote([trace(f"\\boxed{{{text}}}") for text in order]).to_dict("records")
        assert row["votes"] == 2


def test_questions_are_kept_apart_in_order() -> None:
    traces = [
        trace("\\boxed{4}", question=5, gold_answer="4"),
        trace("\\boxed{1}", question=2, gold_answer="2"),
        trace("\\boxed{4}", question=5, gold_answer="4"),
        trace("nothing", question=9, gold_answer="2"),
    ]
    frame = ss.vote(traces)
    assert frame["question_index"].tolist() == [5, 2, 9]
    assert frame["votes"].tolist() == [2, 1, 0]
    assert frame["is_correct"].tolist() == [True, False, False]
    assert frame["answer"].isna().tolist() == [False, False, True]


def test_problems_read_and_judge_by_their_own_graders() -> None:
    problems = ss.tasks.make_problems(n=2, level="easy", seed=3)
    right = [problem.solution for problem in problems]
    traces = [trace(right[i], question=i) for i in (0, 0, 1)]
    traces += [trace("</think>The answer is 1000.", question=1) for _ in range(2)]
    frame = ss.vote(traces, problems=problems)
    assert frame["answer"].tolist()[0] == problems[0].answer
    assert frame["votes"].tolist() == [2, 2]
    assert frame["is_correct"].tolist() == [True, False]
    assert frame["gold"].tolist() == [problem.answer for problem in problems]


@pytest.mark.parametrize("as_rows", [False, True])
def test_problems_are_those_that_were_asked_in_any_order(as_rows: bool) -> None:
    problems: list[Any] = ss.tasks.make_problems(n=3, level="easy", seed=3)
    tokenizer = ss.load_model("reasoner").tokenizer
    traces = [problem.trace(tokenizer) for problem in reversed(problems)]
    if as_rows:
        problems = [{"question": one.question, "answer": one.answer} for one in problems]
    frame = ss.vote(traces, problems=problems)
    assert frame["is_correct"].tolist() == [True] * 3
    assert frame["gold"].tolist() == frame["answer"].tolist()


def test_no_answer_is_judged_by_the_gold_of_another_problem() -> None:
    """A question that was reworded after decoding stands at the place of another problem."""
    traces = [trace("It is 8.", question=1), trace("It is 9.", question=0)]
    problems = [{"question": "reworded", "answer": "9"}, {"question": "question 1", "answer": "8"}]
    with pytest.raises(ValueError, match="no problem asks 'question 0'"):
        ss.vote(traces, problems=problems)
    in_order = [{"question": "reworded", "answer": "8"}, {"question": "also", "answer": "9"}]
    assert ss.vote(traces, problems=in_order)["is_correct"].tolist() == [True, True]


def test_problems_read_and_judge_one_trace() -> None:
    class Asked:
        question, answer = "question 0", "8"

        def grade(self, response: ss.Trace) -> Any:
            assert isinstance(response, ss.Trace)
            return SimpleNamespace(answer="8", is_correct=True)

    assert ss.vote([trace("It is 8.")], problems=[Asked()])["is_correct"].tolist() == [True]


def test_a_reader_of_ones_own() -> None:
    def last_word(response: str) -> str | None:
        return response.split()[-1] if response.strip() else None

    traces = [trace("a b"), trace("c b"), trace("b a"), trace("b a"), trace("x a")]
    frame = ss.vote(traces, reader=last_word, gold=["a"])
    assert frame[["answer", "votes", "is_correct"]].values.tolist() == [["a", 3, True]]


def test_a_grading_function_judges_the_winner() -> None:
    def within_one(part: str, gold: str) -> bool:
        return abs(int(part.split()[-1]) - int(gold or 0)) <= 1

    traces = [trace("<think>9</think>It is 7"), trace("It is 7"), trace("It is 1")]
    frame = ss.vote(traces, gold=["8"], grade=within_one)
    assert frame[["votes", "is_correct"]].values.tolist() == [[2, True]]
    assert ss.vote(traces, grade=within_one)["is_correct"].tolist() == [False]
    asked = ss.tasks.make_problems(n=1, level="easy", seed=0)
    frame = ss.vote([trace(asked[0].solution)], problems=asked, grade=lambda part, gold: None)
    assert frame["is_correct"].isna().all()
    with pytest.raises(ValueError, match="grade= returned 'yes'"):
        ss.vote(traces, gold=["8"], grade=lambda part, gold: "yes")


def test_a_trace_is_read_by_its_regions() -> None:
    """Steps of one's own say what is summary where no mark does."""
    answered = ss.Trace.from_tokens(
        [1, 2],
        starts=[0, 1],
        regions=["thinking", "summary"],
        texts=["So it is 8. ", "No: \\boxed{9}. But why?"],
        question="q",
        response="So it is 8. No: \\boxed{9}. But why?",
    )
    thought = ss.Trace.from_tokens(
        [1, 2],
        starts=[0],
        regions=["thinking"],
        texts=["<ponder>So \\boxed{8}, or not."],
        question="q",
        response="<think>So \\boxed{8}, or not.",
    )
    (row,) = ss.vote([answered, thought], gold=["9"]).to_dict("records")
    assert (row["answer"], row["votes"], row["n_answered"], row["is_correct"]) == ("9", 1, 1, True)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="is empty"):
        ss.vote([])
    with pytest.raises(ValueError, match="2 gold answers for 1 questions"):
        ss.vote([trace("a")], gold=["1", "2"])
    others = [trace("1", question=1), trace("2", question=2)]
    others[1].meta["question_index"] = 1
    with pytest.raises(ValueError, match=r"'question 1' and for 'question 2'.*question_numbers="):
        ss.vote(others)
    with pytest.raises(ValueError, match="not both"):
        ss.vote([trace("a")], gold=["1"], problems=[object()])
