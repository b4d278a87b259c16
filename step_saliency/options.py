"""Options that several calls share: the names that they take, and the objects that hold them.

`Decoding` says how responses are decoded, `Draws` how intervals and tests are drawn. A call takes
the object, or its fields as keywords, or both: keywords change the object. So

    generate(model, questions, n=4, seed=1)
    generate(model, questions, decoding=Decoding(n=4), seed=1)

are one call. Both objects are frozen and checked when they are made; `dataclasses.replace` makes
others of them. Defaults stand here and nowhere else.

Literal types are for readers and type checkers; at run time they are plain text, so that a wrong
name meets the ValueError of the function that it is given to, which says what would be right, also
where annotations are checked at run time.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    get_args,
    runtime_checkable,
)

PoolName = Literal["mean", "mass", "block_mean", "sum"]
RowsName = Literal["query", "target"]
MethodName = Literal["auto", "hooks", "streaming"]
KeepName = Literal["auto", "activations", "heads", "inputs"]
QuantityName = Literal["saliency", "attention", "gradient", "score_gradient"]
ObjectiveLiteral = Literal["next_token", "log_odds", "sequence", "answer", "logit_diff"]
DecodingMethodName = Literal["auto", "hooks", "fast", "vllm"]
FormatLiteral = Literal[
    "auto",
    "think",
    "harmony",
    "plain",
    "harmony_text",
    "openthoughts",
    "mistral",
    "kimi",
    "thought",
    "seed",
    "cohere",
    "s1",
    "thinking",
    "reasoning",
    "answer",
]
SplitterName = Literal["sentence", "paragraph", "line", "code"]

POOLS: tuple[str, ...] = get_args(PoolName)
ROWS: tuple[str, ...] = get_args(RowsName)
METHODS: tuple[str, ...] = get_args(MethodName)
KEEPS: tuple[str, ...] = get_args(KeepName)
QUANTITIES: tuple[str, ...] = get_args(QuantityName)
OBJECTIVES: tuple[str, ...] = get_args(ObjectiveLiteral)
DECODING_METHODS: tuple[str, ...] = get_args(DecodingMethodName)
FORMATS: tuple[str, ...] = get_args(FormatLiteral)
SPLITTERS: tuple[str, ...] = get_args(SplitterName)


@runtime_checkable
class Splitter(Protocol):
    """A causal splitter. ``step_saliency`` feeds it one region at a time."""

    def reset(self) -> None:
        """Begin a new region."""

    def push(self, char: str) -> bool:
        """Take the next character; True where it is the first of a new step."""


SplitFunction: TypeAlias = Callable[[str], Sequence[int] | Sequence[tuple[int, int]]]

if TYPE_CHECKING:
    Pool: TypeAlias = PoolName
    Rows: TypeAlias = RowsName
    Method: TypeAlias = MethodName
    Quantity: TypeAlias = QuantityName
    ObjectiveName: TypeAlias = ObjectiveLiteral
    DecodingMethod: TypeAlias = DecodingMethodName
    FormatName: TypeAlias = FormatLiteral
    SplitterLike: TypeAlias = SplitterName | Splitter | SplitFunction
    Offload: TypeAlias = bool | Literal["auto"]
    Keep: TypeAlias = KeepName
else:
    Pool = Rows = Method = Keep = Quantity = ObjectiveName = DecodingMethod = FormatName = str
    SplitterLike = Any
    Offload = bool | str


def check_option(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise ValueError for a value that an option does not take.

    Args:
        name: Name of the option.
        value: What was given.
        known: What would be right.
    """
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")


def refuse(problems: Mapping[str, bool]) -> None:
    """Raise ValueError with all that is wrong.

    Args:
        problems: What may be wrong, and whether it is.
    """
    real = [problem for problem, is_real in problems.items() if is_real]
    if real:
        raise ValueError("; ".join(real))


SINCE_LATER: Mapping[str, bool] = MappingProxyType({"since_later": True})
"""Metadata of a dataclass's field that came after results were written: their settings name it only
where it is no default, so that what was begun before can be gone on with."""


def is_whole(value: object, *, least: int | None = None) -> bool:
    """Whether a value is a whole number (no truth value), and not below ``least``."""
    is_number = isinstance(value, Integral) and not isinstance(value, bool)
    return is_number and (least is None or value >= least)  # type: ignore[operator]


