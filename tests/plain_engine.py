"""What an engine writes that does not know StepFlow, in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Response = list[tuple[int, float]]
"""Tokens of a response with their log-probabilities."""
ENVIRONMENT = {
    "VLLM_PLUGINS": "",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def sampling(*, max_tokens: int) -> dict[str, Any]:
    """Greedy, with log-probabilities, to the last token, so that all batches are of one shape."""
    return {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True, "logprobs": 0}


def written(llm: Any, prompts: Sequence[list[int]], asked: Any) -> list[Response]:
    """Responses of an engine."""
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], asked, use_tqdm=False)
    return [_written(output.outputs[0]) for output in outputs]


def _written(output: Any) -> Response:
    pairs = zip(output.token_ids, output.logprobs, strict=True)
    return [(token, known[token].logprob) for token, known in pairs]


def in_own_process(
    model: str, prompts: Sequence[list[int]], folder: Path, *, max_tokens: int
) -> list[Response]:
    """Responses of plain vLLM."""
    (folder / "asked.json").write_text(json.dumps([model, max_tokens, *prompts]))
    command = [sys.executable, __file__, str(folder)]
    subprocess.run(command, check=True, env={**os.environ, **ENVIRONMENT})
    responses = json.loads((folder / "written.json").read_text())
    return [[(token, logprob) for token, logprob in response] for response in responses]


def main(folder: Path) -> None:
    import vllm

    model, max_tokens, *prompts = json.loads((folder / "asked.json").read_text())
    llm = vllm.LLM(
        model=model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=len(prompts),
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    asked = vllm.SamplingParams(**sampling(max_tokens=max_tokens))
    responses = written(llm, prompts, asked)
    assert not any(name.startswith("step_saliency") for name in sys.modules)
    (folder / "written.json").write_text(json.dumps(responses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
