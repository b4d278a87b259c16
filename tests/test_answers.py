"""Grading: against gold answers as published, and judgements made elsewhere."""

import json
import re
import signal
import threading
import time
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from step_saliency.models.findings import CheckResult, DoctorReport
from step_saliency.tasks import make_problems, symbolic
from step_saliency.tasks.announced import read_answers
from step_saliency.tasks.answers import final_answer, gold_answer, is_correct, same_answer
from step_saliency.tasks.comparison import same
from step_saliency.tasks.numbers import read_number
from step_saliency.trace import Trace


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_judgements_of_real_traces(shared_data: Path) -> None:
    """The judgements that came with the traces, by whoever graded them."""
    rows = read(shared_data / "r1_traces.jsonl")
    found = [is_correct(row["response"], row["gold_answer"]) for row in rows]
    assert found == [row["is_correct"] for row in rows]
    assert {True, False} == set(found)


@pytest.mark.parametrize("name", ["gsm8k_test", "math500", "aime24", "amc23"])
def test_gold_answers_equal_themselves_alone(shared_data: Path, name: str) -> None:
    gold = [str(row["answer"]) for row in read(shared_data / f"{name}.jsonl")]
    for answer in gold:
        assert is_correct(f"So we get \\boxed{{{gold_answer(answer)}}}.", answer)
        assert is_correct(f"<think>5</think>The answer is ${gold_answer(answer)}$.", answer)
    wrong = [
        is_correct(f"So we get \\boxed{{{gold_answer(other)}}}.", answer)
        for answer, other in pairwise(gold)
        if gold_answer(answer) != gold_answer(other)
    ]
    assert wrong.count(True) <= 0.02 * len(wrong), "equal values may be written in two ways"


@pytest.mark.parametrize(
    ("response", "gold", "expected"),
    [
        ("The answer is 18 dollars.", "work <<9*2=18>>18\n#### 18", True),
        ("#### 1,234", "1234", True),
        ("first 5, then \\boxed{0.5}", "\\frac{1}{2}", True),
        ("r is \\boxed{6.17\\%}", "6.17", True),
        ("<think>\\boxed{7}</think>\n\\boxed{8}", "7", False),
        ("<think>so \\boxed{7}", "7", True),
        ("The answer is -70.", "70", False),
        ("I cannot say.", "70", None),
        # announcements
        ("The answer is 4/7.", "4/7", True),
        ("**4/7**", "4/7", True),
        ("Sum: 31\n\n---\n✅ Final Answer: **31**", "31", True),
        ("**Final Answer**\n\n\\[ 31 \\]", "31", True),
        ("### Final answer\n31", "31", True),
        ("The final answer is:\n\n$$\n\\frac{1}{2}\n$$", "1/2", True),
        ("答案：31。", "31", True),
        ("所以答案是 31", "31", True),
        ("Respuesta: 31", "31", True),
        ("31", "31", True),
        ("$31$.", "31", True),
        ("<answer>31</answer>", "31", True),
        ("So Ada has 31 stamps left.", "31", True),
        ("The answer is 31. I checked it in 2 ways!", "31", True),
        ("The answer is 31, since 30 + 1 = 31.", "31", True),
        ("It takes 5 days. The answer is 3. Wait: 5 - 1 is 4. The answer is 4.", "4", True),
        ("The answer is 2.5.", "2.5", True),
        ("The answer is 3 1/4", "3", False),
        ("The answer is 2.5e3.", "2.5", False),
        ("The answer is not 31.", "31", None),
        # words behind the number
        ("The answer is 75% of the class.", "0.75", True),
        ("The answer is 75% of the class.", "75", True),
        ("The answer is 12 a day.", "12", True),
        ("The answer is 12 to go.", "12", True),
        ("The answer is 12 of 20.", "12", True),
        ("The answer is 12 of 20.", "20", False),
        ("The answer is $12$ in 3 days.", "12", True),
        ("The answer is 12 at 5 pm.", "12", True),
        ("The answer is 12 for 3 people.", "12", True),
        ("The answer is 2 times 6 = 12.", "12", True),
        ("The answer is 2 to 1.", "2", False),
        ("The answer is 2 hours and 30 minutes.", "150 minutes", True),
        ("The answer is 0.333...", "1/3", None),
        ("The answer is 3 million dollars.", "3000000", True),
        ("The answer is 1.5 million.", "1.5", True),
        # several numbers in a sentence or line
        ("So the roots are 1, 2 and 3.", "1,2,3", True),
        ("So x can be 3, 5 or 7.", "7", False),
        ("First 3 was found.\nLater 5 was found.", "3,5", None),
        ("```python\n[1, 2, 3]\n```", "[1, 2, 3]", True),
        ("The point is\n(3, 4)", "(3,4)", True),
        ("In all\n1,234", "1234", True),
        ("After step 3, 29 stamps are left.", "29", True),
        ("**42**\n\nNote: this took 3 steps.", "42", None),
        ("**42**\n\nSo Ada has 42 stamps.", "42", True),
        ("**1. Count**\n\n29 stamps are left.", "29", True),
        ("It took 3 steps: <|begin_of_box|>29<|end_of_box|>, see 4.", "29", True),
        # boxes
        ("\\fbox{31}", "31", True),
        ("\\boxed {31}", "31", True),
        ("\\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{\\sqrt2}{2}", True),
        ("\\boxed{\\text{31}}", "31", True),
        ("The roots are \\boxed{3} and \\boxed{5}.", "5, 3", True),
        ("It is 30 or \\boxed{31", "31", None),
        # letters and words
        ("The correct answer is (C).", "C", True),
        ("Answer: C", "C", True),
        ("Answer: C", "D", False),
        ("**Answer: (C)**", "C", True),
        ("The answer is option C: twelve.", "C", True),
        ("C) 12", "C", True),
        ("A train takes 5 hours.", "A", None),
        ("\\boxed{C: the third}", "C", True),
        ("The answer is Nadia, who is the tallest.", "Nadia", True),
        ("The answer is Friday.", "Monday", False),
        ("Yes, 31 is prime.", "yes", True),
        ("No.", "yes", False),
        # what is graded
        ("The price was <s>10</s> 8. The answer is 8.", "8", True),
        ("`</s>` is the end mark. The answer is 8.", "8", True),
        ("<s>The answer is Friday.</s> The answer is 9.", "Friday", True),
        ("The answer is 8.</s>The answer is 9.", "8", True),
        ("<think>so \\boxed{7}. Wait, let me", "7", None),
        ("<think>7</think>", "7", None),
        ("<|channel|>analysis<|message|>\\boxed{7}<|end|>", "7", None),
        (
            "<|channel|>analysis<|message|>\\boxed{7}?<|end|><|start|>assistant<|channel|>final"
            "<|message|>Ada has 8 stamps.<|return|>",
            "8",
            True,
        ),
        ("<|channel|>final<|message|>8<|return|>", "8", True),
    ],
)
def test_by_hand(response: str, gold: str, expected: bool | None) -> None:
    assert is_correct(response, gold) is expected