def is_finite(value: object) -> bool:
    """Whether a value is a number (no truth value), neither infinite nor undefined."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_seed(seed: object) -> None:
    """Raise ValueError for what is no seed of draws by place: any whole number is."""
    if not is_whole(seed):
        raise ValueError(f"seed={seed!r} is no whole number")


def _not_whole(values: Mapping[str, object]) -> dict[str, bool]:
    """For `refuse`: of each option that is no whole number, that it is none."""
    return {
        f"{name}={value!r} is no whole number": not is_whole(value)
        for name, value in values.items()
    }


COLDEST = 1e-6
"""Temperature below which dividing by it leaves the range of numbers."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How responses are decoded.

    Attributes:
        n: Responses per question.
        temperature: Of the softmax; 0 decodes greedily.
        top_p: Sample from the smallest set of tokens with this share of the probability.
        top_k: Sample from this many most probable tokens.
        max_new_tokens: Tokens after which a response is cut, if the context does not end before.
        seed: Seed of all samples.
        batch_size: Slots: how many responses are decoded together. A response that ends makes room
            for the next prompt, so any number of them can be asked for in one call. ``"auto"``
            takes as many as fit into the memory that is free if all are as long as they may be.
        system: System prompt; the fast way reads it once for all questions.
        format: Format of the responses, see `Trace.from_text`.
        splitter: How responses are cut into steps.
        stop_tokens: Token ids that end a response; by default the model's own.
        stop_texts: Texts that end a response as soon as they stand in it; the token that completes
            the text is the last.

    Raises:
        ValueError: a value out of range.
    """

    n: int = 1
    temperature: float | int = 0.6
    top_p: float | int = 1.0
    top_k: int | None = None
    max_new_tokens: int = 2048
    seed: int = 0
    batch_size: int | Literal["auto"] = 64
    system: str | None = None
    format: FormatName = "auto"
    splitter: SplitterLike = "sentence"
    stop_tokens: Iterable[int] | None = None
    stop_texts: str | Iterable[str] = ()

    def __post_init__(self) -> None:
        self._list_once()
        self._check_types()
        self._make_plain()
        endings = self.endings
        refuse(
            {
                f"n={self.n} is below 1": self.n < 1,
                f"seed={self.seed} is below 0": self.seed < 0,
                f"temperature={self.temperature} is below 0": self.temperature < 0,
                f"temperature={self.temperature} is below {COLDEST}; 0 decodes greedily": (
                    0 < self.temperature < COLDEST
                ),
                f"top_p={self.top_p} is not in (0, 1]": not 0 < self.top_p <= 1,
                f"top_k={self.top_k} is below 1": self.top_k is not None and self.top_k < 1,
                f"max_new_tokens={self.max_new_tokens} is below 1": self.max_new_tokens < 1,
                f"batch_size={self.batch_size} is below 1": self.batch_size != "auto"
                and self.batch_size < 1,
                f"stop_texts={list(endings)} has an empty text": not all(endings),
            }
        )

    def _list_once(self) -> None:
        """What can be gone through once is listed, before it is checked and used."""
        for name in ("stop_tokens", "stop_texts"):
            value = getattr(self, name)
            if isinstance(value, Iterator):
                object.__setattr__(self, name, tuple(value))

    def _check_types(self) -> None:
        whole = {
            name: getattr(self, name) for name in ("n", "max_new_tokens", "seed", "batch_size")
        }
        if self.batch_size == "auto":
            del whole["batch_size"]
        if self.top_k is not None:
            whole["top_k"] = self.top_k
        stops = () if self.stop_tokens is None else self.stop_tokens
        texts = [self.stop_texts] if isinstance(self.stop_texts, str) else self.stop_texts
        refuse(
            {
                **_not_whole(whole),
                f"temperature={self.temperature!r} is no number": not is_finite(self.temperature),
                f"top_p={self.top_p!r} is no number": not is_finite(self.top_p),
                f"stop_tokens={stops!r} must be token ids, 0 or above": isinstance(stops, str)
                or not isinstance(stops, Iterable)
                or not all(is_whole(token, least=0) for token in stops),
                f"stop_texts={self.stop_texts!r} must be texts": not isinstance(texts, Iterable)
                or not all(isinstance(text, str) for text in texts),
                f"system={self.system!r} is no text": not isinstance(self.system, str | None),
            }
        )

    def _make_plain(self) -> None:
        """Numbers of numpy become Python's, which JSON has too."""
        for name in ("n", "top_k", "max_new_tokens", "seed", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, Integral):
                object.__setattr__(self, name, int(value))
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            plain = int(value) if isinstance(value, Integral) else float(value)
            object.__setattr__(self, name, plain)
        stops = self.stop_tokens
        if stops is not None and not all(isinstance(token, int) for token in stops):
            object.__setattr__(self, "stop_tokens", tuple(int(token) for token in stops))

    @property
    def endings(self) -> tuple[str, ...]:
        """``stop_texts``, also if it is a single one."""
        return (self.stop_texts,) if isinstance(self.stop_texts, str) else tuple(self.stop_texts)


