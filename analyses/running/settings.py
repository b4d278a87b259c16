"""Settings of an analysis: a frozen dataclass, from whose fields its command line is derived.

    field                                          option
    n: int = option(100, "problems")               --n N
    device: str | None = option(None)              --device DEVICE
    level: Literal["easy", "hard"] = "easy"        --level {easy,hard}
    heads: tuple[str, ...] = ()                    --heads [HEADS ...]
    kinds: tuple[Kind, ...] = ("premise",)         --kinds {...} [{...} ...], at least one
    bands: bool = True                             --no-bands; a field that is False by default
                                                   is switched on by its name
    out: Path = option()                           --out OUT, required

A subclass may give a field another default; the help of the class above stays. In a manifest
settings stand as JSON (`as_json`): tuples are lists there, paths are text. Literals are checked in
``__post_init__``, also where settings are made by hand.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from step_saliency.options import SINCE_LATER, check_option

T = TypeVar("T")


def option(
    default: Any = MISSING,
    text: str | None = None,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    later: bool = False,
) -> Any:
    """A field of settings.

    Args:
        default: Its default; without one the option is required.
        text: Help of the option.
        flag: Its name, where that is not the field's.
        metavar: What stands for its value in the help.
        later: Whether results were written before the field came: then their settings name it only
            where it is no default.
    """
    facts = {"help": text, "flag": flag, "metavar": metavar}
    return field(default=default, metadata=facts | dict(SINCE_LATER if later else {}))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every analysis can be told, and all that its results depend on.

    Attributes:
        n: Problems.
        seed: Of everything that is drawn.
        threads: Threads of torch per unit.
    """

    n: int = option(100, "problems")
    seed: int = 0
    threads: int = option(1, "threads of torch per unit")

    def __post_init__(self) -> None:
        """Raise ValueError for a value that its Literal does not list."""
        for entry, kind in _typed(type(self)):
            value = getattr(self, entry.name)
            for one in value if kind.many else [value]:
                if kind.choices and not (one is None and kind.optional):
                    check_option(entry.name, one, kind.choices)

    def as_json(self) -> dict[str, Any]:
        """The settings in JSON types."""
        values = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if not (
                entry.metadata.get("since_later") and getattr(self, entry.name) == entry.default
            )
        }
        whole: dict[str, Any] = json.loads(json.dumps(values, default=str))
        return whole


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """Of an analysis that runs a model.

    Attributes:
        model: As for `step_saliency.load_model`, like the other four.
    """

    model: str = option("reasoner", "name, folder or hub id")
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    dtype: str = "float32"
    device: str | None = option(None, "a CUDA device if there is one, by default")
    revision: str | None = option(None, "of a hub id")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where units run and results go; no result depends on it.

    Attributes:
        out: Results folder: new, empty, or of an earlier run with the same settings.
        workers: Processes.
        ray: Address of a Ray cluster to run on instead, or ``"local"``.
        progress: Show a bar.
    """

    out: Path = option(text="results folder")
    workers: int = option(1, "processes")
    ray: str | None = option(None, "run on a Ray cluster, or 'local'", metavar="ADDRESS")
    progress: bool = True


def add_options(parser: argparse.ArgumentParser, owner: type) -> None:
    """Add an option for each field of a dataclass."""
    for entry, kind in _typed(owner):
        default = entry.default
        flag = entry.metadata.get("flag")
        keywords: dict[str, Any] = {"dest": entry.name, "help": _help(owner, entry.name)}
        if kind.type is bool:
            keywords["action"] = "store_false" if default else "store_true"
        else:
            keywords |= kind.keywords(default) | {"metavar": entry.metadata.get("metavar")}
        negation = "no-" if kind.type is bool and default else ""
        parser.add_argument(flag or f"--{negation}{entry.name.replace('_', '-')}", **keywords)


def from_arguments(owner: type[T], parsed: argparse.Namespace) -> T:
    """The fields of a dataclass among what was parsed."""
    values = {entry.name: getattr(parsed, entry.name) for entry, _ in _typed(owner)}
    return owner(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


def parse(owner: type[T], *arguments: str) -> T:
    """A dataclass by the options of a command line."""
    parser = argparse.ArgumentParser()
    add_options(parser, owner)
    return from_arguments(owner, parser.parse_args(arguments))


@dataclass(frozen=True)
class _Kind:
    """What the annotation of a field says of one of its values."""

    type: Any
    choices: tuple[str, ...] = ()
    many: bool = False
    optional: bool = False

    def keywords(self, default: Any) -> dict[str, Any]:
        """For ``add_argument``, which takes no empty ones."""
        keywords = {
            "type": None if self.choices else self.type,
            "choices": self.choices,
            "nargs": ("+" if default else "*") if self.many else None,
            "default": None if default is MISSING else default,
            "required": default is MISSING,
        }
        return {name: value for name, value in keywords.items() if value or name == "default"}


def _typed(owner: Any) -> Iterator[tuple[Field[Any], _Kind]]:
    """Fields with what their annotations say."""
    hints = get_type_hints(owner)
    for entry in fields(owner):
        yield entry, _kind(hints[entry.name])


def _kind(hint: Any) -> _Kind:
    some = [one for one in get_args(hint) if one is not NoneType]
    if NoneType in get_args(hint):
        return replace(_kind(some[0]), optional=True)
    many = get_origin(hint) is tuple
    one = some[0] if many else hint
    choices = get_args(one) if get_origin(one) is Literal else ()
    return _Kind(str if choices else one, choices, many)


def _help(owner: type, name: str) -> str | None:
    """Help of a field, which a class above may have given."""
    known = (base.__dict__.get("__dataclass_fields__", {}).get(name) for base in owner.__mro__)
    texts = (entry.metadata.get("help") for entry in known if entry is not None)
    return next((text for text in texts if text), None)