def test_no_answer() -> None:
    assert final_answer("I cannot say.") is None
    assert final_answer("so \\boxed{12}") == "12"
    with pytest.raises(ValueError, match="no number or expression"):
        is_correct("12", "#### ")


def wrong_variants(answer: str) -> list[str]:
    """The answer with one number changed, its sign, or a factor: none of them has its value."""
    changed = [
        answer[: match.start()] + str(int(match[0]) + 1) + answer[match.end() :]
        for match in re.finditer(r"\d+", answer)
    ]
    return [*changed, f"3 \\cdot ({answer}) + 1"] if re.fullmatch(r"[-\d]+", answer) else changed


def test_wrong_variants_are_wrong(shared_data: Path) -> None:
    """Gold answers with one number changed."""
    variants = [
        (gold, variant)
        for name in ("math500", "aime24", "amc23", "gsm8k_test")
        for row in read(shared_data / f"{name}.jsonl")[:200]
        for gold in [gold_answer(str(row["answer"]))]
        for variant in wrong_variants(gold)
    ]
    verdicts = [is_correct(f"\\boxed{{{variant}}}", gold) for gold, variant in variants]
    others = [
        pair for pair, verdict in zip(variants, verdicts, strict=True) if verdict is not False
    ]
    assert len(variants) >= 600
    assert others == []


@pytest.mark.parametrize("prefix", ["C", "B13"])
def test_published_cases(shared_data: Path, prefix: str) -> None:
    """Responses as they were reported in public, with the verdict that a reader expects."""
    rows = [row for row in read(shared_data / "public_cases.jsonl") if row["id"].startswith(prefix)]
    assert rows
    for row in rows:
        for case in row["input"] if isinstance(row["input"], list) else [row["input"]]:
            gold = case.get("gold", case.get("gold_answer"))
            assert is_correct(case["response"], gold) is case.get("should_be", True), case


def test_a_trace_is_graded_by_its_regions() -> None:
    texts = ["2 + 6?", "<think>", "The answer is 7. ", "</think>", "The answer is 8."]
    regions = ["question", "template", "thinking", "template", "summary"]
    trace = Trace.from_tokens(range(5), starts=range(5), regions=regions, texts=texts)
    assert is_correct(trace, "8") is True
    assert is_correct(trace, "7") is False
    unfinished = Trace.from_tokens(
        range(3), starts=range(3), regions=regions[:3], texts=texts[:3], response=texts[2]
    )
    assert is_correct(unfinished, "7") is None
    plain = Trace.from_tokens(
        range(2), starts=range(2), regions=["question", "thinking"], texts=["2 + 6?", "It is 8."]
    )
    assert is_correct(plain, "8") is True