class DecodingOptions(TypedDict, total=False):
    """The fields of `Decoding` as keywords."""

    n: int
    temperature: float | int
    top_p: float | int
    top_k: int | None
    max_new_tokens: int
    seed: int
    batch_size: int | Literal["auto"]
    system: str | None
    format: FormatName
    splitter: SplitterLike
    stop_tokens: Iterable[int] | None
    stop_texts: str | Iterable[str]


MAP_DECODING = Decoding(temperature=0.0, max_new_tokens=512, batch_size=16)
"""Of `map_file`: one repeatable response to a question, short enough to be mapped on a laptop."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How intervals and tests are drawn; the unit is the problem.

    Attributes:
        confidence: Level of the intervals.
        n_resamples: Bootstrap draws.
        n_permutations: Arrangements up to which a test is exact, and the number drawn beyond.
        seed: Of the draws.

    Raises:
        ValueError: a value out of range.
    """

    confidence: float | int = 0.95
    n_resamples: int = 5000
    n_permutations: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = ("n_resamples", "n_permutations", "seed")
        refuse(
            {
                **_not_whole({name: getattr(self, name) for name in numbers}),
                f"confidence={self.confidence!r} is no number": not is_finite(self.confidence),
            }
        )
        refuse(
            {
                f"confidence={self.confidence} is not between 0 and 1": not 0 < self.confidence < 1,
                f"n_resamples={self.n_resamples} is below 1": self.n_resamples < 1,
                f"n_permutations={self.n_permutations} is below 1": self.n_permutations < 1,
            }
        )


class DrawsOptions(TypedDict, total=False):
    """The fields of `Draws` as keywords."""

    confidence: float | int
    n_resamples: int
    n_permutations: int
    seed: int


CALIBRATION_DRAWS = Draws(n_resamples=2000)
"""Of `calibrate`, which draws for every candidate; it makes no test."""

_Options = TypeVar("_Options", Decoding, Draws)
_Call = TypeVar("_Call", bound=Callable[..., Any])


def with_keywords(options: _Options, keywords: Mapping[str, Any]) -> _Options:
    """Options changed by those keywords that are fields of theirs.

    Args:
        options: `Decoding` or `Draws`.
        keywords: Keywords of a call; it has refused unknown ones by `check_keywords`.
    """
    names = {field.name for field in fields(options)}
    return replace(options, **{name: keywords[name] for name in keywords if name in names})


def check_keywords(call: str, keywords: Mapping[str, Any], known: type) -> None:
    """Raise TypeError for a keyword that a call does not take, as Python does.

    Args:
        call: Name of the function.
        keywords: What its ``**options`` caught.
        known: The TypedDict of what it takes.
    """
    for name in keywords:
        if name not in inspect.get_annotations(known):
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")


def shows_keywords(
    known: type, defaults: Mapping[str, Any], *, documented_by: type | None = None
) -> Callable[[_Call], _Call]:
    """Decorator: help and signatures name the keywords in place of ``**options``.

    Args:
        known: The TypedDict of the keywords.
        defaults: Their defaults, among others.
        documented_by: Class whose attributes they are; what its docstring says of those that the
            call does not document itself is added to the arguments.
    """

    def show(call: _Call) -> _Call:
        signature = inspect.signature(call)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=kind
            )
            for name, kind in inspect.get_annotations(known).items()
        ]
        shown = signature.replace(parameters=[*named, *keywords])
        call.__signature__ = shown  # type: ignore[attr-defined]
        if documented_by is not None and call.__doc__ and documented_by.__doc__:
            call.__doc__ = _with_entries(call.__doc__, documented_by.__doc__)
        return call

    return show


def _with_entries(of_call: str, of_class: str) -> str:
    """Docstring of a call with the attributes of a class among its arguments."""
    text = inspect.cleandoc(of_call)
    before, arguments = _section(text, "Args:")
    _, attributes = _section(inspect.cleandoc(of_class), "Attributes:")
    known = set(_entries(arguments))
    new = [entry for name, entry in _entries(attributes).items() if name not in known]
    return text.replace(before + arguments, "\n".join([before + arguments, *new]))


def _section(text: str, title: str) -> tuple[str, str]:
    """A docstring up to a section's title, and the section's lines."""
    before, _, rest = text.partition(f"{title}\n")
    return f"{before}{title}\n", rest.partition("\n\n")[0]


def _entries(section: str) -> dict[str, str]:
    """Lines of each name that a section explains."""
    entries = re.split(r"\n(?=    \S)", section)
    return {entry.strip().partition(":")[0]: entry for entry in entries}
