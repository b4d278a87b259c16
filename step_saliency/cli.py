"""The command ``step-saliency``: map, diagnose, report, doctor, demo.

Heavy imports wait until a command needs them, so that ``--help`` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from step_saliency.runs.map_file import MapSettings

MODEL_HELP = "bundled name (reasoner, smollm2-135m-instruct), local Hugging Face folder, or hub id"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of the process by default.

    Returns:
        0 on success, 1 if nothing could be done or a check failed, 2 for wrong arguments or input.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ValueError as error:
        print(f"step-saliency: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("step-saliency: stopped; the same command goes on where it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="step-saliency",
        description="Which step of a reasoning trace do the later steps rest on?",
        epilog="The method: 'Reasoning Fails Where Step Flow Breaks' (ACL 2026).",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_map(commands)
    _add_diagnose(commands)
    _add_report(commands)
    _add_doctor(commands)
    _add_demo(commands)
    return parser


def _add_model(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("model")
    group.add_argument("--backend", choices=("auto", "hooked", "bridge"), default="auto")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: CUDA if there is one")
    group.add_argument("--dtype", default="float32", help="float32, bfloat16, float16 or float64")
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument(
        "--trust-remote-code", action="store_true", help="let code from the checkpoint run"
    )


def _add_map(commands: Any) -> None:
    command = commands.add_parser(
        "map",
        help="map the traces of a JSONL file into a results folder",
        description=(
            "Read one JSON object a line: a saved trace (tokens, steps), a response (question or "
            "prompt, response), a conversation (messages), or a problem (question or problem, with "
            "an optional gold answer), which the model then answers itself. Write maps, tables, "
            "figures and a manifest. The same command run again goes on where it was."
        ),
    )
    command.add_argument("input", type=Path, help="JSONL file")
    command.add_argument("--out", type=Path, required=True, help="results folder")
    command.add_argument("--model", default="reasoner", help=MODEL_HELP)
    command.add_argument("--limit", type=int, help="take the first rows only")
    _add_model(command)
    maps = command.add_argument_group("maps")
    maps.add_argument(
        "--objective",
        choices=("next_token", "log_odds", "sequence", "answer", "logit_diff"),
        default="next_token",
    )
    maps.add_argument("--pool", choices=("mean", "mass", "block_mean", "sum"), default="mean")
    maps.add_argument("--rows", choices=("query", "target"), default="query")
    maps.add_argument("--method", choices=("auto", "hooks", "streaming"), default="auto")
    maps.add_argument("--layers", type=_layers, help="such as 0-6,20; default: all")
    maps.add_argument("--per-head", action="store_true", help="keep heads apart")
    maps.add_argument(
        "--no-figures", dest="figures", action="store_false", help="draw no figure per trace"
    )
    text = command.add_argument_group("text")
    text.add_argument("--format", default="auto", help="auto, think, harmony or plain")
    text.add_argument("--splitter", default="sentence", help="sentence, paragraph or line")
    answers = command.add_argument_group("answers to problems")
    answers.add_argument("--system", help="system prompt")
    answers.add_argument("--instruction", help="text put after each question")
    answers.add_argument("--n", type=int, default=1, help="responses per question")
    answers.add_argument("--temperature", type=float, default=0.0, help="0 decodes greedily")
    answers.add_argument("--top-p", type=float, default=1.0)
    answers.add_argument("--max-new-tokens", type=int, default=512)
    answers.add_argument("--batch-size", type=int, default=16)
    answers.add_argument("--seed", type=int, default=0)
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.set_defaults(run=_map)


def _add_diagnose(commands: Any) -> None:
    command = commands.add_parser(
        "diagnose",
        help="lock-in and decay of the maps in a results folder",
        description=(
            "Shallow lock-in and deep decay by layer, averaged over the traces of a results "
            "folder; where a problem has correct and error traces, what sets them apart."
        ),
    )
    command.add_argument("folder", type=Path, help="results folder of `step-saliency map`")
    command.add_argument("--shallow", type=_layers, help="layers of the shallow band, such as 0-6")
    command.add_argument("--deep", type=_layers, help="layers of the deep band, such as 21-27")
    command.add_argument("--seed", type=int, default=0, help="of the resampling")
    command.set_defaults(run=_diagnose)


def _add_report(commands: Any) -> None:
    command = commands.add_parser(
        "report",
        help="traces of a results folder as self-contained HTML files",
        description=(
            "Write one HTML file per trace: its text, the step map with layers and heads to choose "
            "from, depth curves, the diagnosis and what sets error traces apart. The files ask the "
            "network for nothing."
        ),
    )
    command.add_argument(
        "source",
        metavar="RUN",
        type=Path,
        help="results folder of `step-saliency map`, or one map (.safetensors)",
    )
    command.add_argument("--trace", help="name of one trace; default: all of the folder")
    command.add_argument(
        "--out", type=Path, help="file to write (one trace), or folder; default: RUN/report"
    )
    command.add_argument(
        "--effects", type=Path, help="table of what interventions did (parquet or CSV)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the resampling")
    command.set_defaults(run=_report)


def _add_doctor(commands: Any) -> None:
    command = commands.add_parser(
        "doctor",
        help="does this model do what the analyses rely on?",
        description="Run the checks of ss.doctor on a model and print a table.",
    )
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument("--tokens", type=int, default=24, help="length of the test sequence")
    _add_model(command)
    command.set_defaults(run=_doctor)


def _add_demo(commands: Any) -> None:
    command = commands.add_parser(
        "demo",
        help="map and diagnose a few answers of the bundled model",
        description="The main job, small: problems, answers, maps, diagnosis, figures.",
    )
    command.add_argument("--out", type=Path, default=Path("step-saliency-demo"))
    command.add_argument("--n-problems", type=int, default=12)
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.set_defaults(run=_demo)


def _layers(text: str) -> tuple[int, ...]:
    """Numbers and ranges, such as ``0-6,20``."""
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            layers += range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no list of layers; write something like 0-6,20"
            ) from None
    return tuple(layers)


def _map(arguments: argparse.Namespace) -> int:
    from step_saliency.runs.map_file import map_file

    report = map_file(
        arguments.input,
        arguments.out,
        _settings(arguments),
        limit=arguments.limit,
        progress=not arguments.quiet,
    )
    print(report)
    for failure in report.failures[:5]:
        print(f"  {failure['row']}: {failure['message']}", file=sys.stderr)
    return 0 if report.done + report.kept else 1


def _settings(arguments: argparse.Namespace) -> "MapSettings":
    from dataclasses import fields

    from step_saliency.runs.map_file import MapSettings

    known = vars(arguments)
    return MapSettings(**{f.name: known[f.name] for f in fields(MapSettings) if f.name in known})


def _diagnose(arguments: argparse.Namespace) -> int:
    from step_saliency.runs.overview import overview

    bands = {
        name: layers
        for name, layers in (("shallow", arguments.shallow), ("deep", arguments.deep))
        if layers
    }
    print(overview(arguments.folder, bands=bands or None, seed=arguments.seed))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from step_saliency.report.write import write_reports

    written = write_reports(
        arguments.source,
        trace=arguments.trace,
        out=arguments.out,
        effects=arguments.effects,
        seed=arguments.seed,
    )
    for file in written:
        print(f"{file} ({file.stat().st_size / 1e6:.2f} MB)")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from step_saliency.models import doctor, load_model

    model = load_model(
        arguments.model,
        backend=arguments.backend,
        device=arguments.device,
        dtype=arguments.dtype,
        revision=arguments.revision,
        trust_remote_code=arguments.trust_remote_code,
    )
    report = doctor(model, n_tokens=arguments.tokens)
    print(report)
    return 0 if report.passed else 1


def _demo(arguments: argparse.Namespace) -> int:
    from step_saliency.runs.demo import demo

    return demo(arguments.out, n_problems=arguments.n_problems, progress=not arguments.quiet)


if __name__ == "__main__":
    sys.exit(main())
