"""Does a map take the memory that `ss.estimate` says?

Question: how far is the estimated peak from the measured one, for both paths, both classes of
model, one trace and several in one call, at 512, 2,048 and 8,192 tokens? Every row is a process of
its own: the model is loaded and has made the same map once, what was freed is given back to the
system, and the second map is measured. The peak is what the process holds above that: the resident
set on the CPU, PyTorch's allocator on CUDA (there in one process).

    python benchmarks/memory.py                    # writes benchmarks/results/memory.md
    python benchmarks/memory.py --device cuda      # writes benchmarks/results/memory-cuda.md

On CUDA the model is Qwen2-7B's shape with fewer layers and random weights in bfloat16; there the
streaming path is also measured with ``offload=True``. Rows beyond a model's context are left out.
The reference path grows with the square of the length and is measured where it is small.

When it misleads: tokens are random, so experts and caches see no text; on the CPU, what the system
rounds up to whole pages and what the allocator keeps for later counts as held.
"""

import argparse
import ctypes
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from peers import resident
from saliency import in_own_process
from transformers import AutoModelForCausalLM, Qwen2Config

import step_saliency as ss
from step_saliency.models.convert import from_transformers, has_hooked
from step_saliency.storage.files import write_text
from step_saliency.trace import Region, Step

RESULTS = Path(__file__).parent / "results"
STEP_TOKENS = 40
LENGTHS = (512, 2048, 8192)
BATCHES = ((512,) * 8, (300, 900, 500, 200))
HOOKS_LENGTHS = (512,)
TOLERANCE = 0.25


@dataclass(frozen=True)
class Task:
    """One map to be measured.

    Attributes:
        model: Name in `MODELS`.
        backend: Class of the model.
        device: Where it is.
        method: Path.
        lengths: Tokens of each trace.
        offload: Whether inputs of blocks go to main memory.
    """

    model: str
    backend: Literal["hooked", "bridge"]
    device: str
    method: Literal["hooks", "streaming"]
    lengths: tuple[int, ...]
    offload: bool = False


def random_qwen2(*, layers: int, width: int, device: str, dtype: torch.dtype) -> Any:
    """A Qwen2 with random weights; the largest width is that of Qwen2-7B."""
    large = width == 3584
    config = Qwen2Config(
        hidden_size=width,
        intermediate_size=18944 if large else 4 * width,
        num_hidden_layers=layers,
        num_attention_heads=28 if large else 8,
        num_key_value_heads=4 if large else 2,
        max_position_embeddings=32768,
    )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")


@lru_cache(maxsize=1)
def build(name: str, backend: Literal["hooked", "bridge"], device: str) -> Any:
    """The model of a task."""
    if name not in MODELS:
        return ss.load_model(name, backend=backend, device=device)
    layers, width, dtype = MODELS[name]
    plain = random_qwen2(layers=layers, width=width, device=device, dtype=dtype)
    return from_transformers(
        plain.eval(),
        ss.load_model("reasoner").tokenizer,
        backend=backend,
        name=name,
        device=torch.device(device),
        consume=True,
    )


MODELS: dict[str, tuple[int, int, torch.dtype]] = {
    "qwen2, 12 layers of 512": (12, 512, torch.float32),
    "qwen2-7b shape, 8 layers": (8, 3584, torch.bfloat16),
}
CONTEXTS = {"reasoner": 1024, "smollm2-135m-instruct": 8192}


def random_trace(n_tokens: int, vocab: int) -> ss.Trace:
    """Random tokens in steps of one length."""
    generator = torch.Generator().manual_seed(n_tokens)
    starts = range(0, n_tokens, STEP_TOKENS)
    return ss.Trace(
        tokens=torch.randint(vocab, (n_tokens,), generator=generator),
        steps=tuple(
            Step(start, min(start + STEP_TOKENS, n_tokens), Region.THINKING, "") for start in starts
        ),
    )


def work(task: Task) -> dict[str, int]:
    """Estimated and measured peak of a map, in bytes."""
    model = build(task.model, task.backend, task.device)
    traces = [random_trace(n, int(model.cfg.d_vocab)) for n in task.lengths]
    options: dict[str, Any] = {"method": task.method, "offload": task.offload}
    ss.step_saliency(model, traces, **options)
    give_back()
    told = ss.estimate(model, task.lengths, offload=task.offload)
    path = told.hooks if task.method == "hooks" else told.streaming
    measured = peak(lambda: ss.step_saliency(model, traces, **options), task.device)
    return {"estimated": path.peak_bytes + path.kept_bytes, "measured": measured}


