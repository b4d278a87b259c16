"""Which suites there are, and where their problems come from.

A suite is read from a local file, or from the hub by inspect-evals where it has the suite (it pins
revisions and checksums), else by the revision given here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from step_saliency.benchmark.suites import bundled, choice, mathematics
from step_saliency.benchmark.suites.files import read_records
from step_saliency.benchmark.suites.item import Item
from step_saliency.benchmark.suites.livecodebench import problems as livecodebench
from step_saliency.options import check_option

if TYPE_CHECKING:
    Kind: TypeAlias = Literal["mathematics", "choice", "code", "bundled"]
else:
    Kind = str

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A benchmark.

    Attributes:
        name: Its name here.
        title: Its name in tables.
        kind: What its answers are, and so how they are graded.
        instruction: What is asked, with a place for the question.
        size: Problems that it has; a file may have others.
        samples: Samples of a problem in the paper; None if it does not have the suite.
        tokens: Tokens of a response that a reasoning model writes on average, for plans alone.
        source: Where it is on the hub, for readers.
        hub: Reads its records from the hub.
    """

    name: str
    title: str
    kind: Kind
    instruction: str
    size: int
    samples: int | None
    tokens: int
    source: str
    hub: Callable[[], Records] | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which problems of a suite, and from where.

    Attributes:
        file: Local file (or, of LiveCodeBench, a folder of its files); the hub by default.
        limit: The first problems only.
        seed: Of the order of options, and of problems that are made.
        release: Of LiveCodeBench, in a folder or on the hub.
        start: First day of contests of LiveCodeBench.
        end: Last day.

    Raises:
        ValueError: no such release, a date that is none, or a window that ends before it starts.
    """

    file: str | None = None
    limit: int | None = None
    seed: int = 0
    release: str = "v6"
    start: str | None = None
    end: str | None = None

    def __post_init__(self) -> None:
        livecodebench.release_files(self.release)
        livecodebench.window_of(self.start, self.end)


def items_of(name: str, selection: Selection | None = None) -> list[Item]:
    """Problems of a suite.

    Args:
        name: Name of the suite.
        selection: Which of them, and from where.

    Raises:
        ValueError: an unknown suite, a file that cannot be read, a limit below 1, ids that are not
            distinct, or inspect-evals or the hub is needed and not there.
    """
    suite = suite_of(name)
    selection = selection or Selection()
    if selection.limit is not None and selection.limit < 1:
        raise ValueError(f"limit={selection.limit} is below 1")
    items = _all_items(suite, selection)[: selection.limit]
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)  # noqa: A001
        raise ValueError(f"{suite.name}: id {twice!r} stands there twice")
    return items


def suite_of(name: str) -> Suite:
    """The suite of a name; the names of inspect-evals are known too."""
    name = ALIASES.get(name, name)
    check_option("suite", name, tuple(SUITES))
    return SUITES[name]


def _all_items(suite: Suite, selection: Selection) -> list[Item]:
    if suite.kind == "bundled":
        return bundled.items(n=selection.limit or suite.size, seed=selection.seed)
    if suite.kind == "code":
        records = _code_records(suite, selection)
        return livecodebench.items(records, start=selection.start, end=selection.end)
    records = _from_hub(suite) if selection.file is None else read_records(Path(selection.file))
    if suite.kind == "choice":
        return choice.items(records, seed=selection.seed)
    return mathematics.items(records)


def _code_records(suite: Suite, selection: Selection) -> Records:
    if selection.file is not None:
        return livecodebench.read_release(Path(selection.file), selection.release)
    folder = _downloaded(livecodebench.release_files(selection.release))
    return livecodebench.read_release(folder, selection.release)


def _from_hub(suite: Suite) -> Records:
    assert suite.hub is not None
    try:
        return suite.hub()
    except ImportError as error:
        raise ValueError(
            f"{suite.name} comes from the hub by inspect-evals, which is not installed: pip "
            "install 'step-saliency[benchmarks]', or give a local file"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{suite.name} cannot be had from {suite.source} ({type(error).__name__}: "
            f"{str(error)[:200]}); give a local file"
        ) from error


def _of_evals(module: str, call: str, **options: Any) -> Callable[[], Records]:
    """Records of a data set as a task of inspect-evals reads it."""

    def read() -> Records:
        value = getattr(import_module(f"inspect_evals.{module}"), call)(**options)
        return [_record(sample) for sample in getattr(value, "dataset", value)]

    return read


def _record(sample: Any) -> dict[str, Any]:
    record = {"id": sample.id, "question": sample.input, "answer": sample.target}
    if sample.choices:
        record |= {"Record ID": sample.id, **dict(zip(choice.OPTIONS, sample.choices, strict=True))}
    return record


def _of_hub(path: str, split: str, revision: str | None) -> Callable[[], Records]:
    def read() -> Records:
        from datasets import load_dataset

        return list(load_dataset(path, split=split, revision=revision))

    return read


def _downloaded(files: Sequence[str]) -> Path:
    """Folder of these files of LiveCodeBench."""
    from huggingface_hub import hf_hub_download

    try:
        paths = [hf_hub_download(LIVECODEBENCH, name, repo_type="dataset") for name in files]
    except Exception as error:
        raise ValueError(
            f"livecodebench cannot be had from {LIVECODEBENCH} ({type(error).__name__}: "
            f"{str(error)[:200]}); give a folder of its files"
        ) from error
    return Path(paths[0]).parent


LIVECODEBENCH = "livecodebench/code_generation_lite"
MATH_500 = ("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be")
_MATHEMATICS: dict[str, Any] = {"kind": "mathematics", "instruction": mathematics.INSTRUCTION}

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="aime24",
            title="AIME24",
            size=30,
            samples=16,
            tokens=13_000,
            source="Maxwell-Jia/AIME_2024, by inspect-evals",
            hub=_of_evals("aime2024", "aime2024"),
            **_MATHEMATICS,
        ),
        Suite(
            name="aime25",
            title="AIME25",
            size=30,
            samples=16,
            tokens=13_000,
            source="math-ai/aime25, by inspect-evals",
            hub=_of_evals("aime2025", "aime2025"),
            **_MATHEMATICS,
        ),
        Suite(
            name="amc23",
            title="AMC23",
            size=40,
            samples=16,
            tokens=7_000,
            source="math-ai/amc23 (no revision pinned)",
            hub=_of_hub("math-ai/amc23", "test", None),
            **_MATHEMATICS,
        ),
        Suite(
            name="math500",
            title="MATH-500",
            size=500,
            samples=1,
            tokens=4_000,
            source=f"{MATH_500[0]} at {MATH_500[1]}",
            hub=_of_hub(MATH_500[0], "test", MATH_500[1]),
            **_MATHEMATICS,
        ),
        Suite(
            name="gpqa_diamond",
            title="GPQA-Diamond",
            kind="choice",
            instruction=choice.INSTRUCTION,
            size=198,
            samples=8,
            tokens=7_000,
            source="gpqa_diamond.csv of simple-evals, by inspect-evals",
            hub=_of_evals("gpqa.gpqa", "get_gpqa_diamond_dataset", shuffle_choices=False),
        ),
        Suite(
            name="livecodebench",
            title="LiveCodeBench",
            kind="code",
            instruction=livecodebench.INSTRUCTION,
            size=1055,
            samples=1,
            tokens=12_000,
            source=f"{LIVECODEBENCH} (no revision pinned)",
        ),
        Suite(
            name="gsm8k",
            title="GSM8K",
            size=1319,
            samples=None,
            tokens=1_000,
            source="openai/gsm8k, by inspect-evals",
            hub=_of_evals("gsm8k.gsm8k", "gsm8k", fewshot=0),
            **_MATHEMATICS,
        ),
        Suite(
            name="reasoner",
            title="bundled task",
            kind="bundled",
            instruction=bundled.INSTRUCTION,
            size=bundled.N,
            samples=None,
            tokens=150,
            source="step_saliency.tasks.make_problems",
        ),
    )
}
ALIASES = {"aime2024": "aime24", "aime2025": "aime25", "math": "math500", "amc2023": "amc23"}
