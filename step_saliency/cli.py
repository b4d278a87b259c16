"""The command ``step-saliency``: map, diagnose, figures, report, doctor, demo, and more.

Heavy imports wait until a command needs them, so that ``--help`` answers at once.
"""

import argparse
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from step_saliency.benchmark.command.arguments import add_benchmark
from step_saliency.benchmark.scale.failed import WorkerError
from step_saliency.options import FORMATS, METHODS, OBJECTIVES, POOLS, ROWS, SPLITTERS
from step_saliency.runs.functions import UserFunction
from step_saliency.runs.output import UNREAD, bars, drop_what_is_left, is_unread
from step_saliency.runs.roles import ROLES, parse_fields
from step_saliency.runs.settings import MapSettings

MODEL_HELP = (
    "bundled name (reasoner, reporter, smollm2-135m-instruct), local Hugging Face folder, GGUF "
    "file (or a folder with one), or hub id"
)
FAULT = (
    "step-saliency: this is a fault of the program, not of the input. Please report it, with the "
    "lines above and the command, to the maintainers (in the issue tracker of the repository)"
)
NO_MEMORY = (
    "step-saliency: memory was not enough, and less is taken with a smaller --batch-size, with "
    "--dtype bfloat16, or on another --device, where the command has them"
)
AGAIN = "; the same command goes on where it was"
MODEL_OPTIONS = ("backend", "device", "dtype", "revision", "trust_remote_code")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of the process by default.

    Returns:
        0 on success, 1 if nothing could be done or a check failed, 2 for wrong arguments or input,
        130 for an interrupt, 141 where whoever read the output has gone, as ``| head`` does.
    """
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        drop_what_is_left()
        return UNREAD
    except OSError as error:
        drop_what_is_left()
        print(f"step-saliency: the output cannot be written: {error}", file=sys.stderr)
        return 2


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    again = AGAIN if getattr(arguments, "resumes", False) else ""
    try:
        return int(arguments.run(arguments))
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and is_unread():
            raise
        print(f"step-saliency: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"step-saliency: stopped{again}", file=sys.stderr)
        return 130
    except Exception as error:
        _say_what_failed(error, again)
        return 1


def _say_what_failed(error: Exception, again: str) -> None:
    """Want of memory and failed workers are no faults of the program; all else is."""
    if _is_out_of_memory(error):
        print(f"step-saliency: {error}\n{NO_MEMORY}{again}", file=sys.stderr)
    elif isinstance(error, WorkerError):
        print(f"step-saliency: {error}{again}", file=sys.stderr)
    else:
        traceback.print_exc()
        print(FAULT, file=sys.stderr)


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from step_saliency.models.memory import is_out_of_memory

    return is_out_of_memory(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="step-saliency",
        description="Which step of a reasoning trace do the later steps rest on?",
        epilog="The method: 'Reasoning Fails Where Step Flow Breaks' (ACL 2026).",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_map,
        _add_diagnose,
        _add_figures,
        _add_report,
        _add_doctor,
        _add_demo,
        add_benchmark,
    ):
        add(commands)
    return parser


def _add_model(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("model")
    group.add_argument("--backend", choices=("auto", "hooked", "bridge"))
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: CUDA if there is one")
    group.add_argument(
        "--dtype", help="float32 (default), bfloat16, float64, or float16, which maps refuse"
    )
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument(
        "--trust-remote-code", action="store_true", help="let code from the checkpoint run"
    )
    command.set_defaults(**_defaults(MODEL_OPTIONS))


def _add_map(commands: Any) -> None:
    command = commands.add_parser(
        "map",
        help="map the traces of a file into a results folder",
        description=(
            "Read rows (JSON lines, JSON, CSV, parquet, logs of evaluations, also in gzip): "
            "saved traces, questions with responses, conversations or completions, in the forms in "
            "which they are published. A row that holds nothing but a question and its gold answer "
            "is answered by the model. Write maps, tables and a manifest. The same "
            "command run again goes on where it was."
        ),
    )
    command.add_argument("input", type=Path, help="file, folder or Hugging Face data set of rows")
    command.add_argument("--out", type=Path, required=True, help="results folder")
    command.add_argument("--model", help=f"{MODEL_HELP}; default: %(default)s")
    command.add_argument("--limit", type=int, help="take the first rows only")
    _add_rows(command.add_argument_group("rows"))
    _add_model(command)
    _add_maps(command.add_argument_group("maps"))
    text = command.add_argument_group("text")
    text.add_argument("--format", help=_either(FORMATS))
    text.add_argument("--splitter", help=_either(SPLITTERS))
    _add_decoding(command.add_argument_group("answers to problems"))
    _add_threads(command)
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.set_defaults(
        run=_map, resumes=True, **_defaults(field.name for field in fields(MapSettings))
    )


def _add_rows(group: Any) -> None:
    group.add_argument(
        "--field",
        action="append",
        metavar="ROLE=NAME,...",
        help=f"which field holds what; ROLE is one of {', '.join(ROLES)}; NAME may be a path (a.b)",
    )
    group.add_argument(
        "--answer",
        action="store_true",
        help="let the model answer questions beside which a response may stand that was not read",
    )
    group.add_argument(
        "--grade",
        metavar="MODULE:FUNCTION",
        help="judge responses by this function of a module or FILE.py: of the part that is graded "
        "and the gold answer, to True, False or None",
    )


def _add_maps(group: Any) -> None:
    for name, choices in (
        ("--objective", OBJECTIVES),
        ("--pool", POOLS),
        ("--rows", ROWS),
        ("--method", METHODS),
    ):
        group.add_argument(name, choices=choices)
    group.add_argument("--layers", type=_layers, help="such as 0-6,20; default: all")
    group.add_argument("--per-head", action="store_true", help="keep heads apart")
    group.add_argument(
        "--figures",
        action=argparse.BooleanOptionalAction,
        help="draw step map and depth curves of each trace; later: step-saliency figures",
    )


def _add_decoding(group: Any) -> None:
    group.add_argument("--system", help="system prompt")
    group.add_argument("--instruction", help="text put after each question")
    group.add_argument("--n", type=int, help="responses per question; default: %(default)s")
    group.add_argument("--temperature", type=float, help="0 decodes greedily; default: %(default)s")
    group.add_argument(
        "--top-p", type=float, help="share of the probability drawn from; default: %(default)s"
    )
    group.add_argument("--max-new-tokens", type=int, help="default: %(default)s")
    group.add_argument("--batch-size", type=int, help="default: %(default)s")
    group.add_argument("--seed", type=int, help="of the samples; default: %(default)s")


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
    _add_seed(command)
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
    _add_seed(command)
    command.set_defaults(run=_report)


def _add_figures(commands: Any) -> None:
    command = commands.add_parser(
        "figures",
        help="draw the figures of a results folder",
        description=(
            "Draw step map and depth curves of each trace of a results folder, where they are "
            "missing or older than the map. Broken off, the same command goes on where it was."
        ),
    )
    command.add_argument(
        "folder", metavar="RUN", type=Path, help="results folder of `step-saliency map`"
    )
    command.add_argument("--trace", help="name of one trace; default: all of the folder")
    command.add_argument("--limit", type=int, help="the first traces only, by name")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=_figures, resumes=True)


def _add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--threads", type=int, help="threads that compute; default: as many as there are free cores"
    )


def _add_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="of the resampling")


def _add_doctor(commands: Any) -> None:
    command = commands.add_parser(
        "doctor",
        help="does this model do what the analyses rely on?",
        description="Run the checks of ss.doctor on a model and print a table.",
    )
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument("--tokens", type=int, default=24, help="length of the test sequence")
    _add_model(command)
    _add_threads(command)
    command.set_defaults(run=_doctor)


def _add_demo(commands: Any) -> None:
    command = commands.add_parser(
        "demo",
        help="map and diagnose a few answers of the bundled model",
        description="The main job, small: problems, answers, maps, diagnosis, figures.",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("step-saliency-demo"),
        help="results folder; default: %(default)s",
    )
    command.add_argument(
        "--n-problems",
        type=int,
        default=12,
        help="problems, each answered four times; default: %(default)s",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    _add_threads(command)
    command.set_defaults(run=_demo, resumes=True)


def _defaults(names: Iterable[str]) -> dict[str, Any]:
    """Defaults of these settings, which stand in `MapSettings` and nowhere else."""
    settings = MapSettings()
    return {name: getattr(settings, name) for name in names}


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


MAX_LAYERS = 10_000
"""Longest range of layers that is taken at its word."""


def _layers(text: str) -> tuple[int, ...]:
    """Numbers and ranges, such as ``0-6,20``."""
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            run = range(int(first), int(last if dash else first) + 1)
            if not run or run[-1] - run[0] >= MAX_LAYERS:
                raise ValueError(part)
            layers += run
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no list of layers; write something like 0-6,20"
            ) from None
    return tuple(layers)


def _picked(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Arguments of these names, for a function that takes them under the same names."""
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def _map(arguments: argparse.Namespace) -> int:
    from step_saliency.runs.map_file import map_file
    from step_saliency.runs.processor import precision_note, set_threads

    options = _picked(arguments, (field.name for field in fields(MapSettings)))
    options["fields"] = parse_fields(",".join(arguments.field or ()))
    options["grade"] = UserFunction.load(arguments.grade) if arguments.grade else None
    threads = set_threads(arguments.threads)
    notes = [threads, precision_note(arguments.dtype, arguments.device)]
    with bars(shown=not arguments.quiet):
        report = map_file(
            arguments.input,
            arguments.out,
            MapSettings(**options),
            limit=arguments.limit,
            progress=not arguments.quiet,
            say=lambda line: print(line, flush=True),
            setting=filter(None, notes),
        )
    print(report)
    if report.judgements:
        print(report.judgements)
    for failure in report.failures[:5]:
        print(f"  {failure['row']}: {failure['message']}", file=sys.stderr)
    return 0 if report.done + report.kept else 1


