"""What does StepFlow cost inside a vLLM engine, and how fast is the engine beside the fast loop?

Two tables of one model, in one process:

    overhead    a batch of rows, all alive to the last token, by plain vLLM (``off``), with the
                bridge (``oeb``), with momentum (``smi``) and with both (``stepflow``): seconds, and
                the ratio to ``off`` in the same round, median [smallest, largest]
    throughput  a few hundred responses of the length that the model gives them, by the engine and
                by `ss.generate` with ``method="fast"``, each without a flow and with StepFlow:
                tokens a second

Time on a CPU: processor seconds of one thread, so that other work on the machine counts little; on
CUDA seconds of the clock. Rounds run every way once, in an order that turns, after one that does
not count. Flows are of the default strengths. Writes ``<out>/<model>-vllm-<device>.md``.

    OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/vllm_engine.py --model reasoner
    .venv-vllm/bin/python benchmarks/vllm_engine.py --model MODEL --dtype bfloat16   # on a GPU

When it misleads: one thread is not two, other work on the machine slows memory down for all, and
prompts are short; the smaller the model, the more the part of each token that is not the model's.
"""

import argparse
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mixed_lengths import questions

import step_saliency as ss
from step_saliency.models.checkpoint import save
from step_saliency.models.sources import resolve_source
from step_saliency.models.unpack import unpacked
from step_saliency.segment.build import prompt_tokens
from step_saliency.storage.files import write_text

ROOT = Path(__file__).parents[1]
FLOWS = ("off", "oeb", "smi", "stepflow")
Ways = Mapping[str, Callable[[], int]]


def processor() -> str:
    """The processor that computed, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{named[1] if named else platform.machine()}, {torch.get_num_threads()} thread"


def engine(path: str, args: argparse.Namespace, **options: Any) -> Any:
    """An engine in this process, whose processor seconds are this process's."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    on_cuda = torch.cuda.is_available()
    if not on_cuda:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm import LLM

    graphs: dict[str, Any] = {"compilation_config": {"cudagraph_mode": "PIECEWISE"}}
    return LLM(
        model=path,
        dtype=args.dtype,
        max_num_seqs=args.batch,
        max_model_len=args.context,
        disable_log_stats=True,
        **(graphs if on_cuda else {"enforce_eager": True}),
        **options,
    )


def folder_of(name: str) -> str:
    """Where a model lies in Hugging Face form; a hub id is itself."""
    source = resolve_source(name)
    return unpacked(source, partial(save, source)).path


def overhead(llm: Any, asked: Sequence[str], args: argparse.Namespace) -> Ways:
    """A batch by each flow; the number of tokens that it decoded."""
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()
    prompts = [{"prompt_token_ids": prompt_tokens(tokenizer, text)} for text in asked]

    def decode(flow: str) -> int:
        params = SamplingParams(
            temperature=0,
            max_tokens=args.tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args={"stepflow": flow},
        )
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return {flow: lambda flow=flow: decode(flow) for flow in FLOWS}  # type: ignore[misc]


def throughput(llm: Any, model: Any, asked: Sequence[str], args: argparse.Namespace) -> Ways:
    """All responses by the engine and by the fast loop."""
    flow = ss.StepFlow.for_model(model)

    def decode(decoder: Any, flow: Any, **options: Any) -> int:
        traces = ss.generate(
            decoder,
            asked,
            flow=flow,
            temperature=0,
            max_new_tokens=args.longest,
            progress=False,
            **options,
        )
        return sum(trace.meta["response_tokens"] for trace in traces)

    by_loop = {"method": "fast", "batch_size": args.batch}
    return {
        "engine": lambda: decode(llm, None, method="vllm"),
        "engine, StepFlow": lambda: decode(llm, flow, method="vllm"),
        "fast loop": lambda: decode(model, None, **by_loop),
        "fast loop, StepFlow": lambda: decode(model, flow, **by_loop),
    }


def measure(ways: Ways, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each way in each round, and its tokens."""
    on_cuda = torch.cuda.is_available()
    clock = time.perf_counter if on_cuda else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, int] = {}
    for number in range(-1, rounds):
        names = list(ways)
        turn = max(number, 0) % len(names)
        for name in names[turn:] + names[:turn]:
            start = clock()
            tokens[name] = ways[name]()
            spent = clock() - start
            print(f"round {number}: {name} {spent:.2f} s, {tokens[name]} tokens", flush=True)
            if number >= 0:
                seconds[name].append(spent)
    return seconds, tokens


def lines_of(seconds: Mapping[str, list[float]], tokens: Mapping[str, int]) -> list[str]:
    """Rows of a table: seconds, tokens a second, and seconds beside those of the first way."""
    first = seconds[next(iter(seconds))]
    lines = ["| way | seconds | tokens / s | times the first |", "|---|---:|---:|---:|"]
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, first, strict=True)]
        median, speed = statistics.median(times), tokens[name] / statistics.median(times)
        ratio = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        lines.append(f"| {name} | {median:.2f} | {speed:.0f} | {ratio} |")
    return lines


def model_parser(description: str | None) -> argparse.ArgumentParser:
    """Options that say which model answers which questions."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="reasoner", help="bundled name, folder or hub id")
    parser.add_argument("--name", help="of the model, in the table")
    parser.add_argument("--questions", type=Path, help="JSONL file with a field 'question'")
    return parser


def parse_arguments() -> argparse.Namespace:
    parser = model_parser(__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="of each row, for the overhead")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--count", type=int, default=256, help="responses, for the throughput")
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", nargs="+", default=["overhead", "throughput"])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    asked = questions(args)
    llm = engine(folder_of(args.model), args)
    name = args.name or Path(args.model).name
    lines = [
        f"# StepFlow inside vLLM, {name}",
        "",
        f"{args.dtype}, {processor()}; {'processor seconds' if device == 'cpu' else 'seconds'}, "
        "medians; ratios within a round, median [smallest, largest].",
    ]
    if "overhead" in args.tables:
        ways = overhead(llm, asked[: args.batch], args)
        lines += ["", f"{args.batch} rows of {args.tokens} tokens, {args.rounds} rounds:", ""]
        lines += lines_of(*measure(ways, args.rounds))
    if "throughput" in args.tables:
        model = ss.load_model(args.model, dtype=args.dtype, device=device)
        ways = throughput(llm, model, asked, args)
        rounds = max(1, args.rounds // 2)
        lines += ["", f"{len(asked)} responses, {args.batch} at a time, {rounds} rounds:", ""]
        lines += lines_of(*measure(ways, rounds))
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / f"{name}-vllm-{device}.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
