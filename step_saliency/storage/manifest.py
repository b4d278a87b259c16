"""What results say of themselves: format, settings, model, versions, in JSON types."""

import hashlib
import json
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral, Real
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from step_saliency.models.identity import tensor_digest
from step_saliency.storage.files import is_file, read_bytes, write_text
from step_saliency.storage.json_text import parse_json

PACKAGES = (
    "step-saliency",
    "transformer-lens",
    "transformers",
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "matplotlib",
)


def read_manifest(folder: Path, *, kind: str, writer: str) -> dict[str, Any]:
    """What the manifest of a results folder says.

    Args:
        folder: The folder.
        kind: Format that the manifest has to have.
        writer: Command that writes such folders, for messages.

    Raises:
        ValueError: there is none, or it is cut short or of something else.
    """
    file = folder / "manifest.json"
    if not is_file(file):
        raise ValueError(
            f"{folder} holds no manifest.json, so it is no results folder of `{writer}`"
        )
    return read_facts(file, kind=kind, writer=writer)


def read_facts(file: Path, *, kind: str, writer: str) -> dict[str, Any]:
    """A JSON object of a stated format.

    Args:
        file: The file.
        kind: Its ``format``.
        writer: What writes such files, for messages.

    Raises:
        ValueError: it is cut short or of something else, or its settings are none.
    """
    try:
        facts = parse_json(read_bytes(file))
    except ValueError as error:
        raise ValueError(
            f"{file} is cut short or damaged ({error}); remove it together with what it belongs "
            "to, or choose another place"
        ) from error
    if not isinstance(facts, dict) or facts.get("format") != kind:
        raise ValueError(f"{file} is no manifest of `{writer}` ({kind})")
    if not isinstance(facts.get("settings"), dict):
        raise ValueError(f"{file} is damaged: it says no settings; choose another place")
    return facts


def save_manifest(folder: Path, facts: Mapping[str, Any], started: float, *, kind: str) -> None:
    """Write a manifest, whole or not at all, with the versions of what made the folder.

    Args:
        folder: The folder.
        facts: JSON values.
        started: When the run began, in seconds of `time.time`.
        kind: Format of the folder.
    """
    manifest = {
        "format": kind,
        **facts,
        "versions": package_versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2))


def package_versions() -> dict[str, str | None]:
    """Versions of what results depend on, by package."""
    return {name: _version(name) for name in PACKAGES}


def refuse_changes(
    place: Path,
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    free: Collection[str] = (),
) -> None:
    """Raise ValueError for settings that differ from those of an earlier run in a place.

    A setting that only one of the two runs has counts as None for the other.

    Args:
        place: Folder or file that holds the earlier run.
        before: Settings of the earlier run.
        settings: Settings now.
        free: Settings that may change.
    """
    names = [name for name in {**settings, **before} if name not in free]
    changes = [
        f"{name}: {before.get(name)!r} then, {settings.get(name)!r} now"
        for name in names
        if before.get(name) != settings.get(name)
    ]
    if changes:
        raise ValueError(
            f"{place} holds a run with other settings ({', '.join(changes)}); choose another place"
        )


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
        return {"shape": list(value.shape), "sha256": tensor_digest([value])}
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, Real | np.generic):
        return described(_plain_number(value))
    if isinstance(value, partial):
        parts = {"function": value.func, "args": value.args, "keywords": value.keywords}
        return {"class": "partial", **described(parts)}
    name = getattr(value, "__qualname__", None)
    if name is not None:
        named = f"{getattr(value, '__module__', '')}.{name}"
        return _unnamed_function(named, value) if name.endswith("<lambda>") else named
    return {"class": type(value).__qualname__, **described(_attributes(value))}


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return int(value) if isinstance(value, Integral) else float(value)


def _array(value: Shaped[np.ndarray, "..."]) -> dict[str, Any]:
    """Shape, and a hash of all numbers; of objects what each is."""
    facts: dict[str, Any] = {"shape": list(value.shape), "dtype": str(value.dtype)}
    if value.dtype.hasobject:
        return {**facts, "values": described(value.ravel().tolist())}
    return {**facts, "sha256": hashlib.sha256(value.tobytes()).hexdigest()[:16]}


def _unnamed_function(name: str, function: Any) -> dict[str, Any]:
    """What tells two lambdas of one place apart: their code, defaults and captured values."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return {
        "function": name,
        "sha256": hashlib.sha256(_code(function.__code__).encode()).hexdigest()[:16],
        "defaults": described([function.__defaults__, function.__kwdefaults__]),
        "captured": [
            getattr(value, "__qualname__", None) or described(value)  # may capture itself
            for value in cells
        ],
    }


def _code(code: CodeType) -> str:
    """Instructions, names and constants, without addresses and line numbers."""
    constants = [
        _code(item)
        if isinstance(item, CodeType)
        else str(sorted(map(repr, item)))  # sets have another order in every process
        if isinstance(item, frozenset)
        else repr(item)
        for item in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))


def _attributes(value: Any) -> dict[str, Any]:
    known = fields(value) if is_dataclass(value) else ()
    attributes = {field.name: getattr(value, field.name) for field in known}
    attributes |= getattr(value, "__dict__", {})
    unset = {
        field.name
        for field in known
        if field.metadata.get("since_later") and attributes[field.name] == field.default
    }
    shown = (name for name in sorted(attributes) if not name.startswith("_"))
    return {name: attributes[name] for name in shown if name not in unset}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
