"""What the processor offers a run: how many threads, and whether it computes in bfloat16.

Two programs whose threads wait for each other on the same cores are far slower than one after the
other, so a command takes as many threads as there are cores that nobody uses.

When it misleads: the load average is that of the last minute, and programs that begin later are
not known.
"""

import os
from pathlib import Path

import psutil
import torch

from step_saliency.models.memory import CGROUP

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16", "avx10_2", "bf16", "svebf16")
"""Names by which processors say that they multiply in bfloat16."""
CPU_INFO = Path("/proc/cpuinfo")


def set_threads(asked: int | None) -> str:
    """Set the number of threads that torch computes with.

    Args:
        asked: How many; by default as many as there are free cores.

    Returns:
        What was chosen and why, in a line.

    Raises:
        ValueError: less than one is asked for, or more than the machine has cores.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"--threads {asked}: at least one computes")
    most = os.cpu_count()
    if asked is not None and most is not None and asked > most:
        raise ValueError(
            f"--threads {asked}: there are {most} cores, and threads beyond them hold each other up"
        )
    if asked is not None:
        torch.set_num_threads(asked)
        return f"computing with {_threads(asked)}, as asked for"
    if "OMP_NUM_THREADS" in os.environ:
        return f"computing with {_threads(torch.get_num_threads())}, as OMP_NUM_THREADS says"
    cores, load = usable_cores(), psutil.getloadavg()[0]
    chosen = free_threads(cores, load)
    torch.set_num_threads(chosen)
    return (
        f"computing with {_threads(chosen)} on {cores} core{'s' if cores > 1 else ''}, of which "
        f"other programs keep {min(load, cores):.1f} busy (--threads sets another number)"
    )


def free_threads(cores: int, load: float) -> int:
    """Threads for which there are cores, at least one.

    Args:
        cores: Cores that may be used.
        load: Programs that were running on the machine in the last minute, on average.
    """
    return max(1, cores - round(load))


def usable_cores(group: Path = CGROUP) -> int:
    """Cores that this process may use: those it is bound to, within what its container allows.

    Args:
        group: Folder of a control group, version 2.
    """
    process = psutil.Process()
    bound = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False) or bound or 1
    return max(1, min(bound or 1, physical, _quota(group)))


def _quota(group: Path) -> int:
    """Cores' worth of time that a container gets, rounded up; more than there are without limit."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return 2**30
    return 2**30 if quota == "max" else max(1, -(-int(quota) // int(period)))


def has_bfloat16(info: Path = CPU_INFO) -> bool | None:
    """Whether the processor multiplies in bfloat16; None where it does not say.

    Args:
        info: What the system says of its processors.
    """
    try:
        lines = info.read_text().splitlines()
    except OSError:
        return None
    flags = {
        word
        for line in lines
        if line.lower().startswith(("flags", "features"))
        for word in line.partition(":")[2].split()
    }
    return None if not flags else bool(flags.intersection(BFLOAT16_FLAGS))


def precision_note(dtype: str, device: str | None) -> str | None:
    """What to say of half precision on a processor, in a line; None for anything else."""
    on_cpu = not torch.cuda.is_available() if device is None else device.startswith("cpu")
    if not on_cpu or dtype.removeprefix("torch.") != "bfloat16":
        return None
    if has_bfloat16():
        return "bfloat16 on a processor that multiplies in it: half the memory, three digits"
    return (
        "bfloat16 on a processor that does not multiply in it, as far as it says: half the memory, "
        "three digits, and slower than float32"
    )


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"
