"""First thing that runs in a box: take on the limits, say so, and become the program.

Read as text and handed to the interpreter of the box, which knows nothing of this package; only the
standard library may be used. Arguments: the number of the descriptor to report on, and seconds,
bytes of memory, bytes of a file, processes and open files that are allowed.
"""

import os
import resource
import sys

PROGRAM = "/program/main.py"


def main() -> None:
    report, seconds, memory, file_bytes, processes, open_files = map(int, sys.argv[1:])
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, open_files),
    ):
        resource.setrlimit(kind, (value, value))
    os.write(report, b"ready")
    os.close(report)
    os.execv(sys.executable, [sys.executable, "-B", "-s", PROGRAM])


if __name__ == "__main__":
    main()
