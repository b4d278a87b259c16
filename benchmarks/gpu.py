"""What maps, kernels and decoding cost on one GPU, in about nine minutes.

Question: on a model of the size that the method was published on (the shape of Qwen2-7B: 28 layers
of width 3,584, 28 heads over 4 key-value heads; random weights, bfloat16), what does a map cost
beside the passes that anybody would run, how exact is it in bfloat16, and what does StepFlow add to
decoding? Four tables:

    maps       streaming maps beside one forward and backward pass of the mean loss with flash SDPA:
               ``inputs`` (gradient of the embedded tokens alone, the least that a gradient costs),
               ``inputs, checkpointed`` and ``weights, checkpointed``; seconds and peak memory above
               the weights for each length
    precision  the error of a bfloat16 map, by the Triton kernel and by the naive one, against the
               map of the same weights in float32
    kernels    one layer's attention forward and backward with its sums over steps, beside flash
               SDPA forward and backward; largest difference to the naive kernel
    decoding   a batch of 32: transformers' own ``generate``, `ss.generate` by the fast loop,
               without CUDA graphs and as it is, and the same with StepFlow

Time: rounds in one process, in an order that turns, after one of each pass that does not count;
medians, and the median ratio within a round with the smallest and largest. What does not fit into
the card's memory says so.

    python benchmarks/gpu.py                      # writes benchmarks/results/qwen2-7b-cuda.md
    python benchmarks/gpu.py --only kernels       # one table alone

Inside a vLLM engine, which has an environment of its own (see docs/howto/vllm.md):

    .venv-vllm/bin/python benchmarks/vllm_engine.py --model Qwen/Qwen2-7B-Instruct --dtype bfloat16

When it misleads: tokens and weights are random, so attention is flat and no expert, cache or
sentence is what it is in use; the tokenizer of the decoding table is the bundled reasoner's, whose
vocabulary the model has there.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config

import step_saliency as ss
from step_saliency.decoding import token_passes
from step_saliency.intervene.effects import Effects
from step_saliency.saliency.cost.speed import seconds_of, wait
from step_saliency.saliency.kernels.step_attention import load_kernel
from step_saliency.saliency.kernels.step_attention.types import AttentionSpec, StepIndex
from step_saliency.saliency.objectives import NextToken
from step_saliency.saliency.pooling import step_layout
from step_saliency.saliency.streaming import streaming_maps
from step_saliency.storage.files import write_text
from step_saliency.trace import Region, Step, Trace

OUT = Path(__file__).parent / "results" / "qwen2-7b-cuda.md"
STEP_TOKENS = 40
WARM_TOKENS = 8
"""Tokens of the decoding that does not count."""
ROUNDS_END = 40.0
"""Seconds of decoding after which no further round of it begins."""
LOSS_CHUNK = 512
Passes = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Shape:
    """A decoder of Qwen2's kind."""

    width: int = 3584
    inner: int = 18944
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    vocab: int = 152064

    def config(self) -> Qwen2Config:
        """The configuration that transformers builds the model from."""
        return Qwen2Config(
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocab,
            max_position_embeddings=131072,
        )


SHAPES = {
    "qwen2-7b": Shape(),
    "tiny": Shape(width=64, inner=128, layers=2, heads=4, kv_heads=2, vocab=320),
}


@dataclass
class Table:
    """Rows for people and for programs."""

    title: str
    note: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def markdown(self) -> str:
        """Heading, note and rows."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [f"## {self.title}", "", self.note, "", "| " + " | ".join(names) + " |"]
        lines.append("|" + "---|" * len(names))
        for row in self.rows:
            lines.append("| " + " | ".join(_cell(row.get(name)) for name in names) + " |")
        return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def peak_above(run: Callable[[], Any], device: torch.device) -> float | None:
    """Peak memory above what is held before, in GB; None off CUDA."""
    if device.type != "cuda":
        run()
        return None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    wait(device)
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def rounds(passes: Passes, device: torch.device, n: int) -> dict[str, list[float]]:
    """Seconds of each pass in each round, in an order that turns."""
    names = list(passes)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(n):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(seconds_of(passes[name], device))
    return seconds


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """Median ratio within rounds, with the smallest and largest; one round has no spread."""
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    if len(ratios) == 1:
        return f"{ratios[0]:.2f} (one round)"
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def fitting(passes: Passes, device: torch.device) -> tuple[dict[str, float | None], list[str]]:
    """Peaks of the passes that fit into memory, and the names of those that do not."""
    peaks: dict[str, float | None] = {}
    too_large = []
    for name, run in passes.items():
        try:
            peaks[name] = peak_above(run, device)
        except torch.cuda.OutOfMemoryError:
            too_large.append(name)
    return peaks, too_large


@contextmanager
def flash(device: torch.device) -> Iterator[None]:
    """PyTorch's flash attention on CUDA; its choice elsewhere."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        yield


