"""A function of the user's, by module or file: ``--grade mine.py:right``.

It is loaded before anything else is. A run remembers the digest of the file that the function
stands in: another text of it is another run. Loads nothing heavy by itself.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class UserFunction:
    """A function of two texts: the part of a response that is graded, and the gold answer.

    Attributes:
        name: ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``.
        sha256: Digest of the file that it stands in; empty where it stands in none.
        function: The function itself.
    """

    name: str
    sha256: str
    function: Callable[..., Any] = field(repr=False, compare=False)

    @classmethod
    def load(cls, name: str) -> "UserFunction":
        """Load a function by its name.

        Raises:
            ValueError: there is none of that name, or it does not take two texts.
        """
        place, colon, attribute = name.rpartition(":")
        if not colon or not place or not attribute:
            raise ValueError(
                f"grade {name!r} is not understood; write MODULE:FUNCTION or FILE.py:FUNCTION"
            )
        function = getattr(_module(place, name), attribute, None)
        if not callable(function):
            raise ValueError(f"grade {name!r}: there is no function {attribute!r} in {place}")
        _check_arguments(function, name)
        return cls(name, _digest(function), function)

    def __call__(self, part: str, gold: str) -> Any:
        """What the function says.

        Raises:
            RuntimeError: it raised an exception itself.
        """
        try:
            return self.function(part, gold)
        except Exception as error:
            raise RuntimeError(f"grade {self.name}: {type(error).__name__}: {error}") from error


def _module(place: str, name: str) -> ModuleType:
    try:
        if place.endswith(".py"):
            return _module_of_file(Path(place))
        return _importable(place)
    except Exception as error:
        why = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"grade {name!r} cannot be loaded: {why}") from error


def _module_of_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _importable(name: str) -> ModuleType:
    """A module, also one in the current folder."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _check_arguments(function: Callable[..., Any], name: str) -> None:
    try:
        inspect.signature(function).bind("", "")
    except TypeError as error:
        raise ValueError(
            f"grade {name!r} must take two texts, the part that is graded and the gold answer: "
            f"{error}"
        ) from None
    except ValueError:  # a builtin without signature
        return


def _digest(function: Callable[..., Any]) -> str:
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        return ""
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
