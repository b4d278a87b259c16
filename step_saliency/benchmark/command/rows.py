"""Logs of inspect-ai as one row a response.

A row holds what does not depend on where and with how many workers it was made, but for seconds:

    model, suite, condition, problem, sample    what was asked
    problems                                    of the suite, in this run
    is_correct                                  right; unknown counts as wrong
    verdict                                     right, wrong or unknown (no answer that compares)
    is_correct_as_script                        of programs: run as a main program
    answer                                      as it was read
    stop                                        stop, max_tokens or model_length
    input_tokens, output_tokens, reasoning_tokens
    seconds                                     share of its call; missing where the call was cut
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from inspect_ai.log import EvalLog, EvalSample, list_eval_logs, read_eval_log

COLUMNS = (
    "model",
    "suite",
    "condition",
    "problem",
    "sample",
    "problems",
    "is_correct",
    "verdict",
    "is_correct_as_script",
    "answer",
    "stop",
    "input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "seconds",
)
KEY = ["suite", "condition", "problem", "sample"]


def read_rows(logs: Path) -> pd.DataFrame:
    """Rows of all logs in a folder.

    Args:
        logs: Folder of logs of inspect-ai.

    Raises:
        ValueError: there is no log with responses, or two with different responses to one request.
    """
    found = [read_eval_log(log) for log in list_eval_logs(str(logs), recursive=False)]
    rows = [row for log in found for row in _rows(log)]
    if not rows:
        raise ValueError(f"{logs} holds no log with responses")
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    once = frame.drop_duplicates([*KEY, "verdict", "answer", "output_tokens"])
    doubled = once.duplicated(KEY)
    if doubled.any():
        twice = once.loc[doubled, KEY].iloc[0].to_dict()
        raise ValueError(f"{logs} holds two different responses to {twice}")
    return once.sort_values(KEY, ignore_index=True)


def _rows(log: EvalLog) -> Iterator[dict[str, Any]]:
    facts = log.eval.metadata or {}
    for sample in log.samples or ():
        if sample.error is None and sample.scores and not sample.output.empty:
            yield {
                "model": log.eval.model.removeprefix("step-saliency/"),
                "suite": facts.get("suite", log.eval.task),
                "condition": facts.get("condition", "baseline"),
                "problems": facts.get("problems", len(log.samples or ())),
                **_row(sample),
            }


def _row(sample: EvalSample) -> dict[str, Any]:
    assert sample.scores
    score = next(iter(sample.scores.values()))
    facts, output = score.metadata or {}, sample.output
    usage = output.usage
    return {
        "problem": str(sample.id),
        "sample": sample.epoch - 1,
        "is_correct": score.value == "C",
        "verdict": facts.get("verdict"),
        "is_correct_as_script": facts.get("is_correct_as_script"),
        "answer": score.answer,
        "stop": output.stop_reason,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "reasoning_tokens": usage.reasoning_tokens if usage else None,
        "seconds": (output.metadata or {}).get("call", {}).get("seconds"),
    }
