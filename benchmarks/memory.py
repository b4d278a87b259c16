"""Does a map take the memory that `ss.estimate` says?

Question: how far is the estimated peak from the measured one, for both paths, both classes of
model, float32 and bfloat16, all that streaming can keep, one trace and several in one call, at 512,
2,048 and 8,192 tokens? On the CPU a process of its own loads the model, checks it, makes a short
map, gives what was freed back to the system, and makes the map; the peak is its resident set above
what it held before, the median of three such processes. On CUDA it is that of PyTorch's allocator,
in one process for all rows.

    python benchmarks/memory.py                    # benchmarks/results/memory.csv and .md
    python benchmarks/memory.py --most 1           # the first of them that is not there
    python benchmarks/memory.py --estimates        # measures nothing, estimates all rows again
    python benchmarks/memory.py --device cuda      # benchmarks/results/memory-cuda.csv and .md

Rows that are there are kept, so that a run can be broken off and taken up. On CUDA the model is
Qwen2-7B's shape with fewer layers and random weights in bfloat16; there the streaming path is also
measured with ``offload=True``. Rows beyond a model's context are left out. The reference path grows
with the square of the length and is measured where it is small.

When it misleads: tokens are random, so experts and caches see no text; on the CPU, what the system
rounds up to whole pages and what the allocator keeps for later counts as held, and where its heap
has room for a tensor differs from process to process: peaks of the bundled reasoner by as much as
1.7 times.
"""

import argparse
import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pandas as pd
import torch
from peers import resident
from transformers import AutoModelForCausalLM, Qwen2Config

import step_saliency as ss
from step_saliency.models.convert import from_transformers, has_hooked
from step_saliency.models.doctor import require_sound
from step_saliency.models.memory import give_back
from step_saliency.options import Keep
from step_saliency.saliency.cost.work import HEAP_LIMIT
from step_saliency.saliency.estimate import PathEstimate, PathName
from step_saliency.storage.files import replacing, write_text
from step_saliency.trace import Region, Step

Backend = Literal["hooked", "bridge"]

RESULTS = Path(__file__).parent / "results"
STEP_TOKENS = 40
WARM_UP_TOKENS = 64
LENGTHS = (512, 2048, 8192)
BATCHES = ((512,) * 8, (300, 900, 500, 200))
HOOKS_LENGTHS = (512,)
KEPT: tuple[Keep, ...] = ("activations", "heads", "inputs")
TOLERANCE = 0.25
PROCESSES = 3
"""Where a heap has room for a tensor differs from one to the next, and not between its forks."""
M_MMAP_THRESHOLD = -3
"""What ``malloc.h`` calls the size from which on glibc asks the system for each block. By itself it
grows up to `HEAP_LIMIT` as blocks are freed, at another time in each process; here it has grown."""


@dataclass(frozen=True)
class Task:
    """One map to be measured.

    Attributes:
        model: Name in `MODELS`, or of a bundled model.
        backend: Class of the model.
        device: Where it is.
        dtype: Of its weights.
        path: How it is mapped.
        keep: What streaming keeps of each block.
        tokens: Of each trace, with blanks between.
        offload: Whether inputs of blocks go to main memory.
    """

    model: str
    backend: Backend
    device: str
    dtype: Literal["float32", "bfloat16"]
    path: PathName
    keep: Keep
    tokens: str
    offload: bool = False

    @property
    def lengths(self) -> list[int]:
        """Tokens of each trace."""
        return [int(n) for n in self.tokens.split()]


MODELS: dict[str, tuple[int, int]] = {
    "qwen2, 12 layers of 512": (12, 512),
    "qwen2-7b shape, 8 layers": (8, 3584),
}
CONTEXTS = {"reasoner": 1024, "smollm2-135m-instruct": 8192}


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
def build(name: str, backend: Backend, device: str, dtype: str) -> Any:
    """The model of a task."""
    if name not in MODELS:
        return ss.load_model(name, backend=backend, device=device, dtype=dtype)
    layers, width = MODELS[name]
    plain = random_qwen2(layers=layers, width=width, device=device, dtype=getattr(torch, dtype))
    return from_transformers(
        plain.eval(),
        ss.load_model("reasoner").tokenizer,
        backend=backend,
        name=name,
        device=torch.device(device),
        consume=True,
    )


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


