"""What a setting is, in JSON types: by it a later run tells whether it goes on with the same.

The same in every process: values themselves; of tensors and arrays a digest; of an object its class
and public attributes; of a function its name, code, defaults and captured values; of a bound method
also what it is bound to. Functions of this package, builtin ones, classes and modules are named.

When it misleads: what a function reads from its module, or calls there, is not looked into, nor are
private attributes. The code of one function differs between versions of Python.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from numbers import Integral, Real
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

PACKAGE = "step_saliency."


def described(value: Any, around: Sequence[Any] = ()) -> Any:
    """An object in JSON types, the same in every process.

    Args:
        value: The object.
        around: Objects that it is part of; one that is part of itself is named there.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Tensor):
        numbers = value.detach().to("cpu", torch.float64).contiguous().numpy()
        return _array(numbers, around)
    if isinstance(value, Real | np.generic):
        return described(_plain_number(value))
    if any(value is other for other in around):
        return _name(value)
    return _compound(value, (*around, value))


def _compound(value: Any, around: Sequence[Any]) -> Any:
    """What has parts, which may have the whole among their own."""
    if isinstance(value, Mapping):
        return {str(key): described(item, around) for key, item in value.items()}
    if isinstance(value, Sequence | frozenset | set | range):
        items = sorted(value) if isinstance(value, frozenset | set) else value
        return [described(item, around) for item in items]
    if isinstance(value, np.ndarray):
        return _array(value, around)
    if isinstance(value, partial):
        parts = {"function": value.func, "args": value.args, "keywords": value.keywords}
        return {"class": "partial", **described(parts, around)}
    if isinstance(value, FunctionType):
        return _function(value, around)
    if isinstance(value, type | ModuleType) or (callable(value) and hasattr(value, "__name__")):
        return _named_thing(value, around)
    if isinstance(value, Enum) or not hasattr(value, "__dict__"):
        return _by_its_words(value)
    return {"class": type(value).__qualname__, **described(_attributes(value), around)}


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return int(value) if isinstance(value, Integral) else float(value)


def _array(value: Shaped[np.ndarray, "..."], around: Sequence[Any]) -> dict[str, Any]:
    """Shape, and a hash of all numbers; of objects what each is."""
    facts: dict[str, Any] = {"shape": list(value.shape), "dtype": str(value.dtype)}
    if value.dtype.hasobject:
        return {**facts, "values": described(value.ravel().tolist(), around)}
    return {**facts, "sha256": hashlib.sha256(value.tobytes()).hexdigest()[:16]}


def _named_thing(value: Any, around: Sequence[Any]) -> Any:
    """A class or a module; a method or builtin function, with what it is bound to or wraps."""
    owner = getattr(value, "__self__", None)
    parts = {
        "self": None if isinstance(owner, type | ModuleType) else owner,
        "function": getattr(value, "__func__", getattr(value, "__wrapped__", None)),
    }
    bound = {name: described(part, around) for name, part in parts.items() if part is not None}
    return (
        {"name": _name(value), **bound} if bound and not isinstance(value, type) else _name(value)
    )


def _function(function: Any, around: Sequence[Any]) -> Any:
    """What tells two functions of one place apart: their code, defaults and captured values."""
    name = _name(function)
    if name.startswith(PACKAGE) and "<" not in name:
        return name
    return {
        "function": name,
        "sha256": hashlib.sha256(_code(function.__code__).encode()).hexdigest()[:16],
        "defaults": described([function.__defaults__, function.__kwdefaults__], around),
        "captured": [described(_content(cell), around) for cell in function.__closure__ or ()],
    }


def _name(value: Any) -> str:
    """Module and name of what has a name, else of its class."""
    if isinstance(value, ModuleType):
        return value.__name__
    named = value if hasattr(value, "__name__") else type(value)
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', named.__name__)}"


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


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


def _by_its_words(value: Any) -> dict[str, str]:
    """An object without attributes, such as a path or a dtype."""
    has_words = type(value).__repr__ is not object.__repr__
    return {"class": type(value).__qualname__, **({"repr": repr(value)} if has_words else {})}


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
