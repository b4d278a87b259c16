"""Memory that can still be had on a device: main memory, what a container allows, or a GPU's.

When it misleads: what other programs take a moment later is not known. Files that the system keeps
in memory count as free, here and in the container, since it gives them up when asked.
"""

import ctypes
import sys
from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 2**62
NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What RuntimeErrors say where torch has no error of its own for it, as on the CPU."""


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device, in bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return max(0, min(int(psutil.virtual_memory().available), container_free_bytes()))


def give_back() -> None:
    """Return to the system what was freed, where the C library can be told to.

    glibc keeps what a thread freed for that thread: a process that decodes in one thread after
    another would hold the largest cache of each.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, of a device or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def container_free_bytes(group: Path = CGROUP) -> int:
    """What a limit on this container's memory leaves, in bytes; `UNLIMITED` without a limit.

    Args:
        group: Folder of a control group, version 2.
    """
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return UNLIMITED
        used = int((group / "memory.current").read_text())
        kinds = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return UNLIMITED
    files = int(kinds.get("inactive_file", 0)) + int(kinds.get("active_file", 0))
    return int(limit) - used + files
