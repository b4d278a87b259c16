"""Span attributions of another package, exchanged by files: FlashTrace's information-flow route.

Runs in an environment of its own that has ``flashtrace`` (and not necessarily this project), on
traces that ``python -m analyses.material.problems`` wrote; what it writes is read by
``python -m analyses.faithfulness --peers``:

    python -m analyses.material.problems --n 50 --out traces.jsonl
    OTHER/python peers_span.py --model FOLDER --traces traces.jsonl --out maps.jsonl
    python -m analyses.faithfulness --n 50 --peers maps.jsonl --out results/faithfulness_peers

For each query step the package's aggregate over the step's positions (``ifr_span``: how much of
what is written into the residual stream there came from each earlier token, by proximity in the
l1 norm, summed over layers) is added up over the tokens of each key step. FlashTrace's further hops
credit the question alone, by way of the thinking; edges to thinking steps need the first hop, which
is this one.

Source: FlashTrace, arXiv 2602.01914; information flow routes, arXiv 2403.00824.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

METHOD = "ifr_span"


def digest_of(tokens: list[int]) -> str:
    """Tells whether a map belongs to a trace."""
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]


def span_rows(trace: dict[str, Any], rows: str) -> dict[int, tuple[int, int]]:
    """First and last position whose predictions are a step's, for each step that has any."""
    last = len(trace["tokens"]) - 2
    shift = 1 if rows == "target" else 0
    found = {}
    for number, (start, stop) in enumerate(step_spans(trace)):
        first, final = max(start - shift, 0), min(stop - 1 - shift, last)
        if first <= final:
            found[number] = (first, final)
    return found


def step_spans(trace: dict[str, Any]) -> list[tuple[int, int]]:
    """First position of each step, and of what follows it."""
    starts = trace["starts"]
    return list(zip(starts, [*starts[1:], len(trace["tokens"])], strict=True))


def span_map(model: Any, trace: dict[str, Any], rows: str) -> list[list[float]]:
    """Totals per query step and key step of one trace."""
    import torch
    from flashtrace import core

    tokens = torch.tensor([trace["tokens"]], device=model.device)
    facts = core.extract_model_metadata(model)
    cache, handles = core.attach_hooks(facts.layers, model.dtype)
    try:
        with torch.no_grad():
            outputs = model(tokens, use_cache=False, output_attentions=True, return_dict=True)
    finally:
        for handle in handles:
            handle.remove()
    settings = core.IFRParameters(
        n_layers=facts.n_layers,
        n_heads_q=facts.n_heads_q,
        n_kv_heads=facts.n_kv_heads,
        head_dim=facts.head_dim,
        group_size=facts.group_size,
        d_model=facts.d_model,
        sequence_length=tokens.shape[1],
        model_dtype=model.dtype,
        chunk_tokens=128,
        sink_chunk_tokens=32,
    )
    weights = core.build_weight_pack(facts, model.dtype)
    spans = step_spans(trace)
    matrix = [[0.0] * len(spans) for _ in spans]
    for number, (first, last) in span_rows(trace, rows).items():
        with torch.no_grad():
            found = core.compute_ifr_sentence_aggregate(
                first, last, cache, outputs.attentions, weights, settings
            ).token_importance_total
        for key, (start, stop) in enumerate(spans):
            matrix[number][key] = float(found[start:stop].sum())
    return matrix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub id, for transformers")
    parser.add_argument("--gguf-file", help="in that folder")
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", default="target", choices=["target", "query"])
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM

    weights = {"gguf_file": options.gguf_file} if options.gguf_file else {}
    model = AutoModelForCausalLM.from_pretrained(
        options.model, attn_implementation="eager", **weights
    ).eval()
    part = options.out.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for line in options.traces.read_text(encoding="utf-8").splitlines():
            trace = json.loads(line)
            entry = {
                "problem": trace["meta"].get("problem") or trace["id"],
                "tokens": digest_of(trace["tokens"]),
                "method": METHOD,
                "rows": options.rows,
                "map": span_map(model, trace, options.rows),
            }
            file.write(json.dumps(entry) + "\n")
    part.replace(options.out)


if __name__ == "__main__":
    main()
