"""The program in an answer.

Only what follows the thinking counts (`answered_part`): code that is tried out in the thinking does
not, and of an answer whose thinking was never closed nothing does. There,

    fences              the last fenced block that defines the function. The language of a fence
                        does not matter, and a last fence may stay open
    no such block       from the first line that begins as a program does, as many lines as are
                        Python together and define the function

and where neither is there, the last block, which will fail. The last rather than the first, since
an answer that mends itself is judged by what it ends in; calls shown after the function define
none.

When it misleads: a function that is spread over several blocks is seen in part; a line of prose
that happens to be Python ("pass") is taken along, which changes nothing.
"""

import ast
import re
import textwrap
import warnings
from dataclasses import dataclass
from typing import Literal

from step_saliency.segment import Region, detect_format
from step_saliency.tasks.graded_part import graded_part
from step_saliency.trace import Trace

Form = Literal["fenced", "bare", "none"]
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})([^`\n]*)$", re.MULTILINE)
_FIRST_LINE = re.compile(
    r"^(?:(?:async )?def |class |import |from \w[\w.]* import |@)", re.MULTILINE
)


@dataclass(frozen=True)
class Extracted:
    """What was found in an answer.

    Attributes:
        program: Its text; None if there is none.
        form: Where it stood.
    """

    program: str | None
    form: Form


def answered_part(trace: Trace) -> str:
    """What follows the thinking of a response; all of one that has no marks of thinking."""
    prompt = []
    for step in trace.steps:
        if step.region in (Region.THINKING, Region.SUMMARY):
            break
        prompt.append(step.text)
    if detect_format(prompt="".join(prompt), response=trace.response) == "plain":
        return graded_part(trace.response)
    return graded_part(trace)


def program_in(text: str, function: str) -> Extracted:
    """The program in a text.

    Args:
        text: What follows the thinking.
        function: Name of the function that was asked for.
    """
    blocks = _fenced(text)
    defining = [block for block in blocks if _definition(function).search(block)]
    if defining:
        return Extracted(defining[-1], "fenced")
    bare = _bare(text, function)
    if bare is not None:
        return Extracted(bare, "bare")
    return Extracted(blocks[-1], "fenced") if blocks else Extracted(None, "none")


def _fenced(text: str) -> list[str]:
    """Contents of fenced blocks; each fence closes with marks of its own kind, or with the text."""
    blocks, opened = [], None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2].strip():
            blocks.append(text[opened.end() : fence.start()])
            opened = None
    if opened is not None:
        blocks.append(text[opened.end() :])
    return [block for block in map(_dedented, blocks) if block.strip()]


def _dedented(block: str) -> str:
    return textwrap.dedent(block).strip("\n")


def _bare(text: str, function: str) -> str | None:
    definition = _definition(function).search(text)
    if definition is None:
        return None
    for start in _FIRST_LINE.finditer(text, 0, definition.end()):
        lines = text[start.start() :].split("\n")
        for stop in range(len(lines), 0, -1):
            program = "\n".join(lines[:stop])
            if _definition(function).search(program) and _is_python(program):
                return program.rstrip()
    return text[definition.start() :]


def _definition(function: str) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*(?:async )?def {re.escape(function)}\b", re.MULTILINE)


def _is_python(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True
