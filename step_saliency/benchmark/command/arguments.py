"""The command line of ``step-saliency benchmark``; what is heavy is imported when it runs."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from step_saliency.benchmark.conditions import CONDITIONS

NEEDED = (
    "step-saliency benchmark needs inspect-ai, which is not installed: pip install "
    "'step-saliency[benchmarks]'"
)
SUITES = "aime24,aime25,amc23,math500,gpqa_diamond,livecodebench"
OPTIONS = [
    "model",
    "seed",
    "temperature",
    "top_p",
    "max_tokens",
    "tau_max",
    "alpha",
    "release",
    "start",
    "end",
    "dtype",
    "revision",
    "engine",
    "tensor_parallel",
    "max_length",
    "device",
    "device_map",
    "batch_size",
    "sandbox",
    "problems",
    "trust_remote_code",
]
HELP = {
    "--temperature": (float, "in place of the model's preset"),
    "--top-p": (float, "in place of the model's preset"),
    "--max-tokens": (int, "longest response, in place of the model's preset"),
    "--seed": (int, "of samples and of the order of options"),
    "--tau-max": (float, "upper bound of tau_B of the bridge"),
    "--alpha": (float, "strength of momentum"),
    "--release": (str, "of LiveCodeBench, v1 to v6"),
    "--start": (str, "first day of contests of LiveCodeBench, YYYY-MM-DD"),
    "--end": (str, "last day"),
    "--dtype": (str, "bfloat16, float16, float32 or float64; bfloat16 on a GPU"),
    "--revision": (str, "branch, tag or commit of a hub id"),
    "--engine": (str, "transformers, or vllm (see 'Decode at scale' in the documentation)"),
    "--tensor-parallel": (int, "cards that a vLLM engine spreads one model over"),
    "--max-length": (int, "longest sequence of a vLLM engine, prompt included"),
    "--device": (str, "cpu, cuda, cuda:1, ..."),
    "--device-map": (str, "auto: accelerate spreads one model over several GPUs"),
    "--batch-size": (int, "responses decoded together"),
    "--problems": (int, "the first problems of each suite only"),
}


def add_benchmark(commands: Any) -> None:
    """Add the command to those of ``step-saliency``."""
    command = commands.add_parser(
        "benchmark",
        help="public benchmarks by inspect-ai, beside the published table",
        description=(
            "Write the plan of a run, run it by inspect-ai (the same command again goes on where "
            "it was), and write the table. `benchmark table DIR` writes the table of what is there."
        ),
    )
    command.add_argument(
        "action", nargs="*", metavar="table DIR", help="write the table of a folder and no more"
    )
    command.add_argument("--model", help="bundled name, local Hugging Face folder, or hub id")
    command.add_argument("--suites", default=SUITES, help="default: %(default)s")
    command.add_argument(
        "--conditions",
        default="baseline,oeb,smi,stepflow",
        help=f"of {', '.join(CONDITIONS)}; default: %(default)s",
    )
    command.add_argument(
        "--samples", default="paper", help="of each problem; default: %(default)s (16, 8 or 1)"
    )
    command.add_argument(
        "--data",
        action="append",
        metavar="SUITE=FILE",
        help="local file of a suite (JSONL, JSON, CSV, parquet), in place of the hub",
    )
    command.add_argument("--out", type=Path, help="folder of the run")
    command.add_argument("--dry-run", action="store_true", help="stop after the plan")
    command.add_argument("--quiet", action="store_true", help="no display")
    for name, (kind, text) in HELP.items():
        command.add_argument(name, type=kind, help=text)
    command.add_argument("--trust-remote-code", action="store_true", default=None)
    command.add_argument("--sandbox", choices=("auto", "bubblewrap", "docker"))
    scale = command.add_argument_group("several workers")
    scale.add_argument("--workers", type=int, default=1, help="default: %(default)s")
    scale.add_argument("--cluster", choices=("local", "ray", "slurm"), default="local")
    scale.add_argument("--address", default="local", help="of Ray; default: a cluster of its own")
    scale.add_argument(
        "--slurm", action="append", metavar="NAME=VALUE", help="parameter of submitit"
    )
    command.set_defaults(run=run, resumes=True)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says."""
    if arguments.action:
        return _table(arguments.action)
    missing = [f"--{name}" for name in ("model", "out") if getattr(arguments, name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given")
    from step_saliency.benchmark.command.plan import make_plan
    from step_saliency.benchmark.command.settings import keep_settings
    from step_saliency.storage.files import write_text

    settings = _settings(arguments)
    plan = make_plan(settings, workers=arguments.workers)
    print(plan, flush=True)
    keep_settings(arguments.out, settings)
    write_text(arguments.out / "plan.txt", f"{plan}\n")
    if arguments.dry_run:
        return 0
    return _run(arguments, settings)


def _run(arguments: argparse.Namespace, settings: Any) -> int:
    _require_inspect()
    from step_saliency.benchmark.command.run import run_benchmark
    from step_saliency.benchmark.sandbox.outcome import SandboxError
    from step_saliency.benchmark.scale.spread import spread

    try:
        if arguments.workers > 1 or arguments.cluster != "local":
            spread(
                arguments.out,
                settings,
                workers=arguments.workers,
                cluster=arguments.cluster,
                address=arguments.address,
                parameters=_pairs("--slurm", arguments.slurm),
            )
        is_done = run_benchmark(arguments.out, settings, progress=not arguments.quiet)
    except SandboxError as error:
        raise ValueError(str(error)) from error
    print((arguments.out / "table.txt").read_text(encoding="utf-8"))
    if not is_done:
        print("some tasks failed; the same command goes on where it was", file=sys.stderr)
    return 0 if is_done else 1


def _table(action: list[str]) -> int:
    if len(action) != 2 or action[0] != "table":
        raise ValueError(f"{' '.join(action)!r} is no action; write `benchmark table DIR`")
    _require_inspect()
    from step_saliency.benchmark.command.run import write_table

    print(write_table(Path(action[1])))
    return 0


def _settings(arguments: argparse.Namespace) -> Any:
    from step_saliency.benchmark.command.settings import BenchmarkSettings

    given = {name: getattr(arguments, name) for name in OPTIONS}
    return BenchmarkSettings(
        suites=_names(arguments.suites),
        conditions=_names(arguments.conditions),
        samples=_samples(arguments.samples),
        data=_pairs("--data", arguments.data),
        **{name: value for name, value in given.items() if value is not None},
    )


def _samples(text: str) -> str | int:
    try:
        return text if text == "paper" else int(text)
    except ValueError:
        raise ValueError(f"--samples {text!r} is neither 'paper' nor a number") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _pairs(option: str, texts: Iterable[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise ValueError(f"{option} {text!r} is not of the form NAME=VALUE")
        pairs[name] = value
    return pairs


def _require_inspect() -> None:
    from importlib.util import find_spec

    if find_spec("inspect_ai") is None:
        raise ValueError(NEEDED)
