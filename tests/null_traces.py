"""Traces whose attention depends on the distance between tokens alone, and on nothing else.

The map of layer l is A[t, k] = (t - k + 1)^(-power_l), each row divided by its sum: the same kernel
in every trace, whether the answer is right or not. What differs between such traces is the number
and the length of their steps, so whatever a metric or a comparison finds in them is drift.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from maps import make_saliency, make_trace

from step_saliency.diagnosis import Diagnosis, diagnose
from step_saliency.options import Pool
from step_saliency.saliency.pooling import normalise, step_layout, sum_tokens

POWERS = (1.0, 1.0, 1.0, 0.7)
"""Kernels of four layers; the deep one forgets more slowly, so that the decay index is not 0."""
QUESTION = 40
N_SUMMARY = 4


def null_diagnosis(
    n_thinking: int,
    length: int | Sequence[int],
    *,
    pool: Pool = "mean",
    powers: Sequence[float] = POWERS,
    question: int = QUESTION,
    **fields,
) -> Diagnosis:
    """Diagnosis of a trace of so many thinking steps of this length, and four of summary."""
    n_steps = n_thinking + N_SUMMARY
    lengths = [length] * n_steps if isinstance(length, int) else list(length)
    trace = make_trace("Q" + "T" * n_thinking + "S" * N_SUMMARY, [question, *lengths], **fields)
    ids = torch.repeat_interleave(torch.arange(n_steps + 1), torch.tensor([question, *lengths]))
    position = torch.arange(len(ids), dtype=torch.float64)
    distance = (position[:, None] - position).clamp(min=0) + 1
    layout = step_layout(ids, last_row=True)
    maps = []
    for power in powers:
        tokens = (distance**-power).tril()
        tokens = tokens / tokens.sum(-1, keepdim=True)
        maps.append(normalise(sum_tokens(tokens, layout), layout, pool))
    return diagnose(make_saliency(torch.stack(maps), trace, pool=pool, last_row=True))


@lru_cache
def null_rows(length: int, n_thinking: int = 80) -> np.ndarray:
    """Lock-in of the thinking rows; a shorter trace of such steps has the first of them."""
    return null_diagnosis(n_thinking, length, powers=(1.0,)).rows.lock_in[0].numpy()


def null_sample(
    seed: int, *, n_problems: int, n_each: int = 3, longer: float = 0.4, lengths=(8, 12, 16, 24)
):
    """Lock-in of traces whose errors have more steps, and that know nothing of correctness.

    Returns:
        Table of traces (``problem, trace, is_correct, n_steps, n_tokens, metric, value``), and the
        rows that the values are means of, ``trace step``, NaN beyond the end of a trace.
    """
    rng = np.random.default_rng(seed)
    problem = np.repeat(np.arange(n_problems), 2 * n_each)
    is_correct = np.tile(np.repeat([True, False], n_each), n_problems)
    log_steps = rng.normal(np.log(10), 0.3, n_problems)[problem] + longer * ~is_correct
    steps = np.exp(log_steps + 0.4 * rng.normal(size=len(problem)))
    steps = np.clip(np.rint(steps), 2, 80).astype(int)
    length = rng.choice(lengths, len(problem))
    rows = np.stack([null_rows(int(x)) for x in length]) + 0.02 * rng.normal(size=(len(length), 80))
    rows = rows + 0.03 * rng.normal(size=(len(length), 1))
    rows = np.where(np.arange(80) < steps[:, None], rows, np.nan)
    table = pd.DataFrame(
        {
            "problem": problem,
            "trace": np.arange(len(problem)).astype(str),
            "is_correct": is_correct,
            "n_steps": steps,
            "n_tokens": steps * length,
            "metric": "lock_in_index",
            "value": np.nanmean(rows, axis=1),
        }
    )
    return table, rows
