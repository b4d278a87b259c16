"""The program in a response, and what runs it in the box."""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from step_saliency.benchmark.suites.livecodebench import inside

if TYPE_CHECKING:
    Way: TypeAlias = Literal["script", "wrapped", "function"]
else:
    Way = str

_FENCE = re.compile(r"^[ \t]*(`{3,})[^\n`]*$", re.MULTILINE)


def program_in(text: str) -> str | None:
    """What stands between the last two fences of a text; None if there are less than two.

    As the benchmark's own runner reads it: a block that opens and does not close pairs its fence
    with the one before, and a fence of another length counts too.

    Args:
        text: What follows the thinking.
    """
    fences = list(_FENCE.finditer(text))
    if len(fences) < 2:
        return None
    block = text[fences[-2].end() : fences[-1].start()]
    indents = len(fences[-2].group(0)) - len(fences[-2].group(0).lstrip())
    lines = block.strip("\n").split("\n")
    return "\n".join(line[min(indents, len(line) - len(line.lstrip())) :] for line in lines)


def boxed_program(program: str, way: Way, function: str | None = None) -> str:
    """What runs in the box.

    Args:
        program: The model's program.
        way: How it is run; see `inside`.
        function: Name of the function, for ``"function"``.
    """
    # The program stands there as a text; surrogates cannot be written to a file.
    source = ascii(program.encode("utf-8", "replace").decode("utf-8"))
    call = f"run_{way}({source})" if function is None else f"run_{way}({source}, {function!r})"
    return f"{_inside()}\n{call}\n"


@lru_cache(maxsize=1)
def _inside() -> str:
    return Path(inside.__file__).read_text(encoding="utf-8")
