"""What the page says of the paper, the models and the doses, where no table has it.

Of these, what stems from this project's code is held to it by ``tests/test_findings.py``.
"""

import json
import math
from pathlib import Path

import step_saliency

PAPER = {"venue": "ACL 2026", "tau_max": 0.15, "alpha": 0.06, "compute": 1.35}
STRONG = {"tau_max": 0.3, "alpha": 0.5}
"""Doses of the conditions of mediation that are named strong."""
SAMPLING_TEMPERATURE = 1.0
"""Of the samples of the depth curves, of the indices around errors, and of the first votes."""


def parameters(bundled: str) -> int:
    """Parameters of a bundled model, by the header of its weights."""
    file = Path(step_saliency.__file__).parent / "models/bundled" / bundled / "model.safetensors"
    with file.open("rb") as weights:
        header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


QWEN = "Qwen2.5-Coder-0.5B-Instruct"
"""A model whose name has numbers."""