def peak(run: Callable[[], Any], device: str) -> int:
    """Most memory held while this runs, above what was held before, in bytes."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    give_back()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return resident("VmHWM") - before


def give_back() -> None:
    """Return to the system what was freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def tasks(device: str) -> Iterator[Task]:
    """What is measured."""
    backends: tuple[Literal["hooked", "bridge"], ...] = (
        ("hooked", "bridge") if has_hooked() else ("bridge",)
    )
    for backend in backends:
        if device == "cuda":
            yield from _on_cuda(backend)
            continue
        for model in ("reasoner", "smollm2-135m-instruct", "qwen2, 12 layers of 512"):
            longest = CONTEXTS.get(model, max(LENGTHS))
            lengths = sorted({min(n, longest) for n in LENGTHS})
            for n_tokens in lengths:
                yield Task(model, backend, device, "streaming", (n_tokens,))
            for batch in BATCHES:
                yield Task(model, backend, device, "streaming", batch)
            for n_tokens in HOOKS_LENGTHS:
                yield Task(model, backend, device, "hooks", (n_tokens,))


def _on_cuda(backend: Literal["hooked", "bridge"]) -> Iterator[Task]:
    model = "qwen2-7b shape, 8 layers"
    for n_tokens in LENGTHS:
        for offload in (False, True):
            yield Task(model, backend, "cuda", "streaming", (n_tokens,), offload)
    yield Task(model, backend, "cuda", "streaming", (512,) * 8)
    yield Task(model, backend, "cuda", "hooks", (512,))


def measure(task: Task) -> dict[str, Any]:
    """A task and what it gave; on CUDA in this process, whose allocator counts for itself."""
    facts = {**asdict(task), "lengths": list(task.lengths)}
    if task.device == "cuda":
        return facts | work(task)
    return facts | in_own_process(facts, script=Path(__file__))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: estimated and measured peaks, and their ratio."""
    columns = "| model | class | path | tokens | estimated GB | measured GB | ratio |"
    lines = [columns, "|" + "---|" * 7]
    for row in rows:
        lengths = row["lengths"]
        same = len(lengths) > 1 and len(set(lengths)) == 1
        tokens = f"{len(lengths)} x {lengths[0]}" if same else " + ".join(map(str, lengths))
        path = row["method"] + (", offloaded" if row["offload"] else "")
        cells = [row["model"], row["backend"], path, tokens, *_numbers(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _numbers(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["error"], "", ""]
    estimated, measured = row["estimated"], row["measured"]
    return [f"{estimated / 1e9:.3f}", f"{measured / 1e9:.3f}", f"{estimated / measured:.2f}"]


def page(rows: list[dict[str, Any]], device: str) -> str:
    """The file that is written."""
    ratios = [row["estimated"] / row["measured"] for row in rows if "measured" in row]
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU, float32"
    within = sum(abs(ratio - 1) <= TOLERANCE for ratio in ratios)
    return "\n".join(
        [
            f"# Estimated and measured memory of maps ({name})",
            "",
            "Peaks above the model's weights. Ratio: estimated over measured. "
            f"{within} of {len(ratios)} within {TOLERANCE:.0%}; from {min(ratios):.2f} to "
            f"{max(ratios):.2f}. See `benchmarks/memory.py`.",
            "",
            table(rows),
            "",
        ]
    )


def parse_arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure row by row and write the table."""
    args = parse_arguments()
    if args.worker is not None:
        task = Task(**{**args.worker, "lengths": tuple(args.worker["lengths"])})
        write_text(args.answer, json.dumps(work(task)))
        return
    suffix = "-cuda" if args.device == "cuda" else ""
    out = args.out or RESULTS / f"memory{suffix}.md"
    rows = []
    for task in tasks(args.device):
        if args.only not in task.model:
            continue
        rows.append(measure(task))
        print(rows[-1], flush=True)
        write_text(out, page(rows, args.device))


if __name__ == "__main__":
    main()
