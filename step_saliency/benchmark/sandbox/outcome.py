"""What became of a program in a box."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from step_saliency.benchmark.sandbox.limits import Limits

if TYPE_CHECKING:
    Ending: TypeAlias = Literal["finished", "failed", "time"]
else:
    Ending = str


class SandboxError(RuntimeError):
    """The box itself failed, so that nothing is known of the program."""


@dataclass(frozen=True)
class Outcome:
    """What a program did.

    Attributes:
        ending: ``"finished"`` (exit status 0), ``"failed"`` (another status, or a limit that it
            met), ``"time"`` (stopped by the clock).
        stdout: What it wrote to standard output.
        stderr: What it wrote to standard error.
        status: Exit status; minus the signal that ended it.
    """

    ending: Ending
    stdout: str = ""
    stderr: str = ""
    status: int | None = None


@runtime_checkable
class Sandbox(Protocol):
    """A box."""

    async def run(self, program: str, *, stdin: str, limits: Limits) -> Outcome:
        """Run a Python program in a box of its own."""
        ...
