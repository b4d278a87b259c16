"""What a map costs in time and memory, next to other ways to get one.

Question: how do time and peak memory of Step-Saliency grow with the length T of a trace, and how do
they compare with one plain forward and backward pass of the same model that takes the gradient of
the embedded tokens alone (a pass that takes those of the weights too does what no map needs)?
Methods:

    hooked, bridge  this toolkit, `step_saliency`, on a HookedTransformer and on a TransformerBridge
    *_linear        the same where memory for activations is short (``keep="heads"``)
    *_bfloat16      the same in bfloat16, beside a plain pass in float32
    streaming       `step_saliency.saliency.streaming` on the transformers model itself
    plain_inputs    one forward and backward pass with SDPA, gradients to the embedded tokens
    plain           the same with gradients to the parameters
    hooks           this toolkit's reference path, cached patterns and their gradients
    eager           transformers' eager attention with output_attentions and retained gradients,
                    which gives the gradient of the mean loss, not of each token's own
    per_token       the same graph, and one backward pass per token; extrapolated from a few
    inseq, captum   nearest methods of these packages (``--with-peers``), see `benchmarks/peers.py`

Time: pairs (plain_inputs, method) one after the other in one process, after one run of each that
does not count; reported are medians, and the median ratio of a pair with the smallest and largest.
Memory: a process of its own for each method and length; the peak (resident set on the CPU,
PyTorch's allocator on CUDA) above what was held once the model was loaded and had run on 16 tokens.
Writes ``<out>/<shape>-<device>.csv``, ``.md`` and ``.png``, row by row; rows that are there are
kept unless ``--again`` is given, so that a run can be broken off and taken up.

    python benchmarks/saliency.py                                  # SmolLM2-135M on this machine
    python benchmarks/saliency.py --shape qwen2-7b --device cuda   # random weights, one H100

When it misleads: a CPU benchmark needs a machine with nothing else to do; ratios survive a little
noise, seconds do not. Tokens are random, so experts and caches see no text.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from saliency_methods import METHODS, SAMPLED_BACKWARDS, SHAPES, load, now
from saliency_table import Row, read_csv, write

from step_saliency.storage.files import write_text

ROOT = Path(__file__).parents[1]
WARM_UP_TOKENS = 16
PEERS = ("inseq", "captum")


def timed(run: Callable[[int], Any], n_tokens: int, device: str) -> float:
    """Seconds of one run, or those that it extrapolates to."""
    start = now(device)
    result = run(n_tokens)
    return result if isinstance(result, float) else now(device) - start


def measure_time(
    shape: str, device: str, method: str, n_tokens: int, pairs: int, limit: float
) -> dict[str, list[float]]:
    """Seconds of the baseline and of a method in turn."""
    baseline = baseline_of(shape)
    runs = {name: METHODS[name](shape, device) for name in (baseline, method)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with_plain = n_tokens <= max(SHAPES[shape].lengths[baseline])
    names = [name for name in runs if with_plain or name == method]
    for name in names:
        runs[name](min(n_tokens, 512))
    began = now(device)
    while len(seconds[method]) < pairs and (not seconds[method] or now(device) - began < limit):
        for name in names:
            seconds[name].append(timed(runs[name], n_tokens, device))
    return seconds


def baseline_of(shape: str) -> str:
    """What times are divided by: gradients to the inputs, or to the weights where that is all."""
    return "plain_inputs" if "plain_inputs" in SHAPES[shape].lengths else "plain"


def measure_memory(shape: str, device: str, method: str, n_tokens: int) -> dict[str, int]:
    """Peak above the loaded model, in bytes."""
    run = METHODS[method](shape, device)
    run(WARM_UP_TOKENS)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(n_tokens)
        return {"peak_bytes": torch.cuda.max_memory_allocated() - before}
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(n_tokens)
    return {"peak_bytes": _resident("VmHWM") - before}


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def in_own_process(
    task: dict[str, Any], python: str = sys.executable, script: Path = Path(__file__)
) -> dict[str, Any]:
    """Run one measurement in a fresh interpreter; its error, if it fails, instead."""
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        command = [python, str(script), "--worker", json.dumps(task)]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*command, "--answer", answer.name],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        text = Path(answer.name).read_text()
    if done.returncode or not text:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"error": last[:200]}
    result: dict[str, Any] = json.loads(text)
    return result


def work(task: dict[str, Any]) -> dict[str, Any]:
    """What a worker process does."""
    kind = task.pop("kind")
    if kind == "save":
        return save_for_peers(**task)
    return measure_memory(**task) if kind == "memory" else measure_time(**task)


def measure(args: argparse.Namespace, method: str, n_tokens: int) -> Row:
    """Both measurements of one method at one length."""
    common = {"shape": args.shape, "device": args.device, "method": method, "n_tokens": n_tokens}
    memory = in_own_process({"kind": "memory", **common})
    seconds = in_own_process({"kind": "time", **common, "pairs": args.pairs, "limit": args.limit})
    errors = {answer["error"] for answer in (memory, seconds) if "error" in answer}
    note = "; ".join(sorted(errors))
    if method == "per_token":
        note = note or f"time extrapolated from {SAMPLED_BACKWARDS} backward passes"
    if device_name(args.device):
        note = "; ".join(filter(None, [note, device_name(args.device)]))
    baseline = baseline_of(args.shape)
    own_seconds, plain_seconds = seconds.get(method, []), seconds.get(baseline, [])
    ratios = (
        [a / b for a, b in zip(own_seconds, plain_seconds, strict=False)]
        if method != baseline
        else []
    )
    return Row(
        shape=args.shape,
        device=args.device,
        method=method,
        n_tokens=n_tokens,
        seconds=statistics.median(own_seconds) if own_seconds else None,
        plain_seconds=statistics.median(plain_seconds) if plain_seconds else None,
        ratio=statistics.median(ratios) if ratios else None,
        ratio_lowest=min(ratios, default=None),
        ratio_highest=max(ratios, default=None),
        pairs=len(own_seconds),
        peak_bytes=memory.get("peak_bytes"),
        note=note,
    )


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else ""


def measure_peer(args: argparse.Namespace, package: str, n_tokens: int) -> Row:
    """A peer in an environment of its own, on a copy of the same model."""
    python = peer_environment(Path(args.peers_env))
    with tempfile.TemporaryDirectory() as folder:
        answer = in_own_process({"kind": "save", "shape": args.shape, "folder": folder})
        if "error" not in answer:
            task = {"package": package, "folder": folder, "n_tokens": n_tokens}
            answer = in_own_process(task, python, script=Path(__file__).with_name("peers.py"))
    seconds = answer.get("seconds")
    plain_seconds = answer.get("plain_seconds")
    ratio = seconds / plain_seconds if seconds and plain_seconds else None
    return Row(
        shape=args.shape,
        device=args.device,
        method=package,
        n_tokens=n_tokens,
        seconds=seconds,
        plain_seconds=plain_seconds,
        ratio=ratio,
        ratio_lowest=ratio,
        ratio_highest=ratio,
        pairs=int(seconds is not None),
        peak_bytes=answer.get("peak_bytes"),
        note=answer.get("error") or answer["note"],
    )


def peer_environment(folder: Path) -> str:
    """Interpreter of an environment with the peers, which is made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        same_torch = f"torch=={torch.__version__.split('+')[0]}"
        packages = [same_torch, "transformers", "inseq", "captum"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return str(python)


def save_for_peers(shape: str, folder: str) -> dict[str, str]:
    """Write the model, and its tokenizer, where a peer can load them."""
    model = load(shape, "cpu", "eager")
    # weights read from GGUF are plain numbers by now, but are still marked as quantised
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(folder)
    from transformers import AutoTokenizer

    from step_saliency.models.bundled import BUNDLED

    source = BUNDLED["smollm2-135m-instruct"]()
    AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf_file).save_pretrained(folder)
    return {"folder": folder}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=tuple(SHAPES), default="smollm2-135m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, *PEERS))
    parser.add_argument("--lengths", nargs="+", type=int, help="instead of each method's own")
    parser.add_argument("--pairs", type=int, default=5, help="timed pairs for each row")
    parser.add_argument("--limit", type=float, default=600, help="seconds of pairs for each row")
    parser.add_argument("--with-peers", action="store_true", help="measure inseq and captum too")
    parser.add_argument("--peers-env", default=str(ROOT / "benchmarks" / ".peers"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--again", action="store_true", help="measure rows that are there anew")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.worker is not None:
        write_text(args.answer, json.dumps(work(args.worker)))
        return
    lengths = SHAPES[args.shape].lengths
    methods = args.methods or [name for name in lengths if name not in PEERS or args.with_peers]
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"{args.shape}-{args.device}"
    rows = {(row.method, row.n_tokens): row for row in read_csv(stem.with_suffix(".csv"))}
    for method in methods:
        for n_tokens in args.lengths or lengths.get(method, ()):
            if (method, n_tokens) in rows and not args.again:
                continue
            measured = measure_peer if method in PEERS else measure
            rows[method, n_tokens] = measured(args, method, n_tokens)
            print(rows[method, n_tokens], flush=True)
            write(sorted(rows.values(), key=_place), stem)


def _place(row: Row) -> tuple[int, int]:
    return [*METHODS, *PEERS].index(row.method), row.n_tokens


if __name__ == "__main__":
    main()
