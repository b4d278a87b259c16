"""The main job, small: problems, answers of the bundled model, maps, diagnosis, pictures."""

import json
from pathlib import Path

import pandas as pd

from step_saliency.runs.figures import draw_figures
from step_saliency.runs.folder import PROBLEMS, RunFolder
from step_saliency.runs.map_file import map_file
from step_saliency.runs.overview import overview
from step_saliency.runs.settings import MapSettings
from step_saliency.storage.files import make_folder, read_bytes, write_text
from step_saliency.tasks import make_problems

SAMPLES = 4
DRAWN = 2
"""Traces whose figures are drawn."""


def demo(out: Path, *, n_problems: int = 12, seed: int = 0, progress: bool = True) -> int:
    """Map and diagnose answers of the bundled reasoner to problems made on the spot.

    Args:
        out: Results folder; a second call goes on where the first was.
        n_problems: Number of problems, each answered four times at temperature 1.
        seed: Of problems and samples.
        progress: Show progress bars.

    Returns:
        Exit status: 0 if there are maps.

    Raises:
        ValueError: no problem is asked for, or the folder is not the demo's.
    """
    if n_problems < 1:
        raise ValueError(f"--n-problems {n_problems} is below 1")
    settings = MapSettings(
        model="reasoner", format="think", splitter="line", n=SAMPLES, temperature=1.0, seed=seed
    )
    source = _write_problems(RunFolder(out), settings, n_problems, seed)
    report = map_file(source, out, settings, progress=progress)
    print(report)
    if not report.done + report.kept:
        return 1
    draw_figures(out, limit=DRAWN, progress=progress)
    print(f"\n{overview(out)}\n")
    print(_whereabouts(out))
    return 0


def _write_problems(folder: RunFolder, settings: MapSettings, n_problems: int, seed: int) -> Path:
    """The demo's input, in its own folder.

    Raises:
        ValueError: the folder is not the demo's, or holds another file of that name.
    """
    folder.check(settings.to_dict())
    source = folder.path / PROBLEMS
    rows = [
        {"id": f"problem-{number:02d}", "question": problem.question, "answer": problem.answer}
        for number, problem in enumerate(make_problems(n=n_problems, level="medium", seed=seed))
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    is_ours = folder.has_manifest and folder.manifest().get("input") == str(source)
    if source.exists() and not is_ours and read_bytes(source) != text.encode():
        raise ValueError(f"{source} is there and is not the demo's; choose another --out")
    make_folder(folder.path)
    write_text(source, text)
    return source


def _whereabouts(out: Path) -> str:
    traces = pd.read_parquet(out / "traces.parquet")
    shown = traces[["trace", "is_correct", "n_tokens", "n_steps", "lock_in_index", "decay_index"]]
    folder = RunFolder(out)
    picture = folder.figure(folder.map_names()[0])
    return (
        f"{shown.head(8).to_string(index=False, float_format='{:+.3f}'.format)}\n\n"
        f"pictures of {DRAWN} traces, such as {picture}; of the others: "
        f"step-saliency figures {out}\n"
        f"tables: pandas.read_parquet('{out / 'saliency.parquet'}'), traces, diagnosis, comparison"
    )
