"""Suites as tasks of inspect-ai: ``inspect eval step_saliency/aime24 --model ...``.

Of each response the judgement, the answer that was read and what else is known stand in the score's
metadata: ``verdict`` is right, wrong or unknown (no answer, or none that can be compared), which
counts as wrong.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, Model
from inspect_ai.scorer import (
    CORRECT,
    INCORRECT,
    Score,
    Scorer,
    Target,
    accuracy,
    scorer,
    stderr,
)
from inspect_ai.solver import TaskState

from step_saliency.benchmark.conditions import condition_of
from step_saliency.benchmark.sandbox.choice import SandboxName, choose_sandbox
from step_saliency.benchmark.sandbox.outcome import Sandbox
from step_saliency.benchmark.suites.files import digest_of
from step_saliency.benchmark.suites.grading import Graded, grade_answer, grade_program
from step_saliency.benchmark.suites.item import Item
from step_saliency.benchmark.suites.solvers import ask
from step_saliency.benchmark.suites.suites import SUITES, Selection, Suite, items_of, suite_of

CUT = ("max_tokens", "model_length")
"""Reasons of an end that are lengths."""
WORDS = {True: "right", False: "wrong", None: "unknown"}


def build_task(
    suite: str,
    *,
    selection: Selection | None = None,
    condition: str = "baseline",
    epochs: int | None = None,
    system: str | None = None,
    config: GenerateConfig | None = None,
    model: Model | None = None,
    sandbox: SandboxName = "auto",
    is_graded: bool = True,
) -> Task:
    """A suite under a condition.

    Args:
        suite: Name of the suite.
        selection: Which problems, and from where.
        condition: Name of the condition; its flow is the model's matter.
        epochs: Samples of each problem; those of the paper by default.
        system: System prompt.
        config: How responses are decoded.
        model: Model of the task; that of the call by default.
        sandbox: ``"auto"``, ``"bubblewrap"`` or ``"docker"``, for programs.
        is_graded: False where responses are decoded and no more, so that no box is needed.

    Raises:
        ValueError: an unknown name, or problems that cannot be read.
        SandboxError: programs have to be run, and no box works here.
    """
    of = suite_of(suite)
    selection = selection or Selection()
    items = items_of(of.name, selection)
    config = _lengthened(config or GenerateConfig(), condition)
    box = choose_sandbox(sandbox) if of.kind == "code" and is_graded else None
    return Task(
        dataset=MemoryDataset(_samples(of, items, condition, system), name=of.name),
        solver=ask(condition=condition, max_tokens=config.max_tokens or 2048),
        scorer=_scorer(of, items, box),
        epochs=Epochs(epochs or of.samples or 1, "mean"),
        config=config,
        model=model,
        name=f"{of.name}-{condition}",
        sandbox=getattr(box, "environment", None),
        metadata=_facts(of, selection, condition, items),
    )


def _samples(
    suite: Suite, items: Sequence[Item], condition: str, system: str | None
) -> list[Sample]:
    of = condition_of(condition)
    return [
        Sample(
            id=item.id,
            input=_messages(of.question.replace("{question}", _asked(suite, item)), system),
            target=item.target,
            metadata={"question_number": number, **item.facts},
        )
        for number, item in enumerate(items)
    ]


def _asked(suite: Suite, item: Item) -> str:
    """The instruction with the question in its place; braces in a question are its own."""
    before, _, after = suite.instruction.partition("{question}")
    return before + item.question + after.replace("{{}}", "{}")


def _messages(text: str, system: str | None) -> Any:
    turns: list[Any] = [] if system is None else [ChatMessageSystem(content=system)]
    return [*turns, ChatMessageUser(content=text)]


def _lengthened(config: GenerateConfig, condition: str) -> GenerateConfig:
    length = condition_of(condition).length
    if length == 1 or config.max_tokens is None:
        return config
    return config.model_copy(update={"max_tokens": length * config.max_tokens})


def _scorer(suite: Suite, items: Sequence[Item], box: Sandbox | None) -> Scorer:
    """Judge responses of a suite; problems are no argument of it, since logs show arguments."""
    by_id = {item.id: item for item in items}

    @scorer(metrics=[accuracy(), stderr()], name="graded")
    def graded(suite: str) -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            item, text = by_id[str(state.sample_id)], response_of(state)
            if box is None:
                is_cut = state.output.stop_reason in CUT
                return _score(grade_answer(text, item, is_cut=is_cut))
            return _score(await grade_program(text, item, box))

        return score

    return graded(suite.name)


def response_of(state: TaskState) -> str:
    """The whole response with its thinking, from whatever provider it is."""
    facts = state.output.metadata or {}
    if isinstance(facts.get("response"), str):
        mark, text = str(facts.get("opened", "")), facts["response"]
        return text if mark in text else mark + text
    if state.output.empty:
        return ""
    content = state.output.message.content
    parts = [] if isinstance(content, str) else content
    reasoning = "".join(part.reasoning for part in parts if part.type == "reasoning")
    text = state.output.completion
    if not reasoning:
        return text
    is_open = not text.strip() and state.output.stop_reason != "stop"
    return f"<think>{reasoning}" + ("" if is_open else f"</think>{text}")


def _score(judged: Graded) -> Score:
    return Score(
        value=CORRECT if judged.is_correct else INCORRECT,
        answer=judged.answer,
        metadata={"verdict": WORDS[judged.is_correct], **judged.facts},
    )


def _facts(
    suite: Suite, selection: Selection, condition: str, items: Sequence[Item]
) -> dict[str, Any]:
    file = None if selection.file is None else Path(selection.file)
    return {
        "suite": suite.name,
        "condition": condition,
        "problems": len(items),
        "source": suite.source if file is None else file.name,
        "digest": digest_of(file) if file is not None and file.is_file() else None,
    }


def _task(name: str) -> Callable[..., Task]:
    """The task of a suite by itself, with its selection as task arguments."""

    def of_suite(
        file: str | None = None,
        problems: int | None = None,
        condition: str = "baseline",
        samples: int | None = None,
        system: str | None = None,
        seed: int = 0,
        release: str = "v6",
        start: str | None = None,
        end: str | None = None,
        sandbox: SandboxName = "auto",
    ) -> Task:
        selection = Selection(
            file=file, limit=problems, seed=seed, release=release, start=start, end=end
        )
        return build_task(
            name,
            selection=selection,
            condition=condition,
            epochs=samples,
            system=system,
            sandbox=sandbox,
        )

    of_suite.__name__ = name
    of_suite.__doc__ = f"{SUITES[name].title}, graded here; ``file`` reads it from a local file."
    return task(name=name)(of_suite)


aime24 = _task("aime24")
aime25 = _task("aime25")
amc23 = _task("amc23")
math500 = _task("math500")
gpqa_diamond = _task("gpqa_diamond")
livecodebench = _task("livecodebench")
gsm8k = _task("gsm8k")
reasoner = _task("reasoner")
