"""What a map costs in time and memory, next to other ways to get one.

Question: how do time and peak memory of Step-Saliency grow with the length T of a trace, and how do
they compare with one plain forward and backward pass of the same model? Methods:

    streaming       this toolkit, `step_saliency.saliency.streaming`
    plain           one forward and backward pass with SDPA, gradients to the parameters
    plain_inputs    the same with gradients to the embedded tokens alone
    hooks           this toolkit's reference path, cached patterns and their gradients
    eager           transformers' eager attention with output_attentions and retained gradients,
                    which gives the gradient of the mean loss, not of each token's own
    per_token       the same graph, and one backward pass per token; extrapolated from a few
    inseq, captum   nearest methods of these packages (``--with-peers``), see `benchmarks/peers.py`

Time: pairs (plain, method) one after the other in one process, after one run of each that does not
count; reported are medians, and the median ratio of a pair with the smallest and largest. Memory: a
process of its own for each method and length; the peak (resident set on the CPU, PyTorch's
allocator on CUDA) above what was held once the model was loaded and had run on 16 tokens. Writes
``<out>/<shape>-<device>.csv``, ``.md`` and ``.png``, row by row; rows that are there are kept
unless ``--again`` is given, so that a run can be broken off and taken up.

    python benchmarks/saliency.py                                  # SmolLM2-135M on this machine
    python benchmarks/saliency.py --shape qwen2-7b --device cuda   # random weights, one H100

When it misleads: a CPU benchmark needs a machine with nothing else to do; ratios survive a little
noise, seconds do not. Tokens are random, so experts and caches see no text.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from step_saliency.storage.files import replacing, write_text

ROOT = Path(__file__).parents[1]
STEP_TOKENS = 40
WARM_UP_TOKENS = 16
SAMPLED_BACKWARDS = 4


@dataclass(frozen=True)
class Shape:
    """A model to measure on, and how far each method is taken by default."""

    lengths: dict[str, tuple[int, ...]]
    dtype: str
    checkpointing: bool


SHAPES = {
    "smollm2-135m": Shape(
        {
            "streaming": (512, 1024, 2048, 4096, 8192),
            "plain": (512, 1024, 2048, 4096),
            "plain_inputs": (1024, 2048),
            "hooks": (512, 1024),
            "eager": (512, 1024),
            "per_token": (512,),
            "inseq": (128,),
            "captum": (128,),
        },
        dtype="float32",
        checkpointing=False,
    ),
    "qwen2-7b": Shape(
        {"streaming": (16384, 32768), "plain": (16384, 32768)},
        dtype="bfloat16",
        checkpointing=True,
    ),
    "tiny": Shape(
        {
            "streaming": (64, 128),
            "plain": (64, 128),
            "plain_inputs": (64,),
            "hooks": (64,),
            "eager": (64,),
            "per_token": (64,),
        },
        dtype="float32",
        checkpointing=False,
    ),
}
PEERS = ("inseq", "captum")


def load(shape: str, device: str, attention: str) -> Any:
    """The transformers model to measure on."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    dtype = getattr(torch, SHAPES[shape].dtype)
    if shape == "smollm2-135m":
        from step_saliency.models.bundled import BUNDLED

        source = BUNDLED["smollm2-135m-instruct"]()
        model = AutoModelForCausalLM.from_pretrained(
            source.path, gguf_file=source.gguf_file, dtype=dtype, attn_implementation=attention
        )
        return model.to(device).eval()
    config: Any
    if shape == "qwen2-7b":
        config = Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=32768,
        )
    else:
        config = LlamaConfig(
            vocab_size=320,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    return model.eval()


def plain(shape: str, device: str, *, to_inputs: bool = False) -> Callable[[int], Any]:
    """One forward and backward pass of the mean loss."""
    model = load(shape, device, "sdpa")
    if to_inputs:
        model.requires_grad_(False)
    if SHAPES[shape].checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()

    def run(n_tokens: int) -> None:
        tokens = random_tokens(model, n_tokens)
        embedded = model.get_input_embeddings()(tokens.unsqueeze(0))
        inputs = embedded.detach().requires_grad_() if to_inputs else embedded
        with flash(device):
            if SHAPES[shape].checkpointing:
                chunked_loss(model, model.model(inputs_embeds=inputs, use_cache=False), tokens)
            else:
                labels = tokens.unsqueeze(0)
                model(inputs_embeds=inputs, labels=labels, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    return run


def chunked_loss(model: Any, output: Any, tokens: torch.Tensor) -> None:
    """Backward pass of the mean loss without logits of all positions at a time."""
    hidden = output.last_hidden_state
    leaf = hidden.detach().requires_grad_()
    for queries in torch.arange(len(tokens) - 1, device=tokens.device).split(512):
        logits = model.lm_head(leaf[0, queries]).float()
        loss = torch.nn.functional.cross_entropy(logits, tokens[queries + 1], reduction="sum")
        (loss / len(tokens)).backward()
    hidden.backward(leaf.grad)


@contextmanager
def flash(device: str) -> Iterator[None]:
    """PyTorch's flash attention, on CUDA; its choice elsewhere."""
    if device != "cuda":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        yield


def streaming(shape: str, device: str) -> Callable[[int], Any]:
    """This toolkit, in linear memory, on the transformers model itself."""
    from step_saliency.saliency.objectives import NextToken
    from step_saliency.saliency.pooling import step_layout
    from step_saliency.saliency.streaming import streaming_maps

    model = load(shape, device, "sdpa")

    def run(n_tokens: int) -> Any:
        trace = make_trace(random_tokens(model, n_tokens).cpu())
        layers = range(model.config.num_hidden_layers)
        layout = step_layout(trace.step_ids)
        return streaming_maps(model, [trace], [NextToken()], layouts=[layout], layers=layers)

    return run


def hooks(shape: str, device: str) -> Callable[[int], Any]:
    """This toolkit's reference path, on the model class that it loads by default."""
    import step_saliency as ss
    from step_saliency.models.convert import from_transformers, has_hooked

    if shape == "smollm2-135m":
        model = ss.load_model("smollm2-135m-instruct", device=device)
    else:
        backend = "hooked" if has_hooked() else "bridge"
        model = from_transformers(load(shape, device, "eager"), None, backend=backend, name=shape)

    def run(n_tokens: int) -> Any:
        trace = make_trace(random_tokens(model, n_tokens).cpu())
        return ss.step_saliency(model, trace, method="hooks")

    return run


def eager(shape: str, device: str) -> Callable[[int], Any]:
    """|A * dA| of the mean loss from attentions with retained gradients."""
    model = load(shape, device, "eager")

    def run(n_tokens: int) -> Any:
        tokens = random_tokens(model, n_tokens).unsqueeze(0)
        output = model(tokens, labels=tokens, output_attentions=True, use_cache=False)
        for attention in output.attentions:
            attention.retain_grad()
        output.loss.backward()
        maps = [(a.detach() * a.grad).abs().mean(1) for a in output.attentions]
        model.zero_grad(set_to_none=True)
        return maps

    return run


def per_token(shape: str, device: str) -> Callable[[int], Any]:
    """One backward pass for each token, extrapolated from a few; returns seconds of the whole."""
    model = load(shape, device, "eager").requires_grad_(False)

    def run(n_tokens: int) -> float:
        tokens = random_tokens(model, n_tokens).unsqueeze(0)
        embedded = model.get_input_embeddings()(tokens).detach().requires_grad_()
        start = now(device)
        output = model(inputs_embeds=embedded, output_attentions=True, use_cache=False)
        losses = torch.nn.functional.cross_entropy(
            output.logits[0, :-1], tokens[0, 1:], reduction="none"
        )
        forward = now(device) - start
        start = now(device)
        sample = torch.linspace(0, n_tokens - 2, SAMPLED_BACKWARDS).long().tolist()
        for t in sample:
            gradients = torch.autograd.grad(losses[t], output.attentions, retain_graph=True)
            del gradients
        backward = (now(device) - start) / len(sample)
        return forward + backward * (n_tokens - 1)

    return run


METHODS: dict[str, Callable[[str, str], Callable[[int], Any]]] = {
    "streaming": streaming,
    "plain": plain,
    "plain_inputs": lambda shape, device: plain(shape, device, to_inputs=True),
    "hooks": hooks,
    "eager": eager,
    "per_token": per_token,
}


def random_tokens(model: Any, n_tokens: int) -> torch.Tensor:
    """Token ids of any kind, the same for every method."""
    config = getattr(model, "config", None)
    vocab = model.cfg.d_vocab if config is None else config.vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocab, (n_tokens,), generator=generator)
    return tokens.to(next(iter(model.parameters())).device)


def make_trace(tokens: torch.Tensor) -> Any:
    """A trace of steps of equal length."""
    from step_saliency.trace import Region, Step, Trace

    n = len(tokens)
    starts = range(0, n, STEP_TOKENS)
    steps = tuple(Step(a, min(a + STEP_TOKENS, n), Region.THINKING) for a in starts)
    return Trace(tokens, steps)


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(run: Callable[[int], Any], n_tokens: int, device: str) -> float:
    """Seconds of one run, or those that it extrapolates to."""
    start = now(device)
    result = run(n_tokens)
    return result if isinstance(result, float) else now(device) - start


def measure_time(
    shape: str, device: str, method: str, n_tokens: int, pairs: int, limit: float
) -> dict[str, list[float]]:
    """Seconds of `plain` and of a method in turn."""
    runs = {name: METHODS[name](shape, device) for name in ("plain", method)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with_plain = n_tokens <= max(SHAPES[shape].lengths["plain"])
    names = [name for name in runs if with_plain or name == method]
    for name in names:
        runs[name](min(n_tokens, 512))
    began = now(device)
    while len(seconds[method]) < pairs and (not seconds[method] or now(device) - began < limit):
        for name in names:
            seconds[name].append(timed(runs[name], n_tokens, device))
    return seconds


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


@dataclass(frozen=True)
class Row:
    """One method at one length."""

    shape: str
    device: str
    method: str
    n_tokens: int
    seconds: float | None
    plain_seconds: float | None
    ratio: float | None
    ratio_lowest: float | None
    ratio_highest: float | None
    pairs: int
    peak_bytes: int | None
    note: str = ""


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
    mine, theirs = seconds.get(method, []), seconds.get("plain", [])
    ratios = [a / b for a, b in zip(mine, theirs, strict=False)] if method != "plain" else []
    return Row(
        shape=args.shape,
        device=args.device,
        method=method,
        n_tokens=n_tokens,
        seconds=statistics.median(mine) if mine else None,
        plain_seconds=statistics.median(theirs) if theirs else None,
        ratio=statistics.median(ratios) if ratios else None,
        ratio_lowest=min(ratios, default=None),
        ratio_highest=max(ratios, default=None),
        pairs=len(mine),
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


def read_csv(path: Path) -> list[Row]:
    """Rows that an earlier run wrote; none if there was none."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [_read_row(line) for line in csv.DictReader(file)]


def _read_row(line: dict[str, str]) -> Row:
    counts, texts = ("n_tokens", "pairs", "peak_bytes"), ("shape", "device", "method", "note")
    values: dict[str, Any] = {
        name: text if name in texts else int(text) if name in counts else float(text)
        for name, text in line.items()
        if text or name in texts
    }
    return Row(**dict.fromkeys(line) | values)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def write_markdown(rows: Sequence[Row], path: Path) -> None:
    """The same table for people."""
    lines = [
        f"# {rows[0].shape} on {rows[0].device}",
        "",
        "Ratio: time over one plain forward and backward pass with SDPA beside it, median of the "
        "pairs [smallest, largest]. Memory: peak above the weights.",
        "",
        "| method | T | seconds | ratio | pairs | memory, GB | note |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        ratio = ""
        if row.ratio is not None:
            ratio = f"{row.ratio:.2f} [{row.ratio_lowest:.2f}, {row.ratio_highest:.2f}]"
        memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f}"
        cells = [row.method, f"{row.n_tokens:,}", seconds, ratio, str(row.pairs), memory, row.note]
        lines.append("| " + " | ".join(cells) + " |")
    write_text(path, "\n".join(lines) + "\n")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Seconds and memory over T."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        seconds = [(row.n_tokens, row.seconds) for row in mine if row.seconds is not None]
        memory = [(row.n_tokens, row.peak_bytes / 1e9) for row in mine if row.peak_bytes]
        for axes, points in ((time_axes, seconds), (memory_axes, memory)):
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=method)
    time_axes.set(ylabel="time (s)")
    memory_axes.set(ylabel="peak memory above the weights (GB)")
    for axes in (time_axes, memory_axes):
        axes.set(xlabel="trace length T (tokens)", xscale="log", yscale="log")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
    if any(row.seconds is not None for row in rows):
        time_axes.legend(fontsize="small")
    figure.suptitle(f"{rows[0].shape} on {rows[0].device}")
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=150)


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
    chosen = args.methods or [name for name in lengths if name not in PEERS or args.with_peers]
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"{args.shape}-{args.device}"
    rows = {(row.method, row.n_tokens): row for row in read_csv(stem.with_suffix(".csv"))}
    for method in chosen:
        for n_tokens in args.lengths or lengths.get(method, ()):
            if (method, n_tokens) in rows and not args.again:
                continue
            measured = measure_peer if method in PEERS else measure
            rows[method, n_tokens] = measured(args, method, n_tokens)
            print(rows[method, n_tokens], flush=True)
            write(sorted(rows.values(), key=_place), stem)


def _place(row: Row) -> tuple[int, int]:
    return [*METHODS, *PEERS].index(row.method), row.n_tokens


def write(rows: Sequence[Row], stem: Path) -> None:
    """Table, the same for people, and plot."""
    write_csv(rows, stem.with_suffix(".csv"))
    write_markdown(rows, stem.with_suffix(".md"))
    plot(rows, stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
