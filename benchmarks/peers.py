"""Nearest methods of inseq and captum, measured in an environment that has nothing of this toolkit.

Neither maps attention weights times their gradients. Nearest are the token-to-token gradients of
each next token's probability, one backward pass (or more) for each token:

    inseq    ``saliency``: |gradient| at the embeddings for each target token, teacher-forced
    captum   ``LLMGradientAttribution`` over ``LayerIntegratedGradients`` with one step

Half of the tokens are given as the prompt and half as the target, since both ask for a target.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def texts(tokenizer: Any, n_tokens: int) -> tuple[str, str]:
    """A prompt and a target of about half the tokens each."""
    words = " ".join(f"{i} plus {i} is {2 * i}." for i in range(n_tokens))
    ids = tokenizer(words).input_ids[:n_tokens]
    half = n_tokens // 2
    return tokenizer.decode(ids[:half]), tokenizer.decode(ids[half:])


def inseq_saliency(folder: str, n_tokens: int) -> tuple[Callable[[], Any], Any]:
    import inseq

    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = inseq.load_model(folder, "saliency", device="cpu")
    prompt, target = texts(tokenizer, n_tokens)

    def run() -> Any:
        return loaded.attribute(prompt, prompt + target, show_progress=False)

    return run, loaded.model


def captum_gradients(folder: str, n_tokens: int) -> tuple[Callable[[], Any], Any]:
    from captum.attr import LayerIntegratedGradients, LLMGradientAttribution, TextTokenInput

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt, target = texts(tokenizer, n_tokens)
    method = LLMGradientAttribution(
        LayerIntegratedGradients(model, model.get_input_embeddings()), tokenizer
    )

    def run() -> Any:
        return method.attribute(TextTokenInput(prompt, tokenizer), target=target, n_steps=1)

    return run, model


METHODS = {"inseq": inseq_saliency, "captum": captum_gradients}


def plain_seconds(model: Any, n_tokens: int) -> float:
    """One forward and backward pass of the same model and length, the faster of two."""
    tokens = torch.arange(n_tokens).unsqueeze(0)
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)
        best = min(best, time.perf_counter() - start)
    return best


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def measure(package: str, folder: str, n_tokens: int) -> dict[str, Any]:
    run, model = METHODS[package](folder, n_tokens)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    peak = resident("VmHWM") - before
    return {
        "seconds": seconds,
        "plain_seconds": plain_seconds(model, n_tokens),
        "peak_bytes": peak,
        "note": "gradient at embeddings, half of the tokens as targets",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=json.loads, required=True)
    parser.add_argument("--answer", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.answer.write_text(json.dumps(measure(**arguments.worker)))