def estimated(task: Task) -> int:
    """What is said that a task takes, in bytes."""
    model = build(task.model, task.backend, task.device, task.dtype)
    told = ss.estimate(model, task.lengths, offload=task.offload, keep=task.keep)
    path: PathEstimate = getattr(told, task.path)
    return path.peak_bytes + path.kept_bytes


def measured(task: Task) -> int:
    """What it takes, in bytes."""
    model = build(task.model, task.backend, task.device, task.dtype)
    options: dict[str, Any] = {"method": task.path}
    if task.path == "streaming":
        options |= {"offload": task.offload, "keep": task.keep}
    short, *traces = (
        random_trace(n, int(model.cfg.d_vocab)) for n in (WARM_UP_TOKENS, *task.lengths)
    )
    ss.step_saliency(model, short, **options)
    return peak(lambda: ss.step_saliency(model, traces, **options), task.device)


def peak(run: Callable[[], Any], device: str) -> int:
    """Most memory held while this runs, above what was held before, in bytes."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, HEAP_LIMIT)
    gc.collect()
    give_back()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return resident("VmHWM") - before


def tasks(device: str) -> Iterator[Task]:
    """What is measured, short traces first."""
    backends: tuple[Backend, ...] = ("hooked", "bridge") if has_hooked() else ("bridge",)
    if device == "cuda":
        for backend in backends:
            yield from _on_cuda(backend)
        return
    found = [
        task
        for model in ("reasoner", "smollm2-135m-instruct", "qwen2, 12 layers of 512")
        for backend in backends
        for task in _on_cpu(model, backend)
    ]
    yield from sorted(found, key=lambda task: max(task.lengths) > 2048)


def _on_cpu(model: str, backend: Backend) -> Iterator[Task]:
    longest = CONTEXTS.get(model, max(LENGTHS))
    dtypes: tuple[Any, ...] = ("float32", "bfloat16") if model in CONTEXTS else ("float32",)
    single = [(n,) for n in sorted({min(n, longest) for n in LENGTHS})]
    for dtype in dtypes:
        for lengths in [*single, *BATCHES]:
            for keep in KEPT:
                yield Task(model, backend, "cpu", dtype, "streaming", keep, _text(lengths))
        for n_tokens in HOOKS_LENGTHS:
            yield Task(model, backend, "cpu", dtype, "hooks", "auto", str(n_tokens))


def _on_cuda(backend: Backend) -> Iterator[Task]:
    task = partial(Task, "qwen2-7b shape, 8 layers", backend, "cuda", "bfloat16")
    for n_tokens in LENGTHS:
        for offload in (False, True):
            yield task("streaming", "inputs", str(n_tokens), offload)
    yield task("streaming", "inputs", _text((512,) * 8))
    yield task("hooks", "auto", "512")


def _text(lengths: Sequence[int]) -> str:
    return " ".join(map(str, lengths))


def measure(task: Task, processes: int) -> dict[str, Any]:
    """A task and what it took; on CUDA in this process, whose allocator counts for itself."""
    if task.device == "cuda":
        told, taken = told_and_taken(task)
        return {**asdict(task), "estimated": told, "measured": taken, "processes": 1}
    pairs = [in_a_process(task) for _ in range(processes)]
    return {
        **asdict(task),
        "estimated": int(median(told for told, _ in pairs)),
        "measured": int(median(taken for _, taken in pairs)),
        "processes": processes,
    }


def in_a_process(task: Task) -> tuple[int, int]:
    """The same, by a process that makes this map alone."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(told_and_taken, task).result()


def told_and_taken(task: Task) -> tuple[int, int]:
    """What a sound model is estimated to take, and what it takes, in bytes."""
    require_sound(build(task.model, task.backend, task.device, task.dtype))
    return estimated(task), measured(task)


