"""The docker box of inspect-ai, for machines with docker and without bubblewrap.

inspect-ai starts one container a sample, with no network, a read-only root, little memory and few
processes (`COMPOSE`), and ends it. The program is handed over on standard input, before what it
reads there itself: an argument of a command has less room.
"""

import base64
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from step_saliency.benchmark.sandbox.limits import Limits
from step_saliency.benchmark.sandbox.outcome import Outcome, SandboxError

COMPOSE = Path(__file__).with_name("compose.yaml")
START = """
import base64, os, resource, sys
seconds, memory, file_bytes, open_files = map(int, sys.argv[1:5])
for kind, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory),
                    (resource.RLIMIT_FSIZE, file_bytes), (resource.RLIMIT_NOFILE, open_files),
                    (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(kind, (value, value))
packed, left = [], int(sys.argv[5])
while left:
    packed.append(os.read(0, left) or sys.exit("the program was cut short"))
    left -= len(packed[-1])
open("/tmp/main.py", "wb").write(base64.b64decode(b"".join(packed)))
os.execv(sys.executable, [sys.executable, "-B", "-s", "/tmp/main.py"])
"""


@dataclass(frozen=True)
class Docker:
    """Containers of inspect-ai; used from within a sample that has one.

    Attributes:
        environment: What a task of inspect-ai is told.
    """

    environment: tuple[str, str] = ("docker", str(COMPOSE))

    @classmethod
    def probe(cls) -> "Docker":
        """The box, if docker answers.

        Raises:
            SandboxError: it is not installed or does not answer.
        """
        if shutil.which("docker") is None:
            raise SandboxError("docker is not installed")
        try:
            asked = subprocess.run(
                ["docker", "compose", "version"], capture_output=True, text=True, timeout=60
            )
            listed = subprocess.run(["docker", "ps"], capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired as error:
            raise SandboxError("docker does not answer") from error
        for answer in (asked, listed):
            if answer.returncode != 0:
                raise SandboxError(f"docker does not work: {answer.stderr.strip()[-200:]}")
        return cls()

    async def run(self, program: str, *, stdin: str, limits: Limits) -> Outcome:
        """Run a Python program in the container of the sample that is being graded.

        Raises:
            SandboxError: the container failed.
        """
        from inspect_ai.util import OutputLimitExceededError, sandbox

        packed = base64.b64encode(program.encode("utf-8", "replace")).decode()
        numbers = (int(limits.seconds) + 1, limits.memory, limits.file_bytes, limits.open_files)
        command = ["python3", "-I", "-c", START, *map(str, (*numbers, len(packed)))]
        try:
            result: Any = await sandbox().exec(
                command,
                input=packed + stdin,
                cwd="/tmp",
                timeout=int(limits.seconds) + 1,
                user="nobody",
            )
        except TimeoutError:
            return Outcome("time")
        except (UnicodeDecodeError, OutputLimitExceededError) as error:
            return Outcome("failed", stderr=f"output that cannot be read: {error}")
        except Exception as error:
            raise SandboxError(f"the container failed: {error}") from error
        return Outcome(
            "finished" if result.returncode == 0 else "failed",
            result.stdout,
            result.stderr,
            status=result.returncode,
        )
