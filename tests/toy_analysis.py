"""A small analysis, in a module of its own so that worker processes can import it."""

import argparse
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analyses.running.runner import Analysis, Unit
from tests.tiny import random_tokens, tiny_model

LOG = "TOY_ANALYSIS_LOG"
KILL = "TOY_ANALYSIS_KILL"
"""Environment: a file that each computed unit is noted in; the unit in which to die."""


def units(options: Mapping[str, Any]) -> list[Unit]:
    return [Unit(f"unit-{i}", {"number": i}) for i in range(options["n"])]


def run_unit(model: Any, unit: Unit, options: Mapping[str, Any]) -> pd.DataFrame:
    number = unit.payload["number"]
    if number == options.get("fail_at"):
        raise ValueError("this unit fails")
    if log := os.environ.get(LOG):
        with Path(log).open("a") as file:
            file.write(f"{unit.name} {os.getpid()}\n")
    if os.environ.get(KILL) == unit.name:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(options.get("sleep") or 0)
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


def summarise(values: pd.DataFrame, options: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    return {"summary": values.groupby("problem", as_index=False)[["logit", "draw"]].mean()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--sleep", type=float)


def load(options: Mapping[str, Any]) -> Any:
    return tiny_model("qwen2", seed=options.get("weights", 0), n_layers=2)


ANALYSIS = Analysis(
    "toy", units=units, run_unit=run_unit, summarise=summarise, add_arguments=add_arguments
)