def read_rows(path: Path) -> dict[Task, dict[str, Any]]:
    """Rows that an earlier run wrote; none if there was none."""
    if not path.is_file():
        return {}
    table = pd.read_csv(path, dtype={"tokens": str}, keep_default_na=False)
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return {Task(**{name: row[name] for name in Task.__dataclass_fields__}): row for row in rows}


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """As CSV, and as a page beside it."""
    with replacing(path) as part:
        pd.DataFrame(rows).to_csv(part, index=False)
    write_text(path.with_suffix(".md"), page(rows, rows[0]["device"]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: estimated and measured peaks, and their ratio."""
    columns = (
        "| model | class | dtype | path | tokens | estimated GB | measured GB | ratio | processes |"
    )
    lines = [columns, "|" + "---|" * 9]
    for row in rows:
        lengths = row["tokens"].split()
        same = len(lengths) > 1 and len(set(lengths)) == 1
        tokens = f"{len(lengths)} x {lengths[0]}" if same else " + ".join(lengths)
        kept = "" if row["path"] == "hooks" else f", keep={row['keep']}"
        path = row["path"] + kept + (", offloaded" if row["offload"] else "")
        cells = [row["model"], row["backend"], row["dtype"], path, tokens, *_numbers(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _numbers(row: dict[str, Any]) -> list[str]:
    sizes = (f"{row[name] / 1e9:.3f}" for name in ("estimated", "measured"))
    return [*sizes, f"{_ratio(row):.2f}", str(row["processes"])]


def _ratio(row: dict[str, Any]) -> float:
    return float(row["estimated"]) / float(row["measured"])


def page(rows: Sequence[dict[str, Any]], device: str) -> str:
    """The file that is written."""
    ratios = [_ratio(row) for row in rows]
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    within = sum(abs(ratio - 1) <= TOLERANCE for ratio in ratios)
    span = f"; from {min(ratios):.2f} to {max(ratios):.2f}"
    return "\n".join(
        [
            f"# Estimated and measured memory of maps ({name})",
            "",
            "Peaks above the model's weights. Ratio: estimated over measured. "
            f"{within} of {len(ratios)} within {TOLERANCE:.0%}{span}. Rows of "
            "one process and fewer than 8,192 tokens of SmolLM2 are older: medians of three forks "
            "of it. See `benchmarks/memory.py`.",
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
    parser.add_argument(
        "--only", default="", help="words that the row has in it, such as a model's"
    )
    parser.add_argument("--longest", type=int, default=max(LENGTHS), help="tokens of a trace")
    parser.add_argument("--most", type=int, help="rows that are measured in this run")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="whose median is written")
    parser.add_argument("--estimates", action="store_true", help="estimate all rows again")
    parser.add_argument("--out", type=Path, default=None, help="CSV file")
    return parser.parse_args()


def main() -> None:
    """Measure row by row and write the table."""
    args = parse_arguments()
    suffix = "-cuda" if args.device == "cuda" else ""
    out = args.out or RESULTS / f"memory{suffix}.csv"
    rows = read_rows(out)
    if args.estimates:
        by_model = sorted(rows, key=lambda task: (task.model, task.backend, task.dtype))
        for task in by_model:
            rows[task]["estimated"] = estimated(task)
    else:
        missing = [task for task in tasks(args.device) if _is_missing(task, rows, args)]
        for task in missing[: args.most]:
            rows[task] = measure(task, args.processes)
            print(rows[task], flush=True)
            write_rows(_ordered(rows, args.device), out)
    if rows:
        write_rows(_ordered(rows, args.device), out)


def _is_missing(task: Task, rows: dict[Task, Any], args: argparse.Namespace) -> bool:
    facts = " ".join(map(str, asdict(task).values()))
    is_asked_for = all(word in facts.split() for word in args.only.split())
    return task not in rows and is_asked_for and max(task.lengths) <= args.longest


def _ordered(rows: dict[Task, dict[str, Any]], device: str) -> list[dict[str, Any]]:
    return [rows[task] for task in tasks(device) if task in rows]


if __name__ == "__main__":
    main()
