"""What a program in a box may use."""

from dataclasses import dataclass

from step_saliency.options import is_finite, is_whole, refuse

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one program. Memory is counted per process: all of them together may use as many
    times as much.

    Attributes:
        seconds: Of the clock on the wall; the same of the processor, rounded up.
        memory: Bytes of address space of a process.
        file_bytes: Bytes of a file, and of what is written to standard output or error.
        disk_bytes: Bytes of all files together; they lie in memory.
        processes: Processes and threads at a time.
        open_files: Files open at a time.

    Raises:
        ValueError: a limit that is not positive.
    """

    seconds: float | int = 6.0
    memory: int = 2048 * MIB
    file_bytes: int = 16 * MIB
    disk_bytes: int = 64 * MIB
    processes: int = 8
    open_files: int = 64

    def __post_init__(self) -> None:
        counts = ("memory", "file_bytes", "disk_bytes", "processes", "open_files")
        values = {name: getattr(self, name) for name in counts}
        refuse(
            {
                f"seconds={self.seconds!r} is no time above 0": not is_finite(self.seconds)
                or self.seconds <= 0,
                **{
                    f"{name}={value!r} is no whole number above 0": not is_whole(value, least=1)
                    for name, value in values.items()
                },
            }
        )
