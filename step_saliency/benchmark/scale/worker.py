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
from step_saliency.benchmark.command.settings import BenchmarkSettings, resolved_dtype
from step_saliency.benchmark.provider.settings import device_of, dtype_of
from step_saliency.benchmark.scale.units import Unit, done_keys, note_done, units_of


class Worker:
    """One model, and the units that are given to it.

    Args:
        out: Folder of the run.
        settings: Settings of the run, in JSON types.
        device: Kind of device that it is to decode on; None for any.

    Raises:
        ValueError: it would decode on another, or in another data type than the run, so that nobody
            would find its responses.
    """

    def __init__(self, out: str, settings: Mapping[str, Any], device: str | None = None) -> None:
        self.out = Path(out)
        self.settings = BenchmarkSettings.from_dict(settings)
        self._check_machine(device)
        self.name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"

    def _check_machine(self, device: str | None) -> None:
        options = self.settings.provider_settings("none")
        own_device, own_dtype = device_of(options).type, str(dtype_of(options))
        dtype = resolved_dtype(self.out) or own_dtype
        if own_dtype != dtype or own_device != (device or own_device):
            raise ValueError(
                f"this worker on {platform.node()} would decode in {own_dtype} on {own_device}, "
                f"and the run is in {dtype} on {device or 'any device'}; name dtype= (--dtype) in "
                "the settings of the run, or have workers on machines of one kind"
            )

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


def do_share(
    out: str, settings: Mapping[str, Any], number: int, workers: int, device: str | None = None
) -> Sequence[str]:
    """Do every ``workers``-th unit from ``number`` on that is open; returns their keys.

    For workers that nobody hands units to, such as jobs of Slurm. Units that another worker is at
    are done twice at worst, which changes nothing.
    """
    worker = Worker(out, settings, device)
    keys = []
    for unit in units_of(worker.settings)[number::workers]:
        if unit.key not in done_keys(worker.out):
            keys.append(worker.do(unit))
    return keys