def test_a_grading_function_of_the_user() -> None:
    response = "<think>no</think>YES"
    assert is_correct(response, "yes", grade=lambda part, gold: part.lower() == gold) is True
    assert is_correct(response, "yes", grade=lambda part, gold: None) is None
    assert is_correct(response, "", grade=lambda part, gold: np.bool_(False)) is False
    assert is_correct(response, "", grade=lambda part, gold: 1) is True
    with pytest.raises(ValueError, match="grade= returned 'right'"):
        is_correct(response, "yes", grade=lambda part, gold: "right")


TOWERS = ("9^{9^{9^{9}}}", "9^{9^{9^{8}}}")


@pytest.mark.parametrize("in_thread", [False, True])
def test_the_time_limit_ends_a_comparison(monkeypatch: pytest.MonkeyPatch, in_thread: bool) -> None:
    monkeypatch.setattr(symbolic, "SECONDS", 0.5)
    symbolic.equal_expressions.cache_clear()
    assert same_answer("x + x", "2x")  # the process has started
    verdicts: list[bool | None] = []

    def work() -> None:
        with pytest.warns(UserWarning, match="not compared within 0.5 s: unknown"):
            verdicts.append(is_correct(f"\\boxed{{{TOWERS[0]}}}", TOWERS[1]))

    start = time.monotonic()
    if in_thread:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
    else:
        work()
    assert verdicts == [None]
    assert time.monotonic() - start < 20
    monkeypatch.setattr(symbolic, "SECONDS", 60.0)
    assert same_answer("y + y", "2y"), "a new process takes over"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="alarms are a matter of POSIX")
def test_a_pending_alarm_of_the_caller_stays() -> None:
    def handler(number: int, frame: FrameType | None) -> None: ...

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        symbolic.equal_expressions.cache_clear()
        assert same_answer("z + z", "2z")
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_huge_response_is_refused_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match="50,000,000 characters; at most 4,000,000"):
        is_correct("a" * 50_000_000, "7")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "text",
    ["\\boxed{", "{", "$", "\\(", "answer is ", "(", "<answer>", "####", " ", "1,", "\\text{"],
)
def test_repeated_marks_take_no_time(text: str) -> None:
    start = time.monotonic()
    read_answers(text * 20_000 + "7")
    for reading in read_answers("\\boxed{" + text * 20_000 + "}"):
        assert same("7", reading.text) is None
    for n in (100, 1000):
        same("7", text * n + "7")
    assert time.monotonic() - start < 10


def test_gold_answers_of_tables() -> None:
    for gold in (np.int64(29), np.float32(29), np.str_("29"), Decimal(29), Fraction(29)):
        assert is_correct("\\boxed{29}", gold) is True
    for missing in (float("nan"), "nan", "NaN", Decimal("NaN"), Decimal("sNaN"), np.float32("nan")):
        with pytest.raises(ValueError, match=r"is text or a number, got .*(?i:nan)"):
            is_correct("\\boxed{29}", missing)
    with pytest.raises(ValueError, match="more digits than Python writes"):
        is_correct("\\boxed{29}", 10**5000)
    assert is_correct("\\boxed{29}", "1" + "0" * 5000) is None


@pytest.mark.parametrize("given", ["1_000", "1000_0", "1000_1", "12_00"])
def test_a_base_below_two_is_none(given: str) -> None:
    assert read_number(given) is None
    assert same("1", given) is not True


def test_the_limit_is_of_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for its turn (here: sleeps) has not computed."""
    monkeypatch.setattr(symbolic, "SECONDS", 2.0)
    assert same_answer("u + u", "2u")  # the process has started
    process = symbolic._WORKER._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    timer = threading.Timer(3.0, process.send_signal, [signal.SIGCONT])
    timer.start()
    assert same_answer("v + v", "2v")
    timer.join()


def test_bad_input_is_refused() -> None:
    with pytest.raises((ValueError, TypeError)):
        is_correct(7, "7")  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError)):
        is_correct("7", True)


def test_verdicts_are_true_or_false() -> None:
    problem = make_problems(n=1, level="easy", seed=0)[0]
    assert problem.grade(problem.solution)
    assert not problem.grade("7")
    results = {
        status: DoctorReport(
            {"name": "m"}, 4, (CheckResult("gradients", status, 1.0, 1.0, "", ""),)
        )
        for status in ("pass", "skip", "fail")
    }
    assert [bool(report) for report in results.values()] == [True, True, False]
