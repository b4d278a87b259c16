"""How many responses fit into memory together: ``batch_size="auto"``.

A response holds keys and values of its prompt and of all that it may still write. So many are
decoded together as have room for the longest of them in most of the memory that is free, with the
room that caches grow by.

When it misleads: more slots than `MOST` are no faster; responses that end far before
``max_new_tokens`` would have left room for more of them. What other programs take later is unknown.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from step_saliency.decoding.job import Job
from step_saliency.decoding.rows import Row
from step_saliency.models.facts import dtype_of, n_kv_heads, n_layers, stated
from step_saliency.models.memory import free_bytes

MOST = {"cpu": 128, "cuda": 512}
"""Slots at most, by kind of device."""
SHARE = 0.8
"""Of the free memory; the rest is for activations of prompts."""
GROWTH = 2.0
"""Bytes that caches may take for each that they hold: they grow by halves, and copies of a layer
live beside it while they do."""


def with_slots(job: Job, rows: Sequence[Row]) -> Job:
    """The job with a number of slots, if it was left open.

    Args:
        job: The job.
        rows: All that it decodes.
    """
    if job.decoding.batch_size != "auto":
        return job
    device = next(job.model.parameters()).device
    most = min(len(rows), MOST.get(device.type, MOST["cuda"]))
    fitting = int(SHARE * free_bytes(device) / max(1.0, row_bytes(job, rows)))
    return replace(job, decoding=replace(job.decoding, batch_size=max(1, min(most, fitting))))


def row_bytes(job: Job, rows: Sequence[Row]) -> float:
    """What the longest response may take of a cache."""
    longest = max(len(row.start) + row.limit for row in rows)
    return GROWTH * position_bytes(job.model) * min(longest, job.rules.context)


def position_bytes(model: Any) -> int:
    """Keys and values of one position in all layers."""
    if not isinstance(model, PreTrainedModel):
        width = n_kv_heads(model) * int(model.cfg.d_head)
        return 2 * n_layers(model) * width * _itemsize(dtype_of(model))
    config = model.config.get_text_config(decoder=True)
    n_heads = int(config.num_attention_heads)
    d_head = stated(config, "head_dim") or config.hidden_size // n_heads
    width = int(stated(config, "num_key_value_heads") or n_heads) * int(d_head)
    return 2 * int(config.num_hidden_layers) * width * _itemsize(model.dtype)


def _itemsize(dtype: torch.dtype) -> int:
    return torch.empty((), dtype=dtype).element_size()