@dataclass(frozen=True)
class Bench:
    """What all tables share."""

    shape: Shape
    device: torch.device
    lengths: tuple[int, ...]
    n_rounds: int
    batch: int
    new_tokens: int

    def model(self) -> Any:
        """A model of the shape with random weights."""
        torch.manual_seed(0)
        with torch.device(self.device):
            model = AutoModelForCausalLM.from_config(
                self.shape.config(), dtype=torch.bfloat16, attn_implementation="sdpa"
            )
        return model.eval().requires_grad_(False)

    def tokens(self, n_tokens: int) -> torch.Tensor:
        """Token ids of any kind."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, self.shape.vocab, (n_tokens,), generator=generator)

    def trace(self, n_tokens: int) -> Trace:
        """A trace of steps of equal length."""
        starts = range(0, n_tokens, STEP_TOKENS)
        steps = [Step(a, min(a + STEP_TOKENS, n_tokens), Region.THINKING) for a in starts]
        return Trace(self.tokens(n_tokens), tuple(steps))

    def map(self, model: Any, n_tokens: int, **options: Any) -> torch.Tensor:
        """Totals of every layer."""
        trace = self.trace(n_tokens)
        layouts = [step_layout(trace.step_ids)]
        layers = range(self.shape.layers)
        return streaming_maps(
            model, [trace], [NextToken()], layouts=layouts, layers=layers, **options
        )[0]

    def forward_backward(
        self, model: Any, n_tokens: int, *, weights: bool, checkpointed: bool
    ) -> None:
        """One pass of the mean loss and back, logits in chunks."""
        model.requires_grad_(weights)
        model.train(checkpointed)
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        tokens = self.tokens(n_tokens).to(self.device)
        try:
            inputs = model.get_input_embeddings()(tokens.unsqueeze(0)).detach().requires_grad_()
            with flash(self.device):
                hidden = model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
                hidden.backward(_loss_gradient(model, hidden, tokens))
        finally:
            model.zero_grad(set_to_none=True)
            model.gradient_checkpointing_disable()
            model.requires_grad_(False).eval()


def _loss_gradient(model: Any, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    leaf = hidden.detach().requires_grad_()
    for queries in torch.arange(len(tokens) - 1, device=tokens.device).split(LOSS_CHUNK):
        logits = model.lm_head(leaf[0, queries]).float()
        loss = cross_entropy(logits, tokens[queries + 1], reduction="sum")
        (loss / len(tokens)).backward()
    assert leaf.grad is not None
    return leaf.grad


def maps_table(bench: Bench) -> Table:
    """Maps beside forward and backward passes, length by length."""
    table = Table(
        "Maps",
        "Seconds are medians; ratio: time of the map over that of the pass in the same round, "
        "median [smallest, largest]. Memory: peak above the weights, GB.",
    )
    model = bench.model()
    for n_tokens in bench.lengths:
        n = n_tokens
        passes: dict[str, Callable[[], Any]] = {
            "map": lambda n=n: bench.map(model, n),
            "inputs": lambda n=n: bench.forward_backward(
                model, n, weights=False, checkpointed=False
            ),
            "inputs, checkpointed": lambda n=n: bench.forward_backward(
                model, n, weights=False, checkpointed=True
            ),
            "weights, checkpointed": lambda n=n: bench.forward_backward(
                model, n, weights=True, checkpointed=True
            ),
        }
        peaks, too_large = fitting(passes, bench.device)
        seconds = rounds({name: passes[name] for name in peaks}, bench.device, bench.n_rounds)
        for name in passes:
            row: dict[str, Any] = {"tokens": n_tokens, "pass": name}
            if name in too_large:
                table.rows.append({**row, "seconds": "does not fit"})
                continue
            row |= {"seconds": statistics.median(seconds[name]), "peak GB": peaks[name]}
            if name != "map" and "map" in peaks:
                row["map over it"] = ratio(seconds["map"], seconds[name])
            table.rows.append(row)
            print(row, flush=True)
    return table


def precision_table(bench: Bench) -> Table:
    """Error of bfloat16 maps against the float32 map of the same weights."""
    table = Table(
        "Precision",
        "Error of a layer: sum of |map - float32 map| over the sum of the float32 map; median and "
        "largest over layers. `naive` forms all attention weights in bfloat16 as a model does.",
    )
    n_tokens = min(2048, max(bench.lengths))
    model = bench.model()
    kernels = ["naive", "chunked", *(["triton"] if bench.device.type == "cuda" else [])]
    maps = {name: bench.map(model, n_tokens, kernel=name) for name in kernels}
    exact = bench.map(model.float(), n_tokens, kernel="chunked")
    for name, totals in maps.items():
        errors = (totals - exact).abs().sum((1, 2)) / exact.sum((1, 2))
        row = {"kernel": name, "dtype": "bfloat16", "tokens": n_tokens}
        row |= {"median error": float(errors.median()), "largest error": float(errors.max())}
        table.rows.append(row)
        print(row, flush=True)
    return table


def kernels_table(bench: Bench) -> Table:
    """One layer's attention with its sums over steps, beside flash SDPA."""
    table = Table(
        "Kernels",
        "One layer, bfloat16, forward and backward; keys and values take gradient from their own "
        "position alone, as in a map, those of flash SDPA from all. Difference: largest over z, "
        "dq, dk, dv and the sums over steps, relative to the largest entry of the naive kernel's "
        "in float32 (up to 4,096 tokens, where that fits).",
    )
    for n_tokens in bench.lengths:
        passes = {"flash SDPA": lambda n=n_tokens: _sdpa(bench, n)}
        names = ["chunked", *(["triton"] if bench.device.type == "cuda" else [])]
        for name in names:
            passes[name] = lambda n=n_tokens, name=name: _step_attention(bench, n, name)
        for run in passes.values():
            run()
        seconds = rounds(passes, bench.device, 2 * bench.n_rounds)
        for name in passes:
            row: dict[str, Any] = {"tokens": n_tokens, "kernel": name}
            row["milliseconds"] = 1e3 * statistics.median(seconds[name])
            if name != "flash SDPA":
                row["over flash SDPA"] = ratio(seconds[name], seconds["flash SDPA"])
                row["difference to naive"] = (
                    _difference(bench, n_tokens, name) if n_tokens <= 4096 else None
                )
            table.rows.append(row)
            print(row, flush=True)
    return table