def _set_threads(arguments: argparse.Namespace) -> None:
    from step_saliency.runs.processor import set_threads

    print(set_threads(arguments.threads), flush=True)


def _diagnose(arguments: argparse.Namespace) -> int:
    from step_saliency.runs.overview import overview

    layers = _picked(arguments, ("shallow", "deep"))
    bands = {name: band for name, band in layers.items() if band}
    print(overview(arguments.folder, bands=bands or None, seed=arguments.seed))
    return 0


def _figures(arguments: argparse.Namespace) -> int:
    from step_saliency.runs.figures import draw_figures

    options = _picked(arguments, ("trace", "limit"))
    drawn = draw_figures(arguments.folder, **options, progress=not arguments.quiet)
    print(f"{len(drawn)} figures drawn; all are in {arguments.folder / 'figures'}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from step_saliency.runs.pages import write_reports

    options = _picked(arguments, ("trace", "out", "effects", "seed"))
    for file in write_reports(arguments.source, **options):
        print(f"{file} ({file.stat().st_size / 1e6:.2f} MB)")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from step_saliency.models import doctor, load_model

    _set_threads(arguments)
    model = load_model(arguments.model, **_picked(arguments, MODEL_OPTIONS))
    report = doctor(model, n_tokens=arguments.tokens)
    print(report)
    return 0 if report.passed else 1


def _demo(arguments: argparse.Namespace) -> int:
    from step_saliency.runs.demo import demo

    _set_threads(arguments)
    progress = not arguments.quiet
    with bars(shown=progress):
        return demo(arguments.out, n_problems=arguments.n_problems, progress=progress)


if __name__ == "__main__":
    sys.exit(main())
