"""The run: inspect-ai's `eval_set` over suites and conditions.

    OUT/benchmark.json    settings
    OUT/plan.txt          the plan
    OUT/logs/             logs of inspect-ai (`inspect view --log-dir OUT/logs`)
    OUT/responses/        what was decoded (`provider.store`), also by other workers
    OUT/rows.csv          one row a response
    OUT/table.csv, .txt   the table

All that is decoded is kept under `responses` and taken from there when it is asked for again. So
the same command goes on where a run was broken off, and workers (`scale`) need no more than to
decode into that folder: the run that follows finds all there, grades it, and writes the logs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval_set
from inspect_ai.model import GenerateConfig, Model, get_model

from step_saliency.benchmark.command.page import BenchmarkTable
from step_saliency.benchmark.command.rows import read_rows
from step_saliency.benchmark.command.settings import RESPONSES, BenchmarkSettings, read_settings
from step_saliency.benchmark.command.table import make_table
from step_saliency.benchmark.conditions import condition_of
from step_saliency.benchmark.suites.tasks import build_task
from step_saliency.storage.tables import write_csv

LOGS = "logs"
ROWS = "rows.csv"


def run_benchmark(out: Path, settings: BenchmarkSettings, *, progress: bool = True) -> bool:
    """Run what is missing, and write rows and table.

    Args:
        out: Folder of the run.
        settings: Its settings.
        progress: Show inspect-ai's display.

    Returns:
        Whether all is done.

    Raises:
        ValueError: problems or a model that cannot be read.
        SandboxError: programs have to be run, and no box works here.
    """
    done, _ = eval_set(
        tasks_of(out, settings),
        log_dir=str(out / LOGS),
        log_dir_allow_dirty=True,
        retry_attempts=2,
        retry_wait=1,
        max_tasks=1,
        display="rich" if progress else "none",
        metadata={"settings": settings.to_dict()},
    )
    write_table(out)
    return done


def write_table(out: Path) -> BenchmarkTable:
    """Write rows and table from the logs of a folder.

    Raises:
        ValueError: it is no folder of a run, or there are no responses yet.
    """
    settings = read_settings(out)
    rows = read_rows(out / LOGS)
    write_csv(out / ROWS, rows)
    table = make_table(rows, settings)
    table.write(out)
    return table


def tasks_of(
    out: Path,
    settings: BenchmarkSettings,
    runs: Sequence[tuple[str, str]] | None = None,
    **changes: Any,
) -> list[Task]:
    """Tasks of a run, each with its model.

    Args:
        out: Folder of the run.
        settings: Its settings.
        runs: Suites and conditions; all of them by default.
        changes: Options of `build_task` that are changed.
    """
    preset = settings.preset
    return [
        build_task(
            suite,
            **{
                "selection": settings.selection(suite),
                "condition": condition,
                "epochs": settings.samples_of(suite),
                "system": preset.system,
                "config": config_of(settings),
                "model": model_of(out, settings, condition),
                "sandbox": settings.sandbox,
                **changes,
            },
        )
        for suite, condition in runs or settings.runs
    ]


def config_of(settings: BenchmarkSettings) -> GenerateConfig:
    """How responses are decoded: the preset, with what the settings put in its place."""
    preset = settings.preset
    return GenerateConfig(
        temperature=preset.temperature,
        top_p=preset.top_p,
        top_k=preset.top_k,
        max_tokens=preset.max_tokens,
        seed=settings.seed,
    )


def model_of(out: Path, settings: BenchmarkSettings, condition: str) -> Model:
    """The model under a condition; conditions share its weights."""
    flow = condition_of(condition).flow
    given = settings.provider_options(flow)
    if settings.preset.reasoning_effort is not None:
        given["reasoning_effort"] = settings.preset.reasoning_effort
    return get_model(
        f"step-saliency/{settings.model}",
        store=str(out / RESPONSES),
        **given,
    )
