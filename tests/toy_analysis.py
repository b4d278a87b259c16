"""A small analysis, in a module of its own so that worker processes can import it."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analyses.running.runner import Analysis, Unit
from analyses.running.settings import ModelSettings
from tests.tiny import random_tokens, tiny_model

LOG = "TOY_ANALYSIS_LOG"
KILL = "TOY_ANALYSIS_KILL"
"""Environment: a file that each computed unit is noted in; the unit in which to die."""


@dataclass(frozen=True, kw_only=True)
class ToySettings(ModelSettings):
    fail_at: int | None = None
    sleep: float | None = None


def units(settings: ToySettings) -> list[Unit]:
    return [Unit(f"unit-{i}", {"number": i}) for i in range(settings.n)]


def run_unit(model: Any, unit: Unit, settings: ToySettings) -> pd.DataFrame:
    number = unit.payload["number"]
    if number == settings.fail_at:
        raise ValueError("this unit fails")
    if log := os.environ.get(LOG):
        with Path(log).open("a") as file:
            file.write(f"{unit.name} {os.getpid()}\n")
    if os.environ.get(KILL) == unit.name:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(settings.sleep or 0)
    with torch.no_grad():
        logits = model(random_tokens(20, seed=number))[0, -1]
    return pd.DataFrame(
        {
            "problem": f"p{number}",
            "layer": pd.array([0, None], dtype="Int64"),
            "note": None if number % 2 else "even",
            "logit": logits[:2].double().numpy(),
            "draw": np.random.default_rng(unit.seed).random(2),
        }
    )


def summarise(values: pd.DataFrame, settings: ToySettings) -> dict[str, pd.DataFrame]:
    return {"summary": values.groupby("problem", as_index=False)[["logit", "draw"]].mean()}


def load(settings: ToySettings) -> Any:
    return tiny_model("qwen2", n_layers=2)


ANALYSIS = Analysis("toy", ToySettings, units=units, run_unit=run_unit, summarise=summarise)