def _draw(bench: Bench, n_tokens: int, heads: int) -> torch.Tensor:
    d_head = bench.shape.width // bench.shape.heads
    return torch.randn(1, heads, n_tokens, d_head, device=bench.device).bfloat16()


def _layer_inputs(bench: Bench, n_tokens: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    shape = bench.shape
    counts = (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)
    return tuple(_draw(bench, n_tokens, heads) for heads in counts)


def _sdpa(bench: Bench, n_tokens: int) -> None:
    q, k, v, dz = (x.requires_grad_() for x in _layer_inputs(bench, n_tokens))
    with flash(bench.device):
        z = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        torch.autograd.grad(z, (q, k, v), dz)


def _step_attention(bench: Bench, n_tokens: int, name: str, *, exact: bool = False) -> list[Any]:
    q, k, v, dz = _layer_inputs(bench, n_tokens)
    if exact:
        q, k, v, dz = (x.float() for x in (q, k, v, dz))
    kernel = load_kernel(name, q.device, q.dtype)  # type: ignore[arg-type]
    spec = AttentionSpec(q.shape[-1] ** -0.5)
    steps = torch.arange(n_tokens).unsqueeze(0) // STEP_TOKENS
    index = StepIndex(steps, steps, int(steps.max()) + 1)
    z, lse = kernel.attention(q, k, v, spec)
    gradients = kernel.pool_influence(q, k, v, z, lse, dz, spec, steps=index)
    return [z, gradients.dq, gradients.dk, gradients.dv, gradients.totals]


def _difference(bench: Bench, n_tokens: int, name: str) -> float:
    exact = _step_attention(bench, n_tokens, "naive", exact=True)
    tensors = _step_attention(bench, n_tokens, name)
    pairs = zip(tensors, exact, strict=True)
    return max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)


