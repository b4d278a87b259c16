"""Programs that a model wrote, run in a box; never outside of one.

limits       what a program may use
outcome      what became of it
bubblewrap   the box: own processes, no network, read-only root, empty home
inside       what runs in the box before the program: limits, then the program in its place
docker       the box of inspect-ai, for machines with docker and without bubblewrap
choice       which of them works here; a refusal with the reasons if none does
"""

from step_saliency.benchmark.sandbox.bubblewrap import Bubblewrap as Bubblewrap
from step_saliency.benchmark.sandbox.limits import Limits as Limits
from step_saliency.benchmark.sandbox.outcome import Outcome as Outcome
from step_saliency.benchmark.sandbox.outcome import SandboxError as SandboxError

__all__ = ["Bubblewrap", "Limits", "Outcome", "SandboxError"]
