"""Which box works here; a refusal with the reasons if none does. Nothing is run outside of one."""

from typing import TYPE_CHECKING, Literal, TypeAlias

from step_saliency.benchmark.sandbox.bubblewrap import Bubblewrap
from step_saliency.benchmark.sandbox.docker import Docker
from step_saliency.benchmark.sandbox.outcome import Sandbox, SandboxError
from step_saliency.options import check_option

if TYPE_CHECKING:
    SandboxName: TypeAlias = Literal["auto", "bubblewrap", "docker"]
else:
    SandboxName = str

SANDBOXES = ("auto", "bubblewrap", "docker")


def choose_sandbox(name: SandboxName = "auto") -> Sandbox:
    """A box of that name, or the first that works.

    Args:
        name: ``"bubblewrap"``, ``"docker"``, or ``"auto"``: the first of the two that works.

    Raises:
        SandboxError: it does not work here, or neither does.
        ValueError: an unknown name.
    """
    check_option("sandbox", name, SANDBOXES)
    reasons = []
    for known, probe in (("bubblewrap", Bubblewrap.probe), ("docker", Docker.probe)):
        if name in (known, "auto"):
            try:
                return probe()
            except SandboxError as error:
                reasons.append(f"{known}: {error}")
    raise SandboxError(
        "programs that a model wrote are run in a box only, and there is none here: "
        f"{'; '.join(reasons)}"
    )
