"""Generations that survive a kill: a file that grows trace by trace, and its settings beside it.

A second run with the same settings goes on where the first was broken off; with other settings it
is refused, and told which.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from step_saliency.storage.files import replacing
from step_saliency.storage.lines import append_line, mend, read_lines
from step_saliency.storage.manifest import refuse_changes
from step_saliency.trace import Trace

FORMAT = "step-saliency-generation/1"
SAMPLED_WEIGHTS = 64


class TraceLog:
    """A JSONL file of traces that grows by one line a trace, with its settings beside it.

    Args:
        path: The file; its settings are in ``<path>.settings.json``.
        settings: What the traces depend on, in JSON types.

    Raises:
        ValueError: the file was made with other settings, or by something else.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        beside = self.path.with_name(self.path.name + ".settings.json")
        if beside.is_file():
            refuse_changes(self.path, _settings_in(beside), settings)
        elif self.path.exists():
            raise ValueError(
                f"{self.path} exists, but {beside.name} does not, so it is not known what the file "
                "was made with; choose another file"
            )
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(beside) as part:
                text = json.dumps({"format": FORMAT, "settings": settings}, indent=2)
                part.write_text(text, encoding="utf-8")
        mend(self.path)

    def append(self, trace: Trace) -> None:
        """Keep a trace."""
        append_line(self.path, trace.to_dict())

    def __iter__(self) -> Iterator[Trace]:
        """The traces kept so far."""
        return map(Trace.from_dict, read_lines(self.path))


def _settings_in(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{file} holds no settings of a generation ({FORMAT})")
    settings: dict[str, Any] = content["settings"]
    return settings


def described(value: Any) -> Any:
    """An object in JSON types, the same in every process: class, public attributes, digests."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, Sequence | frozenset | set | range):
        items = sorted(value) if isinstance(value, frozenset | set) else value
        return [described(item) for item in items]
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "sha256": _digest([value])}
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{getattr(value, '__module__', '')}.{name}"
    return {"class": type(value).__qualname__, **described(_attributes(value))}


def _attributes(value: Any) -> dict[str, Any]:
    named = {field.name for field in fields(value)} if is_dataclass(value) else set()
    found = {name: getattr(value, name) for name in named} | getattr(value, "__dict__", {})
    return {name: found[name] for name in sorted(found) if not name.startswith("_")}


def weights_digest(model: nn.Module) -> str:
    """Changes when weights change: a hash of some numbers of every parameter."""
    return _digest(parameter for _, parameter in sorted(model.named_parameters()))


def _digest(tensors: Any) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // SAMPLED_WEIGHTS)].to("cpu", torch.float64)
        found.update(some.numpy().tobytes())
    return found.hexdigest()[:16]