def decoding_table(bench: Bench) -> Table:
    """A batch decoded by transformers, by the fast loop, and with StepFlow."""
    table = Table(
        "Decoding",
        f"Batch {bench.batch}, {bench.new_tokens} tokens each, greedy. Ratio: time over that of "
        "another way in the same round, median [smallest, largest].",
    )
    tokenizer = ss.load_model("reasoner", device="cpu").tokenizer
    model = replace(bench, shape=replace(bench.shape, vocab=len(tokenizer))).model()
    model.generation_config = GenerationConfig()
    problems = ss.tasks.make_problems(n=bench.batch, level="medium", seed=0)
    questions = [problem.question for problem in problems]
    quarter = max(1, bench.shape.layers // 4)
    flow = ss.StepFlow(
        oeb=ss.OddsEqualBridge(layers=list(range(quarter)), tau_max=0.15),
        smi=ss.StepMomentumInjection(
            layers=list(range(bench.shape.layers - quarter, bench.shape.layers)), alpha=0.06
        ),
    )
    effects = Effects()

    def ours(edits: Any, n_tokens: int) -> None:
        ss.generate(
            model, questions, flow=edits, method="fast", tokenizer=tokenizer, temperature=0,
            max_new_tokens=n_tokens, stop_tokens=[], batch_size=bench.batch,
            effects=effects, progress=False,
        )  # fmt: skip

    def plain(n_tokens: int) -> None:
        rows = tokenizer(questions, return_tensors="pt", padding=True, padding_side="left")
        config = GenerationConfig(max_new_tokens=n_tokens, min_new_tokens=n_tokens, do_sample=False)
        model.generate(**rows.to(bench.device), generation_config=config)

    def without_graphs(edits: Any, n_tokens: int) -> None:
        with patch.object(token_passes, "PASSES_BEFORE", bench.new_tokens):
            ours(edits, n_tokens)

    ways: Mapping[str, Callable[[int], None]] = {
        "generate": plain,
        "fast, no graphs": partial(without_graphs, None),
        "fast": partial(ours, None),
        "StepFlow, no graphs": partial(without_graphs, flow),
        "StepFlow": partial(ours, flow),
    }
    for run in ways.values():
        run(WARM_TOKENS)
    start = time.perf_counter()
    passes: Passes = {name: partial(run, bench.new_tokens) for name, run in ways.items()}
    seconds = rounds(passes, bench.device, 1)
    n_more = min(bench.n_rounds - 1, int(ROUNDS_END / (time.perf_counter() - start)) - 1)
    for name, more in rounds(passes, bench.device, max(0, n_more)).items():
        seconds[name] += more
    compared = {
        "generate": (),
        "fast, no graphs": ("generate",),
        "fast": ("generate", "fast, no graphs"),
        "StepFlow, no graphs": ("generate", "fast, no graphs"),
        "StepFlow": ("generate", "fast"),
    }
    for name, others in compared.items():
        row: dict[str, Any] = {"way": name, "seconds": statistics.median(seconds[name])}
        row["tokens / s"] = round(bench.batch * bench.new_tokens / row["seconds"])
        row |= {f"over {other}": ratio(seconds[name], seconds[other]) for other in others}
        table.rows.append(row)
        print(row, flush=True)
    frame = effects.to_frame()
    table.note += (
        f" StepFlow shifted {int(frame['rows_shifted'].sum()):,} of "
        f"{int(frame['rows_seen'].sum()):,} attention rows, and added "
        f"{int(frame['injections'].sum()):,} vectors."
    )
    return table


TABLES: dict[str, Callable[[Bench], Table]] = {
    "kernels": kernels_table,
    "precision": precision_table,
    "decoding": decoding_table,
    "maps": maps_table,
}


def render(tables: Sequence[Table], args: argparse.Namespace) -> str:
    """The page."""
    device = torch.device(args.device)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    head = [
        f"# {args.shape} on {card}",
        "",
        f"`python benchmarks/gpu.py --shape {args.shape} --rounds {args.rounds}`: random weights, "
        f"bfloat16, torch {torch.__version__}.",
    ]
    return "\n\n".join(["\n".join(head), *(table.markdown() for table in tables)]) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2-7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each response")
    parser.add_argument("--only", nargs="+", choices=sorted(TABLES), default=sorted(TABLES))
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    bench = Bench(
        shape=SHAPES[args.shape],
        device=torch.device(args.device),
        lengths=tuple(args.lengths),
        n_rounds=args.rounds,
        batch=args.batch,
        new_tokens=args.tokens,
    )
    tables = []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name, make in TABLES.items():
        if name in args.only:
            start = time.perf_counter()
            tables.append(make(bench))
            gc.collect()
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
            write_text(args.out, render(tables, args))
            rows = {table.title: table.rows for table in tables}
            write_text(args.out.with_suffix(".json"), json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
