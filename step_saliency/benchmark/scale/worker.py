"""Decodes units into the folder of responses, one after the other, with one model."""

import os
import platform
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai import eval as evaluate

from step_saliency.benchmark.command.run import tasks_of
from step_saliency.benchmark.command.settings import BenchmarkSettings
from step_saliency.benchmark.scale.units import Unit, done_keys, note_done, units_of


class Worker:
    """One model, and the units that are given to it.

    Args:
        out: Folder of the run.
        settings: Settings of the run, in JSON types.
    """

    def __init__(self, out: str, settings: Mapping[str, Any]) -> None:
        self.out = Path(out)
        self.settings = BenchmarkSettings.from_dict(settings)
        self.name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"

    def do(self, unit: Unit) -> str:
        """Decode a unit; returns its key.

        Raises:
            RuntimeError: inspect-ai could not finish it.
        """
        tasks = tasks_of(
            self.out,
            self.settings,
            [(unit.suite, unit.condition)],
            is_graded=False,
        )
        with tempfile.TemporaryDirectory() as logs:
            (log,) = evaluate(
                tasks, sample_id=list(unit.ids), score=False, display="none", log_dir=logs
            )
        if log.status != "success":
            reason = log.error.message if log.error else log.status
            raise RuntimeError(f"{unit.suite} under {unit.condition} failed: {reason}")
        note_done(self.out, self.name, unit)
        return unit.key

    def process_id(self) -> int:
        """Of this worker."""
        return os.getpid()


def do_share(out: str, settings: Mapping[str, Any], number: int, workers: int) -> Sequence[str]:
    """Do every ``workers``-th unit from ``number`` on that is open; returns their keys.

    For workers that nobody hands units to, such as jobs of Slurm. Units that another worker is at
    are done twice at worst, which changes nothing.
    """
    worker = Worker(out, settings)
    keys = []
    for unit in units_of(worker.settings)[number::workers]:
        if unit.key not in done_keys(worker.out):
            keys.append(worker.do(unit))
    return keys
